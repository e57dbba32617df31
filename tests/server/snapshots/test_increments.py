"""Real shards whose snapshots are made upon each other, held to what they were, whatever happens in between."""

import contextlib
from collections.abc import Callable

import numpy as np
import pytest
from snapshot_life import empty_memory

from rowloom.client import SGD, Adagrad, Adam, Normal, TableSpec, open_snapshot
from rowloom.proto.layout import Layout, ShardAddress, owner
from rowloom.proto.snapshots.snapshot import open_snapshot as open_stored
from rowloom.proto.snapshots.stored import StoredShard
from rowloom.proto.snapshots.verifying import verify
from rowloom.proto.spec import TableEntry
from rowloom.server.shard import Shard
from rowloom.server.snapshots import writing
from rowloom.server.snapshots.commit import commit_snapshot
from rowloom.server.snapshots.loading import load_shard
from rowloom.server.snapshots.target import target_of
from rowloom.server.snapshots.writing import write_cut
from rowloom.server.taking import Taking

OPTIMIZERS = [
    SGD(lr=0.1),
    Adagrad(lr=0.1),
    Adam(lr=0.1),
    Adam(lr=0.1, mode="dense"),
    SGD(lr=0.1, momentum=0.9),
]
IDS = 300
Op = Callable[[Shard], object]
Rows = dict[str, dict[int, bytes]]


class Cluster:
    """Shards in one thread, and all that was done to each since the last snapshot: its log."""

    def __init__(self, seed: int, shards: int, busy: bool = False) -> None:
        self.busy = busy  # pushes go on while snapshots are written
        self.rng = np.random.default_rng(seed)
        self.layout = Layout("c", 1, tuple(ShardAddress(k, f"s:{k}", 1) for k in range(shards)))
        self.shards = [Shard(self.layout, k) for k in range(shards)]
        self.log: list[list[Op]] = [[] for _ in self.shards]
        self.base, self.parent, self.count, self.tables = empty_memory(), "", 0, 0
        self.made: list[tuple[str, Rows]] = []
        self.lost: set[int] = set()  # shards that were made anew since the last snapshot

    def do(self, shard: int, op: Op) -> None:
        op(self.shards[shard])
        self.log[shard].append(op)

    def create(self) -> None:
        self.tables += 1
        spec = TableSpec(
            f"t{self.tables}", IDS, dim=3, optimizer=OPTIMIZERS[self.tables % 5], initializer=Normal()
        )
        entry = TableEntry(self.tables, spec)
        for k in range(len(self.shards)):
            self.do(k, lambda shard: shard.create_table(entry))

    def drop(self) -> None:
        if len(self.shards[0].tables) > 1:
            number = next(iter(self.shards[0].tables))
            for k in range(len(self.shards)):
                self.do(k, lambda shard: shard.drop_table(number))

    def push(self, most: int = 25) -> None:
        kind = self.rng.choice(["push", "assign", "renorm", "lr"], p=[0.7, 0.1, 0.1, 0.1])
        number = int(self.rng.choice(list(self.shards[0].tables)))
        table = self.shards[0].tables[number]
        ids = self.rng.choice(IDS, self.rng.integers(1, most), replace=False)
        grads = self.rng.standard_normal((len(ids), 3), np.float32)
        version = table.entry.lr_version + 1
        owners = owner(table.spec, ids, len(self.shards))
        for k in range(len(self.shards)):
            mine = ids[owners == k], grads[owners == k]

            def op(shard: Shard, mine: tuple = mine) -> None:
                table = shard.tables[number]
                if kind == "push":
                    table.push(*mine, table.next_step() if table.counts_steps else table.step)
                elif kind == "assign":
                    table.assign(*mine)
                elif kind == "renorm":
                    table.renorm(mine[0], 0.5, 2.0)
                else:
                    table.set_lr(0.05 * version, version)

            self.do(k, op)

    def restart(self, k: int | None = None, *, lose: bool = False) -> None:
        """A shard's process ends: it comes back from its snapshot and its log, or is made anew without its rows."""
        k = int(self.rng.integers(len(self.shards))) if k is None else k
        shard = Shard(self.layout, k)
        if lose:
            tables = self.shards[k].entries()
            self.log[k] = [lambda shard: [shard.create_table(entry) for entry in tables]]
            self.lost.add(k)
        elif self.parent and k not in self.lost:
            load_shard(open_stored(f"{self.base}/{self.parent}"), shard)
        for op in self.log[k]:
            op(shard)
        self.shards[k] = shard

    def rows(self) -> Rows:
        """What everybody who pulls sees of the rows that exist."""
        found: Rows = {}
        for table in (table for shard in self.shards for table in shard.tables.values()):
            ids, *_ = table.read(0, 1 << 30)
            found.setdefault(table.spec.name, {}).update(zip(ids.tolist(), pulled(table, ids), strict=True))
        return found

    def snapshot(self, *, full: bool = False, give_up: bool = False) -> list[StoredShard]:
        self.count += 1
        id = f"s{self.count}"
        url = f"{self.base}/{id}"
        parent = "" if full else self.parent
        then = self.rows()
        entries = sorted((t.entry for t in self.shards[0].tables.values()), key=lambda entry: entry.number)
        takings = [
            Taking(id, url, k, 0, 0, shard.cut(id=id, parent=parent)) for k, shard in enumerate(self.shards)
        ]
        logs, self.log = self.log, [[] for _ in self.shards]

        @contextlib.contextmanager
        def locked():
            if self.busy and self.rng.random() < 0.5:
                self.push()
            yield

        parts = [StoredShard.from_json(write_cut(taking, locked)) for taking in takings]
        for taking in takings:
            taking.cut.end()
        if give_up:
            self.log = [before + after for before, after in zip(logs, self.log, strict=True)]
            return parts
        made_upon = open_stored(f"{self.base}/{parent}").manifest.name if parent else None
        commit_snapshot(
            target_of(url), id=id, cluster_name="c", created_s=1.0, layout=self.layout, shards=parts,
            tables=entries, parent=made_upon,
        )  # fmt: skip
        self.parent, self.lost = id, set()
        self.made.append((url, then))
        return parts

    def check(self) -> None:
        for url, rows in self.made:
            verify(url)
            reader, stored = open_snapshot(url), open_stored(url)
            assert {name: as_read(reader.rows(name)) for name in reader.tables} == {
                name: rows.get(name, {}) for name in reader.tables
            }
            for k in range(len(self.shards)):
                again = Shard(self.layout, k)
                load_shard(stored, again)
                for table in again.tables.values():
                    ids, *_ = table.read(0, 1 << 30)
                    assert all(
                        rows[table.spec.name][i] == row
                        for i, row in zip(ids.tolist(), pulled(table, ids), strict=True)
                    )


