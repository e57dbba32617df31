"""A cluster on Ray whose rows are in logs: ended, or killed with all of Ray, and started again on another Ray.

python kept_on_ray.py FOLDER

A process of its own, because Ray reads once in a process how clients show who they are, and other tests' differs.
"""

import os
import random
import signal
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from free_ports import free_port
from waiting import until

from rowloom.client import SGD, TableSpec, Zeros, connect
from rowloom.deploy.config.config import DeployConfig, parse
from rowloom.deploy.launch.processes import marked
from rowloom.deploy.operate import local_ray
from rowloom.deploy.operate.clusters import down, up
from rowloom.deploy.operate.directory import ClusterDirectory, Record
from rowloom.proto.errors import Unavailable

IDS = np.arange(50)
SPEC = TableSpec("users", 100, dim=2, optimizer=SGD(lr=1.0), initializer=Zeros())
ONES = np.full((len(IDS), 2), -1.0, np.float32)


def config(tmp_path: Path, **more) -> DeployConfig:
    kept = {"storage": str(tmp_path / "kept"), "durability": "disk"} | more
    ray = {"launcher": "ray", "ray": {"address": "local"}}
    return parse({"name": "ads", "shards": 2, "tables": [SPEC], **ray, **kept})


class Trainer(threading.Thread):
    """Pushes for as long as it may; each push waits until its cluster is there.

    Attributes:
        acked: how many pushes were acknowledged.
        error: what ended it.
    """

    def __init__(self, address: str) -> None:
        super().__init__()
        self.address = address
        self.acked = 0
        self.error: BaseException | None = None
        self.ending = threading.Event()

    def run(self) -> None:
        """Push."""
        try:
            with connect(self.address, timeout_s=200.0) as client:
                table = client.table("users")
                while not self.ending.is_set():
                    table.push(IDS, ONES)
                    self.acked += 1
        except BaseException as e:
            self.error = e

    def goes_on(self) -> None:
        """Return when it has pushed some more."""
        seen = self.acked
        until(lambda: self.acked > seen + 3 or self.error is not None)
        assert self.error is None


def kill_all_of_ray(directory: ClusterDirectory) -> None:
    mark = str((directory.home / "ray").absolute())
    for pid, _ in marked(mark):
        os.kill(pid, signal.SIGKILL)
    until(lambda: not marked(mark) and local_ray.find(directory) is None)


def shown(address: str) -> np.ndarray:
    with connect(address, timeout_s=200.0) as client:
        return client.table("users").pull(IDS)


def go_on(directory: ClusterDirectory, tmp_path: Path) -> None:
    """Everything."""
    wanted = config(tmp_path, port=free_port(random.Random(os.getpid())))
    trainer = Trainer(up(wanted, directory).record.address)
    trainer.start()
    try:
        trainer.goes_on()
        own = local_ray.find(directory)
        assert own is not None
        directory.put(
            Record("other", "ray", "", ray=own.address)
        )  # or that Ray, which takes long, would end too
        down(directory.get("ads"), directory, keep=True)
        with pytest.raises(Unavailable, match="holds the logs of a cluster 'ads' that can go on"):
            up(config(tmp_path, durability="memory"), directory)
        assert directory.get("ads").kept
        assert up(wanted, directory).record.address == trainer.address
        trainer.goes_on()
        directory.remove("other")
        kill_all_of_ray(directory)
        again = up(wanted, directory)
        assert again.started
        assert not again.replaced
        trainer.goes_on()
    finally:
        trainer.ending.set()
        trainer.join()
    np.testing.assert_array_equal(shown(trainer.address), np.float32(trainer.acked))  # each was applied once
    kill_all_of_ray(directory)
    down(Record("ads", "ray", "", storage=wanted.storage or ""), directory)
    assert not (tmp_path / "kept" / "logs").exists()
    assert not (tmp_path / "kept" / "layout.json").exists()


if __name__ == "__main__":
    home = ClusterDirectory(Path(sys.argv[1]) / "home")
    try:
        go_on(home, Path(sys.argv[1]))
    finally:
        down(home.get("ads") or Record("ads", "ray", ""), home)
    print("each was applied once")
