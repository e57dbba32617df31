"""Shards whose processes have ended, started again: they read their rows from their logs, and clients go on.

Why it is so. The layout keeps its epoch, because a shard is the same one, with every row that it acknowledged. Its
old server must have ended for certain before, or two would serve one shard; the lock on the log's folder says the same
once more. What is asked of the new server is what a coordinator asks after every doubt: to be its shard of the layout.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Sequence

from ...proto.errors import RowloomError, Unavailable
from ..launch.launcher import Launched, ServerProcess
from .coordinator import ATTEMPT_S, Coordinator
from .effects import Look, Program, Stop
from .starting import launch, put_in_place
from .surplus import expected_surplus


def take_up(coordinator: Coordinator, found: Sequence[Launched | None]) -> Program:
    """Go on where another coordinator ended: bring every server to the committed layout, whatever it was doing.

    What else was begun is finished as far as servers answer; the rest is left to `converge`. Servers that have ended,
    as all have after a `down --keep`, are not waited for.

    found: by shard, where its server is now. Returns, by shard, what it answered: reply bytes or a RowloomError;
    StateLost for one that came back empty.
    """
    state = coordinator.state
    layout = dataclasses.replace(
        coordinator.layout, shards=state.found(found), coordinator=coordinator.address
    )
    yield from coordinator.commit(dataclasses.replace(state, layout=layout))
    processes: list[ServerProcess] = yield Look(state.keys)
    gone = {index for index, process in enumerate(processes) if process.state == "ended"}
    outcomes = yield from coordinator.adopt(ATTEMPT_S, gone)
    with contextlib.suppress(RowloomError):  # it stays unfinished
        yield from coordinator.converge(0.0)
    return outcomes


def revive(coordinator: Coordinator, limit_s: float = 0.0) -> Program:
    """Start the servers of all shards again whose processes have ended. Returns the shards.

    Not of those whose standbys take the place: that is sooner done. Should one not do so, it is in step no more.
    limit_s: for them to read their logs; those that take longer are left to `converge`.

    Raises:
        Unavailable: no server could be started; the shards are as dead as before.
    """
    keys = list(coordinator.state.keys)
    processes: list[ServerProcess] = yield Look(keys)
    ended = [
        index
        for index, process in enumerate(processes)
        if process.state == "ended" and coordinator.state.standby_in_step(index) is None
    ]
    if not ended:
        return []
    with expected_surplus(coordinator):
        yield Stop([keys[index] for index in ended])  # they hold no room any more
        again = yield from _replace_what_fits(coordinator, ended)
    yield from coordinator.adopt(limit_s)
    return again


def _replace_what_fits(coordinator: Coordinator, ended: Sequence[int]) -> Program:
    """New servers for shards whose own have ended, for some where there is no room for all. Returns the shards."""
    try:
        yield from _replace(coordinator, ended)
        return list(ended)
    except Unavailable as e:
        failed = e
    again: list[int] = []
    for index in ended if len(ended) > 1 else ():
        if coordinator.given_up:  # a standby is to take a place, which is sooner done
            break
        with contextlib.suppress(Unavailable):
            yield from _replace(coordinator, [index])
            again.append(index)
    if not again:
        raise failed
    return again


def _replace(coordinator: Coordinator, ended: Sequence[int]) -> Program:
    fresh, launched = yield from launch(coordinator, len(ended), patient=False)
    yield from put_in_place(coordinator, ended, fresh, launched)


def moved(coordinator: Coordinator, index: int, launched: Launched) -> bool:
    """A shard's server was found at another address. Returns whether that is news."""
    found = [launched if shard.index == index else None for shard in coordinator.layout.shards]
    shards = coordinator.state.found(found)
    if shards == coordinator.layout.shards:
        return False
    coordinator.state.layout = dataclasses.replace(coordinator.layout, shards=shards)
    return True
