"""Source archive and wheel: what is in them, and that the wheel works where the sources are not."""

import email
import os
import re
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import numpy
import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ["proto", "server", "client", "deploy"]
BUILD = "import sys; from setuptools import build_meta as b; getattr(b, sys.argv[1])(sys.argv[2])"
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


def tracked() -> list[str]:
    """Files that git knows or would add; left out where this is no checkout."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200)
    if done.returncode:
        pytest.skip("not a git checkout")
    return [name for name in done.stdout.splitlines() if (ROOT / name).is_file()]


def build(what: str, source: Path, out: Path) -> Path:
    """The sdist or the wheel of some sources, by the backend that pip and `build` call."""
    run(sys.executable, "-c", BUILD, f"build_{what}", str(out), cwd=source)
    return next(out.glob("rowloom-*"))


@pytest.fixture(scope="module")
def sdist(tmp_path_factory) -> Path:
    # From a copy: setuptools would take stale files from a build/ folder, and leave one behind.
    source = tmp_path_factory.mktemp("source")
    for name in tracked():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, source / name)
    return build("sdist", source, tmp_path_factory.mktemp("sdist"))


@pytest.fixture(scope="module")
def unpacked(sdist, tmp_path_factory) -> Path:
    there = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(sdist) as archive:
        archive.extractall(there, filter="data")
    return next(there.iterdir())


@pytest.fixture(scope="module")
def wheel(unpacked, tmp_path_factory) -> Path:
    # Of the source archive, which is what packagers have, and what `build` does too.
    return build("wheel", unpacked, tmp_path_factory.mktemp("wheel"))


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


def test_the_source_archive_has_every_file_of_the_repository(unpacked):
    missing = [name for name in tracked() if not (unpacked / name).is_file()]
    assert not missing, f"MANIFEST.in or pyproject.toml leaves them out: {missing}"


def test_the_wheel_of_the_source_archive_holds_the_four_folders_as_they_are_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        found = {name: archive.read(name) for name in archive.namelist() if ".dist-info/" not in name}
    expected = {}
    for folder in FOLDERS:
        for path in (ROOT / folder).rglob("*"):
            if path.suffix in KINDS or path.name == "py.typed":
                expected[f"rowloom/{path.relative_to(ROOT)}"] = path.read_bytes()
    assert found.keys() == expected.keys()
    assert [name for name in found if found[name] != expected[name]] == []


def test_the_wheel_carries_its_licence_and_says_how_to_read_its_types(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert {f"rowloom/{folder}/py.typed" for folder in FOLDERS} <= set(names)
    beside = ("console.html", "console.js", "console.css", "alerts.yml", "dashboard.json")
    assert {f"rowloom/deploy/observe/{name}" for name in beside} <= set(names)
    assert {"rowloom/proto/rowloom.proto", "rowloom/proto/rowloom_pb2.pyi"} <= set(names)


def test_the_wheel_says_of_itself_what_is_true(wheel):
    with zipfile.ZipFile(wheel) as archive:
        file = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        said = email.message_from_bytes(archive.read(file))
    assert said["Name"] == "rowloom"
    assert re.fullmatch(r"\d+\.\d+\.\d+((a|b|rc)\d+)?", said["Version"]), (
        "a semantic version, as PEP 440 writes it"
    )
    assert (said["License-Expression"], said["License-File"]) == ("Apache-2.0", "LICENSE")
    assert said["Description-Content-Type"] == "text/markdown"
    assert said.get_payload().startswith("# rowloom\n")
    numbers = [c.rpartition(" ")[2] for c in said.get_all("Classifier", []) if "Python :: 3." in c]
    tested = re.search(r"^for version in (.*); do$", (ROOT / ".ci/pythons").read_text(), re.MULTILINE)
    assert tested is not None
    assert numbers == tested[1].split()[: len(numbers)], "CI tests others than the classifiers name"
    assert said["Requires-Python"] == f">={numbers[0]}"
    newest = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest is not None
    assert newest[1] == said["Version"], "the changelog begins with another version"


def test_the_wheel_pulls_and_pushes_from_another_folder(bare, tmp_path):
    lines = run(str(bare / "python"), "-W", "error", "-c", USE, cwd=tmp_path).splitlines()
    assert lines[0] == "[-1.0, -2.0, 0.0]"
    assert Path(lines[1]).is_relative_to(bare.parent), "that was not the wheel"


def test_the_command_of_the_wheel_explains_itself(bare, tmp_path):
    text = run(str(bare / "rowloom"), "--help", cwd=tmp_path)
    version = run(
        str(bare / "python"), "-c", "import rowloom.client as c; print(c.__version__)", cwd=tmp_path
    )
    assert run(str(bare / "rowloom"), "--version", cwd=tmp_path) == f"rowloom {version}"
    for command in ("up", "status", "plan", "apply", "scale", "down", "demo", "bench"):
        assert command in text


def test_the_sources_cannot_be_imported_by_their_folder_names(bare, tmp_path):
    code = "import importlib.util as u; print([n for n in ('server', 'client', 'deploy') if u.find_spec(n)])"
    assert run(str(bare / "python"), "-c", code, cwd=tmp_path).strip() == "[]"
