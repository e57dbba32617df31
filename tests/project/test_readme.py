"""The README keeps its word: its code runs, its config is valid, its commands and files exist."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def snippets(language: str, text: str = README) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def commands() -> list[str]:
    """The lines of the shell snippets, without comments."""
    lines = "\n".join(snippets("sh")).splitlines()
    return [line.split("  #")[0].strip() for line in lines if line.strip()]


@pytest.mark.parametrize("number", range(len(snippets("python"))))
def test_every_python_snippet_runs_as_it_stands(number, tmp_path):
    script = tmp_path / "snippet.py"
    script.write_text(snippets("python")[number])
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    command = [sys.executable, "-W", "error", str(script)]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr


def test_the_quickstart_is_short():
    assert len(snippets("python")[0].splitlines()) <= 16


@pytest.mark.parametrize("number", range(len(snippets("yaml"))))
def test_every_config_is_accepted(number, tmp_path):
    from rowloom.deploy.config import config

    path = tmp_path / "deploy.yaml"
    path.write_text(snippets("yaml")[number])
    assert config.load(path).name == "ads"


def test_every_command_of_ours_exists():
    used = {line.split()[1] for line in commands() if line.startswith("rowloom ")}
    used |= {found[1] for line in commands() if (found := re.search(r"bin/rowloom (\w+)", line))}
    assert {"up", "status", "plan", "apply", "down", "demo"} <= used
    command = [sys.executable, "-c", "from rowloom.deploy.cli import main; main()"]
    for name in sorted(used):
        done = subprocess.run([*command, name, "--help"], capture_output=True, text=True, timeout=200)
        assert done.returncode == 0, f"rowloom {name}: {done.stderr}"


TESTS = "pytest -q -n 4 --dist loadfile"  # mostly they wait: four at once on two cores, and six take longer


def test_setting_up_takes_one_line_for_the_demo_and_one_for_the_tests():
    install = "python3 -m venv .venv && .venv/bin/pip install -q -e '.[dev]' && .venv/bin/"
    assert [line for line in commands() if line.startswith(install)] == [
        install + "rowloom demo",
        install + TESTS,
    ]


def test_ci_sets_up_and_tests_by_the_same_line():
    line = next(line for line in commands() if line.endswith(TESTS))
    assert line in (ROOT / ".ci/run").read_text().splitlines()
    assert line in (ROOT / "CONTRIBUTING.md").read_text()


def test_every_file_that_it_names_is_there():
    named = re.findall(r"`((?:proto|server|client|deploy|tests)/[\w/.]*)`", README)
    named += re.findall(r"\]\(([\w./]+)\)", README)
    assert len(named) >= 10
    missing = [name for name in named if not (ROOT / name).exists()]
    assert not missing


def road() -> list[str]:
    """The files of "follow one pull": the first of each line."""
    return re.findall(r"^\d\. `([\w/.]+)`", README, re.MULTILINE)


def test_every_file_of_one_pull_can_be_read_in_one_sitting():
    assert len(road()) == 9
    for name in road():
        assert len((ROOT / name).read_text().splitlines()) <= 480, f"{name} is too long for one sitting"


WALK = """
import json, sys, threading
seen = []

def profile(frame, event, argument):
    name = frame.f_code.co_filename
    if event == "call" and frame.f_code.co_name != "__init__" and name not in seen:
        seen.append(name)

import numpy as np
from rowloom.client import TableSpec
from rowloom.deploy import local_cluster

threading.setprofile(profile)
with local_cluster(shards=2, tables=[TableSpec("t", 100, dim=4)]) as cluster:
    with cluster.connect() as client:
        table = client.table("t")
        table.pull([1, 2])  # lanes are opened
        seen.clear()
        sys.setprofile(profile)
        table.pull([3, 4])
        sys.setprofile(None)
        walked = list(seen)
print(json.dumps(walked))
"""


def test_a_real_pull_walks_through_these_files_in_this_order():
    done = subprocess.run([sys.executable, "-c", WALK], capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    walked = [
        str(Path(name).relative_to(ROOT)) for name in json.loads(done.stdout) if name.startswith(str(ROOT))
    ]
    assert [name for name in walked if name in road()] == road()


def test_contributing_sends_nobody_to_a_place_that_is_not_there() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text()
    table = text[text.index("| a new") : text.index("What users see")]
    places = set(re.findall(r"`((?:proto|server|client|deploy|tests)/[\w/.]*)`", table))
    assert len(places) > 35
    assert [p for p in sorted(places) if "NAME" not in p and not (ROOT / p).exists()] == []
