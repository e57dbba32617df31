"""Pushes over a network that resets, loses, delays and repeats, while shards come and go: none lost, none doubled.

`ROWLOOM_PUSHES=50000 pytest -s tests/end_to_end/test_bad_network.py` makes more of them, and says what happened.
"""

import os
import threading

import numpy as np
import pytest
from bad_network import BadNetwork

from rowloom.client import SGD, TableSpec, Zeros, connect
from rowloom.client.carriers.transport import CARRIERS
from rowloom.deploy import local_cluster
from rowloom.deploy.operate.remote import Remote

PUSHES = int(os.environ.get("ROWLOOM_PUSHES", "450"))
ROWS, SHARDS = 3000, (3, 1, 4, 2)
SPEC = TableSpec("t", ROWS, dim=len(CARRIERS), optimizer=SGD(lr=1.0), initializer=Zeros())


class Trainer(threading.Thread):
    """Adds 1 to rows of its own column, over one carrier."""

    def __init__(self, address: str, carrier: str) -> None:
        super().__init__(name=carrier)
        self._address, self._column = address, CARRIERS.index(carrier)
        self.counts = np.zeros(ROWS, np.int64)
        self.error: BaseException | None = None

    def run(self) -> None:
        rng = np.random.default_rng(self._column)
        try:
            with connect(self._address, carrier=self.name, timeout_s=200.0) as client:
                table = client.table("t")
                for _ in range(PUSHES // len(CARRIERS)):
                    ids = rng.integers(0, ROWS, rng.integers(1, 200))
                    grads = np.zeros((len(ids), SPEC.width), np.float32)
                    grads[:, self._column] = -1
                    if rng.random() < 0.3:
                        rows = table.step(ids, grads, ids)
                        np.add.at(self.counts, ids, 1)
                        np.testing.assert_array_equal(rows[:, self._column], self.counts[ids])
                    else:
                        table.push(ids, grads)
                        np.add.at(self.counts, ids, 1)
        except BaseException as e:
            self.error = e


@pytest.mark.timeout(300 + PUSHES // 20)
def test_pushes_over_a_bad_network_while_shards_come_and_go_are_applied_once() -> None:
    with (
        BadNetwork(seed=1, probability=0.01) as network,
        local_cluster(2, processes=True, tables=[SPEC]) as cluster,
    ):
        trainers = [Trainer(network.front(cluster.address), carrier) for carrier in CARRIERS]
        for trainer in trainers:
            trainer.start()
        scalings = 0
        with Remote(cluster.address) as remote:
            while any(trainer.is_alive() for trainer in trainers):
                remote.scale(SHARDS[scalings % len(SHARDS)])
                scalings += 1
        for trainer in trainers:
            trainer.join()
            if trainer.error is not None:
                raise trainer.error
        with cluster.connect() as client:
            rows = client.table("t").pull(np.arange(ROWS))
        for column, trainer in enumerate(trainers):
            np.testing.assert_array_equal(rows[:, column], trainer.counts)
    print(f"{PUSHES} pushes, {scalings} scalings, faults: {dict(network.injected)}; none lost, none doubled")
    assert scalings > 0
    # Each request has a fault with 4 %: clients that learned a way round the network would have next to none.
    assert sum(network.injected.values()) > PUSHES * 0.02
    assert {kind.rsplit(" ", 1)[0] for kind in network.injected} == {"grpc", "tcp", "shared memory"}
