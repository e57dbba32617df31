"""What `rowloom status` says of standbys."""

from __future__ import annotations

from ...proto import rowloom_pb2 as pb
from ..control.state import ClusterState, Standby
from ..launch.launcher import ServerProcess
from .standbys import FAILED, IN_STEP

FILLING = "filling"


def standby_status(
    state: ClusterState, index: int, health: pb.HealthReply | None, process: ServerProcess
) -> pb.StandbyStatus:
    """Of the standby that a shard has.

    Args:
        state: of the cluster.
        index: of the shard.
        health: what the standby said last; None: it did not answer.
        process: what the launcher knows of it.
    """
    one = state.standbys[index]
    return pb.StandbyStatus(
        address=one.address,
        incarnation=one.incarnation,
        node=process.node,
        pid=process.pid,
        state=_word(state, index, one, health, process),
        rows=health.standby_rows if health is not None else 0,
        error=health.standby_error if health is not None else "",
        pulls=health.standby_pulls if health is not None else 0,
        refused=health.standby_refused if health is not None else 0,
    )


def standbys_in_step(state: ClusterState) -> list[pb.ShardAddress]:
    """Those that may answer pulls, if they can show that their rows are new enough."""
    layout = state.layout
    return [
        pb.ShardAddress(index=index, address=one.address, incarnation=one.incarnation)
        for index in range(layout.n if layout is not None else 0)
        if (one := state.standby_in_step(index)) is not None
    ]


def _word(
    state: ClusterState, index: int, one: Standby, health: pb.HealthReply | None, process: ServerProcess
) -> str:
    if health is None:
        return {"ended": "dead", "stopped": "stopped"}.get(process.state, "unreachable")
    if health.incarnation != one.incarnation or health.standby == FAILED:
        return FAILED
    # Also as the next coordinator would find it: else it takes nobody's place.
    return IN_STEP if state.standby_in_step(index) is not None and health.standby == IN_STEP else FILLING
