"""A cluster as plain dicts of numpy rows, whose snapshots are held to what it was when they were made."""

from __future__ import annotations

import random
import uuid
from dataclasses import dataclass, field

import numpy as np
from fsspec.implementations.memory import MemoryFileSystem

from rowloom.proto import rowloom_pb2 as pb
from rowloom.proto.layout import Layout, ShardAddress, owner
from rowloom.proto.snapshots.extra import encode_extra
from rowloom.proto.snapshots.manifest import Manifest
from rowloom.proto.snapshots.snapshot import StoredSnapshot
from rowloom.proto.spec import SGD, Adagrad, Adam, TableEntry, TableSpec
from rowloom.server.snapshots.commit import commit_snapshot
from rowloom.server.snapshots.shard_writer import ShardWriter
from rowloom.server.snapshots.target import SnapshotTarget

SPECS = [
    TableSpec("users", dim=3, optimizer=Adagrad(lr=0.1)),
    TableSpec("items", num_embeddings=500, dim=(2, 2), partition="div", optimizer=Adam(lr=0.1)),
    TableSpec("words.rows-00000", dim=1, optimizer=SGD(), hash_ids=True),
]
SMALL_FILES = 4096 + 400  # some ten rows a file


@dataclass(frozen=True)
class RowState:
    """One row: the generation of its last change, values, slots."""

    touched: int
    values: np.ndarray
    slots: tuple[np.ndarray, ...]

    def same(self, other: RowState) -> bool:
        mine, theirs = (self.values, *self.slots), (other.values, *other.slots)
        return self.touched == other.touched and all(
            a.tobytes() == b.tobytes() for a, b in zip(mine, theirs, strict=True)
        )


@dataclass
class TableState:
    """A table: rows by id, and the ids that were removed since the last snapshot."""

    entry: TableEntry
    rows: dict[int, RowState] = field(default_factory=dict)
    removed: set[int] = field(default_factory=set)
    step: int = 0


@dataclass
class Frozen:
    """What a snapshot must hold."""

    manifest: Manifest
    tables: dict[str, dict[int, RowState]]
    entries: dict[str, TableEntry]
    steps: dict[str, int]
    extra: dict[str, bytes]
    ledgers: list[list[pb.ReadLedgerReply]]


class SnapshotLife:
    """Rows change, tables come and go, the number of shards changes, and snapshots are made."""

    def __init__(self, seed: int = 0, shards: int = 2, wholes: float = 0.0) -> None:
        self.lost: set[int] = set()  # since the last snapshot
        self.wholes = wholes  # how often a shard writes all of its rows into an increment
        self.rng = random.Random(seed)
        self.numbers = np.random.default_rng(seed)
        self.generation = 1
        self.tables: dict[str, TableState] = {}
        self.layout = Layout("some-cluster", 1, ())
        self.scale(shards)
        self.last: Frozen | None = None
        self.cut_generation = 0
        self.next_number = 1

    def lose(self, shard: int) -> None:
        """A shard is made anew, without its rows: nobody keeps a list of what was removed."""
        shard %= self.layout.n
        for table in self.tables.values():
            for k in [k for k in table.rows if _owner(table.entry.spec, k, self.layout.n) == shard]:
                del table.rows[k]
        self.lost.add(shard)

    def scale(self, shards: int) -> None:
        if self.lost:  # there is nothing left to be made upon
            self.lost = set(range(shards))
        self.layout = self.layout.next(
            tuple(ShardAddress(k, f"host:{k}", 7 + k) for k in range(shards)),
            [table.entry for table in self.tables.values()],
        )

    def create(self, k: int) -> None:
        spec = SPECS[k]
        if spec.name not in self.tables:
            self.tables[spec.name] = TableState(
                TableEntry(self.next_number, spec, lr=self.rng.choice([None, 0.3]))
            )
            self.next_number += 1

    def drop(self, k: int) -> None:
        self.tables.pop(SPECS[k].name, None)

    def push(self, count: int = 12) -> None:
        for table in self.tables.values():
            table.step += 1
            for row_id in self.rng.choices(range(60), k=count):
                self.set(table, row_id)

    def set(self, table: TableState, row_id: int) -> None:
        spec = table.entry.spec
        widths = spec.optimizer.slot_widths(spec.width)
        draw = self.numbers.standard_normal
        row = [draw(width).astype("f4") for width in (spec.width, *widths)]
        row[0][0] = self.rng.choice([row[0][0], np.float32("nan"), np.float32(-0.0)])  # bits count
        table.rows[row_id] = RowState(self.generation, row[0], tuple(row[1:]))

    def remove(self, count: int = 4) -> None:
        for table in self.tables.values():
            for row_id in self.rng.sample(sorted(table.rows), min(count, len(table.rows))):
                del table.rows[row_id]
                table.removed.add(row_id)

    def snapshot(
        self, target: SnapshotTarget, name: str, *, upon: Frozen | None = None, file_bytes: int = SMALL_FILES
    ) -> Frozen:
        """A snapshot of what there is; upon: of what has changed since that one, which was the last."""
        extra = {"x": self.rng.randbytes(5)} if self.rng.choice([0, 5]) else {}
        entries = sorted((table.entry for table in self.tables.values()), key=lambda entry: entry.number)
        ledgers = [self._ledger() for _ in self.layout.shards]
        parts = []
        for shard in range(self.layout.n):
            writer = ShardWriter(target, shard, file_bytes)
            whole = upon is None or shard in self.lost or self.rng.random() < self.wholes
            for entry in entries:
                self.write_table(writer, self.tables[entry.spec.name], shard, not whole)
            for piece in ledgers[shard]:
                writer.ledger(piece.SerializeToString())
            lsn = self.rng.randrange(99)
            parts.append(writer.finish(lsn=lsn, generation=self.generation, whole=whole))
        manifest = commit_snapshot(
            target,
            id=name,
            cluster_name="ads",
            created_s=1.7e9 + self.generation,
            layout=self.layout,
            shards=parts,
            tables=entries,
            parent=upon.manifest.name if upon else None,
            extra=encode_extra(extra),
        )
        frozen = Frozen(
            manifest,
            {name: dict(table.rows) for name, table in self.tables.items()},
            {name: table.entry for name, table in self.tables.items()},
            {name: table.step for name, table in self.tables.items()},
            extra,
            ledgers,
        )
        self.lost.clear()
        self.cut_generation, self.generation = self.generation, self.generation + 1
        for table in self.tables.values():
            table.removed.clear()
        return frozen

    def _ledger(self) -> list[pb.ReadLedgerReply]:
        clients = [pb.LedgerClient(client_id=self.rng.randrange(1 << 64), push=3) for _ in range(3)]
        return [pb.ReadLedgerReply(clients=[client]) for client in clients]

    def write_table(self, writer: ShardWriter, table: TableState, shard: int, increment: bool) -> None:
        spec = table.entry.spec
        mine = {k: row for k, row in table.rows.items() if _owner(spec, k, self.layout.n) == shard}
        to = writer.table(table.entry)
        stored = [k for k, row in mine.items() if not increment or row.touched > self.cut_generation]
        while stored:
            block, stored = stored[: (n := self.rng.randint(1, 9))], stored[n:]
            rows = [mine[k] for k in block]
            slots = [np.stack(slot) for slot in zip(*(row.slots for row in rows), strict=True)]
            touched = np.array([row.touched for row in rows], np.uint32)
            to.write(np.array(block), touched, np.stack([row.values for row in rows]), slots)
        removed = [k for k in sorted(table.removed) if increment and _owner(spec, k, self.layout.n) == shard]
        if removed:
            to.remove(np.array(removed))
        to.finish(rows=len(mine), step=max(0, table.step - (shard > 0)))


def empty_memory() -> str:
    """The URL of a folder of fsspec's memory. What was in memory before is gone: it is searched from end to end."""
    MemoryFileSystem.store.clear()
    MemoryFileSystem.pseudo_dirs[:] = [""]
    return f"memory://{uuid.uuid4().hex}"


def _owner(spec: TableSpec, row_id: int, shards: int) -> int:
    return int(owner(spec, np.array([row_id]), shards)[0])


def check(snapshot: StoredSnapshot, frozen: Frozen) -> None:
    """A snapshot that was read is what was there when it was made."""
    assert snapshot.manifest == frozen.manifest
    assert dict(snapshot.tables) == frozen.entries
    assert dict(snapshot.steps) == frozen.steps
    assert snapshot.extra == frozen.extra
    assert [list(snapshot.ledger(shard)) for shard in range(snapshot.layout.n)] == frozen.ledgers
    for name, rows in frozen.tables.items():
        assert snapshot.rows(name) == len(rows)
        check_rows(read(snapshot, name), rows)
        assert sorted(k for ids in snapshot.ids(name) for k in ids.tolist()) == sorted(rows)


def check_rows(got: dict[int, RowState], wanted: dict[int, RowState]) -> None:
    assert sorted(got) == sorted(wanted)
    assert all(row.same(wanted[k]) for k, row in got.items())


def read(snapshot: StoredSnapshot, name: str, **only: int) -> dict[int, RowState]:
    """The rows of a table by id; none is there twice."""
    rows: dict[int, RowState] = {}
    for block in snapshot.read(name, **only):
        for k, row_id in enumerate(block.ids.tolist()):
            assert row_id not in rows
            slots = tuple(slot[k].copy() for slot in block.slots)
            rows[row_id] = RowState(int(block.touched[k]), block.values[k].copy(), slots)
    return rows
