"""A scaling as plain values, and in words."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ...proto import rowloom_pb2 as pb
from ...proto.spec import Dealing
from ..config.memory import in_bytes
from ..config.words import counted, scaling_to

if TYPE_CHECKING:
    from ..terminal import Stage

RUNS = ("starting", "moving", "finishing", "committing")


def move_summary(reply: pb.ScaleReply) -> dict[str, Any]:
    """What `--json` says of a scaling."""
    return {
        "state": reply.state,
        "epoch": reply.epoch,
        "pause_s": round(reply.pause_s, 4),
        "rows": reply.rows,
        "seconds": round(reply.seconds, 4),
        "shards": reply.shards,
        "rows_total": reply.rows_total,
        "moved": reply.moved,
        "passes": reply.passes,
        "left": reply.left,
        "rows_per_s": round(reply.rows_per_s, 1),
        "brake_row_s": reply.brake_row_s,
        "held_bytes": reply.held_bytes,
        "tables": {
            one.name: {"partition": one.partition, "hash_ids": one.hash_ids} for one in reply.dealings
        },
        "handed_over": list(reply.handed_over),
    }


def in_progress(reply: pb.ScaleReply) -> str:
    """In words, how far one is that runs, for a line of `status`."""
    what = scaling(reply)
    if reply.handed_over:
        what = f"{counted(len(reply.handed_over), 'shard')} on the way to other servers"
    if reply.state != "moving":
        return f"{what}: {reply.state}"
    held = f", taking {in_bytes(reply.held_bytes)} of memory" if reply.held_bytes else ""
    return f"{what}: {reply.rows:,} of {reply.rows_total:,} rows are there{held}; {pace(reply)}"


def scaling(reply: pb.ScaleReply) -> str:
    """In words, what it does."""
    return scaling_to(reply.shards, {one.name: Dealing.from_message(one) for one in reply.dealings})


def shown_on(stage: Stage) -> Callable[[pb.ScaleReply], None]:
    """Shows on a stage how far a scaling is."""
    return lambda reply: stage.reach(reply.rows, reply.rows_total, pace(reply))


def pace(reply: pb.ScaleReply) -> str:
    """In words, how fast it goes, and how much there is left; empty while nothing moves."""
    if reply.state != "moving":
        return "" if reply.state in ("done", "failed") else reply.state
    words = [f"pass {reply.passes + 1}", f"{reply.left:,} rows left", f"{reply.rows_per_s:,.0f} rows/s"]
    if reply.rows_per_s > 0:
        words.append(f"about {reply.left / reply.rows_per_s:.0f} s more")
    if reply.brake_row_s:
        words.append("pushes are slowed down, because rows change faster than they move")
    return ", ".join(words)


def handed_over(reply: pb.ScaleReply) -> str:
    """In words, how shards went over to other servers."""
    how = f"{reply.rows:,} rows in" if reply.rows else "in"
    return (
        f"{counted(len(reply.handed_over), 'shard')} went over to other servers, {how} {reply.seconds:.2f} s; their "
        f"calls waited {reply.pause_s * 1000:.0f} ms at most"
    )


def moved(reply: pb.ScaleReply) -> str:
    """In words, how one went that is done."""
    again = (
        f", {reply.moved - reply.rows:,} of them again because they had changed"
        if reply.moved > reply.rows
        else ""
    )
    return (
        f"{reply.rows:,} rows moved in {reply.seconds:.2f} s{again}, pushes waited {reply.pause_s * 1000:.0f} ms, "
        f"epoch {reply.epoch}"
    )
