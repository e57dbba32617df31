"""Every RPC's full name stands in one place, and is what the .proto says."""

import ast
from pathlib import Path

from rowloom.proto import methods
from rowloom.proto import rowloom_pb2 as pb

ROOT = Path(__file__).parents[2]


def test_the_names_are_those_of_the_proto():
    services = pb.DESCRIPTOR.services_by_name.values()
    there = {f"/{s.full_name}/{m.name}" for s in services for m in s.methods}
    named = {
        v for v in vars(methods).values() if isinstance(v, str) and v.startswith("/rowloom.") and v[-1] != "/"
    }
    assert named == there


def test_no_other_file_spells_a_name_out():
    for folder in ("proto", "server", "client", "deploy"):
        for path in (ROOT / folder).rglob("*.py"):
            if path.name == "methods.py" or path.stem.endswith("_pb2"):
                continue
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    assert not node.value.startswith("/rowloom.v1."), f"{path}:{node.lineno}: {node.value}"


def test_the_order_on_the_row_lane_does_not_change():
    assert methods.ROWS == (methods.PULL, methods.PUSH, methods.STEP, methods.PULL_BAGS)


def test_only_one_file_dials_and_one_makes_headers():
    homes = {
        "insecure_channel": "proto/security/credentials.py",
        "secure_channel": "proto/security/credentials.py",
        "Header": "proto/layout.py",
    }
    for name, home in homes.items():
        for folder in ("proto", "server", "client", "deploy"):
            for path in (ROOT / folder).rglob("*.py"):
                if path.stem.endswith("_pb2") or path == ROOT / home:
                    continue
                for node in ast.walk(ast.parse(path.read_text())):
                    if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(f".{name}"):
                        empty = not node.args and not node.keywords  # such as a default in a decoder
                        assert empty, f"{path}:{node.lineno}: {ast.unparse(node)}"
