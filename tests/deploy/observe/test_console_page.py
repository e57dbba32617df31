"""The console in a browser: what is seen, by whom it can be read, and what it says when something happens."""

from collections.abc import Iterator
from typing import Any

import pytest
from browser import Browser, axe, browser, missing
from busy_shards import status
from waiting import until

from rowloom.client import TableSpec
from rowloom.deploy.observe.endpoint import Observed
from rowloom.proto import rowloom_pb2 as pb
from rowloom.proto.spec import TableEntry

LONG = "context.last_seen_category_of_the_previous_session"


def _status(**changes: Any) -> pb.StatusReply:
    """Two shards and two tables. dead: the second shard is; moving: rows do; tables: of none."""
    now = status(5.0, (30_000, 10_000), 40)
    now.tables.append(TableEntry(2, TableSpec(LONG, 100, dim=2)).to_message())
    if changes.get("empty"):
        now = status(5.0, (0, 0))
        del now.tables[:]
        for shard in now.shards:
            del shard.statistics.counts[:]
            del shard.statistics.traffic[:]
    if changes.get("dead"):
        now.shards[1].health = "dead"
        now.shards[1].ClearField("statistics")
        now.unfinished.append("table 'x' is not on every shard yet")
    if changes.get("moving"):
        now.scaling.state, now.scaling.rows, now.scaling.rows_total, now.scaling.seconds = (
            "copying",
            25,
            100,
            9.0,
        )
    return now


class Shown:
    """A console whose cluster is what a test says."""

    def __init__(self, page: Browser) -> None:
        self.page, self.now = page, _status()
        self.console = Observed(("127.0.0.1", 0), lambda: self.now, "here")
        self.console._history.look()
        self.console._endpoint.start()

    def look(self, **changes: Any) -> None:
        """The cluster becomes another one, and the page is told at once."""
        self.now = _status(**changes)
        self.console._history.look()
        self.page.run("look()")

    def text(self, place: str) -> str:
        return self.page.run(f"document.getElementById('{place}')?.innerText ?? ''")


@pytest.fixture(scope="module")
def page() -> Iterator[Browser]:
    if missing():
        pytest.skip(missing())
    with browser() as one:
        yield one


@pytest.fixture
def shown(page):
    one = Shown(page)
    try:
        page.shape(900)
        page.open(f"http://{one.console.address}/")
        until(lambda: one.text("events"))
        yield one
    finally:
        one.console.stop()


@pytest.mark.parametrize("changes", [{}, {"empty": True}, {"dead": True}, {"moving": True}])
def test_axe_finds_nothing_wrong_with_it_in_light_or_dark_wide_or_narrow(shown, changes):
    script = axe()
    if script is None:
        pytest.skip("axe-core is not installed (npm install -g axe-core, and node)")
    shown.look(**changes)
    for width, dark in ((390, True), (1440, False)):
        shown.page.shape(width, dark=dark)
        assert shown.page.faults(script) == []


@pytest.mark.parametrize("width", [390, 900, 1440])
def test_nothing_is_wider_than_the_screen_but_what_scrolls_by_itself(shown, width):
    shown.page.shape(width)
    shown.look(dead=True)
    assert shown.page.run("document.documentElement.scrollWidth <= innerWidth")
    ends = "[...document.querySelectorAll('header, main > *')].map(e => e.getBoundingClientRect().right)"
    assert max(shown.page.run(ends)) <= width


def test_names_break_where_their_words_do_however_narrow(shown):
    shown.page.shape(390)
    shown.look()
    widths = "[...document.querySelectorAll('#tables tbody th')].map(e => e.getBoundingClientRect().width)"
    assert min(shown.page.run(widths)) >= 100
    assert shown.page.run(
        f"[...document.querySelectorAll('#tables tbody th')].some(e => e.textContent === '{LONG}')"
    )


def test_what_is_wrong_is_said_with_what_to_do_and_a_dead_shard_shows_no_numbers(shown):
    shown.look(dead=True)
    assert shown.text("summary").startswith("NOT HEALTHY, 2 shards, ")
    lines = shown.text("troubles").splitlines()
    assert lines[0] == "shard 1 is dead. `rowloom status` says what can be done"
    assert lines[1] == "not finished yet: table 'x' is not on every shard yet"
    cells = "[...document.querySelectorAll('#shards tbody tr:last-child > *')].map(e => e.textContent)"
    assert shown.page.run(cells)[:2] == ["1", "dead"]
    assert set(shown.page.run(cells)[2:]) == {"-"}
    shown.look()
    assert shown.text("troubles") == ""
    assert shown.text("summary").startswith("healthy, 2 shards, ")


def test_a_move_says_how_far_it_is(shown):
    shown.look(moving=True)
    assert shown.text("move") == "rows move to other shards: 25 of 100 (25 %), for 9 s"
    shown.look()
    assert shown.text("move") == ""


def test_a_cluster_without_tables_and_calls_says_so(shown):
    shown.look(empty=True)
    assert shown.text("tables").startswith("no tables yet: ")
    assert "no calls yet" in shown.text("rows")


def test_an_event_is_put_in_once_and_those_before_stay_as_they_are(shown):
    shown.page.run("document.querySelector('#events li').mark = 1; 0")
    shown.look(dead=True)
    shown.look(dead=True)
    first = shown.text("events").splitlines()
    assert len([line for line in first if "shard 1: serving -> dead" in line]) == 1
    assert shown.page.run("[...document.querySelectorAll('#events li')].at(-1).mark") == 1
    assert shown.page.run("document.getElementById('happened').getAttribute('role')") == "log"


def test_the_keyboard_reaches_all_in_the_order_of_the_page(shown):
    reached = []
    for _ in range(6):
        shown.page.press("Tab")
        reached.append(
            shown.page.run(
                "document.activeElement.id || document.activeElement.className || document.activeElement.tagName"
            )
        )
    assert reached == ["skip", "pause", "shards", "tables", "happened", "SUMMARY"]


def test_every_table_has_heads_that_name_columns_and_rows(shown):
    heads = "[...document.querySelectorAll('th')].map(e => e.scope)"
    assert set(shown.page.run(heads)) == {"col", "row"}
    assert shown.page.run("document.querySelectorAll('main, h1').length") == 2


def test_a_paused_page_keeps_what_it_shows(shown):
    shown.page.run("document.getElementById('pause').click()")
    shown.look(dead=True)
    assert shown.text("summary").startswith("healthy")
    assert shown.page.run("document.getElementById('pause').getAttribute('aria-pressed')") == "true"


def test_a_coordinator_that_is_gone_is_said_to_be_so(shown):
    shown.console.stop()
    shown.page.run("look()")
    assert shown.text("summary").startswith("the coordinator does not answer")
    assert shown.text("shards")  # what was seen last
