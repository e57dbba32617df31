"""Snapshots as a trainer sees them: one that was taken, and one that is read without a cluster."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..proto.errors import InvalidRequest
from ..proto.snapshots import snapshot as stored
from ..proto.snapshots.folder import Scratch
from ..proto.snapshots.listing import list_snapshots
from ..proto.snapshots.verifying import Verified, verify
from ..proto.spec import TableSpec
from .attached import is_attached


@dataclass(frozen=True)
class Snapshot:
    """A snapshot of the whole cluster; made by `Client.snapshot`.

    Attributes:
        id: its name.
        path: its folder or URL, as `open_snapshot` takes it.
        seconds: from its beginning until it was whole.
        pause_s: for which pushes waited.
        rows: that existed, of all tables.
        bytes: that were written.
        parent: id of the snapshot that it was made upon, whose unchanged rows it does not repeat; None: it is whole by
            itself.
        extra: what was kept with it.
    """

    id: str
    path: str
    seconds: float
    pause_s: float
    rows: int
    bytes: int
    parent: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict[str, Any], repr=False)


class SnapshotReader:
    """A snapshot in storage; made by `open_snapshot`. Everything that is read of it is checked.

    Attributes:
        id: its name.
        path: its folder or URL.
        parent: id of the snapshot that it was made upon; None: it is whole by itself.
        created_s: when it was taken, in seconds since 1970, UTC.
        tables: their specs, by name.
    """

    def __init__(self, opened: stored.StoredSnapshot) -> None:
        self._stored = opened
        self.id = opened.id
        self.path = opened.url
        self.parent = opened.manifest.parent.id if opened.manifest.parent else None
        self.created_s = opened.manifest.created_s
        self.tables: Mapping[str, TableSpec] = {name: entry.spec for name, entry in opened.tables.items()}

    def __repr__(self) -> str:
        return f"<SnapshotReader {self.path} tables={len(self.tables)} rows={self._stored.manifest.rows}>"

    def rows(self, name: str) -> tuple[np.ndarray, np.ndarray, tuple[np.ndarray, ...]]:
        """The rows of a table that exist, all of them in memory, in no order that means something.

        Args:
            name: of the table.

        Returns:
            (ids [N] int64, each once; values [N, *row_shape] float32; for each slot of the optimizer [N, its columns]
            float32).

        Raises:
            TableNotFound: there is no such table; the message has those that there are.
            SnapshotCorrupt: a file is missing or damaged; the message names it and the place.
            Unavailable: the store does not answer.
        """
        spec, count = self._stored.table(name).spec, self._stored.rows(name)
        ids, values = np.empty(count, np.int64), np.empty((count, spec.width), np.float32)
        slots = [np.empty((count, width), np.float32) for width in spec.optimizer.slot_widths(spec.width)]
        done = 0
        for block in self._stored.read(name, scratch=Scratch()):
            here = slice(done, done + len(block.ids))
            if here.stop > count:
                break  # of what is wrong, the reader says more
            for mine, theirs in zip(
                (ids, values, *slots), (block.ids, block.values, *block.slots), strict=True
            ):
                mine[here] = theirs
            done = here.stop
        return ids, values.reshape(count, *spec.row_shape), tuple(slots)

    @property
    def extra(self) -> dict[str, Any]:
        """What was given to `Client.snapshot` to be kept with it. Raises SnapshotCorrupt, Unavailable."""
        return self._stored.extra

    def verify(self) -> Verified:
        """Check every byte of it, and of those that it was made upon.

        Returns:
            What was checked: snapshots, files, bytes, rows.

        Raises:
            SnapshotCorrupt: the first file that is not right; the message names it, the block and its place.
            Unavailable: the store does not answer.
        """
        return verify(self.path)


def open_snapshot(path: str | os.PathLike[str]) -> SnapshotReader:
    """Read a snapshot, without a cluster. Those that it was made upon must lie beside it.

    Args:
        path: its folder: a path, or a URL of any protocol that fsspec knows.

    Raises:
        SnapshotCorrupt: it is not there, was never finished, is damaged, or of a newer format.
        InvalidRequest: nothing here can read such a URL.
        Unavailable: the store does not answer.

    Example:
        >>> from rowloom.client import open_snapshot
        >>> open_snapshot("/nowhere/at-all")
        Traceback (most recent call last):
        rowloom.proto.errors.SnapshotCorrupt: /nowhere/at-all does not exist
    """
    return SnapshotReader(stored.open_snapshot(path))


def newest_snapshot(folder: str | os.PathLike[str], having: str = "") -> str | None:
    """The newest snapshot in a folder that can be used; its files are not looked at.

    Args:
        folder: that has the snapshots' folders, such as `storage`/snapshots: a path or a URL.
        having: a key of its `extra`: snapshots that others took, or the cluster for its logs, are passed over.

    Returns:
        Its path, as `restore=` and `open_snapshot` take it; None: there is none, or no such folder.

    Raises:
        Unavailable: the store does not answer.

    Example:
        >>> from rowloom.client import newest_snapshot
        >>> newest_snapshot("/nowhere/at-all") is None
        True
    """
    try:
        listed = list_snapshots(folder)
    except InvalidRequest:
        return None
    for one in reversed(listed):
        if one.manifest is not None and not one.problem and (not having or _has(one.url, having)):
            return one.url
    return None


def _has(url: str, key: str) -> bool:
    """Whether its `extra` has that key, and what belongs to it is there: a checkpoint may have a file of its own."""
    extra = open_snapshot(url).extra
    return key in extra and all(is_attached(url, value) for value in extra.values())
