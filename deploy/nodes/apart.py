"""On which node each standby goes: on another one than its shard, so that the end of a node never takes both.

Where Ray has never had another node that could hold one, as on a laptop, the standby is beside its shard: the end of a
process is survived then. Where the other nodes are away or full, there is none, and who looks is told so: a node that
is left alone has its own shards to hold, and those of the others that come to it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ...proto.errors import Unavailable
from ..config.words import counted
from ..launch.ray_seats import ShardSeat
from .nodes import Node, free_of, in_words_of, slots


@dataclass(frozen=True)
class StandbyRoom:
    """What there is for standbys.

    Attributes:
        bundle: what each takes.
        nodes: that may get new servers, and are alive.
        known: how many nodes could ever hold one, also such as have ended since, or get nothing new.
        empty: seats that no server has, and the node of each.
        servers: by id of a node, how many of the cluster's are there.
    """

    bundle: Mapping[str, float]
    nodes: Sequence[Node]
    known: int
    empty: Mapping[ShardSeat, str] = field(default_factory=dict[ShardSeat, str])
    servers: Mapping[str, int] = field(default_factory=dict[str, int])


def deal(primaries: Sequence[str], room: StandbyRoom) -> list[ShardSeat | str]:
    """For each standby the seat that it takes, or the id of the node where it gets a new one.

    primaries: ids of the nodes of their shards' servers.

    Raises:
        Unavailable: one has none; the message says what there is.
    """
    servers = {node.id: room.servers.get(node.id, 0) for node in room.nodes}
    empty = {seat: node for seat, node in room.empty.items() if node in servers}
    free = {node.id: slots(room.bundle, node) for node in room.nodes}
    beside = room.known <= 1

    def candidates(primary: str) -> list[str]:
        return [node for node in servers if node != primary or beside]

    def choice(primary: str) -> int:
        there = set(candidates(primary))
        return sum(free[node] for node in there) + sum(node in there for node in empty.values())

    found: dict[int, ShardSeat | str] = {}
    # Who has the least choice comes first.
    for at in sorted(range(len(primaries)), key=lambda at: choice(primaries[at])):
        there = candidates(primaries[at])
        seats = [seat for seat, node in empty.items() if node in there]
        nodes = [node for node in there if free[node] > 0]
        if seats:
            seat = min(seats, key=lambda seat: (servers[empty[seat]], seat))
            node, found[at] = empty.pop(seat), seat
        elif nodes:
            node = min(nodes, key=lambda node: (servers[node], _steps(primaries[at], node, room)))
            free[node] -= 1
            found[at] = node
        else:
            raise Unavailable(_full(primaries[at], room))
        servers[node] += 1
    return [found[at] for at in range(len(primaries))]


def _steps(begin: str, end: str, room: StandbyRoom) -> int:
    """How far it is around all nodes: where each takes the next, none is left out."""
    ring = sorted({begin, *(node.id for node in room.nodes)})
    return (ring.index(end) - ring.index(begin)) % len(ring)


def _full(primary: str, room: StandbyRoom) -> str:
    others = [node for node in room.nodes if node.id != primary or room.known <= 1]
    if room.known <= 1:
        what = "the only node of Ray has no room for one more server"
    else:
        what = f"no other node of Ray than {primary[:8]}, where the shard is, has room for its standby"
    free = free_of(room.bundle, others)
    there = f"free on {counted(len(others), 'node')} now: {free}" if others else "there is no other now"
    return (
        f"{what}, which takes {in_words_of(room.bundle)}; {there}. Add a node, or ask for less: "
        "ray.num_cpus_per_shard, ray.memory_per_shard; or leave `replicas` at 0"
    )
