"""A shard's part of a snapshot, back in an empty shard."""

from __future__ import annotations

from ...proto.errors import SnapshotCorrupt
from ...proto.snapshots.snapshot import StoredSnapshot
from ..shard import Shard


def load_shard(snapshot: StoredSnapshot, shard: Shard) -> int:
    """Make a shard what it was at the cut. It has the snapshot's layout: epoch, number of shards, index.

    Returns:
        The last record of the shard's log that is in the snapshot.

    Raises:
        SnapshotCorrupt, Unavailable: it cannot be read; the shard is of no use any more.
    """
    there = snapshot.layout
    if (there.cluster_id, there.epoch, there.n) != (
        shard.layout.cluster_id,
        shard.layout.epoch,
        shard.layout.n,
    ):
        raise SnapshotCorrupt(
            f"{snapshot.url} is of epoch {there.epoch} of cluster {there.cluster_id!r} with {there.n} shards, not of "
            f"epoch {shard.layout.epoch} of {shard.layout.cluster_id!r} with {shard.layout.n}"
        )
    stored = snapshot.manifest.shards[shard.index]
    shard.generation = stored.generation + 1
    shard.cuts[snapshot.id] = stored.generation  # what changes from now on, or in a log, has a later mark
    for (name, entry), kept in zip(snapshot.tables.items(), stored.tables, strict=True):
        shard.create_table(entry)
        table = shard.table(entry.number)
        table.track(stored.generation)
        for block in snapshot.read(name, shard=shard.index):
            table.check_ids(block.ids)
            table.install(block.ids, block.values, list(block.slots), block.touched)
        if len(table) != kept.rows:
            raise SnapshotCorrupt(
                f"{snapshot.url}: table {name!r} has {kept.rows} rows on shard {shard.index}, but {len(table)} ids: "
                f"some are there twice; `rowloom verify {snapshot.url}` names one"
            )
        table.step = kept.step
    for piece in snapshot.ledger(shard.index):
        shard.ledger.merge(piece)
    shard.ledger.settle()
    return stored.lsn
