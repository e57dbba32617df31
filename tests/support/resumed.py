"""A small cluster that begins with a checkpoint, for tests of what goes on after it was stopped."""

import contextlib
from pathlib import Path

import numpy as np

from rowloom.client import Adagrad, Adam, Normal, TableSpec
from rowloom.deploy import local_cluster

V, DIM, STEPS = 30, 4, 12
USERS = TableSpec("users", V, DIM, optimizer=Adam(lr=0.05), initializer=Normal(std=0.3, seed=1))
ITEMS = TableSpec("items", V, DIM, optimizer=Adagrad(lr=0.1), initializer=Normal(std=0.3, seed=2))


@contextlib.contextmanager
def a_client(folder: Path, restore=None, shards=2):
    """A client of a new cluster that keeps its snapshots there."""
    with (
        local_cluster(shards, tables=[USERS, ITEMS], storage=folder, restore=restore) as cluster,
        cluster.connect() as client,
    ):
        yield client


def a_batch(step: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each step another one: user ids [8], item ids [8], labels [8, 1] float32."""
    rng = np.random.default_rng(step)
    return rng.integers(0, V, 8), rng.integers(0, V, 8), rng.random((8, 1)).astype(np.float32)


def rows_of(client) -> dict[str, np.ndarray]:
    """All rows, by table."""
    return {table.name: table.pull(np.arange(V)) for table in client.tables()}


def assert_same_bits(mine, theirs) -> None:
    """Lists or dicts of arrays."""
    if isinstance(mine, dict):
        assert mine.keys() == theirs.keys()
        mine, theirs = list(mine.values()), list(theirs.values())
    for a, b in zip(mine, theirs, strict=True):
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))
