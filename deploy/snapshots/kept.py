"""What a cluster leaves in its storage to go on from: its logs, and the snapshots that only kept them short.

Why it is so. Rows are lost for good only where somebody asked for that: `rowloom down` without `--keep`. Whatever else
ends a coordinator - a signal, a machine that is shut down, an `up` that failed or was interrupted - leaves them.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

import fsspec

from ..control.state import ClusterState, KnownSnapshot
from ..launch.keeping import drop_logs

log = logging.getLogger(__name__)


def forget_kept(storage: str | None, state: ClusterState) -> None:
    """Nobody will go on from what a cluster has left. Raises OSError."""
    if state.layout is not None:
        drop_logs(storage, state.layout.cluster_id)
    remove_automatic(state.snapshots)


def remove_automatic(snapshots: Iterable[KnownSnapshot]) -> None:
    """Remove those that only kept logs short; the others are their owner's."""
    for one in snapshots:
        if not one.automatic:
            continue
        try:
            fs, path = fsspec.core.url_to_fs(one.url)  # pyright: ignore[reportUnknownVariableType]
            fs.rm(path, recursive=True)
        except Exception as e:  # stores raise errors of their own
            log.warning("snapshot %s is needed no more and could not be removed: %s", one.url, e)
