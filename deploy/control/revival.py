"""A shard whose process has ended, started again: it reads its rows from its log, and clients go on.

Why it is so. The layout keeps its epoch, because the shard is the same one, with every row that it acknowledged. Its
old server must have ended for certain before, or two would serve one shard; the lock on the log's folder says the same
once more. What is asked of the new server is what a coordinator asks after every doubt: to be its shard of the layout.
"""

from __future__ import annotations

import dataclasses

from ...proto.layout import ShardAddress
from ..launch.launcher import ServerProcess
from .coordinator import Coordinator
from .effects import Look, Program, Stop


def revive(coordinator: Coordinator, index: int) -> Program:
    """Start a shard's server again, if its process has ended. Returns whether it did.

    Raises:
        Unavailable: no server could be started; the shard is as dead as before.
    """
    state = coordinator.state
    process: ServerProcess
    (process,) = yield Look([state.keys[index]])
    if process.state != "ended":
        return False
    yield Stop([state.keys[index]])  # it holds no room any more
    (key,), (launched,) = yield from coordinator.launch(1)
    keys = [key if i == index else old for i, old in enumerate(state.keys)]
    there = ShardAddress(index, launched.address, launched.incarnation)
    layout = coordinator.layout
    layout = dataclasses.replace(
        layout, shards=tuple(there if s.index == index else s for s in layout.shards)
    )
    surplus = [one for one in coordinator.state.surplus if one != key]
    yield from coordinator.commit(
        dataclasses.replace(coordinator.state, layout=layout, keys=keys, surplus=surplus)
    )
    yield from coordinator.adopt(0.0)  # the rest is left to `converge`
    return True
