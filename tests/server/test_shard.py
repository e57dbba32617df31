"""A push is whole or not at all, and once; and nobody changes a request while it is worked on."""

import struct
from collections.abc import Callable

import numpy as np
import pytest

from rowloom.client import (
    FTRL,
    SGD,
    Adadelta,
    Adagrad,
    Adam,
    Constraint,
    InvalidRequest,
    Optimizer,
    RMSprop,
    StateLost,
    TableSpec,
    Zeros,
)
from rowloom.proto import codec
from rowloom.proto.codec import ASSIGN, RENORM, Block, PartName, Pull, Push, Step
from rowloom.proto.codec_bags import Entries, PullBags
from rowloom.proto.errors import Overloaded, PushUnresolved
from rowloom.proto.framing import joined
from rowloom.proto.layout import Layout, ShardAddress
from rowloom.proto.spec import TableEntry
from rowloom.server import received, table
from rowloom.server.shard import Shard
from rowloom.server.table import ShardTable

LAYOUT = Layout("c", 1, (ShardAddress(0, "h:1", 1),))
NUMBERS = (1, 2, 3)
IDS = np.array([5, 6, 7, 5])


def shard_of(optimizer: Optimizer | None = None) -> Shard:
    optimizer = optimizer or SGD(lr=1.0)
    specs = [TableSpec(f"t{n}", 100, dim=2, optimizer=optimizer, initializer=Zeros()) for n in NUMBERS]
    return Shard(LAYOUT, 0, [TableEntry(n, spec) for n, spec in zip(NUMBERS, specs, strict=True)])


def push(seq: int = 1, numbers: tuple[int, ...] = NUMBERS, **more) -> Push:
    tables = [(n, IDS, Block(np.ones((len(IDS), 2), np.float32))) for n in numbers]
    return Push(LAYOUT.header(0), 7, (PartName(1, 0, seq),), push=seq, tables=tables, **more)


def rows(shard: Shard, ids=(5, 6, 7, 8)) -> list[list]:
    wanted = [(n, np.array(ids)) for n in shard.tables]
    return [block.data.tolist() for block in shard.pull(Pull(LAYOUT.header(0), wanted)).blocks]


def on_call(n: int, function: Callable, error: Exception) -> Callable:
    """The function, but for call number n, counted from 1, which raises."""
    calls = iter(range(1, 1_000_000))

    def failing(*args, **kwargs):
        if next(calls) == n:
            raise error
        return function(*args, **kwargs)

    return failing


def refused(shard: Shard, request: Push) -> bool:
    """Whether there was no memory for a push."""
    try:
        shard.push(request)
    except Overloaded as e:
        return "nothing changed" in e.message
    return False


@pytest.mark.parametrize("kind", [codec.GRADIENTS, ASSIGN, RENORM])
@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize("what", ["reserve", "_rows_for", "_open", "contiguous", "summed", "record"])
def test_a_push_that_found_no_memory_changed_nothing_and_may_come_again(monkeypatch, what, n, kind) -> None:
    """An error between two tables once left half a push without a record: its retry counted twice."""
    shard, whole = shard_of(Adam(lr=0.5, mode="dense")), shard_of(Adam(lr=0.5, mode="dense"))
    more = {"kind": kind, "max_norm": 0.1, "norm_type": 2.0}
    for each in (shard, whole):
        each.push(push())
    before = rows(shard)
    with monkeypatch.context() as broken:
        owner = {"record": shard.ledger, "contiguous": table, "summed": table}.get(what, ShardTable)
        broken.setattr(owner, what, on_call(n, getattr(owner, what), MemoryError()))
        if refused(shard, push(2, **more)):
            assert rows(shard) == before
        else:
            assert kind != codec.GRADIENTS or (what, n) in [("record", 2), ("record", 3)], (
                "nothing was broken"
            )
    shard.push(push(2, **more))
    whole.push(push(2, **more))
    assert rows(shard) == rows(whole)
    assert [t.step for t in shard.tables.values()] == [t.step for t in whole.tables.values()]


@pytest.mark.parametrize("kind", [codec.GRADIENTS, ASSIGN, RENORM])
@pytest.mark.parametrize("n", [1, 2, 3])
def test_a_push_that_failed_half_way_is_the_last_that_its_shard_takes(monkeypatch, n: int, kind: int) -> None:
    shard = shard_of()
    shard.push(push(kind=ASSIGN))
    write = Shard._write

    def breaking(self, request, table, ids, values):
        return on_call(
            1 if table.number == n else 0, write(self, request, table, ids, values), MemoryError("x")
        )

    more = {"kind": kind, "max_norm": 0.1, "norm_type": 2.0}
    with monkeypatch.context() as broken:
        broken.setattr(Shard, "_write", breaking)
        with pytest.raises(PushUnresolved, match="failed half-way on shard 0"):
            shard.push(push(2, **more))
    half = rows(shard)
    for again in (push(2, **more), push(3), push(1)):
        with pytest.raises(StateLost, match="push of client 7 failed half-way"):
            shard.push(again)
    with pytest.raises(StateLost):
        shard.check_whole()
    assert rows(shard) == half  # pulls go on
    assert shard.counters.pushes == 1


