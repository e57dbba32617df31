"""Requests of direct calls: the codec's own bytes, and replies read back."""

import random
import threading
import time

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from rowloom.client import SGD, TableSpec
from rowloom.client.calls.direct import MOST_NAME, MOST_TABLES, _parts
from rowloom.client.calls.frames import put_push, rows_in
from rowloom.client.calls.plans import Plan, Pulls, put_part
from rowloom.client.calls.requests import PullPart, PushPart, StepPart
from rowloom.client.calls.session import Session
from rowloom.client.carriers.lane import BEGIN, HEADS_BYTES, MOST_BYTES
from rowloom.proto import codec
from rowloom.proto.framing import joined
from rowloom.proto.lane import ARENA_BYTES
from rowloom.proto.layout import Layout, ShardAddress
from rowloom.proto.spec import TableEntry

LAYOUT = Layout("cluster", 7, tuple(ShardAddress(i, f"h:{i}") for i in range(3)))
SEEDS = st.integers(0, 10**6)


def some_tables(rng: np.random.Generator) -> list[Plan]:
    """Plans of one to four tables."""
    numbers = rng.choice([1, 127, 128, 70_000], int(rng.integers(1, 5)), replace=False)
    specs = [TableSpec(f"t{n}", 1000, dim=int(rng.integers(1, 40)), optimizer=SGD()) for n in numbers]
    return [Plan.of(LAYOUT, TableEntry(int(n), spec)) for n, spec in zip(numbers, specs, strict=True)]


def some_ids(rng: np.random.Generator) -> np.ndarray:
    return rng.integers(0, 1000, int(rng.choice([0, 1, 2, 60])))


def pull_part(pulls: Pulls, shard: int) -> PullPart | None:
    """What the usual way would send."""
    tables = [(p.plan.entry, p.ids[p.edges[shard] : p.edges[shard + 1]], None) for p in pulls.each]
    tables = [table for table in tables if len(table[1])]
    return PullPart(7, shard, tables) if tables else None  # type: ignore[arg-type]  # nothing comes back


@given(seed=SEEDS, at=st.integers(0, 70))
def test_a_pull_is_framed_as_the_codec_frames_it(seed: int, at: int) -> None:
    rng = np.random.default_rng(seed)
    plans = some_tables(rng)
    pulls = Pulls.of(plans, [some_ids(rng) for _ in plans])
    assert pulls is not None
    for shard in range(3):
        part = pull_part(pulls, shard)
        if part is None:
            continue
        space = np.full(4000, 7, np.uint8)
        end = pulls.put(shard, space, at)
        assert space[at:end].tobytes() == joined(part.encode(LAYOUT.header(shard)))
        assert (space[:at] == 7).all()
        assert (space[end:] == 7).all()


@given(seed=SEEDS, at=st.integers(0, 70), fused=st.booleans())
def test_a_push_and_a_step_are_framed_as_the_codec_frames_them(seed: int, at: int, fused: bool) -> None:
    rng = np.random.default_rng(seed)
    session = Session(
        ["h:0"], int(rng.integers(1, 2**60)), random.Random(0), time.monotonic, threading.Lock()
    )
    plans, given = some_tables(rng), []
    for plan in plans:
        ids = some_ids(rng)
        given.append((plan.entry, ids, rng.normal(size=(len(ids), plan.entry.spec.width))))
    parts = _parts(session, plans, given)
    pulls = Pulls.of(plans, [some_ids(rng) for _ in plans])
    assert parts is not None
    assert pulls is not None
    for shard, push in parts.items():
        asked = pull_part(pulls, shard) if fused else None
        lead = np.frombuffer(bytearray(session.head(push, LAYOUT)), np.uint8)
        space = np.full(60_000, 7, np.uint8)
        begin, end = put_part(push, lead, space, at, inside=asked is not None)
        assert at <= begin < at + 4
        part: PushPart = push
        if asked is not None:
            end = pulls.put(shard, space, end, inside=True)
            part = StepPart.of(push, asked, [])
            part.names = push.names
        assert space[begin:end].tobytes() == joined(session.encode(part, LAYOUT))
        assert (space[end:] == 7).all()


