"""Going on without what a lost shard held: the shard is made anew, from initial values, because somebody asked for it.

Why it is so. A shard that lost its rows refuses to serve, for ever: initial values in their place would be silently
wrong. Only its owner can say that they will do. A shard that answers that it has its rows is refused; one that does not
answer is asked for a while and then ended for certain. Whether a silent one still holds rows nobody can know from here:
a process that only stands still loses them.
The layout keeps its epoch, because the other shards keep their rows and would refuse a new one; an old server of this
shard that lived on could serve old rows under it, which is another reason to end it first.
"""

from __future__ import annotations

import dataclasses

from ...proto import methods
from ...proto import rowloom_pb2 as pb
from ...proto.errors import InvalidRequest, RowloomError
from ...proto.layout import ShardAddress
from .coordinator import ATTEMPT_S, PAUSE_S, Coordinator
from .effects import Calls, Program, ServerCall, Sleep, Stop, call_all

LOOK_LIMIT_S = 10.0  # for which a shard may be silent before it is taken for lost
ADOPT_LIMIT_S = 10.0


def accept_loss(coordinator: Coordinator, index: int) -> Program:
    """Make a lost shard anew, with every table and not one row.

    Raises:
        InvalidRequest: there is no such shard, or it has its rows; nothing was changed.
        Unavailable: no server could be started or ended; the shard is as lost as before.
    """
    layout = coordinator.layout
    if not 0 <= index < layout.n:
        raise InvalidRequest(f"there is no shard {index}: they are 0 to {layout.n - 1}")
    there = yield from _empty_server(coordinator, index)
    state = coordinator.state
    keys = list(state.keys)
    if there is None:
        yield Stop([keys[index]])
        (keys[index],), (launched,) = yield from coordinator.launch(1)
        there = ShardAddress(index, launched.address, launched.incarnation)
    shards = tuple(there if s.index == index else s for s in layout.shards)
    layout = dataclasses.replace(layout, shards=shards)
    yield from call_all(coordinator.adoptions(layout, [index], fresh=True), coordinator.clock)
    surplus = [key for key in coordinator.state.surplus if key not in keys]
    yield from coordinator.commit(
        dataclasses.replace(coordinator.state, layout=layout, keys=keys, surplus=surplus)
    )
    # The others hear where it is; those that do not answer, later.
    yield from coordinator.adopt(ADOPT_LIMIT_S)


def _empty_server(coordinator: Coordinator, index: int) -> Program:
    """The shard's server, if it came back without its rows; None if it does not answer.

    Raises:
        InvalidRequest: it has its rows.
    """
    old = coordinator.layout.shards[index]
    ask = ServerCall(old.address, methods.HEALTH, pb.HealthRequest().SerializeToString())
    until, (pause, longest) = coordinator.clock() + LOOK_LIMIT_S, PAUSE_S
    while True:
        (reply,) = yield Calls([ask], ATTEMPT_S)
        if not isinstance(reply, RowloomError):
            break
        if coordinator.clock() >= until:
            return None
        yield Sleep(pause)
        pause = min(longest, pause * 2)
    health = pb.HealthReply.FromString(reply)
    if health.state in ("waiting", "lost"):
        return ShardAddress(index, old.address, health.incarnation)
    if health.incarnation != old.incarnation:
        return None  # something else listens there now
    raise InvalidRequest(
        f"shard {index} at {old.address} has its rows ({health.state}): there is no loss to accept"
    )
