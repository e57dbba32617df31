"""Who serves a shard from now on, as it is stored: its standby, or a server that came back empty."""

from __future__ import annotations

import dataclasses

from ...proto.layout import ShardAddress
from ..control.coordinator import Coordinator
from ..control.effects import Program


def take_place(coordinator: Coordinator, index: int, *, ended: bool) -> Program:
    """Store that a standby which is in step serves its shard, whose old server is surplus. `adopt` must follow.

    ended: that one has ended for certain.
    """
    state, standby = coordinator.state, coordinator.state.standbys[index]
    keys, shards = list(state.keys), list(coordinator.layout.shards)
    surplus = [*state.surplus, keys[index]]
    keys[index], shards[index] = standby.key, ShardAddress(index, standby.address, standby.incarnation)
    layout = dataclasses.replace(coordinator.layout, shards=tuple(shards))
    standbys = {i: one for i, one in state.standbys.items() if i != index}
    yield from coordinator.commit(
        dataclasses.replace(state, layout=layout, keys=keys, standbys=standbys, surplus=surplus)
    )
    coordinator.ended |= {index} if ended else set()


def put_empty(coordinator: Coordinator, index: int, incarnation: int) -> Program:
    """A shard's server has started anew at its address, and nobody has its rows: it is to say so."""
    shards = list(coordinator.layout.shards)
    shards[index] = dataclasses.replace(shards[index], incarnation=incarnation)
    layout = dataclasses.replace(coordinator.layout, shards=tuple(shards))
    yield from coordinator.commit(dataclasses.replace(coordinator.state, layout=layout))
    coordinator.doubt([index])
