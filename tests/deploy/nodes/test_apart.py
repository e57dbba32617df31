"""Which nodes standbys are put on: never their shard's where Ray has another, and an empty seat before a new one."""

import random

import pytest

from rowloom.deploy.launch.ray_seats import ShardSeat, empty_seats
from rowloom.deploy.nodes.apart import StandbyRoom, deal
from rowloom.deploy.nodes.nodes import Node, could_hold
from rowloom.proto.errors import Unavailable

A, B, C = "a" * 56, "b" * 56, "c" * 56
ONE = {"CPU": 1.0}


def node(id: str, free: float) -> Node:
    return Node(id, "10.0.0.1", free={"CPU": free}, total={"CPU": 8.0})


def room(*nodes: Node, known: int | None = None, **more) -> StandbyRoom:
    return StandbyRoom(ONE, nodes, len(nodes) if known is None else known, **more)


def test_each_standby_is_on_another_node_and_they_are_spread():
    there = room(node(A, 4), node(B, 4), node(C, 4), servers={A: 1, B: 1, C: 1})
    dealt = deal([A, B, C], there)
    assert all(at != primary for at, primary in zip(dealt, [A, B, C], strict=True))
    assert sorted(dealt) == [A, B, C]


def test_where_ray_has_one_node_a_standby_is_there_and_never_where_it_has_had_another():
    assert deal([A], room(node(A, 1))) == [A]
    with pytest.raises(Unavailable, match=r"no other node of Ray than aaaaaaaa.*there is no other now"):
        deal([A], room(node(A, 1), known=2))
    with pytest.raises(
        Unavailable, match=r"the only node of Ray has no room .* takes CPU 1; free on 1 node.*CPU 0"
    ):
        deal([A], room(node(A, 0)))


def test_an_empty_seat_is_taken_first_and_only_on_a_node_that_may_be_used():
    hole, beside = ShardSeat("rowloom/ads/0-1", 0), ShardSeat("rowloom/ads/0-1", 1)
    there = room(node(A, 4), node(B, 4), empty={hole: B, beside: A, ShardSeat("x", 0): C})
    assert deal([A], there) == [hole]
    assert deal([A, A], there) == [hole, B]
    seats = {0: hole, 1: beside, 7: ShardSeat("x", 0)}
    assert empty_seats(seats, {hole: B, beside: A, ShardSeat("x", 0): ""}, [1]) == {hole: B}


def test_no_standby_is_without_a_node_while_another_takes_its_only_one():
    there = room(node(A, 1), node(B, 1), node(C, 0))
    assert deal([C, A], there) == [A, B]
    assert deal([C, B], there) == [B, A]


def test_whatever_the_nodes_are_none_is_beside_its_shard_and_no_node_holds_more_than_it_has():
    rng = random.Random(5)
    refused = 0
    for _ in range(2000):
        ids = [A, B, C][: rng.randint(2, 3)]
        free = {id: rng.randint(0, 3) for id in ids}
        holes = {ShardSeat("g", k): rng.choice([*ids, C]) for k in range(rng.randint(0, 3))}
        primaries = [rng.choice(ids) for _ in range(rng.randint(1, 4))]
        there = room(*(node(id, count) for id, count in free.items()), empty=holes)
        try:
            dealt = deal(primaries, there)
        except Unavailable:
            refused += 1
            continue
        places = [holes[one] if isinstance(one, ShardSeat) else one for one in dealt]
        assert all(place != primary for place, primary in zip(places, primaries, strict=True))
        seats = [one for one in dealt if isinstance(one, ShardSeat)]
        assert len(seats) == len(set(seats))
        assert all(dealt.count(id) <= count for id, count in free.items())
    assert 0 < refused < 1000


def test_a_node_that_has_no_room_even_when_it_is_empty_is_no_other_node():
    assert could_hold(ONE, node(A, 0))
    assert not could_hold(ONE, Node(A, "10.0.0.1", total={"memory": 1.0}))
    assert could_hold(ONE, Node(A, "10.0.0.1", alive=False))  # it may have had