def changing(monkeypatch, owner: object, name: str, message: bytearray, old: bytes, new: bytes) -> list:
    """After this check has passed, write `new` wherever `old` stands in the message. Returns the checks, in time."""
    check, seen = getattr(owner, name), []

    def then_change(*args):
        result = check(*args)
        seen.append(args)
        at = bytes(message).find(old)
        while at >= 0:
            message[at : at + len(new)] = new
            at = bytes(message).find(old, at + len(new))
        return result

    monkeypatch.setattr(owner, name, then_change)
    return seen


@pytest.mark.parametrize("wild", [8, 99, 10**15, -1])
@pytest.mark.parametrize("check", ["check_ids", "check_push"])
def test_ids_that_a_client_changes_after_they_were_checked_change_no_other_rows(
    monkeypatch, check, wild
) -> None:
    """They were views of memory that the client shares: an id out of range was a write to any place."""
    shard, expected = shard_of(), shard_of()
    expected.push(push(numbers=(1,)))
    message = bytearray(joined(push(numbers=(1,)).encode()))
    seen = changing(monkeypatch, ShardTable, check, message, struct.pack("<q", 6), struct.pack("<q", wild))
    shard.push(Push.decode(message))
    monkeypatch.undo()
    assert len(seen) == 1
    assert struct.pack("<q", wild) in message
    assert rows(shard) == rows(expected)
    assert len(shard.tables[1]) == 3


@pytest.mark.parametrize("wild", [8, 10**15, -1])
def test_ids_of_a_pull_that_a_client_changes_after_they_were_checked_are_not_looked_up(
    monkeypatch, wild
) -> None:
    """What checks ids and looks them up is one compiled call: once it begins, nothing of the message is read."""
    shard = shard_of()
    shard.push(push())
    message = bytearray(joined(Pull(LAYOUT.header(0), [(1, np.array([5, 6]))]).encode()))
    old, new = struct.pack("<q", 6), struct.pack("<q", wild)
    seen = changing(monkeypatch, Shard, "_wanted", message, old, new)
    (block,) = shard.pull(Pull.decode(message)).blocks
    assert len(seen) == 1
    assert new in message
    assert block.data.tolist() == [[-2, -2], [-1, -1]]


@pytest.mark.parametrize("wild", [7, 10**15, -1])
def test_a_step_whose_ids_to_pull_a_client_changes_after_they_were_checked_is_not_refused_half_way(
    monkeypatch, wild
) -> None:
    shard = shard_of()
    wanted = Pull(LAYOUT.header(0), [(1, np.array([5, 9]))])
    message = bytearray(joined(Step(push(), wanted).encode()))
    old, new = struct.pack("<q", 9), struct.pack("<q", wild)
    changing(monkeypatch, ShardTable, "check_ids", message, old, new)
    (block,) = shard.step(Step.decode(message)).pull.blocks
    assert new in message
    assert block.data.tolist() == [[-2, -2], [0, 0]]


@pytest.mark.parametrize("wild", [8, 10**15, -1])
def test_ids_of_bags_that_a_client_changes_while_they_are_summed_are_not_looked_up(monkeypatch, wild) -> None:
    from rowloom.server import bags

    shard = shard_of()
    shard.push(push())
    entries = Entries(1, np.array([5, 6]), np.array([0, 0], np.int32))
    message = bytearray(joined(PullBags(LAYOUT.header(0), [entries]).encode()))
    old, new = struct.pack("<q", 6), struct.pack("<q", wild)
    seen = changing(
        monkeypatch, bags, "_check", message, old, new
    )  # the kernel checks ids, and looks them up
    (block,) = shard.pull_bags(PullBags.decode(message)).blocks
    assert len(seen) == 1
    assert new in message
    assert block.data.tolist() == [[-3, -3]]


