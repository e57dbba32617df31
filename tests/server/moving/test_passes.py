"""The reading end of a move: passes over rows that change meanwhile."""

from contextlib import suppress

import numpy as np
import pytest

from rowloom.deploy.control.passes import STUCK, Passes
from rowloom.proto import rowloom_pb2 as pb
from rowloom.proto.codec import PartName
from rowloom.proto.errors import InvalidRequest, RetryLater, Unavailable
from rowloom.proto.layout import Layout, ShardAddress, owner
from rowloom.proto.methods import READ_PASS
from rowloom.proto.spec import SGD, TableEntry, TableSpec
from rowloom.server.moving import outgoing
from rowloom.server.moving.brake import MOST_BRAKED_S, Brake
from rowloom.server.moving.receive import LEAST_BYTES, MOST_PAUSE_S, PASS_PAUSE_S, Marks, Pause, Receive
from rowloom.server.shard import Shard

OLD = Layout("c", 1, (ShardAddress(0, "a:1", 1), ShardAddress(1, "a:2", 1)), "k:1")
NEW = Layout("c", 2, tuple(ShardAddress(i, f"b:{i}", 1) for i in range(3)), "k:1")
ENTRIES = [
    TableEntry(1, TableSpec("t", 1000, dim=2, optimizer=SGD(lr=1.0, momentum=0.9))),
    TableEntry(2, TableSpec("u", dim=3, optimizer=SGD(lr=1.0), partition="mod", hash_ids=True)),
    TableEntry(3, TableSpec("empty", 10, dim=1)),
]


def read_pass(shard: Shard, asked: pb.ReadPassRequest, *, frozen: bool) -> pb.ReadPassReply:
    return pb.ReadPassReply.FromString(b"".join(outgoing.read_pass(shard, asked, frozen=frozen).encode()))


def ids_of(shard: Shard, number: int, count: int) -> np.ndarray:
    spec = shard.tables[number].spec
    ids = np.arange(1000)
    return ids[owner(spec, ids, OLD.n) == shard.index][:count]


def push(shard: Shard, number: int, ids: np.ndarray) -> None:
    table = shard.tables[number]
    table.push(ids, np.ones((len(ids), table.width), np.float32), table.next_step())


def filled(index: int) -> Shard:
    shard = Shard(OLD, index, ENTRIES)
    for number in (1, 2):
        push(shard, number, ids_of(shard, number, 200))
    return shard


def request(**more) -> pb.ReadPassRequest:
    given = {"tables": [1, 2, 3], "new_n": 3, "new_index": 1, "limit_bytes": 200} | more
    return pb.ReadPassRequest(**given)


def whole_pass(shard: Shard, since: int = 0, frozen: bool = False, between=lambda: None) -> tuple[int, list]:
    """(its generation, (table, id) of all rows of a pass); `between` is called after each block."""
    seen, reply = [], pb.ReadPassReply()
    while not reply.done:
        asked = request(
            since=since, generation=reply.generation, last=reply.last, at=reply.at, cursor=reply.cursor
        )
        reply = read_pass(shard, asked, frozen=frozen)
        for moved in reply.tables:
            seen += [(moved.table, int(k)) for k in np.frombuffer(moved.ids, "<i8")]
        between()
    return reply.generation, seen


def test_the_first_pass_has_every_row_that_another_shard_would_own_once() -> None:
    shard = filled(0)
    _, seen = whole_pass(shard)
    expected = [
        (n, int(k))
        for n in (1, 2)
        for k in ids_of(shard, n, 200)
        if owner(ENTRIES[n - 1].spec, k[None], 3) == 1
    ]
    assert sorted(seen) == sorted(expected)


def test_a_later_pass_has_what_changed_since_the_one_before_began_and_nothing_else() -> None:
    shard = filled(0)
    first, _ = whole_pass(shard)
    second, seen = whole_pass(shard, first)
    assert seen == []
    ids = ids_of(shard, 1, 200)[::7]
    push(shard, 1, ids)
    third, seen = whole_pass(shard, second)
    assert sorted(seen) == [(1, int(k)) for k in ids if k % 3 == 1]
    assert whole_pass(shard, third)[1] == []


