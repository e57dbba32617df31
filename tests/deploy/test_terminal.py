"""What long commands show while they work: on stderr, and nothing when it is not wanted."""

import pytest

from rowloom.deploy.terminal import Stages, stage


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
