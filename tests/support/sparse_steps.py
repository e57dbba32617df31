"""The same 1,000 random sparse steps for ours and for a library's optimizer."""

from collections.abc import Iterator

import numpy as np

from rowloom.proto.spec import Optimizer, TableEntry, TableSpec, Uniform
from rowloom.server.table import ShardTable

V, DIM, STEPS = 50, 8, 1000


def steps(seed: int = 0) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(ids [N] int64, some twice; grads [N, DIM] float32). Some rows come rarely."""
    rng = np.random.default_rng(seed)
    for _ in range(STEPS):
        ids = (V * rng.random(rng.integers(1, 7)) ** 3).astype(np.int64)
        yield ids, rng.normal(size=(len(ids), DIM)).astype(np.float32)


def summed(ids: np.ndarray, grads: np.ndarray) -> np.ndarray:
    """As one dense gradient. Returns [V, DIM] float32."""
    dense = np.zeros((V, DIM), np.float32)
    np.add.at(dense, ids, grads)
    return dense


class Ours:
    """One table on one shard."""

    def __init__(self, optimizer: Optimizer) -> None:
        spec = TableSpec("t", V, dim=DIM, optimizer=optimizer, initializer=Uniform())
        self.table = ShardTable(TableEntry(1, spec), 0, 1)

    def rows(self) -> np.ndarray:
        """All of them. Returns [V, DIM] float32."""
        out = np.empty((V, DIM), np.float32)
        self.table.pull(np.arange(V), out)
        return out

    def train(self) -> np.ndarray:
        """Push every step. Returns the rows [V, DIM] float32."""
        for ids, grads in steps():
            self.table.push(ids, grads, self.table.next_step())
        return self.rows()


def assert_alike(ours: np.ndarray, theirs: np.ndarray) -> None:
    """To 1e-6, relative to the largest weight if that is above 1: both have float32 sums of 1,000 terms."""
    np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-6 * max(1.0, np.abs(theirs).max()))
