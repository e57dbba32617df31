"""Whether a snapshot is whole: every byte of it and of those that it was made upon."""

from __future__ import annotations

import os
from typing import NamedTuple

import numpy as np

from ..errors import SnapshotCorrupt
from ..layout import owner
from ..spec import TableEntry
from .chain import Link
from .folder import Scratch
from .snapshot import StoredSnapshot, open_snapshot
from .stored import StoredFile


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
    """Check all of a snapshot, and of those that it was made upon. One file is in memory at a time.

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
        for name in one.tables:
            for _ in one.ids(name):  # their number is checked at the end
                pass
    return Verified(snapshot.id, len(snapshot.links), files, size, snapshot.manifest.rows)


def _check_files(snapshot: StoredSnapshot) -> None:
    """Raise SnapshotCorrupt for the first file of this one that is not right."""
    link, scratch = snapshot.links[-1], Scratch()
    assert snapshot.extra is not None  # reading it checks it
    for shard, entries in ((shard, list(snapshot.tables.values())) for shard in snapshot.manifest.shards):
        for table, entry in zip(shard.tables, entries, strict=True):
            for file in table.files:
                _check_ids(link, file, link.block(table, file, scratch).ids, entry, shard.index)
            for file in table.removed:
                _check_ids(link, file, link.ids(file), entry, shard.index)
        for _ in snapshot.ledger(shard.index):
            pass


def _check_ids(link: Link, file: StoredFile, ids: np.ndarray, entry: TableEntry, shard: int) -> None:
    """Raise SnapshotCorrupt for an id that cannot be in this file. ids: [N] int64."""
    where = link.folder.file(file.name)
    wrong = (ids < 0) | (ids.astype(np.uint64) >= np.uint64(entry.spec.id_limit))
    if wrong.any():
        k = int(wrong.argmax())
        raise SnapshotCorrupt(
            f"{where}: row {k} has id {ids[k]}, ids of {entry.spec.name!r} are below {entry.spec.id_limit}"
        )
    strange = owner(entry.spec, ids, link.manifest.layout.n) != shard
    if strange.any():
        k = int(strange.argmax())
        raise SnapshotCorrupt(f"{where}: row {k} has id {ids[k]}, which shard {shard} does not own")
    ordered = np.sort(ids)
    twice = ordered[1:][ordered[1:] == ordered[:-1]]
    if len(twice):
        raise SnapshotCorrupt(f"{where}: id {twice[0]} is there twice")
