"""Going on without what a lost shard held: the shard is made anew, from initial values, because somebody asked for it.

Why it is so. A shard that lost its rows refuses to serve, for ever: initial values in their place would be silently
wrong. Only its owner can say that they will do. A shard that answers that it has its rows is refused. So is one that
does not answer while its process is known to be alive: it may only stand still, or be out of reach, and hold every row;
only who forces it ends it. Where the launcher does not know, a silent shard is asked for a while, and then ended for
certain.
The layout keeps its epoch, because the other shards keep their rows and would refuse a new one; an old server of this
shard that lived on could serve old rows under it, which is another reason to end it first.
"""

from __future__ import annotations

import dataclasses

from ...proto import methods
from ...proto import rowloom_pb2 as pb
from ...proto.errors import InvalidRequest, RowloomError, Unavailable
from ...proto.layout import Layout, ShardAddress
from ..launch.launcher import ServerProcess
from .coordinator import ATTEMPT_S, PAUSE_S, Coordinator
from .effects import Calls, Look, Program, ServerCall, Sleep, Stop, call_all
from .rounds import standing_still
from .starting import launch
from .state import ClusterState

LOOK_LIMIT_S = 10.0  # for which a shard may be silent before it is taken for lost


class LossUnsafe(Unavailable):
    """A shard was made anew, and its log does not keep that yet."""


def accept_loss(coordinator: Coordinator, index: int, *, force: bool = False) -> Program:
    """Make a lost shard anew, with every table and not one row.

    Args:
        coordinator: of the cluster.
        index: of the shard.
        force: also if it does not answer and its process is alive, which is ended with the rows that it holds; or its
            log is about to be read.

    Raises:
        InvalidRequest: there is no such shard, or it has its rows, or may have; nothing was changed.
        Unavailable: no server could be started or ended; the shard is as lost as before.
        LossUnsafe: it was made anew, and its new log failed.
    """
    layout = coordinator.layout
    if not 0 <= index < layout.n:
        raise InvalidRequest(f"there is no shard {index}: they are 0 to {layout.n - 1}")
    if coordinator.state.standby_in_step(index) is not None:
        raise InvalidRequest(
            f"shard {index} is no loss: its standby has its rows, and takes its place by itself. Nothing was changed"
        )
    there = yield from _empty_server(coordinator, index, force)
    state = coordinator.state
    if state.snapshots:  # before there is a new log: with one of those it would give rows that were never so
        snapshots = [snapshot.without(index) for snapshot in state.snapshots]
        yield from coordinator.commit(dataclasses.replace(state, snapshots=snapshots))
    keys = list(state.keys)
    if there is None:
        yield Stop([keys[index]])
        (keys[index],), (launched,) = yield from launch(coordinator, 1)
        there = ShardAddress(index, launched.address, launched.incarnation)
    shards = tuple(there if s.index == index else s for s in layout.shards)
    layout = dataclasses.replace(layout, shards=shards)
    unsafe: Unavailable | None = yield from _made(coordinator, layout, index)
    surplus = [key for key in coordinator.state.surplus if key not in keys]
    yield from coordinator.commit(
        dataclasses.replace(coordinator.state, layout=layout, keys=keys, surplus=surplus)
    )
    # The others hear where it is, each once; those that do not answer, such as another lost one, later.
    yield from coordinator.adopt(0.0)
    if unsafe is not None:
        raise LossUnsafe(
            f"shard {index} at {there.address} was made anew, and the rows that it held are lost; a restart of it may "
            f"find it lost again, as its new log is not safe yet: {unsafe}"
        )


