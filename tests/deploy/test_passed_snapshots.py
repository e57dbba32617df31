"""A shard that started again, and could not read the newest snapshot: what the status says of it, and for how long."""

from pathlib import Path

import numpy as np
from logging_launcher import LoggingLauncher
from rich.console import Console
from waiting import until

from rowloom.client import SGD, TableSpec, Zeros, connect
from rowloom.deploy import watcher
from rowloom.deploy.config.config import parse
from rowloom.deploy.coordinator_server import CoordinatorServer
from rowloom.deploy.operate.remote import Remote
from rowloom.deploy.operate.status import render_status, summary

SPEC = TableSpec("t", 2000, dim=8, optimizer=SGD(lr=1.0), initializer=Zeros())
IDS = np.arange(200)
ONES = np.full((200, 8), -1.0, np.float32)


def shown(remote: Remote) -> str:
    console = Console(width=500)
    with console.capture() as capture:
        console.print(render_status(summary(remote.status())))
    return capture.get()


def damage(snapshot: str) -> None:
    """One bit of the rows of the first shard."""
    (file,) = Path(snapshot, "shard-00000").glob("t.rows*")
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(bytes(data))


def test_a_snapshot_that_a_shard_could_not_read_was_shown_as_the_newest_without_a_word(
    tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr(watcher, "WATCH_S", 0.05)
    config = parse({"name": "s", "shards": 2, "storage": str(tmp_path), "tables": [SPEC]})
    server = CoordinatorServer(config, LoggingLauncher(str(tmp_path)))
    server.start()
    try:
        with connect(server.address, timeout_s=60.0) as client, Remote(server.address) as remote:
            table = client.table("t")
            table.push(IDS, ONES)
            client.snapshot(full=True)
            table.push(IDS, ONES)
            newest = client.snapshot(full=True).path
            damage(newest)
            table.push(IDS, ONES)
            before = server.coordinator.layout.shards[0].incarnation
            assert "could not read" not in shown(remote)
            server.launcher.stop(server.coordinator.state.keys[0], 0.0)
            until(lambda: server.coordinator.layout.shards[0].incarnation != before)
            until(lambda: summary(remote.status())["healthy"])
            assert (table.pull(IDS) == 3.0).all()
            first, second = summary(remote.status())["shards"]
            assert first["passed_snapshot"] == newest
            assert second["passed_snapshot"] is None
            assert f"shard 0 could not read snapshot {newest} when started again: " in shown(remote)
            assert first["passed_why"] in shown(remote)
            client.snapshot()  # upon that one
            assert f"shard 0 could not read snapshot {newest}" in shown(remote)
            client.snapshot(full=True)
            assert "could not read" not in shown(remote)
            assert summary(remote.status())["shards"][0]["passed_snapshot"] is None
    finally:
        server.stop()
