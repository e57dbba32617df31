"""What lies where in the folder of a cluster on this machine, for its coordinator and for the commands that look."""

from __future__ import annotations

import contextlib
import fcntl
from pathlib import Path

from ...proto.atomic_file import write_atomic
from ...proto.errors import RowloomError, Unavailable
from ..config.config import DeployConfig, from_json
from ..control.state import BadState, ClusterState
from ..storage import StateFile
from .shard_folder import KnownServer, ShardFolder
from .staying_launcher import StayingLauncher


class StrangeShards(Unavailable):
    """Shards of a cluster run, and the layout that they are of is not where it was. The message says what to do."""


def mark_of(folder: Path) -> str:
    """What all processes of the cluster carry; see `spawn_detached`."""
    return str(folder.absolute())


def log_in(folder: Path) -> Path:
    """What coordinator and shards write to stderr, and do not log: why one did not come up."""
    return folder / "cluster.log"


def logs_in(folder: Path) -> Path:
    """The folder of the logs of the cluster's processes."""
    return folder / "logs"


def coordinator_log_in(folder: Path) -> Path:
    """The log of the coordinator."""
    return logs_in(folder) / "coordinator.log"


def note_begin(folder: Path, when: str) -> None:
    """Say when the cluster began that logs from now on, as lines have it: one of that name may have logged before."""
    with contextlib.suppress(OSError):  # a full disk must not keep it from starting
        write_atomic(_begin_in(folder), when)


def begin_of(folder: Path) -> str:
    """When the cluster that logged last began; empty: nobody noted it."""
    with contextlib.suppress(OSError, UnicodeDecodeError):
        return _begin_in(folder).read_text().strip()
    return ""


def _begin_in(folder: Path) -> Path:
    return logs_in(folder) / "begin"


def config_in(folder: Path) -> Path:
    """The config that the cluster was last started with."""
    return folder / "config.json"


def config_of(folder: Path) -> DeployConfig | None:
    """What the cluster was last started with; None: that cannot be read."""
    with contextlib.suppress(OSError, ValueError, RowloomError):
        return from_json(config_in(folder).read_text())
    return None


def ready_in(folder: Path) -> Path:
    """What a coordinator says when it is up, or why it is not."""
    return folder / "ready.json"


def lock_in(folder: Path) -> Path:
    """Held by the coordinator of the cluster."""
    return folder / "coordinator.lock"


def tidy(folder: Path) -> None:
    """Remove what nobody reads of a cluster that is down. Its logs stay, and its config, by which `logs` shows them.

    To be called while no coordinator can be started. The lock stays where one that is ending holds it: the next
    coordinator is to wait for that one.
    """
    with contextlib.suppress(OSError):
        ready_in(folder).unlink(missing_ok=True)
        with open(lock_in(folder)) as held:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            lock_in(folder).unlink()
    with contextlib.suppress(OSError):
        (folder / "shards").rmdir()


def shards_in(folder: Path) -> ShardFolder:
    """The cluster's shard servers."""
    return ShardFolder(folder / "shards")


def storage_of(config: DeployConfig | None, folder: Path) -> str:
    """Where the layout is kept, without which a next coordinator could not take over: here, if nowhere else."""
    return config.storage if config is not None and config.storage is not None else str(folder)


def launcher_in(config: DeployConfig, folder: Path) -> StayingLauncher:
    """Starts and finds the cluster's shard servers."""
    return StayingLauncher(
        config, shards_in(folder), log=log_in(folder), logs=logs_in(folder), mark=mark_of(folder)
    )


def left_shards(folder: Path, file: StateFile) -> tuple[list[KnownServer], ClusterState | None]:
    """The cluster's shards that run, for a coordinator that has not started them, and the state that says so.

    No shards: those that run, if any, were started for a layout that was never committed, and serve nobody.

    Raises:
        StrangeShards: the state is not there, or knows nothing of servers that run, which may have rows.
        RowloomError: it cannot be read.
    """
    running = shards_in(folder).running()
    if not running:  # then a damaged state stands in nobody's way
        return [], None
    try:
        stored = file.load()
    except BadState as e:
        pids = ", ".join(str(server.pid) for server in running)
        raise BadState(
            f"shard servers of this cluster run (processes {pids}), with its rows: end none of them. {e}"
        ) from None
    keys = stored.server_keys if stored is not None and stored.layout is not None else []
    known = {*keys, *(stored.surplus if stored is not None else [])}
    strange = [server for server in running if server.key not in known]
    if strange:
        pids = ", ".join(str(server.pid) for server in strange)
        gone = ", as it is not there" if stored is None else ""
        raise StrangeShards(
            f"shard servers of this cluster run (processes {pids}), and {file.url or 'nothing'} does not say of which "
            f"layout{gone}: was the storage moved, or is it not mounted? End none of them: put it back, then `rowloom "
            "up` takes them over, with all rows. If `storage` is another one now, or a relative path, use the one with "
            "which the cluster was started. Only if that layout is gone for good, or was never there, as after a start "
            "that was interrupted: `rowloom down` ends them, and what they hold is lost"
        )
    return [server for server in running if server.key in keys], stored
