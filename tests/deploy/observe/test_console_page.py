"""The console in a browser: what is seen, by whom it can be read, and what it says when something happens."""

import time
from collections.abc import Iterator
from typing import Any

import pytest
from browser import Browser, axe, browser, missing
from busy_shards import status
from waiting import until

from rowloom.client import TableSpec
from rowloom.deploy.config.config import parse
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
        move = {"rows": 25, "rows_total": 100, "left": 75, "rows_per_s": 15.0, "seconds": 9.0}
        now.scaling.CopyFrom(pb.ScaleReply(state="moving", shards=3, shards_before=2, **move))
        for index, rows in enumerate((5, 8, 12)):
            now.scaling.arrivals.add(shard=index, rows=rows)
    if changes.get("kept"):
        _keep(now)
    if changes.get("many"):
        _multiply(now, changes["many"])
    return now


def _keep(now: pb.StatusReply) -> None:
    """Its rows are known against the plan, and it has snapshots, standbys and quotas."""
    now.layout.shards.add(index=0)
    now.layout.shards.add(index=1)
    bounds = {"snapshots": {"every": 600}, "quotas": {"principals": {"ml": {"rows": 1000, "bytes": "1MiB"}}}}
    secured = {"security": {"tokens": "tokens.yaml", "token": "token", "insecure": True}}
    now.config = parse({"name": "ads", "shards": 2, "storage": "/kept", **bounds, **secured}).to_json()
    known = {"created_s": time.time() - 700, "age_s": 700.0, "rows": 14, "bytes": 2048}
    now.snapshot.CopyFrom(pb.NewestSnapshot(id="20260101T000000Z-1a", seconds=3.5, pause_s=0.012, **known))
    for shard, state in zip(now.shards, ("in step", "failed"), strict=True):
        said = shard.statistics
        said.resident_bytes, said.standby_follows, said.log_bytes = 64 << 20, True, 5 << 20
        said.standby_behind, said.standby_behind_bytes, said.standby_behind_s = 3, 2048, 0.25
        said.log_end, said.log_safe, said.tables[0].bytes = 4096, 1024, 1120
        shard.standby.state, shard.standby.error = state, "no room" if state == "failed" else ""
        said.quotas.add(principal="ml", what="rows", used=450, limit=500, refused=2)


def _multiply(now: pb.StatusReply, shards: int) -> None:
    """So many shards; the fourth has three times the rows."""
    one = pb.ShardStatus.FromString(now.shards[0].SerializeToString())
    del now.shards[:]
    for index in range(shards):
        one.shard.index, one.shard.incarnation = index, index + 1
        one.statistics.tables[0].rows = 300_000 if index == 3 else 100_000
        now.shards.append(one)


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


STATES = ({}, {"empty": True}, {"dead": True}, {"moving": True}, {"kept": True}, {"many": 1}, {"many": 64})


@pytest.mark.parametrize("changes", STATES)
def test_axe_finds_nothing_wrong_with_it_in_light_or_dark_wide_or_narrow(shown, changes):
    script = axe()
    if script is None:
        pytest.skip("axe-core is not installed (npm install -g axe-core, and node)")
    shown.look(**changes)
    for width, dark in ((390, True), (1440, False)):
        shown.page.shape(width, dark=dark)
        assert shown.page.faults(script) == []


@pytest.mark.parametrize("width", [390, 900, 1440])
@pytest.mark.parametrize(
    "changes", [{"dead": True}, {"moving": True, "kept": True}, {"many": 1}, {"many": 64}]
)
def test_nothing_is_wider_than_the_screen_but_what_scrolls_by_itself(shown, width, changes):
    shown.page.shape(width)
    shown.look(**changes)
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


def test_a_move_is_drawn_as_a_whole_and_for_each_shard_that_gets_rows(shown):
    shown.look(moving=True)
    assert shown.text("moved") == (
        "from 2 to 3 shards: 25 of 100 have arrived (25 %), 75 are left; 15 rows/s, pass 1; about 5 s more; for 9 s"
    )
    bars = "[...document.querySelectorAll('#move progress')].map(e => [e.value, Math.round(e.max)])"
    assert shown.page.run(bars) == [[25, 100], [5, 33], [8, 33], [12, 33]]
    lines = shown.page.run(
        "[...document.querySelectorAll('#arrivals p')].map(e => e.innerText.split('\\n')[0])"
    )
    assert [line.split(" ")[:2] for line in lines] == [["shard", "0"], ["shard", "1"], ["shard", "2"]]
    assert "12 arrived, about 21 left" in shown.text("arrivals")
    assert shown.text("troubles") == ""
    shown.look()
    assert shown.page.run("document.getElementById('move').checkVisibility()") is False


