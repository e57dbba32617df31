"""The snapshot that a way out may name: the newest one of a cluster that can be restored, as far as its files tell.

The coordinator knows which snapshots were taken, and not what became of their files. So they are looked at, where a way
out is told and not each time that somebody asks for a status: it takes a listing for each snapshot.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import Any

from ...proto.errors import RowloomError
from ...proto.snapshots.folder import SnapshotFolder
from ...proto.snapshots.listing import ListedSnapshot
from ..operate.status import in_time
from .named import snapshots_in

LOOK_S = 10.0  # for a store that does not answer; what the coordinator knows is told then


@dataclass(frozen=True)
class SnapshotsSeen:
    """What was found beside a snapshot.

    Attributes:
        folder: where they are.
        listed: the snapshots there.
    """

    folder: str
    listed: tuple[ListedSnapshot, ...]

    def best(self, cluster_id: str) -> ListedSnapshot | None:
        """The newest that can be restored: of that cluster, or else of one before it; None: there is none."""
        good = [one for one in self.listed if one.manifest is not None and not one.problem]
        own = [one for one in good if one.manifest is not None and one.manifest.cluster_id == cluster_id]
        return (own or good or [None])[-1]

    def why_not(self, url: str) -> str:
        """In words, why a snapshot cannot be restored; empty: nothing is known against it."""
        return next((one.problem for one in self.listed if one.url == url), "it is not there")


def restore_in_words(state: dict[str, Any]) -> str:
    """A way out with a snapshot; empty: there was none.

    state: a `summary`.
    """
    newest = state["snapshot"] or state.get("earlier_snapshot")
    if newest is None:
        return ""
    look = looked_beside(newest["url"])
    if look is None:
        whose = "" if state["snapshot"] else " of the cluster before this one"
        unseen = f"{whose}, {in_time(newest['age_s'])} old (its files cannot be looked at from here)"
        return _begins(newest["url"], f"the newest snapshot{unseen}", state)
    best = look.best(state["cluster_id"])
    if best is None or best.manifest is None:
        why = look.why_not(newest["url"])
        return f"no snapshot can be restored ({newest['id']}: {why}; `rowloom snapshots {look.folder}` lists all)"
    which = "the newest snapshot"
    if best.url != newest["url"]:
        which += " that can be read"
        if why := look.why_not(newest["url"]):
            which += f" ({newest['id']}: {why})"
    whose = "" if best.manifest.cluster_id == state["cluster_id"] else " of a cluster before this one"
    age = in_time(max(0.0, time.time() - best.manifest.created_s))
    return _begins(best.url, f"{which}{whose}, {age} old", state)


def _begins(url: str, which: str, state: dict[str, Any]) -> str:
    said = (
        f"`rowloom restore {url} CONFIG`, with another `name` and `storage` in CONFIG, starts a cluster beside this "
        f"one from {which}, without what was pushed after it"
    )
    if state["durability"] == "memory":
        return said
    return (
        f"{said}; with `--until 1s` also with what the logs have: where one is damaged, that is refused and names the "
        "last records that can be had, for `--until` again"
    )


def looked_beside(url: str) -> SnapshotsSeen | None:
    """The snapshots beside one, with their files; None: they cannot be seen from here, or not in time."""
    found: list[SnapshotsSeen] = []
    looker = threading.Thread(
        target=lambda: found.extend(_looked(url)), name="rowloom-snapshots", daemon=True
    )
    looker.start()
    looker.join(LOOK_S)
    return found[0] if found else None


def _looked(url: str) -> list[SnapshotsSeen]:
    try:
        folder = SnapshotFolder(SnapshotFolder(url).beside("").url)
        listed = snapshots_in(folder.url)
        away = not listed and folder.beside("").absent()  # a storage that this machine does not see
    except RowloomError:
        return []
    return [] if away else [SnapshotsSeen(folder.url, listed)]
