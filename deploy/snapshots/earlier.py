"""What a cluster that begins without rows passes over: the snapshots that its storage has of clusters before it.

A cluster goes on from its logs by itself, and from a snapshot only where somebody asks for that: `rowloom restore`. So
whoever expects the rows of yesterday has to hear that they are there, and that they were not taken.
"""

from __future__ import annotations

import contextlib
import shlex
from dataclasses import dataclass

from ...proto.errors import RowloomError
from ...proto.snapshots.manifest import Manifest
from ..config.words import counted
from ..launch.keeping import snapshots_of
from .kept import kept_by
from .moments import in_words
from .named import snapshots_in


@dataclass(frozen=True)
class EarlierSnapshots:
    """Those in a storage that can be restored.

    Attributes:
        storage: where they are.
        count: how many there are.
        url: of the newest.
        newest: its manifest.
    """

    storage: str
    count: int
    url: str
    newest: Manifest

    def __str__(self) -> str:
        """What there is, in words."""
        newest = self.newest
        of = f"of {newest.cluster_name!r} at {in_words(newest.created_s)}, {newest.rows:,} rows"
        return f"{self.storage} has {counted(self.count, 'snapshot')}, the newest {newest.id} {of}"

    def before_start(self, file: str) -> tuple[str, str]:
        """What an `up` would pass over, and what to do in its place. file: the config of the cluster."""
        return (
            f"{self}; `rowloom up` begins at initial values",
            f"`{self._restore(file)}` begins with those rows",
        )

    def after_start(self, options: str, file: str) -> str:
        """The same of a cluster that is up. options: of commands that mean it."""
        ways = f"`rowloom down{options}`, then `{self._restore(file)}`"
        return f"IT BEGINS AT INITIAL VALUES, and {self}. To begin with those rows: {ways}"

    def _restore(self, file: str) -> str:
        return f"rowloom restore {shlex.quote(self.url)} {shlex.quote(file)}"

    def to_json(self) -> dict[str, object]:
        """For programs."""
        newest = self.newest
        shown = {"id": newest.id, "url": self.url, "created_s": newest.created_s, "rows": newest.rows}
        return {"count": self.count, "newest": shown}


def earlier_in(storage: str | None, cluster_id: str = "") -> EarlierSnapshots | None:
    """Those of other clusters than one; None: there are none, or no storage. Raises RowloomError: it cannot be read."""
    if storage is None:
        return None
    found = [
        (one.url, one.manifest)
        for one in snapshots_in(snapshots_of(storage))
        if one.manifest is not None and not one.problem and one.manifest.cluster_id != cluster_id
    ]
    return EarlierSnapshots(storage, len(found), *found[-1]) if found else None


def passed_over(storage: str | None) -> EarlierSnapshots | None:
    """What an `up` there would leave where it is; None: nothing, as far as is known, or it would go on from logs."""
    with contextlib.suppress(RowloomError):  # who starts the cluster says what is wrong with its storage
        return None if kept_by(storage) else earlier_in(storage)
    return None