def test_each_cell_of_tables_by_shards_says_what_is_there_and_an_uneven_one_is_darker(shown):
    shown.look(many=64)
    cells = "[...document.querySelectorAll('#matrix tbody tr:nth-child(2) > *')].map(e => [e.textContent, e.className])"
    name, whole, *each = shown.page.run(cells)
    assert (name[0], len(each)) == ("users", 64)
    assert whole[0].splitlines()[0] == "6.6M"
    assert each[3] == ["300K 2.9x\n0 B\n6K/s", "heat3"]
    assert each[4] == ["100K\n0 B\n6K/s", ""]
    assert shown.page.run("(e => e.scrollWidth > e.clientWidth)(document.getElementById('matrix'))")
    shown.page.run("document.getElementById('matrix').scrollLeft = 500")
    shown.look(many=64)  # it is drawn anew, and stays where it was
    assert shown.page.run("document.getElementById('matrix').scrollLeft") == 500
    shown.look(dead=True)
    assert shown.page.run(cells)[1:] == [[">= 7\n0 B\n0/s", ""], ["7\n0 B\n0/s", ""], ["-", "bad"]]
    assert "shard 1 dead" in shown.text("matrix")


def test_memory_snapshots_standbys_and_quotas_stand_beside_what_they_are_held_to(shown):
    shown.look(kept=True)
    bars = "[...document.querySelectorAll('#shards meter')].map(e => [e.value, e.getAttribute('aria-label')])"
    (share, label), *_ = shown.page.run(bars)
    assert (round(share, 2), label) == (0.4, "40 % of what its rows take with every id pushed")
    shards = shown.text("shards")
    for said in (
        "1.1 KiB, 40 %",
        "in step, 2.0 KiB and 0.3 s behind",
        "failed, 2.0 KiB and 0.3 s behind: no room",
    ):
        assert said in shards
    assert "5.0 MiB, 3.0 KiB behind" in shards
    assert "with every id pushed the rows of a shard take 2.7 KiB" in shown.text("limits")
    (snapshot,) = shown.text("snapshots").splitlines()[1:]
    assert snapshot.split("\t")[0] == "20260101T000000Z-1a"
    assert snapshot.split("\t")[2:] == ["12 min", "14", "2.0 KiB", "3.5 s", "12 ms"]
    assert shown.text("due").startswith("one every 10 min, the next has been due for 10")
    quota = "[...document.querySelectorAll('#quotas tbody tr > *')].map(e => e.textContent)"
    assert shown.page.run(quota) == ["ml", "900 of 1,000, 4 refusals", "0 B of 1.0 MiB", "0", "0"]
    shown.look()
    assert shown.page.run("document.getElementById('quoted').checkVisibility()") is False


def test_a_full_plan_is_no_trouble_and_a_full_limit_is(shown):
    cell = "const cell = against(3072, 2048, 'it', limit)"
    full = f"(limit => {{ {cell}; return [cell[0], cell[1], meter(...cell.slice(2)).high]; }})"
    assert shown.page.run(f"{full}(false)") == ["3.0 KiB, 150 %", "", 1]
    assert shown.page.run(f"{full}(true)") == ["3.0 KiB, 150 %", "bad", 0.9]


def test_one_early_peak_leaves_the_chart_and_is_written_and_equal_lines_are_both_seen(shown):
    samples = "Array.from({length: 100}, (_, k) => ({time: 5 * k, a: k === 2 ? 9e6 : 1000, b: 1000}))"
    lines = "[['a', 'pulled', 'one'], ['b', 'pushed', 'two']]"
    shown.page.run(f"chart('rows', {samples}, 495, {lines}, rate, whole); 0")
    assert "peak 9,000,000 rows/s at " in shown.text("rows")
    assert shown.text("rows").startswith("1,250")
    points = "[...document.querySelectorAll('#rows polyline')].map(e => e.getAttribute('points').split(' ').at(-1))"
    assert shown.page.run(points) == ["180.00,22.80", "180.00,22.80"]
    drawn = "[...document.querySelectorAll('#rows polyline')].map(getComputedStyle)"
    drawn += ".map(e => [parseFloat(e.strokeWidth), e.strokeDasharray])"
    (wide, whole), (narrow, dashed) = shown.page.run(drawn)
    assert wide > narrow
    assert (whole, dashed) == ("none", "6px, 5px")
    # What is so now is never left out of the chart.
    samples = "Array.from({length: 100}, (_, k) => ({time: 5 * k, a: k > 97 ? 9e6 : 1000}))"
    shown.page.run(f"chart('rows', {samples}, 495, [['a', 'pulled', 'one']], rate, whole); 0")
    assert "peak" not in shown.text("rows")
    assert shown.text("rows").startswith("9,000,000")


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
    shown.look(moving=True)
    for _ in range(9):
        shown.page.press("Tab")
        reached.append(
            shown.page.run(
                "document.activeElement.id || document.activeElement.className || document.activeElement.tagName"
            )
        )
    scrolled = ["arrivals", "matrix", "shards", "tables", "snapshots", "happened"]
    assert reached == ["skip", "pause", *scrolled, "SUMMARY"]


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
