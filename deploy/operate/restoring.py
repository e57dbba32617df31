"""A new cluster from a snapshot, as the command line starts one."""

from __future__ import annotations

from pathlib import Path

from ...proto.errors import InvalidRequest
from ...proto.snapshots.snapshot import StoredSnapshot
from ..config.config import DeployConfig, load, parse
from ..snapshots.kept import goes_with_logs
from .clusters import UP_WAIT_S
from .directory import ClusterDirectory, Record
from .launchers import Restore, Tell, launcher_of
from .left import check_goes_on


def config_for(snapshot: StoredSnapshot, file: Path | None) -> DeployConfig:
    """The config of a file; without one, that of a cluster on this machine like the one that the snapshot is of.

    Raises:
        InvalidConfig.
    """
    if file is not None:
        return load(file)
    manifest = snapshot.manifest
    return parse({"name": manifest.cluster_name, "shards": manifest.layout.n})


def restore(
    config: DeployConfig, wanted: Restore, directory: ClusterDirectory, tell: Tell = lambda text: None
) -> Record:
    """Start a cluster that begins with what a snapshot holds.

    Args:
        config: of the cluster.
        wanted: the snapshot.
        directory: that is to know it.
        tell: what is waited for, while it is.

    Raises:
        InvalidRequest: a cluster of that name runs, or can go on; nothing was changed.
        RowloomError: it failed, and nothing of it is left.
    """
    from ..checks.starting import check_start  # as in `up`

    check_start(config, tell)
    with directory.lock(config.name, UP_WAIT_S, tell):
        known = directory.get(config.name)
        check_goes_on(config, known)
        if known is not None and known.launcher != config.launcher:
            if launcher_of(known.launcher).runs(known, directory):
                raise _runs(config.name, directory, wanted)
            check_goes_on(config, known, ended=True)
            directory.remove(config.name)
        record, found = launcher_of(config.launcher).up(config, directory, tell, wanted)
        if found:
            raise _runs(config.name, directory, wanted)
    return record


def _runs(name: str, directory: ClusterDirectory, wanted: Restore) -> InvalidRequest:
    down = f"`rowloom down{directory.option(name)}`"
    if goes_with_logs(wanted.url):
        ways = (
            f"give that another `name` and `storage`. {down} would remove this snapshot too, which only keeps the logs "
            "of that cluster short"
        )
    else:
        ways = f"give that another `name` and `storage`, or end this one, whose rows are lost then ({down})"
    return InvalidRequest(
        f"cluster {name!r} runs already, and a restore makes a new one: {ways}; nothing was changed"
    )
