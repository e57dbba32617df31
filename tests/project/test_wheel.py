"""The wheel: what is in it, and that it works where the sources are not."""

import importlib.metadata
import os
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import numpy
import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ["proto", "server", "client", "deploy"]
KINDS = (".py", ".pyi", ".proto", ".yml", ".json", ".html", ".css", ".js")
USE = """
import numpy as np
from rowloom.client import SGD, TableSpec, Zeros
from rowloom.deploy import local_cluster
import rowloom.client, rowloom.server, rowloom.deploy, rowloom.proto.codec

with local_cluster(shards=2) as cluster, cluster.connect() as client:
    users = client.create_table(
        TableSpec("users", num_embeddings=100, dim=4, optimizer=SGD(lr=1.0), initializer=Zeros())
    )
    users.push([3, 4, 3], np.ones((3, 4), np.float32))
    print(users.pull([4, 3, 99])[:, 0].tolist())
print(rowloom.client.__file__)
"""


def run(*command: str, cwd: Path) -> str:
    """What a command prints; it must succeed."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "COV"))}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    # From a copy: setuptools would take stale files from a build/ folder, and leave one behind.
    source = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for folder in FOLDERS:
        shutil.copytree(ROOT / folder, source / folder, ignore=shutil.ignore_patterns("__pycache__", "*.nb?"))
    out = tmp_path_factory.mktemp("wheel")
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--wheel-dir",
        str(out),
        str(source),
    ]
    if int(importlib.metadata.version("setuptools").split(".")[0]) >= 77:
        command.append("--no-build-isolation")  # Otherwise pip fetches a newer one.
    run(*command, str(source), cwd=out)
    return next(out.glob("rowloom-*.whl"))


@pytest.fixture(scope="module")
def bare(wheel, tmp_path_factory) -> Path:
    """A venv with the wheel, and with what it depends on borrowed from this one. Gives its bin folder."""
    home = tmp_path_factory.mktemp("bare")
    venv.create(home, with_pip=True)
    pip = [str(home / "bin/python"), "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", str(wheel)]
    run(*pip, cwd=home)
    # Folders that a .pth names come after the venv's own, and their .pth files are not read: an editable
    # install of the sources stays unseen.
    theirs = next((home / "lib").glob("python3*/site-packages"))
    (theirs / "borrowed.pth").write_text(f"{Path(numpy.__file__).parents[1]}\n")
    return home / "bin"


def test_the_wheel_holds_the_four_folders_and_nothing_else(wheel):
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    expected = set()
    for folder in FOLDERS:
        for path in (ROOT / folder).rglob("*"):
            if path.suffix in KINDS or path.name == "py.typed":
                expected.add(f"rowloom/{path.relative_to(ROOT)}")
    assert names == expected


def test_the_wheel_carries_its_licence_and_says_how_to_read_its_types(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert {f"rowloom/{folder}/py.typed" for folder in FOLDERS} <= set(names)


def test_the_wheel_pulls_and_pushes_from_another_folder(bare, tmp_path):
    lines = run(str(bare / "python"), "-W", "error", "-c", USE, cwd=tmp_path).splitlines()
    assert lines[0] == "[-1.0, -2.0, 0.0]"
    assert Path(lines[1]).is_relative_to(bare.parent), "that was not the wheel"


def test_the_command_of_the_wheel_explains_itself(bare, tmp_path):
    text = run(str(bare / "rowloom"), "--help", cwd=tmp_path)
    for command in ("up", "status", "plan", "apply", "scale", "down", "demo", "bench"):
        assert command in text


def test_the_sources_cannot_be_imported_by_their_folder_names(bare, tmp_path):
    code = "import importlib.util as u; print([n for n in ('server', 'client', 'deploy') if u.find_spec(n)])"
    assert run(str(bare / "python"), "-c", code, cwd=tmp_path).strip() == "[]"
