"""Which clusters were started from this machine: one small file each, so that `rowloom status` finds them by name."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ...proto.errors import RowloomError
from ..atomic_file import write_atomic


@dataclass(frozen=True)
class Record:
    """A cluster that was started from here.

    Attributes:
        address: host:port of the coordinator.
        pid, started: the coordinator's process, and when it began, for `launcher: local`.
        ray: address of the Ray cluster, for `launcher: ray`.
        storage: where its layout is kept, if anywhere.
    """

    name: str
    launcher: str
    address: str
    pid: int = 0
    started: int = 0
    ray: str = ""
    storage: str = ""


class ClusterDirectory:
    """The folder with the records.

    Args:
        home: it is `clusters` in here; $ROWLOOM_HOME or ~/.rowloom by default.
    """

    def __init__(self, home: str | Path | None = None) -> None:
        self.home = Path(home or os.environ.get("ROWLOOM_HOME") or "~/.rowloom").expanduser()

    def __repr__(self) -> str:
        return f"<ClusterDirectory {self.home}>"

    def folder(self, name: str) -> Path:
        """A cluster's own folder, for its logs; made if need be."""
        folder = self.home / "clusters" / name
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def get(self, name: str) -> Record | None:
        """The record of a cluster, or None. Raises RowloomError if its file is damaged."""
        path = self._path(name)
        try:
            data = json.loads(path.read_text())
            known = {f.name for f in dataclasses.fields(Record)}
            return Record(**{k: v for k, v in data.items() if k in known})
        except FileNotFoundError:
            return None
        except (ValueError, TypeError, AttributeError) as e:
            raise RowloomError(f"{path} is damaged ({e}): delete it, or pass --address") from None

    def put(self, record: Record) -> None:
        """Keep a record; replaces the one of that name."""
        path = self._path(record.name)
        write_atomic(path, json.dumps(dataclasses.asdict(record)))

    def remove(self, name: str) -> None:
        """Forget a cluster; no error if it is not known."""
        self._path(name).unlink(missing_ok=True)

    def names(self) -> list[str]:
        """The clusters that are known, sorted."""
        return sorted(path.stem for path in (self.home / "clusters").glob("*.json"))

    @contextlib.contextmanager
    def lock(self, name: str) -> Iterator[None]:
        """Held while a cluster is started or ended, so that two `up` of one name do not cross."""
        path = self.home / "clusters" / f"{name}.lock"
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _path(self, name: str) -> Path:
        return self.home / "clusters" / f"{name}.json"


# ---------------------------------------------------------------------------------------------------------- processes


def started(pid: int) -> int:
    """When a process began, in ticks since boot: with the pid, its name for ever. 0 if it is gone."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (OSError, ValueError):
        return 0
    fields = stat.rpartition(")")[2].split()
    return 0 if fields[0] == "Z" else int(fields[19])


def is_running(pid: int, began: int) -> bool:
    """Whether that very process lives; another one that got its number does not count."""
    if not pid:
        return False
    if Path("/proc/self/stat").exists():
        return began != 0 and started(pid) == began
    try:
        os.kill(pid, 0)
    except OSError:
        return False
    return True


def end_process(pid: int, began: int, grace_s: float) -> None:
    """SIGTERM, and SIGKILL if it is still there after `grace_s`. Returns when it is gone."""
    for sent in (signal.SIGTERM, signal.SIGKILL):
        if not is_running(pid, began):
            break
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, sent)
        wait_for_end(pid, began, grace_s if sent == signal.SIGTERM else 10.0)
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)


def end_session(leader: int) -> None:
    """SIGKILL what is left of a session that `spawn_detached` began. Only call it when its leader is gone."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = stat.read_text().rpartition(")")[2].split()
            if int(fields[3]) == leader and fields[0] != "Z":
                os.kill(int(stat.parent.name), signal.SIGKILL)


def wait_for_end(pid: int, began: int, timeout_s: float) -> bool:
    """Until the process is gone; False if it is still there after `timeout_s`."""
    until = time.monotonic() + timeout_s
    while is_running(pid, began):
        if time.monotonic() >= until:
            return False
        time.sleep(0.02)
    return True


def last_line(log: Path) -> str:
    """What a process said last: most often why it ended."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines else "it said nothing"


def spawn_detached(command: list[str], log: Path, environment: dict[str, str] | None = None) -> int:
    """Start a process that outlives this one, in a session of its own, its output in `log`. Returns its pid."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    actions = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, str(log), flags, 0o644),
        (os.POSIX_SPAWN_DUP2, 1, 2),
    ]
    return os.posix_spawn(
        command[0], command, environment or dict(os.environ), file_actions=actions, setsid=True
    )
