"""Which records of several logs count at a point in time."""

from fractions import Fraction

import numpy as np
import pytest

from rowloom.proto import rowloom_pb2 as pb
from rowloom.proto.codec import Block, PartName, Push
from rowloom.proto.framing import joined
from rowloom.server.durable.counting import Counting
from rowloom.server.durable.point import Point
from rowloom.server.durable.records import Head, Kind, LoggedRecord


def push(lsn, client=1, number=1, parts=2):
    request = Push(pb.Header(), client, (PartName(1, 0, lsn),), number, [], parts=parts)
    return record(lsn, Kind.PUSH, bytes(joined(request.encode())))


def record(lsn, kind, payload):
    return LoggedRecord(Head(kind, len(payload), lsn, 0, 0), memoryview(payload))


def create(lsn, number, name):
    entry = pb.TableEntry(number=number, spec=pb.TableSpec(name=name))
    return record(lsn, Kind.CREATE, entry.SerializeToString())


def drop(lsn, number):
    return record(lsn, Kind.DROP, pb.DropTableRequest(table=number).SerializeToString())


def rate(lsn, number, version):
    request = pb.SetLearningRateRequest(table=number, lr=version / 8, version=version)
    return record(lsn, Kind.SET_LR, request.SerializeToString())


def counted(*logs, begun=None, names=None):
    counting = Counting([0] * len(logs), begun or {}, names or {1: "t"})
    for shard, log in enumerate(logs):
        for one in log:
            counting.add(shard, one)
    return counting


def test_a_push_whose_shares_are_in_every_log_counts():
    counting = counted([push(1)], [push(1)])
    assert [(p.end, set(p.left_out)) for p in counting.parts()] == [(1, set()), (1, set())]
    assert (counting.pushes, counting.left_out) == (1, 0)


def test_a_push_of_which_a_share_is_missing_is_left_out_and_those_behind_it_count():
    counting = counted([push(1), push(2, client=2), push(3, parts=0, number=2)], [push(1, client=2)])
    assert [(p.end, set(p.left_out)) for p in counting.parts()] == [(3, {1}), (1, set())]
    assert (counting.pushes, counting.left_out) == (2, 1)


def test_pieces_of_a_part_are_added_up_as_the_shares_that_they_are():
    whole = counted([push(1, parts=2), push(2, parts=4), push(3, parts=4)])
    assert (whole.pushes, whole.left_out) == (1, 0)
    half = counted([push(1, parts=2), push(2, parts=4)])
    assert set(half.parts()[0].left_out) == {1, 2}


def test_a_push_that_the_snapshot_has_in_part_counts_when_the_logs_have_the_rest():
    begun = {(1, 1): Fraction(1, 2), (2, 1): Fraction(1, 3)}
    counting = counted([push(1)], [push(1, client=2, parts=3)], begun=begun)
    assert [set(p.left_out) for p in counting.parts()] == [set(), {1}]
    assert (counting.pushes, counting.left_out) == (1, 1)


def test_a_table_that_one_shard_has_made_is_made_on_all_and_its_rate_after_it():
    counting = counted([create(1, 2, "b"), rate(2, 2, 1), rate(3, 2, 2)], [])
    first, second = counting.parts()
    assert list(first.missed) == []
    assert [kind for kind, _ in second.missed] == [Kind.CREATE, Kind.SET_LR, Kind.SET_LR]
    rates = [pb.SetLearningRateRequest.FromString(data).version for _, data in second.missed[1:]]
    assert rates == [1, 2]


def test_a_table_that_one_shard_has_dropped_is_dropped_on_all_and_nothing_else_is_done_to_it():
    parts = counted([rate(1, 1, 1), drop(2, 1)], [create(1, 2, "b")], [drop(1, 1)]).parts()
    for part, made in zip(parts, [[Kind.CREATE], [], [Kind.CREATE]], strict=True):
        assert [kind for kind, _ in part.missed] == [*made, Kind.DROP]


def test_of_two_tables_with_one_name_the_later_one_counts_though_no_shard_has_dropped_the_other():
    (part,) = counted([create(1, 7, "t")]).parts()
    ((kind, data),) = part.missed
    assert kind is Kind.DROP
    assert pb.DropTableRequest.FromString(data).table == 1


@pytest.mark.parametrize(("time_s", "inside"), [(99, True), (100, False), (101, False)])
def test_a_second_is_the_first_one_that_does_not_count(time_s, inside):
    assert Point(before_s=100).has(0, 5, time_s) is inside


def test_a_place_in_a_log_is_that_of_its_shard():
    assert Point(lsns=(4, 5)).has(1, 5, 0)
    assert not Point(lsns=(4, 5)).has(0, 5, 10**9)


def test_values_of_pushes_are_not_looked_at():
    grads = Block(np.zeros((1, 2), np.float32))
    request = Push(pb.Header(), 1, (PartName(1, 0, 1),), 1, [(9, np.array([3]), grads)], parts=1)
    assert counted([record(1, Kind.PUSH, bytes(joined(request.encode())))]).pushes == 1
