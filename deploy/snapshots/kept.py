"""What a cluster leaves in its storage to go on from: its logs, and the snapshots that only kept them short.

Why it is so. Rows are lost for good only where somebody asked for that: `rowloom down` without `--keep`. Whatever else
ends a coordinator - a signal, a machine that is shut down, an `up` that failed or was interrupted - leaves them.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Sequence

import fsspec

from ...proto.errors import InvalidRequest, RowloomError
from ...proto.snapshots.listing import list_snapshots
from ...proto.snapshots.manifest import MANIFEST
from ..config.config import DeployConfig
from ..config.faults import InvalidConfig
from ..control.state import ClusterState, KnownSnapshot
from ..launch.keeping import drop_logs, has_logs, snapshots_of
from ..storage import StateFile

log = logging.getLogger(__name__)


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


def forget_stored(storage: str | None, layout: str) -> None:
    """Remove all that a cluster which is down could go on from. Raises Unavailable, OSError.

    layout: the folder where its layout is kept.
    """
    file = StateFile(layout)
    with contextlib.suppress(RowloomError):  # a damaged one leads to no logs
        stored = file.load()
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


def forget_begun(storage: str | None, state: ClusterState) -> None:
    """A restore that did not get to its end has left logs that are of no use. Raises OSError."""
    if state.beginning:
        drop_logs(storage, state.beginning)


def check_nothing_kept(storage: str | None, state: ClusterState | None) -> None:
    """Raise InvalidRequest if there is a cluster to go on from, which a new one in its place would pass over."""
    cluster_id = _goes_on(storage, state)
    if cluster_id is not None:
        raise InvalidRequest(
            f"the storage {storage} holds the logs of cluster {cluster_id!r}, which can go on: `rowloom up` "
            "with its config. Nothing was started. That and then `rowloom down` end it for good, with its logs "
            "and those snapshots that only kept them short; or restore under another `name` or `storage`"
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
        listed = list_snapshots(snapshots_of(storage))
    except (RowloomError, OSError) as e:
        log.warning("snapshots that are needed no more stay as long as %s cannot be listed: %s", storage, e)
        return []
    ids = {one.id for one in unwanted}
    needed = {id for one in listed if one.id not in ids for id in one.lineage}
    gone: list[KnownSnapshot] = []
    for one in unwanted:
        if one.id in needed:
            continue
        if not remove_folder(one.url):  # what it was made upon stays too
            break
        gone.append(one)
    return gone


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