def test_a_row_that_changes_while_its_pass_is_read_is_in_the_next_one_read_or_not() -> None:
    shard = filled(0)
    ids = ids_of(shard, 1, 200)
    left = list(ids)
    first, _ = whole_pass(shard, between=lambda: left and push(shard, 1, np.array([left.pop()])))
    changed = set(ids.tolist()) - set(np.array(left).tolist())
    assert len(changed) > 3
    _, seen = whole_pass(shard, first)
    assert {k for _, k in seen} == {k for k in changed if k % 3 == 1}


def test_a_row_that_changed_before_its_pass_read_it_is_not_read_again_by_the_next() -> None:
    # A pass knew only when the one before had begun, and read half of what had changed twice.
    shard, clock = filled(0), [0.0]
    receive = Receive(OLD, Shard(NEW, 1, ENTRIES), lambda: clock[0], block_bytes=200)
    stream = receive.streams[0]
    run = stream.run()
    wants, ids = next(run), ids_of(shard, 1, 200)
    moved = [int(k) for k in ids if k % 3 == 1]
    late, blocks = moved[-3:], 0
    while not stream.passes:
        reply = read_pass(shard, pb.ReadPassRequest.FromString(wants.data), frozen=False)
        clock[0] += 1.0  # a mark is due with each block
        blocks += 1
        if blocks == 2:
            push(shard, 1, np.array([*moved[:2], *late]))  # two were read, three are behind
        wants = run.send(reply.SerializeToString())
    assert isinstance(wants, Pause)
    asked = pb.ReadPassRequest.FromString(next(run).data)
    assert 2 < len(asked.marks) < blocks
    asked.limit_bytes = 1 << 20
    reply = read_pass(shard, asked, frozen=False)
    assert reply.done
    assert [int(k) for m in reply.tables for k in np.frombuffer(m.ids, "<i8")] == moved[:2]


def test_a_pass_that_names_a_table_very_often_was_looked_up_each_time() -> None:
    shard = filled(0)
    asked = pb.ReadPassRequest(tables=[1] * 100_000, new_n=2)
    with pytest.raises(InvalidRequest, match="100000 tables of a pass"):
        read_pass(shard, asked, frozen=False)


def test_marks_become_rare_in_a_long_pass_and_a_table_makes_them_rarer() -> None:
    def count(seconds: float, tables: int) -> int:
        marks, reply = Marks(0.0), pb.ReadPassReply()
        for k in range(round(seconds * 1000)):
            marks.look(k / 1000, reply, tables)
            marks.read(1 + k)
        return len(marks.later)

    assert count(0.005, 1) == 0
    assert 3 <= count(0.05, 1) <= 5
    assert 100 < count(20.0, 1) < 200
    assert count(0.05, 5000) == 0


@pytest.mark.parametrize("places", [[(0, 9), (0, 3)], [(1, 0), (0, 9)]])
def test_marks_that_fall_are_refused(places) -> None:
    shard = filled(0)
    first, _ = whole_pass(shard)
    marks = [pb.PassMark(at=at, cursor=cursor, since=first) for at, cursor in places]
    with pytest.raises(InvalidRequest, match="must rise"):
        read_pass(shard, request(since=first, marks=marks), frozen=False)
    with pytest.raises(InvalidRequest, match="must rise"):
        read_pass(shard, request(since=first, marks=[pb.PassMark(since=first - 1)]), frozen=False)
    with pytest.raises(Unavailable, match="started anew"):
        read_pass(shard, request(since=first, marks=[pb.PassMark(since=first + 1)]), frozen=False)


def test_a_lost_answer_loses_no_row_and_another_reader_disturbs_nobody() -> None:
    shard = filled(0)
    first, _ = whole_pass(shard)
    ids = ids_of(shard, 1, 200)[::5]
    push(shard, 1, ids)
    for _ in range(3):  # begun, and nobody heard of it
        read_pass(shard, request(since=first), frozen=False)
        read_pass(shard, request(since=first, new_index=0), frozen=False)
    _, seen = whole_pass(shard, first)
    assert sorted(seen) == [(1, int(k)) for k in ids if k % 3 == 1]


