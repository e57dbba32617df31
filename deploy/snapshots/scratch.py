"""Where the increment of a point in time lies while it is wanted: beside its snapshot, or on the new cluster's disk.

An increment is read with what it was made upon, which lies beside it. On another disk links stand for those.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
from collections.abc import Generator
from pathlib import Path

from ...proto.snapshots.chain import links_of
from ...proto.snapshots.folder import SnapshotFolder
from ..config.storage_url import storage_folder

PREFIX = "until-"  # of what is there for a while


@contextlib.contextmanager
def folder_for_increment(url: str, storage: str | None) -> Generator[str]:
    """A folder in which an increment upon a snapshot can be made, while the block runs.

    Where the new cluster's storage is on another disk it is there: a cluster is restored elsewhere because the disk of
    the old one is full, or fails.

    Args:
        url: of the snapshot.
        storage: of the new cluster; None: it has none.

    Raises:
        RowloomError: the snapshot cannot be read.
        OSError: the folder cannot be made.
    """
    source, target = storage_folder(url), storage_folder(storage)
    if source is None or target is None or _disk_of(source) == _disk_of(target):
        yield SnapshotFolder(url).beside("").url
        return
    made = not os.path.isdir(target)
    folder = Path(target, f"{PREFIX}{random.SystemRandom().getrandbits(32):08x}")
    try:
        folder.mkdir(parents=True)
        for link in links_of(SnapshotFolder(url)):
            (folder / link.manifest.id).symlink_to(link.folder.url, target_is_directory=True)
        yield str(folder.absolute())
    finally:
        shutil.rmtree(folder, ignore_errors=True)  # of links only themselves
        if made:
            with contextlib.suppress(OSError):  # the new cluster is there
                os.rmdir(target)


def _disk_of(folder: str) -> int:
    """The disk that a folder is on, or would be."""
    path = Path(folder).absolute()
    return next(place.stat().st_dev for place in (path, *path.parents) if place.is_dir())
