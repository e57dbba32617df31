"""Which clusters were started from this machine: one small file each, so that `rowloom status` finds them by name."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import os
from collections.abc import Generator
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
        stop_grace_s: what calls under way get when it ends.
    """

    name: str
    launcher: str
    address: str
    pid: int = 0
    started: int = 0
    ray: str = ""
    storage: str = ""
    stop_grace_s: float = 5.0


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
    def lock(self, name: str) -> Generator[None]:
        """Held while a cluster is started or ended, so that two `up` of one name do not cross."""
        path = self.home / "clusters" / f"{name}.lock"
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _path(self, name: str) -> Path:
        return self.home / "clusters" / f"{name}.json"