def test_a_pass_that_begins_while_pushes_wait_is_the_last_one_and_ends_when_they_go_on() -> None:
    shard = filled(0)
    reply = read_pass(shard, request(), frozen=True)
    assert reply.last
    assert not read_pass(shard, request(), frozen=False).last
    with pytest.raises(RetryLater, match="they go on again"):
        read_pass(shard, request(generation=reply.generation, last=True, cursor=reply.cursor), frozen=False)


def test_a_shard_that_started_anew_does_not_say_that_nothing_has_changed() -> None:
    with pytest.raises(Unavailable, match="started anew"):
        read_pass(filled(0), request(since=1), frozen=True)
    with pytest.raises(InvalidRequest, match="no shard 3 of 3"):
        read_pass(filled(0), request(new_index=3), frozen=True)


def test_a_shard_that_receives_has_every_row_as_it_was_last_and_the_steps() -> None:
    old, frozen = [filled(0), filled(1)], [False]
    new = [Shard(NEW, index, ENTRIES) for index in range(3)]
    receives = [Receive(OLD, shard, block_bytes=300) for shard in new]
    runs = [(stream, stream.run()) for receive in receives for stream in receive.streams]
    wants, asked = {k: next(run) for k, (_, run) in enumerate(runs)}, 0
    while wants:
        for k in list(wants):
            stream, run = runs[k]
            call, reply = wants[k], None
            if not isinstance(call, Pause):
                shard = old[stream.old.index]
                if call.method.endswith("ReadPass"):
                    message = read_pass(shard, pb.ReadPassRequest.FromString(call.data), frozen=frozen[0])
                else:
                    message = shard.ledger.read()
                    message.shard = shard.index
                reply = message.SerializeToString()
            try:
                wants[k] = run.send(reply)
            except StopIteration:
                del wants[k]
        asked += 1
        if not frozen[0]:
            for shard in old:
                push(shard, 1, ids_of(shard, 1, 250)[asked % 9 :: 9])
            frozen[0] = asked > 60 and all(stream.passes > 2 for stream, _ in runs)
    assert all(receive.done for receive in receives)
    for number in (1, 2):
        assert {shard.tables[number].step for shard in new} == {max(s.tables[number].step for s in old)}
        rows = {}
        for shard in new:
            ids, values, slots, _ = shard.tables[number].read(0, 1 << 30)
            rows.update(
                {
                    int(k): (v.tobytes(), [s[n].tobytes() for s in slots])
                    for n, (k, v) in enumerate(zip(ids, values, strict=True))
                }
            )
        expected = {}
        for shard in old:
            ids, values, slots, _ = shard.tables[number].read(0, 1 << 30)
            expected.update(
                {
                    int(k): (v.tobytes(), [s[n].tobytes() for s in slots])
                    for n, (k, v) in enumerate(zip(ids, values, strict=True))
                }
            )
        assert rows == expected


