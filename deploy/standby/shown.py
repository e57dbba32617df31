"""The standby of a shard, as plain values and for people."""

from __future__ import annotations

from typing import Any

from ...proto import rowloom_pb2 as pb
from ..config.memory import in_bytes

IN_STEP = "in step"  # as in StandbyStatus


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
