"""What the status says of the newest snapshot that there is to go back to."""

from __future__ import annotations

import time
from collections.abc import Sequence

from ...proto import rowloom_pb2 as pb
from ..control.state import KnownSnapshot
from .earlier import EarlierSnapshots


def newest_of(snapshots: Sequence[KnownSnapshot], took: tuple[str, float, float]) -> pb.NewestSnapshot | None:
    """What the status says of the newest snapshot; None: there is none.

    took: the id of one, the seconds that it took, and those of its pause.
    """
    if not snapshots:
        return None
    newest = snapshots[-1]
    _, seconds, pause_s = took if took[0] == newest.id else ("", 0.0, 0.0)
    return pb.NewestSnapshot(
        id=newest.id,
        url=newest.url,
        age_s=_age_s(newest.created_s),
        created_s=newest.created_s,
        rows=newest.rows,
        bytes=newest.bytes,
        seconds=seconds,
        pause_s=pause_s,
    )


def earlier_of(earlier: EarlierSnapshots) -> pb.NewestSnapshot:
    """What the status says of the newest snapshot of clusters before."""
    newest = earlier.newest
    return pb.NewestSnapshot(
        id=newest.id,
        url=earlier.url,
        age_s=_age_s(newest.created_s),
        created_s=newest.created_s,
        rows=newest.rows,
        bytes=newest.bytes,
    )


def _age_s(created_s: float) -> float:
    return max(0.0, time.time() - created_s)