def pass_over(stream, run, wants, shard: Shard, clock: list[float]):
    """Answer a stream until its pass is over, at 0.1 ms a row. Returns what it wants then."""
    passes = stream.passes
    while stream.passes == passes:
        reply = read_pass(shard, pb.ReadPassRequest.FromString(wants.data), frozen=False)
        clock[0] += 1e-4 * sum(len(moved.ids) // 8 for moved in reply.tables)
        wants = run.send(reply.SerializeToString())
    assert isinstance(wants, Pause)
    return next(run)


def moving() -> tuple[Receive, list[float], list]:
    """Shard 0 of a next layout with one shard, and its streams: (stream, run, what it wants)."""
    clock = [0.0]
    receive = Receive(OLD, Shard(Layout("c", 2, NEW.shards[:1], "k:1"), 0, ENTRIES), lambda: clock[0])
    runs = [(stream, stream.run()) for stream in receive.streams]
    return receive, clock, [[stream, run, next(run)] for stream, run in runs]


def test_many_streams_ask_for_less_and_less_often_than_few() -> None:
    # 192 of them, each of which asked again after 5 ms, left a trainer nothing of two cores.
    many = Layout("c", 1, tuple(ShardAddress(i, f"a:{i}", 1) for i in range(64)), "k:1")
    few, of_many = Receive(OLD, Shard(NEW, 1, ENTRIES)), Receive(many, Shard(NEW, 1, ENTRIES))
    assert (few.pause_s, few.block_bytes) == (2 * PASS_PAUSE_S, outgoing.BLOCK_BYTES)
    assert (of_many.pause_s, of_many.block_bytes) == (MOST_PAUSE_S, LEAST_BYTES)


def test_a_stream_whose_question_has_waited_does_not_pause_and_that_time_is_no_work() -> None:
    shard = filled(0)
    receive, clock, streams = moving()
    stream, run, wants = streams[0]
    assert not pb.ReadPassRequest.FromString(wants.data).wait_s  # all rows: there is nothing to wait for
    wants = pass_over(stream, run, wants, shard, clock)
    left_s = stream.left_s
    asked = pb.ReadPassRequest.FromString(wants.data)
    assert asked.wait_s == receive.pause_s
    clock[0] += 0.5
    reply = read_pass(shard, asked, frozen=False)
    reply.held_s = 0.5
    wants = run.send(reply.SerializeToString())
    assert pb.ReadPassRequest.FromString(wants.data).wait_s == receive.pause_s
    assert stream.waited_s == 0.5
    assert stream.left_s <= left_s


def test_a_ledger_that_is_small_comes_with_the_last_rows() -> None:
    receive, methods = Receive(OLD, Shard(NEW, 1, ENTRIES)), set()
    for stream in receive.streams:
        shard = filled(stream.old.index)
        shard.ledger.record(7, 1, PartName(1, shard.index, 1), push=1, parts=1)
        run = stream.run()
        wants = next(run)
        with suppress(StopIteration):
            while True:
                methods.add(wants.method)
                asked = pb.ReadPassRequest.FromString(wants.data)
                wants = run.send(read_pass(shard, asked, frozen=True).SerializeToString())
    assert methods == {READ_PASS}
    assert receive.done
    assert receive.shard.ledger.knows(7)


def test_a_move_ends_though_long_and_short_passes_take_turns() -> None:
    # Every short one was taken for progress, so there was neither a brake nor an end.
    old = [filled(0), filled(1)]
    receive, clock, streams = moving()
    passes, rounds = Passes(), 0
    while not passes.judge([receive.progress()]).freezes:
        rounds += 1
        assert rounds < 60, "it goes on for ever"
        for some in streams:
            shard = old[some[0].old.index]
            some[2] = pass_over(*some, shard, clock)
            push(shard, 1, ids_of(shard, 1, 500)[: 500 if rounds % 2 else 300])
    assert passes.brake_s > 0


def test_passes_over_an_idle_shard_are_no_reason_to_slow_pushes_down() -> None:
    # They take no time and do not become shorter, and were counted beside the seconds of the others.
    old = [filled(0), filled(1)]
    receive, clock, streams = moving()
    left = 400
    for _ in range(2 * STUCK):
        for some in streams:
            some[2] = pass_over(*some, old[some[0].old.index], clock)
        left = int(0.75 * left)
        push(old[0], 1, ids_of(old[0], 1, left))
        push(old[1], 1, ids_of(old[1], 1, 1))
        said = receive.progress()
        assert not said.stuck or said.left_s < 0.01
    assert receive.streams[1].stuck >= STUCK


def test_a_brake_gives_pushes_their_time_in_order_and_none_waits_too_long() -> None:
    brake = Brake()
    assert brake.admit(5.0, 10, 1e-3) == 5.0
    assert brake.admit(5.0, 10, 1e-3) == pytest.approx(5.01)
    assert brake.admit(5.005, 1000, 1e-3) == pytest.approx(5.02)
    assert brake.admit(5.02, 10, 1e-3) == pytest.approx(5.02 + MOST_BRAKED_S)
    assert brake.admit(9.0, 10, 1e-3) == 9.0
    assert (brake.pushes, brake.seconds) == (3, pytest.approx(0.01 + 0.015 + MOST_BRAKED_S))
