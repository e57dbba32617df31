"""The standby of a shard, as plain values and for people."""

from __future__ import annotations

from typing import Any

from ...proto import rowloom_pb2 as pb
from ..config.memory import in_bytes
from ..config.words import standbys_of

IN_STEP = "in step"  # as in StandbyStatus


def may_have_rows(shard: dict[str, Any]) -> bool:
    """Of a shard of a `summary`: whether its standby has its rows, or does not say yet, as to a new coordinator."""
    return bool(shard.get("standby")) and shard["standby"]["state"] in (IN_STEP, "unreachable", "stopped")


def standby_of(status: pb.ShardStatus) -> dict[str, Any] | None:
    """Of a shard's status: its standby, and how far that is behind; None: it has none."""
    if not status.HasField("standby"):
        return None
    said, now = status.standby, status.statistics
    return {
        "state": said.state,
        "address": said.address,
        "node": said.node,
        "pid": said.pid,
        "rows": said.rows,
        "behind_changes": now.standby_behind,
        "behind_bytes": now.standby_behind_bytes,
        "behind_s": round(now.standby_behind_s, 3),
        "pulls": said.pulls,
        "refused": said.refused,
        "error": said.error or None,
    }


def beside_in_words(state: dict[str, Any]) -> str:
    """Of a `summary`, which shards have their standby on their own node of Ray; empty: none has."""
    if state["launcher"] != "ray":  # elsewhere there is one machine only
        return ""
    beside = [
        s["index"] for s in state["shards"] if s.get("standby") and s["node"] == s["standby"]["node"] != ""
    ]
    if not beside:
        return ""
    are = "is on the node of its shard" if len(beside) == 1 else "are on the nodes of their shards"
    return (
        f"{standbys_of(beside)} {are}, as Ray has no other: the end of a process is survived, the end of that node is "
        "not. Add a node, and they go there by themselves"
    )


def standby_in_words(standby: dict[str, Any] | None) -> str:
    """What `standby_of` gives, for people."""
    if standby is None:
        return "none"
    if standby["state"] == "filling":
        return f"filling, {standby['rows']:,} rows"
    pulls = f", {standby['pulls']:,} pulls" if standby.get("pulls") else ""
    if standby["state"] == IN_STEP and standby["behind_changes"]:
        return f"{IN_STEP}, {in_bytes(standby['behind_bytes'])} and {standby['behind_s']:.1f} s behind{pulls}"
    return standby["state"] + pulls
