"""How far the shards of a layout are that receive their rows: from other shards, or from a snapshot."""

from __future__ import annotations

from collections.abc import Callable

from ...proto import methods
from ...proto import rowloom_pb2 as pb
from ...proto.errors import SnapshotCorrupt, StateLost, Unavailable
from ...proto.layout import Layout
from .coordinator import ATTEMPT_S
from .effects import Program, ServerCall, call_all
from .stalling import until_done

POLL_S = (0.01, 0.2)  # first and longest pause between questions for progress
LOG_FAILED = ("could not be written to the log: ", "its log failed: ")  # what a shard says of a push then
STEP_LIMIT_S = 10.0  # for a server to answer one


def progress_of(
    target: Layout, clock: Callable[[], float], check: Callable[[], Program] | None = None
) -> Program:
    """What each shard says of itself: ProgressReplies, in order.

    Args:
        target: whose shards receive.
        clock: in seconds.
        check: as of `call_all`; also of servers that give rows.

    Raises:
        SnapshotCorrupt: a shard reads a snapshot that is not right; the message names the file and the block.
        StateLost: a server started anew meanwhile.
        Unavailable: one stopped receiving, or does not answer.
    """
    ask = pb.ProgressRequest().SerializeToString()
    calls = [ServerCall(s.address, methods.PROGRESS, ask) for s in target.shards]
    answers = yield from call_all(calls, clock, STEP_LIMIT_S, ATTEMPT_S, check=check)
    replies = [pb.ProgressReply.FromString(r) for r in answers]
    for shard, reply in zip(target.shards, replies, strict=True):
        if reply.error and reply.error_kind == SnapshotCorrupt.kind:
            raise SnapshotCorrupt(reply.error)
        if reply.error:
            raise Unavailable(
                f"shard {shard.index} at {shard.address} stopped receiving: {_without_push(reply.error)}"
            )
        if reply.epoch != target.epoch:
            raise StateLost(f"shard {shard.index} at {shard.address} started anew while it received")
    if check is not None and not all(r.done for r in replies):
        yield from check()
    return replies


def _without_push(error: str) -> str:
    """Why a shard stopped. Where its log fails it says what it says of pushes, and these rows nobody pushed."""
    for said in LOG_FAILED:
        _, found, why = error.partition(said)
        if found:
            return f"the rows could not be written to its log: {why}; make room on that disk, or mend it, and try again"
    return error


def all_received(
    target: Layout,
    clock: Callable[[], float],
    on_rows: Callable[[int], None],
    *,
    check: Callable[[], Program] | None = None,
    pauses_s: tuple[float, float] = POLL_S,
    stall_s: float,
    stalled: str,
) -> Program:
    """Return when all have everything, and what they received is as safe as a push.

    Args:
        target: as of `progress_of`, whose errors are raised too.
        clock: in seconds.
        on_rows: called with how many rows have arrived, at each look.
        check: as of `progress_of`.
        pauses_s: first and longest, between two looks.
        stall_s: for which nothing may arrive.
        stalled: what is said then.

    Raises:
        Unavailable: one stopped receiving, or does not answer.
    """

    def look() -> Program:
        replies = yield from progress_of(target, clock, check)
        on_rows(sum(r.rows for r in replies))
        return all(r.done for r in replies), sum(r.bytes + r.done for r in replies)

    yield from until_done(look, clock, pauses_s, stall_s, stalled)