def pulled(table, ids: np.ndarray) -> list[bytes]:
    out = np.empty((len(ids), 3), np.float32)
    table.pull(ids, out)
    return [row.tobytes() for row in out]


def as_read(found: tuple) -> dict[int, bytes]:
    ids, values, _ = found
    return dict(zip(ids.tolist(), (row.tobytes() for row in values), strict=True))


@pytest.mark.parametrize("seed", range(40))
def test_whatever_happens_in_between_a_chain_is_what_was_there_at_each_cut(seed: int, monkeypatch) -> None:
    monkeypatch.setattr(writing, "BLOCK_ROWS", 7)
    cluster = Cluster(seed, shards=1 + seed % 3, busy=True)
    cluster.create()
    acts: list[Callable[[], object]] = [
        cluster.push,
        cluster.snapshot,
        lambda: cluster.snapshot(full=True),
        lambda: cluster.snapshot(give_up=True),
        cluster.create,
        cluster.drop,
        cluster.restart,
        lambda: cluster.restart(lose=True),
    ]
    for _ in range(40):
        acts[cluster.rng.choice(len(acts), p=[0.62, 0.16, 0.02, 0.04, 0.05, 0.03, 0.05, 0.03])]()
    cluster.snapshot()
    cluster.check()


def chain() -> Cluster:
    cluster = Cluster(1, shards=2)
    cluster.create()  # Adagrad
    for _ in range(20):
        cluster.push()
    cluster.snapshot()
    return cluster


def stored(parts: list[StoredShard]) -> list[tuple[bool, int]]:
    return [(part.whole, sum(table.stored_rows for table in part.tables)) for part in parts]


def test_a_shard_writes_what_changed_since_the_parent_also_where_one_in_between_came_to_nothing() -> None:
    cluster = chain()
    assert stored(cluster.snapshot()) == [(False, 0)] * 2
    for k in (0, 1):
        cluster.do(k, lambda shard, k=k: shard.tables[1].assign(np.array([k]), np.ones((1, 3), np.float32)))
    assert stored(cluster.snapshot(give_up=True)) == [(False, 1)] * 2
    assert stored(cluster.snapshot()) == [(False, 1)] * 2
    *_, parent, increment = open_stored(cluster.made[-1][0]).links
    for was, shard in zip(parent.manifest.shards, increment.manifest.shards, strict=True):
        (table,) = shard.tables
        (touched,) = increment.block(table, table.files[0]).touched.tolist()
        assert was.generation < touched <= shard.generation
    cluster.check()


def test_a_shard_that_was_read_from_a_snapshot_and_its_log_still_knows_what_changed() -> None:
    cluster = chain()
    cluster.do(0, lambda shard: shard.tables[1].assign(np.array([0]), np.ones((1, 3), np.float32)))
    cluster.restart(0)
    assert stored(cluster.snapshot()) == [(False, 1), (False, 0)]
    cluster.check()


def test_a_shard_that_does_not_know_what_changed_writes_everything_and_its_old_rows_do_not_count() -> None:
    cluster = chain()
    cluster.restart(0, lose=True)
    assert stored(cluster.snapshot()) == [(True, 0), (False, 0)]
    cluster.check()


def test_rows_of_a_dense_optimizer_are_all_written_for_each_moves_at_every_step() -> None:
    cluster = Cluster(1, shards=1)
    cluster.tables = 2
    cluster.create()
    assert cluster.shards[0].tables[3].spec.optimizer == Adam(lr=0.1, mode="dense")
    for _ in range(5):
        cluster.push()
    cluster.snapshot()
    cluster.push(most=3)
    ((_, count),) = stored(cluster.snapshot())
    assert count == len(cluster.shards[0].tables[3])
    cluster.check()