def _empty_server(coordinator: Coordinator, index: int, force: bool) -> Program:
    """The shard's server, if it came back without its rows; None if it is gone, or is to be ended.

    Raises:
        InvalidRequest: it has its rows, or may have.
    """
    old = coordinator.layout.shards[index]
    ask = ServerCall(old.address, methods.HEALTH, pb.HealthRequest().SerializeToString())
    until, (pause, longest) = coordinator.clock() + LOOK_LIMIT_S, PAUSE_S
    while True:
        (reply,) = yield Calls([ask], ATTEMPT_S)
        if not isinstance(reply, RowloomError):
            break
        process: ServerProcess
        (process,) = yield Look([coordinator.state.keys[index]])
        if process.state == "ended" and coordinator.revives and not force:
            raise InvalidRequest(
                f"shard {index} at {old.address} is no loss yet: its process has ended, its rows are in its log, and "
                "it is started again by itself. Nothing was changed; --force makes it anew without them"
            )
        if process.state == "ended" or (process.alive and force):
            return None
        if process.state == "stopped" or coordinator.clock() >= until:
            if process.alive:
                raise InvalidRequest(_may_hold_rows(old, process))
            return None
        yield Sleep(pause)
        pause = min(longest, pause * 2)
    health = pb.HealthReply.FromString(reply)
    if health.state == "lost" or (health.state == "waiting" and not coordinator.revives):
        return ShardAddress(index, old.address, health.incarnation)
    if health.state in ("waiting", "recovering"):
        if force:
            return None
        why = f", which failed so far: {health.unread}. Mend that" if health.unread else ""
        raise InvalidRequest(
            f"shard {index} at {old.address} is no loss: its rows are in its log, and it is about to read them{why}. "
            "Nothing was changed; --force makes it anew without them"
        )
    if health.incarnation != old.incarnation:
        return None  # something else listens there now
    how = health.state
    if health.log_error:
        how = f"it serves pulls only, because its log failed: {health.log_error}; make room on its disk, or mend that"
    raise InvalidRequest(
        f"shard {index} at {old.address} has its rows ({how}): there is no loss to accept, and it stays as it is"
    )


def _made(coordinator: Coordinator, layout: Layout, index: int) -> Program:
    """Make a shard's server a shard with no rows. Returns the error by which that is not safe yet; None: there is none.

    Raises:
        Unavailable: it is none yet, and what there was of it is as it was.
    """
    try:
        yield from call_all(coordinator.adoptions(layout, [index], fresh=True), coordinator.clock)
    except Unavailable as e:
        shard = layout.shards[index]
        ask = ServerCall(shard.address, methods.HEALTH, pb.HealthRequest().SerializeToString())
        (reply,) = yield Calls([ask], ATTEMPT_S)
        if isinstance(reply, RowloomError):
            raise Unavailable(
                f"whether shard {index} at {shard.address} was made anew is not known, as it does not answer: {e}. Its "
                "rows may be lost"
            ) from e
        health = pb.HealthReply.FromString(reply)
        if health.state not in ("serving", "moving") or health.epoch != layout.epoch:
            raise Unavailable(f"shard {index} at {shard.address} is not made anew yet: {e}") from e
        return e
    return None


def loss_in_words(state: ClusterState, index: int, *, logs: bool, ended: bool) -> str:
    """For the log of the cluster: which shard has lost its rows, what that takes away, and the ways out.

    Args:
        state: of the cluster, which is up.
        index: of the shard.
        logs: shards have logs.
        ended: its process has ended; else it came back without its rows.
    """
    assert state.layout is not None
    what, options = f"shard {index} at {state.layout.shards[index].address}", f" --name {state.name}"
    if ended:
        why = f"{what} is dead: its process has ended, and with `durability: memory` its rows ended with it"
    elif logs:
        why = (
            f"{what} has lost its rows: they could not be read from its log. `rowloom logs {index}{options}` says why, "
            f"and `rowloom status{options}` how a copy of its files is put back"
        )
    else:
        why = (
            f"{what} has lost its rows: its process was started anew, empty, because of `durability: memory`"
        )
    tables = ", ".join(state.tables) or "none yet"
    back = (
        f"\n- `rowloom status{options}` names the newest snapshot that can be read, to begin with again"
        if state.snapshots
        else ""
    )
    return (
        f"{why}. What it held of each table ({tables}) is lost; the other shards have their rows, and calls that need "
        f"this one raise StateLost. The ways out:{back}\n- `rowloom recover --accept-loss {index}{options}` makes it "
        f"anew, from initial values; before, `rowloom export TABLE FILE --partial{options}` saves the others' rows"
    )


def _may_hold_rows(shard: ShardAddress, process: ServerProcess) -> str:
    where = f"{process.pid} on {process.node}" if process.node else f"{process.pid}"
    alive = standing_still(process) or f"its process {where} is alive and may hold its rows"
    return (
        f"shard {shard.index} at {shard.address} does not answer, but is no loss yet: {alive}. Nothing was changed; "
        "--force ends it and makes it anew, and the rows that it holds are lost"
    )
