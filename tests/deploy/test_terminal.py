"""What long commands show while they work: on stderr, and nothing when it is not wanted."""

import subprocess
import sys

import pytest
from waiting import PATIENCE_S

from rowloom.deploy.terminal import Stages, at_once, stage


def test_each_stage_leaves_a_line_with_its_note(capfd):
    with Stages(quiet=False) as stages:
        with stages("filling", total=10) as filling:
            filling.advance(4, "half way")
            filling.advance(6, "through")
        with stages("resting"):
            pass
    out, err = capfd.readouterr()
    assert out == ""
    lines = [" ".join(line.split()) for line in err.splitlines() if line.strip()]
    assert lines[0].startswith("filling")
    assert lines[0].endswith("through")
    assert lines[1].startswith("resting")


def test_what_is_counted_in_rows_says_how_many_of_how_many(capfd):
    with stage("moving rows", quiet=False, unit="rows", lasting=True) as moving:
        moving.reach(0, 0)  # not known yet
        moving.reach(1500, 2000)
    assert "1,500/2,000 rows" in capfd.readouterr().err


@pytest.mark.parametrize("options", [{"quiet": True, "lasting": True}, {"quiet": False}])
def test_nothing_is_shown_to_the_quiet_and_nothing_that_passes_to_a_log(capfd, options):
    with stage("moving rows", **options) as moving:
        moving.reach(1, 2)
    assert capfd.readouterr() == ("", "")


def test_no_bar_is_drawn_where_there_is_no_terminal_and_a_log_gets_a_line_for_each_stage(capfd):
    # A log of an export was full of bars and of what moves the cursor.
    with stage("users into users.npy", quiet=False, unit="rows", lasting=True) as moving:
        for done in range(0, 2001, 500):
            moving.reach(done, 2000)
    assert capfd.readouterr().err == "users into users.npy: 2,000/2,000 rows\n"


def test_what_is_said_at_once_goes_away_and_is_for_terminals_only(capfd, monkeypatch):
    for quiet, terminal, shown in (
        (False, True, "one moment ...\r\x1b[K"),
        (True, True, ""),
        (False, False, ""),
    ):
        monkeypatch.setattr("sys.stderr.isatty", lambda terminal=terminal: terminal, raising=False)
        with at_once("one moment", quiet):
            pass
        assert capfd.readouterr() == ("", shown)


def test_up_was_silent_on_a_terminal_until_all_was_imported():
    """What it imports first is little, so the word is there before the wait."""
    code = (
        "import sys; from rowloom.deploy import terminal\n"
        "from contextlib import contextmanager\n"
        "@contextmanager\n"
        "def said(text, quiet):\n"
        "    heavy = {'grpc', 'pydantic', 'rich.progress', 'numba', 'google.protobuf'} & set(sys.modules)\n"
        "    print(text, sorted(heavy)); sys.exit(0); yield\n"
        "terminal.at_once = said\n"
        "sys.argv = ['rowloom', 'up']\n"
        "from rowloom.deploy.operate.command import main; main()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.stdout == "rowloom: one moment []\n", done.stderr
