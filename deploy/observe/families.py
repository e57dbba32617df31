"""The metrics of a cluster, from its status. docs/metrics.md explains each; a test holds it to this file."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ...proto import rowloom_pb2 as pb
from ...server.metrics.families import Family
from ..operate.status import GOOD
from ..standby.shown import IN_STEP

if TYPE_CHECKING:
    from prometheus_client import Metric

INFO = Family(
    "rowloom_cluster_info",
    "1, of the cluster that its labels name.",
    ("cluster_id", "launcher", "durability", "config_hash"),
)
SHARDS = Family("rowloom_shards", "Shards that the layout has.")
EPOCH = Family("rowloom_cluster_epoch", "Epoch of the layout.")
SERVING = Family(
    "rowloom_shard_serving",
    "1 if the shard takes pulls and pushes; its health in a word.",
    ("index", "health"),
)
STANDBY = Family(
    "rowloom_shard_standby",
    "1 if the shard's standby can take its place; the standby's state in a word. Shards without one: `none`.",
    ("index", "state"),
)
STANDBY_PULLS = Family(
    "rowloom_shard_standby_pulls_total",
    "Pulls that the shard's standby was asked for in its stead; `refused`: its rows may have been too old.",
    ("index", "outcome"),
)
UNFINISHED = Family(
    "rowloom_unfinished_changes",
    "Changes that were begun and do not hold on every shard yet, and snapshots that wait.",
)
MOVING = Family("rowloom_move_running", "1 while rows move to another number of shards.")
MOVED = Family("rowloom_move_rows", "Rows that have moved.")
LEFT = Family("rowloom_move_rows_left", "Rows that are still to move; 0 as long as that is not known.")
TAKEN = Family(
    "rowloom_snapshot_timestamp_seconds", "When the newest snapshot was taken, in seconds since 1970."
)
SNAPSHOT_ROWS = Family("rowloom_snapshot_rows", "Rows of the newest snapshot.")
SNAPSHOT_BYTES = Family("rowloom_snapshot_bytes", "Bytes that were written for the newest snapshot.")
SNAPSHOT_SECONDS = Family(
    "rowloom_snapshot_duration_seconds",
    "From the beginning of the newest snapshot until it was whole; 0: another coordinator took it.",
)
SNAPSHOT_PAUSE = Family("rowloom_snapshot_pause_seconds", "For how long pushes waited for it; the same.")
AGE = Family(
    "rowloom_status_age_seconds",
    "How old the others are that are of the cluster: 0, unless a shard does not answer in time.",
)
FAMILIES = (
    AGE,
    *(INFO, SHARDS, EPOCH, SERVING, STANDBY, STANDBY_PULLS, UNFINISHED, MOVING, MOVED, LEFT),
    *(TAKEN, SNAPSHOT_ROWS, SNAPSHOT_BYTES, SNAPSHOT_SECONDS, SNAPSHOT_PAUSE),
)


def cluster_families(status: pb.StatusReply, age_s: float = 0.0) -> Iterator[Metric]:
    """The metrics of a cluster. Without a snapshot, none of snapshots. age_s: of the status."""
    yield AGE.of([((), age_s)])
    named = (status.layout.cluster_id, status.launcher, status.durability, status.config_hash)
    yield INFO.of([(named, 1)])
    yield SHARDS.of([((), len(status.layout.shards))])
    yield EPOCH.of([((), status.layout.epoch)])
    yield SERVING.of(((str(s.shard.index), s.health), s.health in GOOD) for s in status.shards)
    if any(s.statistics.HasField("standby_follows") for s in status.shards):
        states = [(str(s.shard.index), s.standby.state or "none") for s in status.shards]
        yield STANDBY.of(((index, state), state == IN_STEP) for index, state in states)
    yield STANDBY_PULLS.of(
        ((str(s.shard.index), outcome), count)
        for s in status.shards
        if s.HasField("standby")
        for outcome, count in (("answered", s.standby.pulls), ("refused", s.standby.refused))
    )
    yield UNFINISHED.of([((), len(status.unfinished))])
    move = status.scaling
    yield MOVING.of([((), status.HasField("scaling"))])
    yield MOVED.of([((), move.rows)])
    yield LEFT.of([((), max(0, move.rows_total - move.rows))])
    if status.HasField("snapshot"):
        yield TAKEN.of([((), status.snapshot.created_s)])
        yield SNAPSHOT_ROWS.of([((), status.snapshot.rows)])
        yield SNAPSHOT_BYTES.of([((), status.snapshot.bytes)])
        yield SNAPSHOT_SECONDS.of([((), status.snapshot.seconds)])
        yield SNAPSHOT_PAUSE.of([((), status.snapshot.pause_s)])
