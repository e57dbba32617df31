"""Removes a snapshot, or what there is of one."""

from __future__ import annotations

import logging

import fsspec

from ...proto.snapshots.manifest import MANIFEST

log = logging.getLogger(__name__)


def remove_folder(url: str) -> bool:
    """Remove a snapshot, or what there is of one. Returns whether it is gone.

    Its manifest goes first: what is left of one that could not be removed whole is none.
    """
    try:
        fs, path = fsspec.core.url_to_fs(url)  # pyright: ignore[reportUnknownVariableType]
        fs.invalidate_cache()
        if fs.exists(f"{path}/{MANIFEST}"):
            fs.rm_file(f"{path}/{MANIFEST}")
        if fs.exists(path):
            fs.rm(path, recursive=True)
    except Exception as e:  # stores raise errors of their own
        log.warning("snapshot %s is needed no more and could not be removed: %s", url, e)
        return False
    return True
