"""What the log of the cluster says of shards that have lost their rows, and of those that are started again."""

import pytest

from rowloom.client import SGD, TableSpec
from rowloom.deploy import watcher
from rowloom.deploy.config.config import parse
from rowloom.deploy.control.loss import loss_in_words
from rowloom.deploy.coordinator_server import CoordinatorServer
from rowloom.deploy.launch.local_launcher import ThreadLauncher
from rowloom.deploy.operate.remote import Remote


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.setattr(watcher, "WATCH_S", 600.0)  # each look is one of the test's
    spec = TableSpec("t", 100, dim=2, optimizer=SGD(lr=1.0))
    config = parse(
        {"name": "ads", "shards": 2, "tables": [spec], "storage": str(tmp_path), "durability": "memory"}
    )
    server = CoordinatorServer(config, ThreadLauncher())
    server.start()
    yield server
    server.stop()


def errors_of_a_look(server, caplog) -> list[str]:
    caplog.clear()
    server._parts.watcher.look()
    return [r.getMessage() for r in caplog.records if r.levelname == "ERROR" and r.name == watcher.__name__]


def test_the_log_says_once_which_shard_is_dead_what_is_lost_and_the_way_out(server, caplog):
    assert errors_of_a_look(server, caplog) == []
    where = server.coordinator.layout.shards[1].address
    server.launcher.stop(server.coordinator.state.keys[1], 0.0)
    (said,) = errors_of_a_look(server, caplog)
    assert f"shard 1 at {where} is dead: its process has ended" in said
    assert "of each table (t) is lost" in said
    assert "`rowloom recover --accept-loss 1 --name ads` makes it anew" in said
    assert errors_of_a_look(server, caplog) == []
    with Remote(server.address) as remote:
        remote.accept_loss(1)
    assert errors_of_a_look(server, caplog) == []
    server.launcher.stop(server.coordinator.state.keys[1], 0.0)
    (said,) = errors_of_a_look(server, caplog)  # another loss is another line
    assert "shard 1 at" in said


def test_the_log_says_that_a_shard_came_back_without_its_rows(server, caplog):
    key = server.coordinator.state.keys[0]
    server.launcher.stop(key, 0.0)
    server.launcher.start(key)  # as Ray does
    assert errors_of_a_look(server, caplog) == []  # finds it elsewhere
    (said,) = errors_of_a_look(server, caplog)
    assert "shard 0 at" in said
    assert "its process was started anew, empty" in said


def test_of_a_shard_whose_log_cannot_be_read_the_log_says_so(server):
    said = loss_in_words(server.coordinator.state, 0, logs=True, ended=False)
    assert "could not be read from its log. `rowloom logs 0 --name ads` says why" in said
    assert "`rowloom status --name ads` how a copy of its files is put back" in said
