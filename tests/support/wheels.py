"""Wheels of this checkout with another version than it says."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
BUILD = "import sys; from setuptools import build_meta as b; b.build_wheel(sys.argv[1])"
PARTS = ("proto", "server", "client", "deploy", "pyproject.toml", "README.md", "LICENSE", "MANIFEST.in")


def wheel_of(version: str, folder: Path) -> Path:
    """A wheel in a folder that says it is of this version.

    Of what git knows or would add: setuptools would take stale files of a build folder, too.
    """
    source = folder / f"source-{version}"
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard", *PARTS]
    for name in subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split():
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, source / name)
    project = source / "pyproject.toml"
    said = re.sub(r'(?m)^version = ".*"$', f'version = "{version}"', project.read_text(), count=1)
    project.write_text(said)
    command = [sys.executable, "-c", BUILD, str(folder)]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return next(folder.glob(f"rowloom-{version}-*.whl"))
