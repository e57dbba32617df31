"""A cluster with logs whose records are made when a test says so, to be restored to a moment of its life."""

from __future__ import annotations

import random
import time
from pathlib import Path

import numpy as np
from logging_launcher import LoggingLauncher

from rowloom.client import Adagrad, Adam, Normal, TableSpec, connect
from rowloom.deploy.config.config import parse
from rowloom.deploy.coordinator_server import CoordinatorServer
from rowloom.server.durable.extents import Owner
from rowloom.server.durable.reading import Reading
from rowloom.server.durable.segment_files import SegmentFiles

SPECS = [
    TableSpec("t", 400, dim=3, optimizer=Adagrad(lr=0.1), initializer=Normal(std=0.1, seed=3)),
    TableSpec("d", 60, dim=2, optimizer=Adam(lr=0.1, mode="dense"), initializer=Normal(seed=4)),
    TableSpec("u", 300, dim=2, partition="div", optimizer=Adam(lr=0.1), initializer=Normal(seed=5)),
]


class OldCluster:
    """A cluster with logs whose records are made when the test says so, and what was done to it, in order."""

    def __init__(self, folder: Path, shards: int = 3) -> None:
        self.folder, self.ahead_s, self.url = folder, 0.0, ""
        self._begun_s, self._begun = int(time.time()) + 0.3, time.monotonic()
        launcher = LoggingLauncher(str(folder), clock=self.now)
        config = {"name": "old", "shards": shards, "storage": str(folder), "durability": "process"}
        self.server = CoordinatorServer(parse(config), launcher)
        self.server._parts.snapshots._clock = (
            self.now
        )  # snapshots are taken by the clock that records are made by
        self.server.start()
        self.clients = [connect(self.server.address) for _ in range(3)]
        for spec in SPECS:
            self.clients[0].create_table(spec)
        self.done: list[tuple[tuple, float]] = []  # what, and when

    def now(self) -> float:
        """A thousand times slower than the true clock: no second ends between two things that a test does at once."""
        return self._begun_s + self.ahead_s + (time.monotonic() - self._begun) / 1000

    def do(self, *what) -> None:
        """A push of one of the clients, or a learning rate; ten seconds later than what was before."""
        self.ahead_s += 10
        begun = self.now()
        do(random.Random(str(what)).choice(self.clients), *what)
        self.done.append((what, begun))

    def snapshot(self) -> str:
        return self.clients[0].snapshot(extra={"step": len(self.done), "checkpoint": {"of": "a model"}}).path

    def owner(self, shard: int) -> Owner:
        layout = self.server.coordinator.layout
        return Owner(layout.cluster_id, layout.epoch, shard)

    def log(self, shard: int) -> SegmentFiles:
        return SegmentFiles(str(next(self.folder.glob(f"logs/*/epoch-*/shard-{shard}"))), self.owner(shard))

    def log_end(self, shard: int) -> int:
        """The last record of a shard's log."""
        files = self.log(shard)
        try:
            return max(record.head.lsn for record in Reading(files).records())
        finally:
            files.close()

    def lsns(self) -> list[dict[int, int]]:
        """For each shard: place in `done` -> the record that it has there of that. Told by when they were made."""
        found: list[dict[int, int]] = []
        for shard in range(self.server.coordinator.layout.n):
            files = self.log(shard)
            heads = [record.head for record in Reading(files).records()]
            files.close()
            found.append(
                {
                    k: h.lsn
                    for k, (_, when) in enumerate(self.done)
                    for h in heads
                    if -1 <= h.time_s - when < 9
                }
            )
        return found

    def close(self) -> None:
        for client in self.clients:
            client.close()
        self.server.stop(keep=True)


def do(client, kind: str, number) -> None:
    """The same for everyone who says the same. A push is of one table or two, often of few rows."""
    if kind == "rate":
        client.set_lr("t", number)
        return
    rng = np.random.default_rng(number)
    grads = {}
    for spec in rng.permutation(np.array(SPECS, object))[: rng.integers(1, 3)]:
        ids = rng.integers(0, spec.num_embeddings, rng.choice([1, 4, 100]))
        grads[spec.name] = ids, rng.standard_normal((len(ids), spec.width), np.float32)
    client.push(grads)


def rows(client) -> list[bytes]:
    return [client.table(spec.name).pull(np.arange(spec.num_embeddings)).tobytes() for spec in SPECS]
