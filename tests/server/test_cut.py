"""A cut of a shard against a second shard that stands still at that moment, for every optimizer."""

import numpy as np
import pytest

from rowloom.client import SGD, Adagrad, Adam, Normal, TableSpec
from rowloom.proto.layout import Layout, ShardAddress
from rowloom.proto.spec import TableEntry
from rowloom.server.shard import Shard

LAYOUT = Layout("c", 1, (ShardAddress(0, "s:0", 1),), "c:1")
OPTIMIZERS = [
    SGD(lr=0.1),
    SGD(lr=0.1, momentum=0.9),
    Adagrad(lr=0.1),
    Adam(lr=0.1),
    Adam(lr=0.1, mode="dense"),
]


def entries() -> list[TableEntry]:
    return [
        TableEntry(k + 1, TableSpec(f"t{k}", 500, dim=3, optimizer=optimizer, initializer=Normal()))
        for k, optimizer in enumerate(OPTIMIZERS)
    ]


def change(shards: list[Shard], rng: np.random.Generator) -> None:
    """The same pushes to each of the shards."""
    ids = rng.choice(500, rng.integers(1, 60), replace=False)
    grads = rng.standard_normal((len(ids), 3), np.float32)
    what = rng.random()
    for shard in shards:
        for table in shard.tables.values():
            if what < 0.8:
                table.push(ids, grads, table.next_step() if table.counts_steps else table.step)
            elif what < 0.9:
                table.assign(ids, grads)
            elif what < 0.95:
                table.renorm(ids, 0.5, 2.0)
            else:
                table.set_lr(float(what), table.entry.lr_version + 1)


@pytest.mark.parametrize("seed", range(8))
def test_a_cut_says_what_a_shard_that_stands_still_says(seed: int) -> None:
    rng = np.random.default_rng(seed)
    moves, stands = (Shard(LAYOUT, 0, entries()) for _ in range(2))
    for _ in range(12):
        change([moves, stands], rng)
    cut = moves.cut()
    for table in cut.tables:
        found: dict[int, np.ndarray] = {}
        slots: dict[int, list[np.ndarray]] = {}
        change([moves], rng)
        while (block := table.read(int(rng.integers(1, 80)))) is not None:
            change([moves], rng)
            rows = table.settled(block)
            for k, i in enumerate(rows.ids.tolist()):
                found[i] = rows.values[k]
                slots[i] = [slot[k] for slot in rows.slots]
            change([moves], rng)
        still = stands.tables[table.entry.number]
        assert (table.step, table.count, table.entry) == (still.step, len(still), still.entry)
        ids = np.array(sorted(found))
        assert len(ids) == len(still)
        out = np.empty((len(ids), 3), np.float32)
        still.pull(ids, out)
        np.testing.assert_array_equal(np.stack([found[i] for i in ids.tolist()]), out)
        # Restored elsewhere, the next push gives the same bits too.
        again = Shard(LAYOUT, 0, [table.entry]).tables[table.entry.number]
        again.step = table.step
        again.install(
            ids, np.stack([found[i] for i in ids.tolist()]), _stacked([slots[i] for i in ids.tolist()])
        )
        grads = rng.standard_normal((len(ids), 3), np.float32)
        for one in (again, still):
            one.push(ids, grads, one.next_step() if one.counts_steps else one.step)
        np.testing.assert_array_equal(pulled(again, ids), pulled(still, ids))
    cut.end()
    assert cut.saved_bytes == 0


def pulled(table, ids: np.ndarray) -> np.ndarray:
    out = np.empty((len(ids), 3), np.float32)
    table.pull(ids, out)
    return out


def _stacked(rows: list[list[np.ndarray]]) -> list[np.ndarray]:
    return [np.stack(slot) for slot in zip(*rows, strict=True)]
