"""docs/tutorial.md, typed line by line in an empty folder: every command works, and says what the page shows."""

import itertools
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

TUTORIAL = (Path(__file__).parents[2] / "docs/tutorial.md").read_text(encoding="utf-8")
FENCES = re.findall(r'^```(\w+)(?: title="([\w.]+)")?\n(.*?)^```$', TUTORIAL, re.MULTILINE | re.DOTALL)
MARK = "=== end of block ==="
# Of rows that move "again because they had changed": on a busy machine the trainer in the background had not begun.
PERHAPS = {"again", "because", "they", "had", "changed", "meanwhile"}


def blocks() -> list[tuple[str, str]]:
    """The lines of each shell block, and what the page says that they print."""
    found = []
    for (language, title, text), (after, _, shown) in itertools.pairwise(FENCES):
        if language == "sh" and not title:
            found.append((text, shown if after == "text" else ""))
    return found


def words(text: str) -> set[str]:
    """What is the same in every run: words without digits. Sizes may have other units."""
    found = set(re.findall(r"(?<![\w.])[a-zA-Z_]{3,}(?![\w.])", text))
    return found - {"KiB", "MiB", "GiB"} - PERHAPS


def heads(text: str) -> set[str]:
    """First words of lines: what kinds of lines there are. The first run on a machine says one more."""
    return set(re.findall(r"^[\[a-zA-Z][\w\]:]*", text, re.MULTILINE)) - {"compiling"}


def typed(folder: Path, short: str) -> list[str]:
    """What each shell block prints when all are typed one after the other. short: a folder for Ray's long paths."""
    for _, title, text in FENCES:
        if "." in title:
            (folder / title).write_text(text)
    script = "\n".join(f"{lines}echo '{MARK}'" for lines, _ in blocks())
    paths = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "COLUMNS"))}
    environment |= {"PATH": paths, "ROWLOOM_HOME": str(folder / "home"), "COLUMNS": "120"}
    environment |= {"RAY_TMPDIR": short}
    try:
        done = subprocess.run(
            ["bash", "-e"],
            input=script,
            cwd=folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=280,
        )
    finally:
        down = ["rowloom", "down", "--yes"]
        subprocess.run(down, cwd=folder, env=environment, capture_output=True, timeout=50)
    assert done.returncode == 0, done.stdout
    return done.stdout.split(MARK)[:-1]


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(350)
def test_every_line_of_the_tutorial_works_and_prints_what_it_shows(tmp_path) -> None:
    pytest.importorskip("ray", reason="the page ends on Ray")
    with tempfile.TemporaryDirectory(prefix="rl", dir="/tmp", ignore_cleanup_errors=True) as short:
        printed = typed(tmp_path, short)
    assert len(printed) == len(blocks()) >= 8
    for (lines, shown), out in zip(blocks(), printed, strict=True):
        missing = words(shown) - words(out)
        assert not missing, f"{lines} no longer prints {sorted(missing)}, but:\n{out}"
        if (
            shown
        ):  # lines that came later were on no page: `status` said where the log is, `inspect` had slots
            more = heads(out) - heads(shown)
            assert not more, f"{lines} also prints lines that begin with {sorted(more)}:\n{out}"
