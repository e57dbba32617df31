"""The arrows between the four folders, kept honest; and what an import may cost."""

import ast
import json
import subprocess
import sys
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

import pytest

ROOT = Path(__file__).parents[2]
BELOW = {"proto": set(), "server": {"proto"}, "client": {"proto"}, "deploy": {"proto", "server", "client"}}
FRAMEWORKS = {"torch", "keras", "tensorflow", "jax", "ray", "matplotlib", "pyarrow", "prometheus_client"}
FRAMEWORKS |= {"opentelemetry"}
MOST_FILES = 20  # in a folder, so that a newcomer sees where a new thing goes
# What decides is handed its clock, network and randomness, so that one thread and one seed can run it: whole folders,
# and files of those that also have a rim.
DECIDES = [
    "proto/partition.py",
    "proto/layout.py",
    "proto/spec.py",
    "proto/codec.py",
    "proto/errors.py",
    "proto/snapshots/checked_json.py",
    "proto/snapshots/checksums.py",
    "proto/snapshots/manifest.py",
    "proto/snapshots/rows_file.py",
    "proto/snapshots/stored.py",
    "proto/snapshots/tables_file.py",
    "server/optimizers",
    "server/rows",
    "server/moving",
    "server/initializers.py",
    "server/bags.py",
    "server/table.py",
    "server/ledger.py",
    "server/push_shares.py",
    "server/forgotten.py",
    "server/shard.py",
    "server/host.py",
    "server/call.py",
    "server/states.py",
    "server/durable/records.py",
    "server/durable/extents.py",
    "server/durable/log.py",
    "server/durable/counting.py",
    "server/durable/point.py",
    "server/received.py",
    "client/calls",
    "client/cache/row_cache.py",
    "deploy/config",
    "deploy/control",
]
OUTSIDE = {"grpc", "socket", "threading", "asyncio", "time", "secrets", "subprocess", "multiprocessing"}
OUTSIDE |= {"select", "queue", "concurrent", "ssl", "mmap"}
MAPS = {"server/rows/memory.py": {"mmap"}}  # address space is all that it asks the system for


def sources(folder: str) -> list[Path]:
    """Python files below a folder, or the file itself; without generated ones."""
    path = ROOT / folder
    found = [path] if path.is_file() else sorted(path.rglob("*.py"))
    return [path for path in found if not path.stem.endswith("_pb2")]


