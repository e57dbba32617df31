"""The committed stubs are what protoc makes of the .proto."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HOW = (
    "d=$(mktemp -d) && python -m grpc_tools.protoc -Irowloom/proto=proto --python_out=$d --pyi_out=$d"
    " rowloom/proto/rowloom.proto && cp $d/rowloom/proto/* proto/"
)


def test_the_committed_stubs_are_fresh(tmp_path):
    pytest.importorskip("grpc_tools", reason="grpcio-tools is not installed: pip install 'rowloom[dev]'")
    command = [sys.executable, "-m", "grpc_tools.protoc", "-Irowloom/proto=proto", f"--python_out={tmp_path}"]
    command += [f"--pyi_out={tmp_path}", "rowloom/proto/rowloom.proto"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    for name in ("rowloom_pb2.py", "rowloom_pb2.pyi"):
        fresh = (tmp_path / "rowloom/proto" / name).read_bytes()
        assert fresh == (ROOT / "proto" / name).read_bytes(), f"proto/{name} is stale; make it again: {HOW}"


def test_every_generated_file_is_marked_and_kept_from_the_linter():
    attributes = (ROOT / ".gitattributes").read_text()
    project = (ROOT / "pyproject.toml").read_text()
    for path in (ROOT / "proto").glob("*_pb2*"):
        if path.suffix in (".py", ".pyi"):
            assert f"proto/{path.name} linguist-generated" in attributes
    assert '"*_pb2.py"' in project
    assert '"*_pb2.pyi"' in project


def test_every_field_of_the_contract_has_a_number_that_is_never_reused():
    # A dropped number may not come back: clients of older versions would read it as the old field.
    from rowloom.proto import rowloom_pb2 as pb

    for message in pb.DESCRIPTOR.message_types_by_name.values():
        numbers = [field.number for field in message.fields]
        assert len(numbers) == len(set(numbers)), message.name
