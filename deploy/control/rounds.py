"""Telling every shard of a change, round by round, until each has taken it; or saying which has not, and why."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from ...proto.errors import Rerouted, RowloomError, StateLost, Unavailable
from ...proto.layout import Layout, ShardAddress
from ..launch.launcher import ServerProcess
from .effects import Calls, Look, Program, ServerCall, Sleep, check_running

PAUSE_S = (0.02, 1.0)  # first and longest, between two rounds


def tell_all(
    shards: Sequence[ShardAddress],
    keys: Sequence[int],
    call: Callable[[ShardAddress], ServerCall],
    clock: Callable[[], float],
    *,
    limit_s: float,
    attempt_s: float,
    comes_back: Callable[[int], str] = lambda index: "",
) -> Program:
    """Make a call to every shard until each has taken it. At least one round; none waits for a process that has ended.

    Args:
        shards: of the layout.
        keys: by shard index, the launcher's key of its server.
        call: to a shard; must be one that may be repeated.
        clock: in seconds.
        limit_s: no round begins after it.
        attempt_s: what a shard gets to answer in a round.
        comes_back: of a shard whose process has ended, in words how it goes on when this has ended; empty: it does not.

    Raises:
        StateLost: a shard has lost its rows, or its process has ended for good. Like the next, it names the shards.
        Unavailable: a shard did not answer, or its process has ended.
        RowloomError: a shard refused; its answer.
    """
    left, until, (pause, longest) = list(shards), clock() + limit_s, PAUSE_S
    while True:
        outcomes = yield Calls([call(shard) for shard in left], attempt_s)
        failed = [(s, o) for s, o in zip(left, outcomes, strict=True) if isinstance(o, RowloomError)]
        for _, error in failed:
            if not isinstance(error, Rerouted | Unavailable | StateLost):
                raise error
        if not failed:
            return
        left = [shard for shard, _ in failed]
        processes: list[ServerProcess] = yield Look([keys[shard.index] for shard in left])
        ended = [s.index for s, process in zip(left, processes, strict=True) if process.state == "ended"]
        lost = any(isinstance(e, StateLost) for _, e in failed) or not all(map(comes_back, ended))
        if lost or ended or clock() >= until:
            words = [
                _outstanding(s, e, p, comes_back(s.index))
                for (s, e), p in zip(failed, processes, strict=True)
            ]
            raise (StateLost if lost else Unavailable)("; ".join(words))
        yield Sleep(pause)
        pause = min(longest, pause * 2)


def check_there(layout: Layout, given_up: Collection[int], keys: Sequence[int]) -> Program:
    """Nobody waits for what comes back elsewhere: it does so only when the program that waits has ended.

    Args:
        layout: of the cluster.
        given_up: shards that do not answer, whose standbys are to take their places.
        keys: of servers that are started again when their processes have ended.

    Raises:
        Unavailable: there is one of these.
    """
    if given_up:
        shard = layout.shards[min(given_up)]
        raise Unavailable(
            f"shard {shard.index} at {shard.address} does not answer, and its standby is to take its place"
        )
    yield from check_running(keys)


def ended_of(shards: Collection[int], keys: Sequence[int]) -> Program:
    """Which of these shards have no process any more; none, where the launcher cannot say. keys: as of `tell_all`."""
    indexes = sorted(shards)
    try:
        processes: list[ServerProcess] = yield Look([keys[index] for index in indexes])
    except RowloomError:
        return set[int]()
    return {i for i, process in zip(indexes, processes, strict=True) if process.state == "ended"}


def _outstanding(shard: ShardAddress, error: RowloomError, process: ServerProcess, comes_back: str) -> str:
    """In words, which shard has not taken a change, and why. comes_back: as of `tell_all`."""
    who = f"shard {shard.index} at {shard.address} has not taken it yet"
    if process.state == "ended" and comes_back:
        return f"{who}: its process has ended, and {comes_back}"
    if process.state == "ended":
        anew = f"`rowloom recover --accept-loss {shard.index}` makes it anew, without its rows"
        return f"{who}: it is dead, its process has ended ({anew})"
    return f"{who}: {standing_still(process) or error}"


def standing_still(process: ServerProcess) -> str:
    """In words, that a process was stopped, and how it goes on; empty if it was not."""
    if process.state != "stopped":
        return ""
    where = f" on {process.node}" if process.node else ""
    go_on = f"`kill -CONT {process.pid}`{where} lets it go on"
    return f"its process stands still (as by SIGSTOP) and holds its rows; {go_on}"


def begun(what: str, step: Program) -> Program:
    """A step of a change that is recorded. Its errors say that the change is made all the same."""
    try:
        yield from step
    except (Unavailable, Rerouted, StateLost) as e:
        kind = StateLost if isinstance(e, StateLost) else Unavailable
        raise kind(
            f"{what} is recorded; {e}. It is repeated until every shard has taken it, which `rowloom status` tells"
        ) from e
