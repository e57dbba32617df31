"""The screen of `rowloom top`."""

import pytest
from busy_shards import status
from rich.console import Console

from rowloom.deploy.observe.rates import activity
from rowloom.deploy.observe.top import render_top, sparkline


def lines_of(state: dict, width: int, note: str = "", **history: list[dict]) -> list[str]:
    console = Console(width=width, color_system=None)
    with console.capture() as capture:
        console.print(render_top(state, width, note, **history))
    return capture.get().splitlines()


@pytest.mark.parametrize("width", [60, 80, 100, 200])
def test_each_shard_and_table_stands_on_one_line_however_narrow_the_screen(width):
    lines = lines_of(activity(status(2.0, (30_000_000, 1_000_000), 4)), width)
    assert len(lines) == 2 + 1 + 3 + 1 + 2
    assert any("15,000,000" in line and line.startswith("0") for line in lines)
    assert any("15,500,000" in line and line.startswith("users") for line in lines)
    assert all(len(line) <= width for line in lines)


def test_it_says_what_is_wrong():
    state = activity(status(2.0, (3, 1)))
    state["shards"][1]["health"], state["healthy"] = "dead", False
    state["unfinished"] = ["table 'x' is not on every shard yet"]
    text = "\n".join(lines_of(state, 100, "the coordinator does not answer"))
    for said in ("NOT HEALTHY", "shard 1 is dead", "not finished yet: table 'x'", "does not answer"):
        assert said in text


def test_a_shard_that_does_not_answer_shows_nothing_rather_than_noughts():
    now = status(2.0, (3, 1))
    now.shards[1].health = "dead"
    now.shards[1].ClearField("statistics")
    (dead,) = [line.split() for line in lines_of(activity(now), 200) if line.startswith("1 ")]
    assert dead == ["1", "dead", *11 * "-"]


def test_how_many_rows_move_is_not_said_before_they_are_counted():
    state = activity(status(2.0, (3, 1)))
    state["move"] = {"state": "starting", "rows": 0, "rows_left": 0, "rows_per_s": None, "eta_s": None}
    assert "rows move: starting" in lines_of(state, 100)
    state["move"] |= {"state": "moving", "rows": 1000, "rows_left": 2000}
    assert "rows move: moving, 1,000 moved, 2,000 left" in lines_of(state, 100)
    state["move"] |= {"rows_per_s": 400.0, "eta_s": 5.0}
    assert "rows move: moving, 1,000 moved, 2,000 left, 400 rows/s, about 5 s more" in lines_of(state, 100)


def test_a_long_name_of_a_table_takes_no_columns_from_the_shards():
    now = status(2.0, (3, 1))
    now.tables[0].spec.name = 60 * "u"
    lines = lines_of(activity(now), 80)
    assert any(line.startswith("shard") and "memory" in line for line in lines)


def test_a_cluster_without_tables_has_a_screen():
    now = status(1.0, (0, 0))
    del now.tables[:]
    for shard in now.shards:
        del shard.statistics.counts[:]
    assert lines_of(activity(now), 80)[-1] == "no tables yet"


def test_the_rows_of_a_table_dropped_unmarked_where_a_shard_tells_nothing():
    now = status(2.0, (3, 1))
    now.shards[1].health = "dead"
    now.shards[1].ClearField("statistics")
    (users,) = [line for line in lines_of(activity(now), 200) if line.startswith("users")]
    assert users.split()[1] == ">="


def test_what_was_pulled_and_pushed_is_drawn_as_wide_as_there_is_room():
    samples = [{"pulled_rows_per_s": 100.0 * k, "pushed_rows_per_s": 7.0} for k in range(200)]
    lines = lines_of(activity(status(2.0, (3, 1))), 60, samples=samples)
    pulled, pushed = (line for line in lines if line.startswith(("pulled ", "pushed ")))
    assert pulled.endswith("█ at most 19,900 rows/s")
    assert len(pulled) <= 60
    assert set(pushed.split()[1]) == {"█"}
    assert sparkline([0.0, 1.0, 4.0, 8.0]) == " ▂▅█"
    assert not [line for line in lines_of(activity(status(2.0, (3, 1))), 60) if line.startswith("pulled ")]


def test_the_last_events_stand_at_the_end():
    events = [{"time": 60.0 * k, "text": f"snapshot {k}"} for k in range(9)]
    lines = lines_of(activity(status(2.0, (3, 1))), 80, events=events)
    assert [line.split()[1:] for line in lines[-5:]] == [["snapshot", str(k)] for k in range(4, 9)]


def test_standbys_have_a_column_where_there_are_any():
    now = status(2.0, (3, 1))
    now.shards[0].standby.state = "filling"
    now.shards[0].standby.rows = 5
    lines = lines_of(activity(now), 250)
    assert [line.split()[-1] for line in lines if line.startswith(("shard ", "1 "))] == ["standby", "none"]
    assert any(line.endswith("filling, 5 rows") for line in lines)
