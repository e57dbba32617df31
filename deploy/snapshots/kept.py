"""What a cluster leaves in its storage to go on from: its logs, and the snapshots that only kept them short.

Why it is so. Rows are lost for good only where somebody asked for that: `rowloom down` without `--keep`. Whatever else
ends a coordinator - a signal, a machine that is shut down, an `up` that failed or was interrupted - leaves them.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Collection, Sequence

from ...proto.errors import InvalidRequest, RowloomError
from ...proto.snapshots.folder import SnapshotFolder
from ...proto.snapshots.listing import list_snapshots
from ..config.config import DeployConfig
from ..config.faults import InvalidConfig
from ..config.words import listed
from ..control.state import ClusterState, KnownSnapshot
from ..launch.keeping import any_logs, drop_logs, has_logs, lost_logs, snapshots_of
from ..storage import StateFile
from .begun import BegunSnapshots
from .removing import remove_folder

log = logging.getLogger(__name__)

MOST_NAMED = 3  # folders of old logs in one message


def has_kept(storage: str | None) -> bool:
    """Whether a cluster has left something to go on from. Raises RowloomError: the storage cannot be read."""
    return kept_by(storage) != ""


def kept_by(storage: str | None) -> str:
    """The id of the cluster that `up` would go on with; empty: there is none. Raises RowloomError, as `has_kept`."""
    return _goes_on(storage, StateFile(storage).load()) or ""


def goes_on(config: DeployConfig) -> bool:
    """Whether there is a cluster to go on with. Raises InvalidConfig: there is, and its rows would be passed over."""
    kept = has_kept(config.storage)
    if kept and config.durability == "memory":
        raise InvalidConfig(
            f"the storage {config.storage} holds the logs of a cluster {config.name!r} that can go on: say the "
            f"`durability` that it had. To end it for good, bring it up so, then `rowloom down --name {config.name}`"
        )
    return kept


def id_of_another(file: StateFile, cluster_id: str) -> str:
    """The id of another cluster whose layout a storage holds, as below a disk that is not mounted; else empty.

    cluster_id: of the one whose storage it is; empty: that is not known.
    """
    stored = None
    with contextlib.suppress(RowloomError):
        stored = file.load()
    there = stored.layout.cluster_id if stored is not None and stored.layout is not None else ""
    return there if cluster_id and there != cluster_id else ""


def forget_stored(storage: str | None, layout: str, cluster_id: str = "") -> None:
    """Remove all that a cluster which is down could go on from.

    Args:
        storage: the cluster's.
        layout: the folder where its layout is kept.
        cluster_id: its id: what is there of another one stays; empty: that is not known.

    Raises:
        BadState: its state is damaged, and there are logs: whose they are is not known, so they stay.
        Unavailable, OSError: it cannot be removed.
    """
    file = StateFile(layout)
    if id_of_another(file, cluster_id):
        return
    try:
        stored = file.load()
    except RowloomError:
        if any_logs(storage):
            raise
        stored = None
    if stored is not None:
        forget_kept(storage, stored)
    file.clear()


def forget_kept(storage: str | None, state: ClusterState) -> None:
    """Nobody will go on from what a cluster has left. Raises OSError."""
    if state.layout is not None:
        drop_logs(storage, state.layout.cluster_id)
    forget_begun(storage, state)
    short = [one for one in reversed(state.snapshots) if one.automatic]
    if short and storage is not None:
        remove_snapshots(storage, short)
    if storage is not None and state.layout is not None:
        BegunSnapshots(storage).forget(state.layout.cluster_id)


def forget_begun(storage: str | None, state: ClusterState) -> None:
    """A restore that did not get to its end has left logs that are of no use. Raises OSError."""
    if state.beginning:
        drop_logs(storage, state.beginning)


def going_with_logs(storage: str) -> list[str]:
    """Ids of the snapshots, oldest first, that `rowloom down` removes with the logs that they keep short.

    Not one that another was made upon which stays. Raises RowloomError: the storage cannot be read.
    """
    state = StateFile(storage).load()
    short = [one.id for one in state.snapshots if one.automatic] if state is not None else []
    needed = _needed_beside(storage, short) if short else frozenset[str]()
    return [one for one in short if one not in needed]


def going_of(folder: str) -> frozenset[str]:
    """Ids of those in a folder of snapshots; none where nobody can say."""
    with contextlib.suppress(RowloomError, OSError):
        return frozenset(going_with_logs(SnapshotFolder(folder).beside("").url.rstrip("/")))
    return frozenset()


def goes_with_logs(url: str) -> bool:
    """Whether a snapshot is one of those."""
    folder = SnapshotFolder(url)
    return folder.url.rpartition("/")[2] in going_of(folder.beside("").url.rstrip("/"))


def known_going(storage: str) -> list[str]:
    """Ids of those, oldest first; empty: none, or nobody can say."""
    with contextlib.suppress(RowloomError, OSError):
        return going_with_logs(storage)
    return []


def known_old_logs(storage: str) -> list[str]:
    """Folders of the logs whose loss `rowloom recover` accepted, which go too; empty: none, or nobody can say."""
    with contextlib.suppress(RowloomError, OSError):
        id = kept_by(storage)
        return sorted(lost_logs(storage, id)) if id else []
    return []


def going_in_words(storage: str) -> str:
    """All that goes with the logs of the rows; empty: nothing, or nobody can say."""
    return also_named(known_going(storage), known_old_logs(storage))


def also_named(snapshots: Sequence[str], old_logs: Sequence[str]) -> str:
    """Of what goes with the logs of the rows: what it is, and how many."""
    return " and ".join(filter(None, (going_named(snapshots), old_logs_named(old_logs))))


def old_logs_named(folders: Sequence[str]) -> str:
    """Of logs that `rowloom recover` put aside, how many they are, and where."""
    if not folders:
        return ""
    if len(folders) == 1:
        return f"1 old log that `rowloom recover` put aside ({folders[0]})"
    where = listed(folders) if len(folders) <= MOST_NAMED else f"the first: {folders[0]}"
    return f"{len(folders)} old logs that `rowloom recover` put aside ({where})"


def going_named(ids: Sequence[str]) -> str:
    """Of snapshots that go with the logs, how many they are, and the newest."""
    if not ids:
        return ""
    if len(ids) == 1:
        return f"1 snapshot that only keeps its logs short ({ids[0]})"
    return f"{len(ids)} snapshots that only keep its logs short (the newest: {ids[-1]})"


def _needed_beside(storage: str, unwanted: Collection[str]) -> frozenset[str]:
    """Ids of what other snapshots in a storage than these were made upon. Raises RowloomError, OSError."""
    listed = list_snapshots(snapshots_of(storage))
    return frozenset(id for one in listed if one.id not in unwanted for id in one.lineage)


def check_nothing_kept(storage: str | None, state: ClusterState | None) -> None:
    """Raise InvalidRequest if there is a cluster to go on from, which a new one in its place would pass over."""
    if state is None or _goes_on(storage, state) is None:
        return
    short = going_named(known_going(storage)) if storage is not None else ""
    also = f", with its logs and {short}: none of them can be restored then" if short else ""
    down = f"`rowloom down --name {state.name} --yes`"
    raise InvalidRequest(
        f"the storage {storage} holds the logs of cluster {state.name!r}, which can go on, by `rowloom up` with its "
        f"config. Nothing was started. To go back to the snapshot in its place: {down} ends it, and its rows since the "
        f"snapshot are lost{also}; then this `rowloom restore` again. If no cluster of that name is known here, "
        "`rowloom up` first makes it known. Under another `name` and `storage` a restore leaves it as it is"
    )


def _goes_on(storage: str | None, state: ClusterState | None) -> str | None:
    """The id of the cluster that `rowloom up` would go on with; None: there is none."""
    layout = state.layout if state is not None else None
    return layout.cluster_id if layout is not None and has_logs(storage, layout.cluster_id) else None


def remove_snapshots(storage: str, unwanted: Sequence[KnownSnapshot]) -> list[KnownSnapshot]:
    """Remove those that no other snapshot in storage was made upon. Returns the ones that are gone.

    Args:
        storage: the cluster's.
        unwanted: what is made upon another one stands before it.
    """
    try:
        needed = _needed_beside(storage, {one.id for one in unwanted})
    except (RowloomError, OSError) as e:
        log.warning("snapshots that are needed no more stay as long as %s cannot be listed: %s", storage, e)
        return []
    gone: list[KnownSnapshot] = []
    for one in unwanted:
        if one.id in needed:
            continue
        if not remove_folder(one.url):  # what it was made upon stays too
            break
        gone.append(one)
    return gone
