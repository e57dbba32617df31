"""The end of a snapshot: what the shards have written becomes one."""

from __future__ import annotations

from ...proto.errors import Unavailable, in_words
from ...proto.snapshots.manifest import SnapshotName
from ...proto.snapshots.stored import StoredShard
from ...server.snapshots.commit import commit_snapshot
from ...server.snapshots.target import target_of
from ..control.effects import WriteManifest
from ..control.state import KnownSnapshot


def write_manifest(effect: WriteManifest) -> KnownSnapshot:
    """Perform the effect. Raises Unavailable: the store failed."""
    stored = [StoredShard.from_json(data) for data in effect.stored]
    upon = effect.parent if not all(shard.whole for shard in stored) else None
    try:
        manifest = commit_snapshot(
            target_of(effect.url),
            id=effect.id,
            cluster_name=effect.cluster_name,
            created_s=effect.created_s,
            layout=effect.layout,
            shards=stored,
            tables=sorted(effect.tables, key=lambda entry: entry.number),
            parent=SnapshotName(upon.id, upon.digest) if upon else None,
            extra=effect.extra,
        )
    except OSError as e:
        raise Unavailable(
            f"the snapshot cannot be finished in {effect.url}: {in_words(e)}; there is no new one"
        ) from e
    lsns = [shard.lsn for shard in stored]
    return KnownSnapshot(
        effect.id,
        effect.url,
        effect.layout.epoch,
        lsns,
        effect.created_s,
        manifest.rows,
        manifest.bytes,
        parent=upon.id if upon else "",
        digest=manifest.digest,
    )
