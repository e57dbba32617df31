"""Seats: the bundles of a cluster's placement groups, which server has which, and how a standby finds one.

Why it is so. Shards that start together have a group together, so that Ray deals them to nodes as `ray.placement` says.
Of such a group no bundle can be given back as long as one of its servers lives. So the bundle of a server that has
ended is taken by the next standby that may be on its node: else each promotion would cost room for one server more. Who
took a bundle that its group's name does not say, is kept by Ray, for the next coordinator.
"""

# Ray's key-value store has no public names.
# pyright: reportPrivateUsage=false, reportUnnecessaryComparison=false

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple, cast

from .ray_actors import groups_of

_NAMESPACE = b"rowloom"


class ShardSeat(NamedTuple):
    """A bundle: its group, and its number there."""

    group: str
    bundle: int


def nodes_of_seats(cluster: str) -> dict[ShardSeat, str]:
    """All seats of a cluster, and the id of the node of each; empty while it is on none."""
    from ray.util.placement_group import placement_group_table  # pyright: ignore[reportUnknownVariableType]

    names = {name for name, _, _ in groups_of(cluster)}
    return {
        ShardSeat(group["name"], int(bundle)): node or ""
        for group in cast(Any, placement_group_table)().values()
        if group["name"] in names and group["state"] != "REMOVED"
        for bundle, node in group["bundles_to_node_id"].items()
    }


def seats_of(cluster: str) -> dict[int, ShardSeat]:
    """By key, where a server is, or would be that has not started."""
    dealt = {
        key: ShardSeat(name, key - first)
        for name, first, last in groups_of(cluster)
        for key in range(first, last + 1)
    }
    return dealt | _taken(cluster)


def nodes_of_keys(cluster: str) -> dict[int, str]:
    """By key, the id of the node that its bundle is on; none while it is on none."""
    nodes = nodes_of_seats(cluster)
    return {key: node for key, seat in seats_of(cluster).items() if (node := nodes.get(seat, ""))}


def empty_seats(
    seats: Mapping[int, ShardSeat], nodes: Mapping[ShardSeat, str], live: Collection[int]
) -> dict[ShardSeat, str]:
    """Those on a node that no server has, and the node of each.

    Args:
        seats: by key.
        nodes: of all seats.
        live: keys of the servers that there are.
    """
    held = {seats[key] for key in live if key in seats}
    return {seat: node for seat, node in nodes.items() if node and seat not in held}


def take(cluster: str, key: int, seat: ShardSeat) -> None:
    """A server that is about to start has this seat."""
    from ray.experimental.internal_kv import _internal_kv_put

    _internal_kv_put(_name(cluster, key), f"{seat.bundle} {seat.group}".encode(), namespace=_NAMESPACE)


def leave(cluster: str, live: Collection[int]) -> None:
    """Forget the seats of servers that are no more. live: keys of the others."""
    from ray.experimental.internal_kv import _internal_kv_del

    for key in _taken(cluster).keys() - set(live):
        _internal_kv_del(_name(cluster, key), namespace=_NAMESPACE)


def _taken(cluster: str) -> dict[int, ShardSeat]:
    from ray.experimental.internal_kv import _internal_kv_get, _internal_kv_list

    found: dict[int, ShardSeat] = {}
    for name in _internal_kv_list(f"{cluster}/seat-".encode(), namespace=_NAMESPACE):
        data = _internal_kv_get(name, namespace=_NAMESPACE)
        if data is not None:  # it has ended meanwhile
            bundle, _, group = data.decode().partition(" ")
            found[int(name.decode().rpartition("-")[2])] = ShardSeat(group, int(bundle))
    return found


def _name(cluster: str, key: int) -> bytes:
    return f"{cluster}/seat-{key}".encode()
