"""While other servers wait for room, which may take minutes, standbys take the places of servers that end."""

import os
import signal
import threading

import numpy as np
import pytest
from support.waiting import PATIENCE_S, until

from rowloom.client import SGD, TableSpec, Zeros, connect
from rowloom.deploy import local_cluster
from rowloom.deploy.config.config import parse
from rowloom.deploy.coordinator_server import CoordinatorServer
from rowloom.deploy.launch.local_launcher import ProcessLauncher
from rowloom.proto.errors import RowloomError, Unavailable

IDS = np.arange(100)
ONES = -np.ones((100, 4), np.float32)
SPEC = TableSpec("t", 100, dim=4, optimizer=SGD(lr=1.0), initializer=Zeros())


class NoRoom:
    """Around a launcher: shards wait for room until one of them is stopped, or some is found. Standbys have some."""

    def __init__(self, launcher) -> None:
        self.waits, self.given_up, self.found = threading.Event(), threading.Event(), threading.Event()
        self._keys: list[int] = []
        self._stop = launcher.stop
        launcher.reserve, launcher.stop = self.reserve, self.stop

    def reserve(self, keys, apart=(), *, patient=True) -> None:
        if apart or self.found.is_set():
            return
        self._keys = list(keys)
        self.waits.set()
        assert self.given_up.wait(PATIENCE_S)
        raise Unavailable("there is no room")

    def stop(self, key, grace_s) -> None:
        if key in self._keys:
            self.given_up.set()
        self._stop(key, grace_s)


def in_step(server, count: int) -> bool:
    state = server.coordinator.state
    return sum(state.standby_in_step(index) is not None for index in range(state.layout.n)) == count


def scale_in_vain(cluster) -> None:
    with pytest.raises(RowloomError):
        cluster.scale(3)


def test_a_scaling_that_waited_for_room_kept_standbys_from_taking_places() -> None:
    with local_cluster(shards=2, replicas=1, tables=[SPEC]) as cluster:
        until(lambda: in_step(cluster._server, 2))
        table = cluster.connect().table("t")
        room, said = NoRoom(cluster.launcher), []

        def scale() -> None:
            with pytest.raises(RowloomError) as caught:
                cluster.scale(3)
            said.append(str(caught.value))

        thread = threading.Thread(target=scale)
        thread.start()
        assert room.waits.wait(PATIENCE_S)
        assert not room.given_up.is_set()
        cluster.launcher.stop(cluster._server.coordinator.state.keys[1], 0.0)
        table.push(IDS, ONES)
        assert room.given_up.is_set()
        thread.join()
        assert "standby" in said[0] or "have ended" in said[0]
        assert set(table.pull(IDS)[:, 0].tolist()) == {1.0}


def test_a_standby_that_ended_while_a_scaling_waited_for_room_held_up_all_pushes_to_its_shard() -> None:
    with local_cluster(shards=2, replicas=1, tables=[SPEC]) as cluster:
        until(lambda: in_step(cluster._server, 2))
        table = cluster.connect().table("t")
        room = NoRoom(cluster.launcher)
        thread = threading.Thread(target=scale_in_vain, args=(cluster,))
        thread.start()
        assert room.waits.wait(PATIENCE_S)
        cluster.launcher.stop(cluster._server.coordinator.state.standbys[1].key, 0.0)
        table.push(IDS, ONES)
        assert not room.given_up.is_set()  # the scaling waits on
        room.given_up.set()
        thread.join()
        until(lambda: in_step(cluster._server, 2))
        assert set(table.pull(IDS)[:, 0].tolist()) == {1.0}


@pytest.mark.slow
def test_a_dead_shard_that_waited_for_room_kept_the_standbys_of_others_from_taking_places(tmp_path) -> None:
    config = parse({"shards": 2, "replicas": 1, "tables": [SPEC], "storage": str(tmp_path / "s")})
    launcher = ProcessLauncher(config, tmp_path / "s")
    server = CoordinatorServer(config, launcher)
    server.start()
    try:
        until(lambda: in_step(server, 2))
        with connect(server.address) as client:
            table = client.table("t")
            table.push(IDS, ONES)
            room, state = NoRoom(launcher), server.coordinator.state
            for key in (state.standbys[0].key, state.keys[0]):
                os.kill(launcher.pid(key), signal.SIGKILL)
            assert room.waits.wait(PATIENCE_S)
            os.kill(launcher.pid(state.keys[1]), signal.SIGKILL)
            assert set(table.pull(IDS[1::2])[:, 0].tolist()) == {1.0}  # those of shard 1
            assert room.given_up.is_set()
            room.found.set()
            until(lambda: in_step(server, 2))
            table.push(IDS, ONES)
            assert set(table.pull(IDS)[:, 0].tolist()) == {2.0}
    finally:
        server.stop()
