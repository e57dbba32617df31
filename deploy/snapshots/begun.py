"""Folders of snapshots that were begun: of those that did not become one, what is left is removed.

Why it is so. What must hold: nothing goes that is a snapshot, or that somebody else writes. A folder without a manifest
does not say whose it is: it may be a copy that somebody makes, or what `restore --until` makes. So folders are not
looked for: each is noted in the storage before it is begun, with the cluster that begins it, and a coordinator that
starts anew reads that.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Collection
from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from ...proto.atomic_file import write_atomic
from ...proto.errors import in_words
from ...proto.snapshots.folder import SnapshotFolder
from ...proto.snapshots.manifest import MANIFEST
from ...proto.spec import NAME
from ..launch.keeping import snapshots_of
from .removing import remove_folder

log = logging.getLogger(__name__)
FILE = "begun.json"  # in the storage, as long as there may be something to remove


class BegunSnapshots:
    """Ids of those of one cluster. Whoever uses it is alone with the cluster.

    What cannot be noted or read is logged, and fails nothing.

    Args:
        storage: the cluster's.
    """

    def __init__(self, storage: str) -> None:
        self._storage = storage
        self._cluster_id = ""  # whose are known here
        self._whose = ""  # of which cluster storage has them
        self._ids: list[str] = []
        self._noted: list[str] = []  # of them, what storage says

    def begin(self, cluster_id: str, id: str) -> str:
        """A snapshot is begun; this is noted first. Returns the URL of its folder."""
        if cluster_id != self._cluster_id:
            self._cluster_id, self._ids = cluster_id, self._left_by(cluster_id)
        self._ids.append(id)
        self._note()
        return self._url(id)

    def clear(self, known: Collection[str], *, again: bool = False) -> None:
        """Remove what is left of those that did not become snapshots; none is under way.

        Args:
            known: ids of those that did.
            again: once more the next time, as shards may yet write.
        """
        left = [id for id in self._ids if id not in known]
        stay = [id for id in left if not remove_folder(self._url(id))]
        self._ids = left if again else stay
        self._note()

    def forget(self, cluster_id: str) -> None:
        """A cluster has ended for good: what is left of those that it began goes, and nothing of another one."""
        self._cluster_id, self._ids = cluster_id, self._left_by(cluster_id)
        if self._whose == cluster_id:
            self.clear(())

    def _url(self, id: str) -> str:
        return f"{snapshots_of(self._storage)}/{id}"

    def _left_by(self, cluster_id: str) -> list[str]:
        """What an earlier coordinator of a cluster began, and is no snapshot. It may not have listed one that is."""
        try:
            fs, path = self._file()
            said: Any = json.loads(fs.cat_file(path) if fs.exists(path) else "{}")
            self._noted, self._whose = [str(id) for id in said.get("ids", ())], said.get("cluster_id", "")
            mine = [id for id in self._noted if said["cluster_id"] == cluster_id and NAME.fullmatch(id)]
            return [id for id in mine if SnapshotFolder(self._url(id)).size(MANIFEST) is None]
        except Exception as e:  # stores raise errors of their own
            log.warning(
                "not known which snapshots were begun before, so what is left of them stays: %s", in_words(e)
            )
            return []

    def _note(self) -> None:
        """Have storage say what is known here."""
        if self._ids == self._noted:
            return
        try:
            fs, path = self._file()
            text = json.dumps({"cluster_id": self._cluster_id, "ids": self._ids})
            if not self._ids:
                fs.rm_file(path)
            elif isinstance(fs, LocalFileSystem):
                write_atomic(Path(path), text)
            else:
                fs.pipe_file(path, text.encode())
            self._noted = list(self._ids)
        except Exception as e:  # stores raise errors of their own
            log.warning(
                "not noted which snapshots were begun: if this coordinator ends, what is left stays: %s",
                in_words(e),
            )

    def _file(self) -> tuple[Any, str]:
        fs, path = fsspec.core.url_to_fs(f"{self._storage.rstrip('/')}/{FILE}")  # pyright: ignore[reportUnknownVariableType]
        fs.invalidate_cache()
        return fs, str(path)  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