def test_gradients_of_the_first_table_lie_where_whole_vectors_can_be_written() -> None:
    space, lead = np.zeros(1000, np.uint8), np.zeros(17, np.uint8)
    for at in range(20):
        for inside in (False, True):
            begin, values = put_push(space, at, lead, 40, 1, np.arange(5), 16, inside)
            assert at <= begin < at + 4
            assert values % 4 == 0
            assert put_push(space, at, lead[:0], 40, 1, np.arange(5), 16, False)[0] == at


@given(seed=SEEDS, fused=st.booleans(), duplicate=st.booleans(), tables=st.integers(1, 4))
def test_rows_are_found_only_in_replies_that_are_as_expected(
    seed: int, fused: bool, duplicate: bool, tables: int
) -> None:
    rng = np.random.default_rng(seed)
    blocks = [rng.normal(size=(int(rng.integers(1, 50)), 8)).astype(np.float32) for _ in range(tables)]
    reply = codec.PullReply([codec.Block(rows) for rows in blocks])
    data = joined(codec.StepReply(duplicate, reply).encode() if fused else reply.encode())
    space = np.frombuffer(bytearray(b"x" * 9 + data + b"y" * 9), np.uint8)

    def found(end: int, sizes: list[int]) -> list[int] | None:
        at, inside, places = 9, fused, []
        for k, size in enumerate(sizes):
            at = rows_in(space, at, end, size, inside, k == len(sizes) - 1)
            if at < 0:
                return None
            places.append(at)
            at, inside = at + size, False
        return places

    end, sizes = 9 + len(data), [rows.nbytes for rows in blocks]
    places = found(end, sizes)
    assert places is not None
    assert [space[at : at + rows.nbytes].tobytes() for at, rows in zip(places, blocks, strict=True)] == [
        rows.tobytes() for rows in blocks
    ]
    assert found(end - 1, sizes) is None
    assert found(end + 1, sizes) is None
    assert found(end, [*sizes, 4]) is None
    for k in range(tables):
        assert found(end, [*sizes[:k], sizes[k] - 32, *sizes[k + 1 :]]) is None
        assert tables == 1 or found(end, [*sizes[:k], *sizes[k + 1 :]]) is None


def test_the_heads_of_most_tables_fit_into_the_space_of_a_lane() -> None:
    layout = Layout("c" * MOST_NAME, 2**31, (ShardAddress(0, "h:0"),))
    session = Session(["h:0"], 2**60, random.Random(0), time.monotonic, threading.Lock())
    session.layout = layout
    for width in (1, 64):
        ids = np.arange(MOST_BYTES // (4 * width + 8) // MOST_TABLES)
        specs = [TableSpec(f"t{k}", 10**6, dim=width) for k in range(MOST_TABLES)]
        plans = [Plan.of(layout, TableEntry(2**31 + k, spec)) for k, spec in enumerate(specs)]
        parts = _parts(session, plans, [(p.entry, ids, np.ones((len(ids), width))) for p in plans])
        pulls = Pulls.of(plans, [ids] * MOST_TABLES)
        assert parts is not None
        assert pulls is not None
        space = np.empty(2 * MOST_BYTES + HEADS_BYTES, np.uint8)
        lead = np.frombuffer(bytearray(session.head(parts[0], layout)), np.uint8)
        _, end = put_part(parts[0], lead, space, BEGIN, inside=True)
        end = pulls.put(0, space, end, inside=True)
        assert end + 2 * BEGIN + pulls.reply_bytes(0) < len(space) < ARENA_BYTES
        reply = codec.StepReply(
            True, codec.PullReply([codec.Block(np.ones((len(ids), width), np.float32))] * MOST_TABLES)
        )
        assert len(joined(reply.encode())) < pulls.reply_bytes(0)