def module_of(path: Path) -> tuple[str, ...]:
    """("client", "calls", "routing") of client/calls/routing.py; a package's __init__ is the package."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return parts[:-1] if parts[-1] == "__init__" else parts


MODULES = {module_of(path): path for folder in BELOW for path in sources(folder)}


def imports(path: Path) -> list[tuple[int, str]]:
    """(line, dotted absolute module) of every import of a file, wherever it stands.

    What is ours begins with the folder, such as "client.calls.routing"; what is imported from a package is one
    of its modules if there is such a file.
    """
    found = []
    inside = path.relative_to(ROOT).parts[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.append((node.lineno, node.module or ""))
        elif isinstance(node, ast.ImportFrom):
            assert node.level <= len(inside) + 1, f"{path}:{node.lineno}: that is outside of rowloom"
            base = (*inside[: len(inside) - node.level + 1], *(node.module or "").split("."))
            base = tuple(part for part in base if part)
            for alias in node.names:
                module = (*base, alias.name) if (*base, alias.name) in MODULES else base
                found.append((node.lineno, ".".join(module)))
    return found


def ours(path: Path) -> list[tuple[int, tuple[str, ...]]]:
    """The imports that are of our own modules."""
    return [(n, tuple(name.split("."))) for n, name in imports(path) if tuple(name.split(".")) in MODULES]


def module_names() -> list[str]:
    return [".".join(("rowloom", *module)) for module in MODULES]


@pytest.mark.parametrize("folder", BELOW)
def test_a_folder_imports_only_what_lies_below_it(folder):
    for path in sources(folder):
        for line, module in imports(path):
            first = module.split(".")[0]
            assert first != "rowloom", f"{path}:{line}: write it relative: from ..folder.file import"
            if first in BELOW and first != folder:
                assert first in BELOW[folder], f"{path}:{line}: {folder} must not import {module}"


def test_every_folder_is_a_package_that_pyproject_lists():
    # A folder that is not listed is silently missing from the wheel.
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    there = {".".join(("rowloom", *path.parent.relative_to(ROOT).parts)) for path in MODULES.values()}
    assert set(listed) == there
    assert len(listed) == len(set(listed))


def test_folders_have_a_few_rooms_of_a_few_files_each():
    for folder in {path.parent for path in MODULES.values()}:
        files = [path for path in folder.glob("*.py") if not path.stem.endswith("_pb2")]
        files = [path for path in files if path.stem != "__init__"]
        assert len(files) <= MOST_FILES, f"{folder} has {len(files)} files: is there a second room in it?"
        assert len(folder.relative_to(ROOT).parts) <= 2, f"{folder} lies too deep"


def test_proto_and_the_root_have_no_init():
    # `proto` is proto-plus's import name; a root package would drag tests along.
    assert not (ROOT / "proto/__init__.py").exists()
    assert not (ROOT / "__init__.py").exists()


def test_tests_mirror_the_house():
    for folder in BELOW:
        for path in sorted((ROOT / "tests" / folder).rglob("*")):
            if path.is_dir() and path.name != "__pycache__":
                assert (ROOT / path.relative_to(ROOT / "tests")).is_dir(), f"{path} mirrors no folder"


def test_imports_form_no_circle_not_even_for_types_or_inside_functions():
    graph = {module: {other for _, other in ours(path)} for module, path in MODULES.items()}
    done: set[tuple[str, ...]] = set()

    def visit(module: tuple[str, ...], above: tuple[tuple[str, ...], ...]) -> None:
        names = [".".join(name) for name in (*above, module)]
        assert module not in above, " -> ".join(names)
        if module not in done:
            for other in sorted(graph[module]):
                visit(other, (*above, module))
            done.add(module)

    for module in graph:
        visit(module, ())


@pytest.mark.parametrize("room", DECIDES)
def test_what_decides_touches_no_clock_network_thread_or_chance(room):
    assert sources(room)
    for path in sources(room):
        allowed = MAPS.get(str(path.relative_to(ROOT)), set())
        for line, module in imports(path):
            root = module.split(".")[0]
            assert root not in (OUTSIDE | FRAMEWORKS) - allowed, (
                f"{path}:{line}: {path.stem} decides, no {module}"
            )
        for node in ast.walk(ast.parse(path.read_text())):
            # A random.Random that is handed in is fine; the module's own one has no seed of ours.
            if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "random":
                assert node.attr == "Random", f"{path}:{node.lineno}: random.{node.attr}"


def test_no_two_classes_share_a_name():
    # The glue of each framework has its names; a state of a host and the error that it answers with are one thing.
    homes: dict[str, list[str]] = {}
    for module, path in MODULES.items():
        if not is_layer(module):
            for node in ast.parse(path.read_text()).body:
                if isinstance(node, ast.ClassDef) and node.name != "Moving":
                    homes.setdefault(node.name, []).append(".".join(module))
    assert not {name: where for name, where in homes.items() if len(where) > 1}


def at_the_top(path: Path) -> list[tuple[int, str]]:
    lines = {
        node.lineno
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.Import | ast.ImportFrom)
    }
    return [found for found in imports(path) if found[0] in lines]


def is_layer(module: tuple[str, ...]) -> bool:
    """Whether it may name its framework: it is imported by those who have it."""
    return any(part.startswith("layers_") for part in module)


@pytest.mark.parametrize("name", module_names())
def test_frameworks_are_imported_by_no_module_but_inside_functions(name):
    module = tuple(name.split("."))[1:]
    if is_layer(module):
        return
    for line, other in at_the_top(MODULES[module]):
        assert other.split(".")[0] not in FRAMEWORKS, f"{name}:{line}: import {other} where it is used"


def run(code: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], cwd=cwd, capture_output=True, text=True, timeout=200)


SPY = """
import importlib, json, os, sys, threading
before = dict(os.environ)
open_files = set(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else set()
for name in {names!r}:
    importlib.import_module(name)
after = set(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else set()
print(json.dumps(dict(
    env=sorted(k for k in set(before) | set(os.environ) if before.get(k) != os.environ.get(k)),
    threads=[t.name for t in threading.enumerate() if t is not threading.main_thread()],
    sockets=[os.readlink(f"/proc/self/fd/{{n}}") for n in after - open_files
             if os.path.exists(f"/proc/self/fd/{{n}}") and "socket" in os.readlink(f"/proc/self/fd/{{n}}")],
    frameworks=sorted({frameworks!r} & set(sys.modules)),
)))
"""


def test_importing_everything_changes_no_environment_starts_no_thread_and_opens_no_socket(tmp_path):
    names = [n for n in module_names() if not is_layer(tuple(n.split(".")))]
    done = run(SPY.format(names=names, frameworks=FRAMEWORKS), tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"env": [], "threads": [], "sockets": [], "frameworks": []}


def test_a_client_needs_no_server_and_no_ray(tmp_path):
    above = ("rowloom.server", "rowloom.deploy", "ray", "typer", "pydantic")
    code = f"import sys, rowloom.client; print([m for m in sys.modules if m.startswith({above})])"
    done = run(code, tmp_path)
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr


def test_a_coordinator_needs_no_kernels_whose_import_was_half_of_its_start(tmp_path):
    code = "import sys, rowloom.deploy.coordinator_process; print('numba' in sys.modules)"
    done = run(code, tmp_path)
    assert (done.returncode, done.stdout.strip()) == (0, "False"), done.stderr