def test_bags_and_factors_that_a_client_changes_after_they_were_checked_are_not_used(monkeypatch) -> None:
    from rowloom.server import bags

    old, new = struct.pack("<if", 77, 3.0), struct.pack("<if", 1 << 30, np.nan)
    for part in (0, 1):
        shard = shard_of()
        shard.push(push(kind=ASSIGN, numbers=(1,)))
        entries = Entries(1, np.array([5] * 78), np.arange(78, dtype=np.int32), np.full(78, 3, np.float32))
        message = bytearray(joined(PullBags(LAYOUT.header(0), [entries]).encode()))
        piece = slice(0, 4) if part == 0 else slice(4, 8)
        changing(monkeypatch, bags, "_check", message, old[piece], new[piece])
        (block,) = shard.pull_bags(PullBags.decode(message)).blocks
        assert block.data.tolist() == [[3, 3]] * 78
        monkeypatch.undo()
        block = Block(np.ones(2 * 78, np.float32), bags=entries.bags, factors=entries.factors)
        request = Push(LAYOUT.header(0), 7, (PartName(1, 0, 2),), 2, [(1, entries.ids, block)])
        message = bytearray(joined(request.encode()))
        changing(monkeypatch, bags, "_check", message, old[piece], new[piece])
        shard.push(Push.decode(message))
        monkeypatch.undo()
        assert rows(shard, (5,))[0] == [[1 - 3 * 78] * 2]


def test_what_was_received_is_copied_also_from_the_other_byte_order() -> None:
    for dtype in ("<i8", ">i8", "<f4", ">f4"):
        array = np.arange(5).astype(dtype)
        copy = received.own(array)
        assert copy.dtype.isnative
        assert copy.flags.aligned
        array[:] = 9
        assert copy.tolist() == [0, 1, 2, 3, 4]


OPTIMIZERS = [
    SGD(lr=0.1, momentum=0.9, mode="dense"),
    SGD(lr=0.1, mode="dense", weight_decay=0.1),
    Adam(lr=0.1, mode="dense"),
    Adam(lr=0.1),
    RMSprop(lr=0.1, momentum=0.5, mode="dense"),
    Adadelta(lr=0.1, mode="dense"),
    Adagrad(lr=0.1),
    FTRL(lr=0.1),
]


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=repr)
@pytest.mark.parametrize("seed", range(3))
def test_no_row_changes_unseen_whatever_changes_it(optimizer: Optimizer, seed: int) -> None:
    """Snapshots and moves will copy what was touched, and nothing else."""
    rng = np.random.default_rng(seed)
    spec = TableSpec("t", 60, dim=3, optimizer=optimizer, constraint=Constraint(clip_norm=1.0, high=2.0))
    t = ShardTable(TableEntry(1, spec), 0, 1)

    def change(kind: int) -> None:
        ids = rng.integers(0, 60, rng.integers(0, 12))
        values = rng.normal(size=(len(ids), 3)).astype(np.float32)
        if kind == 0:
            t.push(ids, values, t.next_step())
        elif kind == 1:
            t.assign(ids, values)
        elif kind == 2:
            t.renorm(ids, 0.5, 2.0)
        elif kind == 3:
            t.set_lr(float(rng.uniform(0.01, 0.2)), t.entry.lr_version + 1)
        elif kind == 4:
            ids = np.unique(ids)
            slots = [rng.uniform(size=(len(ids), c.shape[1])).astype(np.float32) for c in t._rows.columns[1:]]
            for slot in slots if optimizer.dense else []:
                slot[:] = 0 if slot is slots[-1] else slot
            t.install(ids, values[: len(ids)], slots)
        else:
            t._rows.remove(ids)

    for kind in (0, 0, 1):
        change(kind)
    t._rows.track()
    for kind in rng.integers(0, 6, 40).tolist():
        generation = t._rows.next_generation()
        before = {i: v for i, v in zip(*everything(t), strict=True)}
        change(kind)
        changed = set(t._rows.ids_of(t._rows.changed_since(generation)).tolist())
        for i, v in zip(*everything(t), strict=True):
            assert before.get(i) == v or i in changed, (kind, i)


def everything(t: ShardTable) -> tuple[list[int], list[bytes]]:
    ids, values, slots, after = t.read(0, 1 << 30)
    assert after == 0
    return ids.tolist(), [b"".join(a[k].tobytes() for a in (values, *slots)) for k in range(len(ids))]


def test_reading_in_blocks_passes_over_removed_rows() -> None:
    t = shard_of().tables[1]
    t.assign(np.arange(50), np.repeat(np.arange(50), 2).reshape(50, 2).astype(np.float32))
    t._rows.remove(np.arange(0, 50, 3))
    seen: list[int] = []
    cursor = 0
    while True:
        ids, values, _, cursor = t.read(cursor, 64)
        assert (values[:, 0] == ids).all()
        seen += ids.tolist()
        if not cursor:
            break
    assert seen == [i for i in range(50) if i % 3]
    assert len(t) == len(seen)


def test_a_refused_push_leaves_the_record_of_it_out() -> None:
    shard = shard_of()
    with pytest.raises(InvalidRequest):
        shard.push(push(numbers=(1, 1)))
    assert not shard.push(push())
    assert shard.push(push())
