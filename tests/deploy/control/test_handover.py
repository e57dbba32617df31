"""Shards that go over to other servers, in a cluster of this process, and what is refused."""

import threading

import numpy as np
import pytest
from waiting import until

from rowloom.client import SGD, Adagrad, TableSpec, Zeros
from rowloom.deploy import local_cluster
from rowloom.deploy.control.handover import Handover, checked, every_shard, these_shards
from rowloom.proto.errors import InvalidRequest
from rowloom.proto.layout import Layout, ShardAddress

IDS = np.arange(2000)
TABLES = [
    TableSpec("sums", 2000, dim=4, optimizer=SGD(lr=1.0), initializer=Zeros()),
    TableSpec("ads", 2000, dim=4, optimizer=Adagrad(lr=0.1), initializer=Zeros()),
]


@pytest.fixture
def cluster():
    with local_cluster(shards=3, tables=TABLES) as cluster:
        yield cluster


def hand_over(cluster, what, indexes, make):
    """Run one to its end. Returns what its progress said last."""
    scalings = cluster._server._parts.scalings
    number = scalings.hand_over(what, indexes, make).scaling
    until(lambda: scalings.progress(number).state in ("done", "failed"))
    return scalings.progress(number)


def test_shards_go_over_while_trainers_push_and_no_push_is_lost_or_done_twice(cluster):
    coordinator = cluster._server.coordinator
    before = coordinator.layout
    pushed, stop, failed = [0], threading.Event(), []

    def train() -> None:
        try:
            with cluster.connect(timeout_s=60.0) as client:
                table = client.table("sums")
                while not stop.is_set():
                    table.push(IDS, np.ones((2000, 4), np.float32))
                    pushed[0] += 1
                    seen = table.pull(IDS)
                    assert (seen == -pushed[0]).all()  # a trainer reads its own writes
        except BaseException as e:
            failed.append(e)

    trainer = threading.Thread(target=train)
    trainer.start()
    try:
        with cluster.connect() as client:
            ads = client.table("ads")
            ads.push(IDS, np.ones((2000, 4), np.float32))
            rows = ads.pull(IDS)
            done = hand_over(cluster, "a", [0, 2], lambda: these_shards(coordinator, [0, 2], 30.0))
            assert done.state == "done", done.error
            assert list(done.handed_over) == [0, 2]
            done = hand_over(cluster, "b", [0, 1, 2], lambda: every_shard(coordinator, 30.0))
            assert done.state == "done", done.error
            assert done.left == 0
            np.testing.assert_array_equal(ads.pull(IDS), rows)
            ads.push(IDS, np.ones((2000, 4), np.float32))  # with the slots that came along
            now = pushed[0]
            until(lambda: pushed[0] > now + 3)
    finally:
        stop.set()
        trainer.join()
    assert not failed
    after = coordinator.layout
    assert after.epoch == before.epoch
    old, new = ({s.address for s in layout.shards} for layout in (before, after))
    assert not old & new
    until(lambda: set(cluster.launcher._running) == set(coordinator.state.keys))  # the old ones have ended
    with cluster.connect() as client:
        np.testing.assert_array_equal(client.table("sums").pull(IDS), -float(pushed[0]))
        expected = np.float32(-0.1) / np.sqrt(np.float32(1)) - np.float32(0.1) / np.sqrt(np.float32(2))
        np.testing.assert_allclose(client.table("ads").pull(IDS), expected, rtol=1e-5)
        assert np.ptp(client.table("ads").pull(IDS)) == 0


def test_one_that_is_cancelled_or_fails_leaves_the_shard_where_it_was(cluster, monkeypatch):
    coordinator = cluster._server.coordinator
    before = coordinator.layout

    def cancelled():
        move = Handover(coordinator, [1])
        move.cancel()
        return move

    ended = hand_over(cluster, "cancelled", [1], cancelled)
    assert ended.state == "failed"
    assert "cancelled; nothing was changed" in ended.error
    assert coordinator.layout == before
    with cluster.connect() as client:
        client.table("sums").push(IDS, np.ones((2000, 4), np.float32))
        assert (client.table("sums").pull(IDS) == -1).all()
    until(lambda: set(cluster.launcher._running) == set(coordinator.state.keys))


def test_only_shards_that_there_are_go_over():
    layout = Layout("c", 1, (ShardAddress(0, "a:1"), ShardAddress(1, "b:1")))
    assert checked(layout, [1, 0, 1]) == [0, 1]
    for indexes in ([], [2], [-1, 0]):
        with pytest.raises(InvalidRequest, match="they are 0 to 1"):
            checked(layout, indexes)
