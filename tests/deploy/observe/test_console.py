"""The console: what it is told, and that a browser keeps it to itself."""

import json
import re
import shutil
import subprocess
import urllib.request

import pytest
from busy_shards import status

from rowloom.deploy.observe.endpoint import CONSOLE, Observed
from rowloom.deploy.observe.history import SAMPLES, History
from rowloom.proto import rowloom_pb2 as pb


class Life:
    """A cluster that is looked at each five seconds. now: its status."""

    def __init__(self) -> None:
        self.time, self.now = 0.0, status(1.0, (100, 100))
        self.history = History(lambda: self.now, lambda: self.time)
        self.history.look()

    def look(self, now: pb.StatusReply) -> None:
        self.time, self.now = self.time + 5.0, now
        self.history.look()

    @property
    def events(self) -> list[str]:
        return [event["text"] for event in self.history.state()["events"]]


def test_it_remembers_fifteen_minutes_and_no_more():
    life = Life()
    for k in range(SAMPLES + 3):
        life.look(status(6.0 + 5 * k, (600 + 500 * k, 100), 4 * k))
    samples = life.history.state()["samples"]
    assert len(samples) == SAMPLES
    assert [one["time"] for one in samples[-2:]] == [life.time - 5.0, life.time]
    assert samples[-1]["pulled_rows_per_s"] == 100.0
    assert 0 < samples[-1]["p50_ms"] <= samples[-1]["p99_ms"]


def test_it_tells_what_happened():
    life = Life()
    now = status(6.0, (100, 100))
    now.shards[1].health = "dead"
    life.look(now)
    life.look(status(11.0, (100, 100)))
    moved = status(16.0, (100, 100))
    moved.layout.epoch, moved.snapshot.id = 2, "one"
    moved.unfinished.append("table 'x' is not on every shard yet")
    del moved.tables[:]
    life.look(moved)
    assert life.events == [
        "the console began to look",
        "shard 1: serving -> dead",
        "shard 1: dead -> serving",
        "epoch 2: 2 shards",
        "snapshot one",
        "table users was dropped",
        "not finished: table 'x' is not on every shard yet",
    ]


def test_while_rows_move_it_is_looked_at_more_often_and_samples_stay_as_far_apart():
    life = Life()
    moving = status(6.0, (600, 100), 4)
    moving.scaling.state = "moving"
    life.look(moving)
    assert life.history.state()["every_s"] == 1.0
    for k in range(1, 11):
        life.time -= 4.0  # of the five that a look takes here
        now = status(6.0 + k, (600 + 70 * k, 100), 4 + k)
        now.scaling.state = "moving"
        life.look(now)
    samples = life.history.state()["samples"]
    assert [one["time"] for one in samples] == [5.0, 10.0, 15.0]
    assert [one["pulled_rows_per_s"] for one in samples] == [100.0, 70.0, 70.0]
    life.look(status(21.0, (1300, 100), 20))
    assert life.history.state()["every_s"] == 5.0
    assert life.events[1:] == ["rows move", "rows move no more, and nothing was changed"]


def test_the_last_snapshots_stay_with_what_was_known_of_each():
    life = Life()
    for k in range(12):
        now = status(6.0 + 5 * k, (100, 100))
        now.snapshot.CopyFrom(pb.NewestSnapshot(id=f"s{k}", created_s=k, rows=k, bytes=9 * k))
        life.look(now)
        now.snapshot.seconds, now.snapshot.pause_s = 2.0, 0.25  # it has just become whole
        life.look(now)
    taken = life.history.state()["snapshots"]
    assert [one["id"] for one in taken] == [f"s{k}" for k in range(2, 12)]
    assert taken[-1].items() >= {"rows": 11, "bytes": 99, "seconds": 2.0, "pause_s": 0.25}.items()


@pytest.fixture
def console():
    one = Observed(("127.0.0.1", 0), lambda: status(1.0, (3, 1)), "here")
    one._history.look()
    one._endpoint.start()
    yield one.address
    one.stop()


@pytest.mark.parametrize("path", [*CONSOLE, "/state"])
def test_a_browser_is_told_to_load_nothing_from_elsewhere_and_to_run_nothing_that_stands_in_the_page(
    console, path
):
    with urllib.request.urlopen(f"http://{console}{path}", timeout=20) as reply:
        policy, text = reply.headers["Content-Security-Policy"], reply.read().decode()
    assert policy.startswith("default-src 'none'; script-src 'self'")
    assert "unsafe" not in policy
    if path != "/state":
        assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", text)
        assert not re.search(r"innerHTML|\son\w+=|style=|<style|eval\(", text)


def test_the_page_names_each_of_its_files_and_each_place_that_its_script_fills(console):
    def get(path: str) -> str:
        with urllib.request.urlopen(f"http://{console}{path}", timeout=20) as reply:
            return reply.read().decode()

    page, script = get("/"), get("/console.js")
    assert set(re.findall(r'(?:src|href)="(console\.\w+)"', page)) == {"console.js", "console.css"}
    there = set(re.findall(r'id="([\w-]+)"', page))
    used = set(re.findall(r'(?:byId|grid|chart)\("([\w-]+)"', script))
    assert used <= there
    assert {"rows", "times", "matrix", "shards", "tables", "snapshots", "quotas", "events", "summary"} <= used
    state = json.loads(get("/state"))
    fields = set(re.findall(r"\b(?:s|t|now|state)\.(\w+)\b", script)) - {"filter", "map"}
    known = {*state, *state["now"], *state["now"]["shards"][0], *state["now"]["tables"][0]}
    assert fields <= known


def test_its_script_is_well_formed(console, tmp_path):
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed, which reads JavaScript")
    with urllib.request.urlopen(f"http://{console}/console.js", timeout=20) as reply:
        (tmp_path / "console.js").write_bytes(reply.read())
    subprocess.run([node, "--check", str(tmp_path / "console.js")], check=True)
