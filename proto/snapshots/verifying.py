"""Whether a snapshot is whole: every byte of it and of those that it was made upon."""

from __future__ import annotations

import os
from typing import NamedTuple

import numpy as np

from ..errors import SnapshotCorrupt
from ..spec import TableEntry
from .chain import TableRows, id_twice
from .folder import Scratch
from .snapshot import StoredSnapshot, open_snapshot

_NO_IDS = np.empty(0, np.int64)


class Verified(NamedTuple):
    """What was checked.

    Attributes:
        id: of the snapshot.
        snapshots: it and those that it was made upon.
        files: of all of them.
        bytes: of all of them.
        rows: that the snapshot has.
    """

    id: str
    snapshots: int
    files: int
    bytes: int
    rows: int


def verify(url: str | os.PathLike[str]) -> Verified:
    """Check all of a snapshot, and of those that it was made upon.

    One file is in memory at a time, and the ids of one table on one shard.

    Args:
        url: its folder, as `open_snapshot`.

    Raises:
        SnapshotCorrupt: the first file that is not right; the message names it, the block and its place.
        InvalidRequest: nothing here can read such a URL.
        Unavailable: the store does not answer.
    """
    snapshot = open_snapshot(url)
    files, size = 0, 0
    for depth in range(len(snapshot.links)):
        one = StoredSnapshot(snapshot.links[: depth + 1])
        _check_files(one)
        files += 1 + len(one.manifest.files)
        size += len(one.manifest.to_bytes()) + one.manifest.bytes
        for entry in one.tables.values():
            _check_once(one, entry)
    return Verified(snapshot.id, len(snapshot.links), files, size, snapshot.manifest.rows)


def _check_files(snapshot: StoredSnapshot) -> None:
    """Raise SnapshotCorrupt for the first file of this one that is not right."""
    link, scratch = snapshot.links[-1], Scratch()
    assert snapshot.extra is not None  # reading it checks it
    for shard, entries in ((shard, list(snapshot.tables.values())) for shard in snapshot.manifest.shards):
        for table, entry in zip(shard.tables, entries, strict=True):
            for file in table.files:
                link.check_ids(file, link.block(table, file, scratch).ids, entry.spec, shard.index)
            for file in table.removed:
                link.check_ids(file, link.ids(file), entry.spec, shard.index)
        for _ in snapshot.ledger(shard.index):
            pass


def _check_once(snapshot: StoredSnapshot, entry: TableEntry) -> None:
    """Raise SnapshotCorrupt for an id that two files of a table have, and for a wrong number of rows."""
    for group in snapshot.groups():
        ids = np.concatenate([_NO_IDS, *TableRows(snapshot.links, entry, group).ids()])
        ids.sort()
        if (twice := id_twice(ids)) is not None:
            raise SnapshotCorrupt(
                f"{snapshot.url}: id {twice} of table {entry.spec.name!r} is in two files of a shard"
            )
