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
        problem: why it cannot be used, in words; empty if nothing is known against it. No file but manifests is read.
    """

    url: str
    manifest: Manifest | None = None
    lineage: tuple[str, ...] = ()
    problem: str = ""

    @property
    def id(self) -> str:
        """Its name."""
        return self.manifest.id if self.manifest else self.url.rsplit("/", 1)[-1]


def list_snapshots(url: str | os.PathLike[str], *, files: bool = False) -> tuple[ListedSnapshot, ...]:
    """The snapshots in a folder, the oldest first, those that cannot be read at the end.

    Args:
        url: the folder that has their folders: a path, or a URL of any protocol that fsspec knows.
        files: look whether the files of each are there, in their sizes: one more listing for each. None is read.

    Raises:
        InvalidRequest: there is no such folder.
        Unavailable: the store does not answer.
    """
    above = SnapshotFolder(url)
    found = {name: _listed(above.below(name), files) for name in above.folders()}
    listed = [_with_lineage(name, found) for name in found]
    return tuple(
        sorted(listed, key=lambda one: (one.manifest is None, one.manifest.created_s if one.manifest else 0))
    )


def _listed(folder: SnapshotFolder, files: bool) -> ListedSnapshot:
    try:
        manifest = manifest_in(folder)
    except SnapshotCorrupt as e:
        return ListedSnapshot(folder.url, problem=str(e))
    if manifest is None:
        return ListedSnapshot(folder.url, problem=f"unfinished: it has no {MANIFEST}")
    return ListedSnapshot(folder.url, manifest, problem=_damage(folder, manifest) if files else "")


def _damage(folder: SnapshotFolder, manifest: Manifest) -> str:
    """In words, what of a snapshot's files is missing or of another size; empty: nothing."""
    sizes = folder.sizes()
    wrong = [file for file in manifest.files if sizes.get(file.name) != file.bytes]
    if not wrong:
        return ""
    first, size = wrong[0], sizes.get(wrong[0].name)
    what = "is missing" if size is None else f"has {size} bytes, not {first.bytes}"
    more = f", and {len(wrong) - 1} more of its files are missing or of another size" if wrong[1:] else ""
    return f"damaged: {first.name} {what}{more}"


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
        if parent.problem and not one.problem:
            one = one._replace(problem=f"snapshot {below.id}, which it needs, is {parent.problem}")
    return one._replace(lineage=tuple(lineage))
