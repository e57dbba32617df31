"""The arrows between the four folders, kept honest; and what an import may cost."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BELOW = {"proto": set(), "server": {"proto"}, "client": {"proto"}, "deploy": {"proto", "server", "client"}}
FRAMEWORKS = {"torch", "keras", "tensorflow", "jax", "ray", "matplotlib", "pyarrow"}
# What decides is handed its clock, network and randomness, so that one thread and one seed can run it.
DECIDES = {
    "proto": {"partition", "layout", "spec", "codec", "errors"},
    "server": {"initializers", "optimizers", "kernels", "rows", "table", "ledger", "shard", "receive"},
    "client": {"routing", "assembly", "parts", "session", "operations", "exchange", "wires", "cache"},
    "deploy": {"coordinator", "reshard", "config"},
}
OUTSIDE = {"grpc", "socket", "threading", "asyncio", "time", "secrets", "subprocess", "multiprocessing"}


def sources(folder: str) -> list[Path]:
    return [path for path in sorted((ROOT / folder).glob("*.py")) if not path.stem.endswith("_pb2")]


def imports(path: Path) -> list[tuple[int, int, str]]:
    """(line, level, module) of every import of a file; `from .. import x` counts as a module x of level 2."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            names = [node.module] if node.module else [alias.name for alias in node.names]
            found += [(node.lineno, node.level, name) for name in names]
        elif isinstance(node, ast.Import):
            found += [(node.lineno, 0, alias.name) for alias in node.names]
    return found


def module_names() -> list[str]:
    return [f"rowloom.{folder}.{path.stem}" for folder in BELOW for path in sources(folder)]


@pytest.mark.parametrize("folder", BELOW)
def test_a_folder_imports_only_what_lies_below_it(folder):
    for path in sources(folder):
        for line, level, module in imports(path):
            assert module.split(".")[0] != "rowloom", (
                f"{path}:{line}: write it relative: from ..folder.file import"
            )
            if level == 2:
                assert module.split(".")[0] in BELOW[folder], (
                    f"{path}:{line}: {folder} must not import {module}"
                )
            assert level < 3, f"{path}:{line}: that is outside of rowloom"


@pytest.mark.parametrize("folder", BELOW)
def test_no_folder_holds_another(folder):
    assert not list((ROOT / folder).glob("*/*.py")), "an unlisted sub-folder would be missing from the wheel"


def test_proto_and_the_root_have_no_init():
    # `proto` is proto-plus's import name; a root package would drag tests along.
    assert not (ROOT / "proto/__init__.py").exists()
    assert not (ROOT / "__init__.py").exists()


@pytest.mark.parametrize("folder", BELOW)
def test_imports_inside_a_folder_form_no_circle(folder):
    graph: dict[str, set[str]] = {}
    for path in sources(folder):
        inner = {module.split(".")[0] for _, level, module in top_level_imports(path) if level == 1}
        graph[path.stem] = inner
    done: set[str] = set()

    def visit(name: str, above: tuple[str, ...]) -> None:
        assert name not in above, " -> ".join([*above, name])
        if name not in done:
            for other in graph.get(name, ()):
                visit(other, (*above, name))
            done.add(name)

    for name in graph:
        visit(name, ())


def top_level_imports(path: Path) -> list[tuple[int, int, str]]:
    lines = {
        node.lineno
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.Import | ast.ImportFrom)
    }
    return [found for found in imports(path) if found[0] in lines]


@pytest.mark.parametrize("folder", BELOW)
def test_what_decides_touches_no_clock_network_thread_or_chance(folder):
    for path in sources(folder):
        if path.stem in DECIDES[folder]:
            for line, level, module in imports(path):
                root = module.split(".")[0]
                assert level or root not in OUTSIDE | FRAMEWORKS, (
                    f"{path}:{line}: {path.stem} decides, no {module}"
                )
            for node in ast.walk(ast.parse(path.read_text())):
                # A random.Random that is handed in is fine; the module's own one has no seed of ours.
                if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "random":
                    assert node.attr == "Random", f"{path}:{node.lineno}: random.{node.attr}"


@pytest.mark.parametrize("name", module_names())
def test_frameworks_are_imported_by_no_module_but_inside_functions(name):
    _, folder, stem = name.split(".")
    path = ROOT / folder / f"{stem}.py"
    if stem.startswith("layers_"):
        return
    for line, level, module in top_level_imports(path):
        assert level or module.split(".")[0] not in FRAMEWORKS, (
            f"{path}:{line}: import {module} where it is used"
        )


def run(code: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], cwd=cwd, capture_output=True, text=True, timeout=50)


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
    names = [n for n in module_names() if not n.split(".")[2].startswith("layers_")]
    done = run(SPY.format(names=names, frameworks=FRAMEWORKS), tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"env": [], "threads": [], "sockets": [], "frameworks": []}


def test_a_client_needs_no_server_and_no_ray(tmp_path):
    above = ("rowloom.server", "rowloom.deploy", "ray", "typer", "pydantic")
    code = f"import sys, rowloom.client; print([m for m in sys.modules if m.startswith({above})])"
    done = run(code, tmp_path)
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr
