"""What the folders of a cluster held when the files in `files/log`, `files/snapshots` and `files/cluster` were made.

Everything that is random elsewhere (ids, salts, times) is a number here, so that the same bytes are written again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from rowloom.client import Vocabulary
from rowloom.deploy.control.state import GONE, ClusterState, KnownSnapshot, RestoredSnapshot
from rowloom.deploy.operate.directory import Record
from rowloom.proto import rowloom_pb2 as pb
from rowloom.proto.codec import ASSIGN, Block, PartName, Pull, Push, Step
from rowloom.proto.framing import joined
from rowloom.proto.layout import Layout, ShardAddress, owner
from rowloom.proto.recipes import Constant, Normal
from rowloom.proto.snapshots.extra import encode_extra
from rowloom.proto.snapshots.manifest import SnapshotName
from rowloom.proto.spec import FTRL, Adagrad, Adam, TableEntry, TableSpec
from rowloom.server.access.rights import Grant, Principal
from rowloom.server.access.tokens import hash_of
from rowloom.server.durable.extents import HEADER_BYTES, Header, Owner, SegmentExtent
from rowloom.server.durable.records import Head, Kind, encode
from rowloom.server.shard import Shard
from rowloom.server.snapshots.commit import commit_snapshot
from rowloom.server.snapshots.shard_writer import ShardWriter
from rowloom.server.snapshots.target import target_of

# ------------------------------------------------------------------------------------------------------------- a log

LOG_LAYOUT = Layout("a-cluster", 1, (ShardAddress(0, "host:7400", 9),))
LOG_OWNER = Owner("a-cluster", 1, 0)
SALT, SEGMENT_BYTES, BEGAN_S = 0xC0FFEE, 8192, 1_764_000_000
LOG_TABLES = [
    TableEntry(
        1, TableSpec("users", 1000, dim=3, optimizer=Adagrad(lr=0.1), initializer=Normal(std=0.1, seed=3))
    ),
    TableEntry(2, TableSpec("items", dim=2, optimizer=Adam(lr=0.1), initializer=Constant(0.5))),
    TableEntry(3, TableSpec("clicks", 50, dim=(), optimizer=FTRL(lr=0.2), partition="div")),
]


def _grads(table: int, ids: Sequence[int], first: float) -> tuple[int, np.ndarray, Block]:
    """Gradients of so many ids: first, first + 1/8, ..."""
    width = LOG_TABLES[table - 1].spec.width
    values = np.arange(len(ids) * width, dtype=np.float32) / np.float32(8) + np.float32(first)
    return table, np.array(ids, np.int64), Block(values.reshape(len(ids), width))


def _push(seq: int, *tables: tuple[int, np.ndarray, Block], **more: int) -> Push:
    return Push(
        LOG_LAYOUT.header(0), 77, (PartName(1, 0, seq),), seq, list(tables), low_water=seq - 1, **more
    )


def _requests() -> Iterator[tuple[Kind, object]]:
    for entry in LOG_TABLES:
        yield Kind.CREATE, entry.to_message()
    yield Kind.PUSH, _push(1, _grads(1, [4, 999, 4], -1), _grads(2, [1 << 40, 0], 0.25))
    yield Kind.SET_LR, pb.SetLearningRateRequest(header=LOG_LAYOUT.header(0), table=1, lr=0.01, version=1)
    step = Step(
        _push(2, _grads(3, [49, 0, 7], 2), _grads(1, [4], 0.5)),
        Pull(LOG_LAYOUT.header(0), [(1, np.array([4]))]),
    )
    yield Kind.STEP, step
    yield Kind.PUSH, _push(3, _grads(2, [0], 8), kind=ASSIGN)
    yield Kind.DROP, pb.DropTableRequest(header=LOG_LAYOUT.header(0), table=3)
    yield Kind.PUSH, _push(4, _grads(1, [998], 1), _grads(2, [0, 5], -2))


def _applied(shard: Shard, kind: Kind, request: object) -> tuple[int, int]:
    """What its host does with a request; returns what the record says of the outcome."""
    if isinstance(request, Push | Step):
        push = request.push if isinstance(request, Step) else request
        shard.push(push)
        return shard.trace(push)
    if isinstance(request, pb.TableEntry):
        shard.create_table(TableEntry.from_message(request))
    elif isinstance(request, pb.SetLearningRateRequest):
        shard.table(request.table).set_lr(request.lr, request.version)
    elif isinstance(request, pb.DropTableRequest):
        shard.drop_table(request.table)
    return 0, 0


def log_segment() -> tuple[bytes, Shard]:
    """The file of a log with one record of each kind that trainers and users cause, and the shard that wrote it."""
    extent = SegmentExtent(1, 0, 1, SEGMENT_BYTES)
    data = bytearray(Header(LOG_OWNER, extent, SALT).encode())
    shard, offset = Shard(LOG_LAYOUT, 0), 0
    for lsn, (kind, request) in enumerate(_requests(), 1):
        rows, fold = _applied(shard, kind, request)
        whole = (
            request.SerializeToString(deterministic=True) if hasattr(request, "SerializeToString") else None
        )
        payload = joined(request.encode()) if whole is None else whole  # type: ignore[attr-defined]
        head = Head(kind, len(payload), lsn, offset, offset, rows, fold, time_s=BEGAN_S + lsn)
        data += joined(encode(head, [payload], SALT))
        offset = head.end
    assert len(data) <= SEGMENT_BYTES, f"{len(data)} bytes"
    assert len(data) == HEADER_BYTES + offset
    return bytes(data) + bytes(SEGMENT_BYTES - len(data)), shard


# --------------------------------------------------------------------------------------------------------- snapshots

LAYOUT = Layout(
    "a-cluster", 2, (ShardAddress(0, "host:7400", 9), ShardAddress(1, "host:7401", 10)), "host:7399"
)
TABLES = [
    TableEntry(1, TableSpec("users", dim=2, optimizer=Adagrad(lr=0.1), initializer=Constant(9.0)), 0.05, 1),
    TableEntry(
        3, TableSpec("items", 40, dim=1, partition="div", optimizer=Adam(lr=0.1), initializer=Constant(7.0))
    ),
]
WHOLE, INCREMENT = "snapshot-1", "snapshot-2"
EXTRA = {
    "step": 7,
    "model": b"\x00weights",
    "loss": float("inf"),
    "of": {"epoch": np.arange(3, dtype=np.int16)},
}
WROTE = {WHOLE: {1: [0, 1, 2, 5, 1 << 40], 3: [0, 19, 20, 39]}, INCREMENT: {1: [1, 6], 3: [20]}}
REMOVED = {1: [2, 5]}  # in the increment
CLIENT = 0xFEDC_BA98_7654_3210


def row_of(table: int, row_id: int, snapshot: str) -> tuple[list[float], list[list[float]]]:
    """(values, slots) of a row as a snapshot has it."""
    spec = next(entry.spec for entry in TABLES if entry.number == table)
    base = row_id % 1000 + (0.5 if snapshot == INCREMENT else 0.0)
    widths = spec.optimizer.slot_widths(spec.width)
    values = [base + k / 8 for k in range(spec.width)]
    return values, [[base / 2 + s + k / 8 for k in range(width)] for s, width in enumerate(widths)]


def held(snapshot: str) -> dict[int, dict[int, tuple[list[float], list[list[float]]]]]:
    """For each table, by id, what a snapshot holds."""
    rows = {table: {k: row_of(table, k, WHOLE) for k in ids} for table, ids in WROTE[WHOLE].items()}
    if snapshot == INCREMENT:
        for table, ids in WROTE[INCREMENT].items():
            rows[table].update({k: row_of(table, k, INCREMENT) for k in ids})
        for table, ids in REMOVED.items():
            for k in ids:
                del rows[table][k]
    return rows


def ledger_of(shard: int) -> pb.ReadLedgerReply:
    """Who had pushed what to a shard."""
    origin = pb.LedgerOrigin(epoch=2, shard=shard, low_water=4, applied=[6, 9])
    return pb.ReadLedgerReply(
        clients=[
            pb.LedgerClient(
                client_id=CLIENT,
                client_epoch=2,
                origins=[origin],
                push=9,
                step_tables=[1, 3],
                steps=[9, 8],
                latest=9,
            )
        ]
    )


def write_snapshots(folder: Path) -> None:
    """A whole snapshot, and one upon it, in a folder."""
    parent = _write(folder, WHOLE, None)
    _write(folder, INCREMENT, parent)


def _write(folder: Path, name: str, parent: SnapshotName | None) -> SnapshotName:
    target = target_of(folder / name)
    parts = [_write_shard(ShardWriter(target, shard), shard, name) for shard in range(LAYOUT.n)]
    extra = encode_extra(EXTRA if name == INCREMENT else {})
    return commit_snapshot(
        target,
        id=name,
        cluster_name="ads",
        created_s=BEGAN_S + 0.25,
        layout=LAYOUT,
        shards=parts,
        tables=TABLES,
        parent=parent,
        extra=extra,
    ).name


def _write_shard(writer: ShardWriter, shard: int, name: str):
    increment = name == INCREMENT
    for entry in TABLES:
        to, spec = writer.table(entry), entry.spec
        mine = [k for k in WROTE[name][entry.number] if _owner(spec, k) == shard]
        if mine:
            rows = [row_of(entry.number, k, name) for k in mine]
            slots = [np.array(slot, np.float32) for slot in zip(*(slots for _, slots in rows), strict=True)]
            touched = np.full(len(mine), 2 if increment else 1, np.uint32)
            to.write(np.array(mine), touched, np.array([values for values, _ in rows], np.float32), slots)
        gone = [k for k in REMOVED.get(entry.number, []) if increment and _owner(spec, k) == shard]
        if gone:
            to.remove(np.array(gone))
        to.finish(rows=sum(_owner(spec, k) == shard for k in held(name)[entry.number]), step=8 + increment)
    writer.ledger(ledger_of(shard).SerializeToString())
    return writer.finish(lsn=40 + shard, generation=2 if increment else 1, whole=not increment)


def _owner(spec: TableSpec, row_id: int) -> int:
    return int(owner(spec, np.array([row_id]), LAYOUT.n)[0])


# --------------------------------------------------------------------------------------- what else is kept in files

STATE = ClusterState(
    "ads",
    layout=LAYOUT,
    keys=[0, 3],
    tables={entry.spec.name: entry for entry in TABLES},
    next_key=5,
    next_table=6,
    term=2,
    serial=17,
    making={"words": TableEntry(5, TableSpec("words", dim=1))},
    dropping=[2],
    changing=["users"],
    surplus=[4],
    snapshots=[
        KnownSnapshot(
            WHOLE, f"file:///data/{WHOLE}", 2, [40, GONE], BEGAN_S + 0.25, 9, 900, scheduled=True, digest="ab"
        ),
        KnownSnapshot(
            INCREMENT,
            f"file:///data/{INCREMENT}",
            2,
            [40, 41],
            BEGAN_S + 1.5,
            8,
            90,
            True,
            False,
            WHOLE,
            "cd",
        ),
    ],
    restored=RestoredSnapshot(
        "before", "s3://bucket/before", 5, 50, extra=b"\x00\xff", seconds=1.5, incarnations=(9, 10)
    ),
    autoscale='{"min_shards": 1}',
)
RECORD = Record(
    "ads", "local", "127.0.0.1:7399", pid=12, started=99, storage="file:///data", token_file="/keys/admin"
)
VOCABULARY = Vocabulary(["cat", "köttur", "dog"], buckets=2)
TOKENS = {"trainer": "rowloom_the-token-of-a-trainer", "admin": "rowloom_another"}
PRINCIPALS = {
    "trainer": Principal(
        "trainer",
        (Grant("pull", "*"), Grant("push", "ads.*")),
        (hash_of(TOKENS["trainer"]), hash_of("rowloom_the-one-before")),
    ),
    "admin": Principal("admin", (Grant("*", "*"),), (hash_of(TOKENS["admin"]),)),
}
