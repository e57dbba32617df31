"""New servers, under keys that no other server ever had."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Protocol

from ...proto.layout import Layout, ShardAddress
from ..launch.launcher import Launched
from .effects import Launch, Program
from .state import ClusterState


class Starter(Protocol):
    """Who has servers started: a Coordinator."""

    state: ClusterState

    @property
    def layout(self) -> Layout:
        """Of the cluster."""
        ...

    def commit(self, state: ClusterState) -> Program:
        """Store this state, and have it."""
        ...

    def tend_standbys(self) -> Program:
        """What standbys need meanwhile."""
        ...

    def check_standing(self) -> Program:
        """Raise Unavailable when a standby is to take a place."""
        ...


def launch(
    coordinator: Starter,
    count: int,
    apart: Sequence[int] = (),
    *,
    patient: bool = True,
    check: Callable[[], Program] | None = None,
) -> Program:
    """Start servers under keys of their own, surplus until a commit says otherwise.

    Args:
        coordinator: of the cluster.
        count: of servers.
        apart: as `Launcher.reserve` takes it.
        patient: as it does, too.
        check: raises Unavailable when they are wanted no more. Without: when a standby is to take a place, which it
            does as soon as the program has ended.

    Returns:
        (keys, list[Launched]).

    Raises:
        Unavailable: they could not be started, or are wanted no more. None of them is left, but keys are surplus.
    """
    state = coordinator.state
    keys = list(range(state.next_key, state.next_key + count))
    if not keys:
        return keys, []
    # So that no other server ever gets these keys, and they are ended if nothing comes of them.
    yield from coordinator.commit(
        dataclasses.replace(state, next_key=keys[-1] + 1, surplus=[*state.surplus, *keys])
    )
    while (launched := (yield Launch(keys, apart, patient))) is None:
        yield from coordinator.tend_standbys()
        yield from (check or coordinator.check_standing)()
    return keys, launched


def put_in_place(
    coordinator: Starter, indexes: Sequence[int], fresh: Sequence[int], launched: Sequence[Launched]
) -> Program:
    """Store that these servers are those of these shards, and surplus no more. fresh: their keys."""
    state = coordinator.state
    keys, shards = list(state.keys), list(coordinator.layout.shards)
    for index, key, server in zip(indexes, fresh, launched, strict=True):
        keys[index], shards[index] = key, ShardAddress(index, server.address, server.incarnation)
    layout = dataclasses.replace(coordinator.layout, shards=tuple(shards))
    surplus = [key for key in state.surplus if key not in keys]
    yield from coordinator.commit(dataclasses.replace(state, layout=layout, keys=keys, surplus=surplus))
