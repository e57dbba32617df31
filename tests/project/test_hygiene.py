"""What must be in no tracked file: code made from data, places of one machine, files grown too long."""

import ast
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ["proto", "server", "client", "deploy"]
LONGEST = 500


def tracked() -> list[Path]:
    """Files that git knows or would add; all files of an unpacked source archive."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200)
    if done.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / line for line in done.stdout.splitlines() if (ROOT / line).is_file()]


def texts() -> list[tuple[Path, str]]:
    out = []
    for path in tracked():
        try:
            out.append((path, path.read_text(encoding="utf-8")))
        except UnicodeDecodeError:
            continue
    return out


def calls(path: Path) -> list[tuple[int, str]]:
    """(line, dotted name) of every call of a Python file."""
    tree = ast.parse(path.read_text())
    return [(node.lineno, ast.unparse(node.func)) for node in ast.walk(tree) if isinstance(node, ast.Call)]


def python_files(*folders: str) -> list[Path]:
    return [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]


# Data never becomes code. The names are put together here, so that this file does not trip over itself.
UNSAFE_MODULES = {"pickle", "cPickle", "cloudpickle", "dill", "marshal", "shelve", "joblib"}
UNSAFE_CALLS = {
    "eval",
    "exec",
    "compile",
    "__import__",
    "yaml.load",
    "yaml.unsafe_load",
    "yaml.full_load",
    "os.system",
}


@pytest.mark.parametrize("folder", FOLDERS)
def test_data_never_becomes_code(folder):
    for path in python_files(folder):
        for node in ast.walk(ast.parse(path.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module or ""]
            bad = {name.split(".")[0] for name in names} & UNSAFE_MODULES
            assert not bad, f"{path}:{node.lineno}: {bad} runs what it reads"  # type: ignore[attr-defined]
        safe = safe_yaml_loads(path)
        for line, name in calls(path):
            assert name not in UNSAFE_CALLS or line in safe, f"{path}:{line}: {name}"


def safe_yaml_loads(path: Path) -> set[int]:
    """Lines with a yaml.load whose loader is a class of that file that extends yaml.SafeLoader."""
    tree = ast.parse(path.read_text())
    loaders = {
        node.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef) and "yaml.SafeLoader" in [ast.unparse(base) for base in node.bases]
    }
    return {
        node.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and ast.unparse(node.func) == "yaml.load"
        and {ast.unparse(argument) for argument in [*node.args[1:], *(k.value for k in node.keywords)]}
        <= loaders
        and len(node.args) + len(node.keywords) == 2
    }


@pytest.mark.parametrize("folder", FOLDERS)
def test_arrays_are_never_read_as_objects_and_no_shell_is_started(folder):
    for path in python_files(folder):
        for node in ast.walk(ast.parse(path.read_text())):
            for keyword in getattr(node, "keywords", []):
                value = getattr(keyword.value, "value", None)
                assert not (keyword.arg in ("allow_pickle", "shell") and value is True), (
                    f"{path}:{node.lineno}"
                )  # type: ignore[attr-defined]


PLACES = [
    r"\.\./" + "shared",
    r"(?<![\w.])/work" + r"/(main|shared|\.library)",
    r"(?<![\w.])/root" + r"/",
    r"(?<![\w.])/tmp/" + r"(plan|venv)",
    r"(?<![\w.])/opt/" + r"(wheels|pypi)",
    r"(?<![\w.])/home/" + r"\w+/",
    "pypi" + r"\.org",
    "python" + r"hosted",
    "npm" + r"js\.",
    "download" + r"\.pytorch",
]


def test_no_file_names_a_place_of_one_machine_or_a_registry():
    found = []
    for path, text in texts():
        for pattern in PLACES:
            found += [f"{path.relative_to(ROOT)}: {m.group()}" for m in re.finditer(pattern, text)]
    assert not found


def test_no_file_says_it_is_unfinished():
    word = re.compile(r"\b(" + "|".join(["TO" + "DO", "FIX" + "ME", "X" + "XX", "HA" + "CK"]) + r")\b")
    found = [f"{path.relative_to(ROOT)}: {m.group()}" for path, text in texts() for m in word.finditer(text)]
    assert not found


@pytest.mark.parametrize("folder", ["proto", "server", "client"])
def test_nothing_below_the_command_line_prints(folder):
    for path in python_files(folder):
        for line, name in calls(path):
            assert name != "print", f"{path}:{line}"


def test_no_file_is_too_long_to_read_in_one_sitting():
    long = []
    for path in python_files(*FOLDERS, "tests"):
        lines = len(path.read_text().splitlines())
        if lines > LONGEST and not path.stem.endswith("_pb2"):
            long.append(f"{path.relative_to(ROOT)}: {lines} lines; look for the second noun")
    assert not long


def test_every_module_says_what_it_is_for():
    for path in python_files(*FOLDERS, "tests"):
        text = path.read_text()
        if text.strip() and not path.stem.endswith("_pb2"):
            assert ast.get_docstring(ast.parse(text)), f"{path}: the first line says what the file is for"


def test_nothing_large_or_built_is_tracked():
    for path in tracked():
        size = path.stat().st_size
        assert size < 1 << 20, f"{path.relative_to(ROOT)} is {size} bytes"
        assert path.suffix not in (".so", ".pyc", ".whl", ".pkl", ".nbi", ".nbc"), path
