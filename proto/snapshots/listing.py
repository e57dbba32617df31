"""The snapshots in a folder: when each was made, how large it is, and upon which others."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import NamedTuple

from ..errors import SnapshotCorrupt
from .chain import manifest_in
from .folder import SnapshotFolder
from .manifest import MANIFEST, Manifest


class ListedSnapshot(NamedTuple):
    """A folder that holds a snapshot, or part of one.

    Attributes:
        url: the folder.
        manifest: None: there is none that can be read.
        lineage: ids of the snapshots that it needs and itself, oldest first.
        problem: why it cannot be used, in words; empty if nothing is known against it. Its files are not looked at.
    """

    url: str
    manifest: Manifest | None = None
    lineage: tuple[str, ...] = ()
    problem: str = ""

    @property
    def id(self) -> str:
        """Its name."""
        return self.manifest.id if self.manifest else self.url.rsplit("/", 1)[-1]


def list_snapshots(url: str | os.PathLike[str]) -> tuple[ListedSnapshot, ...]:
    """The snapshots in a folder, the oldest first, those that cannot be read at the end.

    Args:
        url: the folder that has their folders: a path, or a URL of any protocol that fsspec knows.

    Raises:
        InvalidRequest: there is no such folder.
        Unavailable: the store does not answer.
    """
    above = SnapshotFolder(url)
    found = {name: _listed(above.below(name)) for name in above.folders()}
    listed = [_with_lineage(name, found) for name in found]
    return tuple(
        sorted(listed, key=lambda one: (one.manifest is None, one.manifest.created_s if one.manifest else 0))
    )


def _listed(folder: SnapshotFolder) -> ListedSnapshot:
    try:
        manifest = manifest_in(folder)
    except SnapshotCorrupt as e:
        return ListedSnapshot(folder.url, problem=str(e))
    problem = "" if manifest else f"unfinished: it has no {MANIFEST}"
    return ListedSnapshot(folder.url, manifest, problem=problem)


def _with_lineage(name: str, found: Mapping[str, ListedSnapshot]) -> ListedSnapshot:
    """The same, and which others it needs."""
    one = found[name]
    if one.manifest is None:
        return one
    lineage, below = [one.manifest.id], one.manifest
    while below.parent is not None and below.parent.id not in lineage:
        lineage.insert(0, below.parent.id)
        parent = found.get(below.parent.id)
        if parent is None or parent.manifest is None or parent.manifest.name != below.parent:
            return one._replace(
                lineage=tuple(lineage),
                problem=f"snapshot {below.parent.id}, which it needs, is not there as it was",
            )
        below = parent.manifest
    return one._replace(lineage=tuple(lineage))
