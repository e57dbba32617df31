"""Standbys that are made, ended or kept otherwise while a cluster runs."""

import os
import signal
import threading

import numpy as np
from support.waiting import until

from rowloom.client import SGD, TableSpec, Zeros
from rowloom.deploy import local_cluster
from rowloom.deploy.config.config import DeployConfig, from_json, parse
from rowloom.deploy.operate.applying import apply
from rowloom.deploy.operate.remote import Remote

SPEC = TableSpec("t", 100, dim=4, optimizer=SGD(lr=1.0), initializer=Zeros())
IDS = np.arange(100)
ONES = -np.ones((100, 4), np.float32)


def wanted(replicas: int, shards: int = 1, **standby) -> DeployConfig:
    """What runs, with these in it."""
    given = {"name": "local", "shards": shards, "replicas": replicas, "tables": [SPEC]}
    return parse(given | ({"standby": standby} if standby else {}))


def applied(cluster, config: DeployConfig) -> list[str]:
    with Remote(cluster.address) as remote:
        return [str(change) for change in apply(config, remote, remote.status())[0].changes]


def shown(cluster) -> list[str]:
    """The standby of each shard in a word."""
    with Remote(cluster.address) as remote:
        return [s.standby.state if s.HasField("standby") else "none" for s in remote.status().shards]


def in_force(cluster) -> DeployConfig:
    with Remote(cluster.address) as remote:
        return from_json(remote.status().config)


class Trainer:
    """Pushes all the time, until it is ended."""

    def __init__(self, cluster) -> None:
        self.table, self.pushed, self._ending = cluster.connect().table("t"), 0, threading.Event()
        self._failed: list[Exception] = []
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            while not self._ending.is_set():
                self.table.push(IDS, ONES)
                self.pushed += 1
        except Exception as e:
            self._failed.append(e)

    def goes_on(self) -> None:
        before = self.pushed
        until(lambda: self.pushed > before + 1 or self._failed)

    def end(self) -> None:
        self._ending.set()
        self._thread.join()
        assert not self._failed
        assert set(self.table.pull(IDS)[:, 0].tolist()) == {float(self.pushed)}


def test_standbys_come_and_go_under_a_trainer_and_a_killed_server_loses_nothing_meanwhile() -> None:
    with local_cluster(shards=1, processes=True, tables=[SPEC]) as cluster:
        trainer, launcher = Trainer(cluster), cluster.launcher
        first = cluster._server.coordinator.state.keys[0]
        try:
            trainer.goes_on()
            assert applied(cluster, wanted(1))[0].startswith("replicas: 0 -> 1 (standbys: 1 process more, ")
            until(lambda: shown(cluster) == ["in step"])
            trainer.goes_on()
            os.kill(launcher.pid(first), signal.SIGKILL)
            until(lambda: cluster._server.coordinator.state.keys[0] != first)
            until(lambda: shown(cluster) == ["in step"])
            trainer.goes_on()
            assert applied(cluster, wanted(0))[0].startswith("replicas: 1 -> 0 (standbys: the standbys end")
            until(lambda: shown(cluster) == ["none"])
            until(lambda: len(launcher._running) == 1)
            trainer.goes_on()
            assert in_force(cluster).replicas == 0
        finally:
            trainer.end()
