"""When `drop_table` returns, the table is gone, however long a shard takes to hear of it."""

import threading

import pytest
from waiting import PATIENCE_S, until

from rowloom.client import SGD, TableNotFound, TableSpec
from rowloom.deploy import local_cluster
from rowloom.deploy.control import coordinator
from rowloom.deploy.control.coordinator import Coordinator


def test_a_drop_that_a_shard_was_slow_to_take_was_said_to_be_done_while_it_still_had_the_table(monkeypatch):
    # The client drops again, and "no such table" was taken for: an earlier attempt has done it. It had only begun it.
    asked: list[str] = []
    original = Coordinator.drop_table

    def drop_table(self, name):
        asked.append(name)
        return original(self, name)

    monkeypatch.setattr(Coordinator, "drop_table", drop_table)
    monkeypatch.setattr(coordinator, "CHANGE_LIMIT_S", 0.01)
    monkeypatch.setattr(coordinator, "ATTEMPT_S", 0.2)
    with (
        local_cluster(shards=1, tables=[TableSpec("t", 10, dim=2, optimizer=SGD())]) as cluster,
        cluster.connect(timeout_s=PATIENCE_S) as client,
        cluster.connect() as other,
    ):
        table = other.table("t")
        done = threading.Thread(target=client.drop_table, args=("t",))
        with next(iter(cluster.launcher._running.values()))._lock:
            done.start()
            until(lambda: len(asked) >= 3 or not done.is_alive())
            assert done.is_alive()
        done.join(PATIENCE_S)
        with pytest.raises(TableNotFound):
            table.pull([1])
