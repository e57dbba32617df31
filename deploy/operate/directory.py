"""Which clusters were started from this machine: one small file each, so that `rowloom status` finds them by name.

A record is written before anything is started, without an address, and again with it when the cluster is up. So there
is a record of whatever an `up` that was killed has left.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import fcntl
import itertools
import json
import os
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from ...proto.atomic_file import write_atomic
from ...proto.errors import RowloomError, Unavailable
from ...proto.security.credentials import Credentials, from_environment
from ..config.config import DeployConfig
from ..config.home import NoHome, expanded

LOCK_POLL_S = 0.1


ELSEWHERE = "--home FOLDER or $ROWLOOM_HOME takes another one"


class BadHome(RowloomError):
    """The folder that remembers clusters cannot be used."""

    exit_code = 2


class DamagedRecord(RowloomError):
    """The file of a cluster cannot be read as a record. `down` and `up` move it aside and go round it.

    Args:
        name: of the cluster.
        path: the file.
        why: what is wrong with it.
    """

    def __init__(self, name: str, path: Path, why: object) -> None:
        self.why = f"{path}: {why}"
        super().__init__(
            f"what is known of cluster {name!r} is damaged: {self.why}. `rowloom up` with its config moves that "
            f"file aside and finds what runs; --address goes round it. `rowloom down --keep --name {name}` and "
            f"`rowloom down --name {name}` end what runs: with the latter, and with durability memory, its "
            "rows are lost"
        )


@dataclass(frozen=True)
class Record:
    """A cluster that was started from here.

    Attributes:
        address: host:port of the coordinator; empty until it is up.
        pid, started: the coordinator's process, and when it began, for `launcher: local`.
        ray: address of the Ray cluster, for `launcher: ray`.
        storage: where its layout is kept, if anywhere.
        stop_grace_s: what calls under way get when it ends.
        ca, cert, key, server_name, token_file: paths of what the command line shows it, as `Credentials` has them.
        kept: it was ended, and its rows stay in the logs of its storage.
        cluster_id: which one of that name; empty: it was not up yet, or an older version wrote this.
    """

    name: str
    launcher: str
    address: str
    pid: int = 0
    started: int = 0
    ray: str = ""
    storage: str = ""
    stop_grace_s: float = 5.0
    ca: str = ""
    cert: str = ""
    key: str = ""
    server_name: str = ""
    token_file: str = ""
    kept: bool = False
    cluster_id: str = ""

    @property
    def credentials(self) -> Credentials:
        """What its servers are shown; for one that was given by address, what the environment says."""
        if not self.launcher:
            return from_environment(os.environ, {})
        return Credentials(self.ca, self.cert, self.key, self.server_name, self.token_file)

    @property
    def to_connect(self) -> str:
        """What a trainer types; ... stands for files of its own."""
        said = [f'"{self.address}"']
        said += [f'{name}="{value}"' for name in ("ca", "server_name") if (value := getattr(self, name))]
        said += ["cert=...", "key=..."] if self.cert else []
        said += ["token_file=..."] if self.token_file else []
        return f"connect({', '.join(said)})"

    def as_kept(self) -> Record:
        """The same when all its processes have ended, and its rows stay."""
        return dataclasses.replace(self, address="", pid=0, started=0, ray="", kept=True)


class Addressed(Record):
    """A cluster that is known here, and was given by its address: it is shown what the environment says."""

    @classmethod
    def of(cls, record: Record) -> Addressed:
        """A record, given by its address."""
        return cls(**dataclasses.asdict(record))

    @property
    def credentials(self) -> Credentials:
        """Of whoever gave the address, who need not be who started it."""
        return from_environment(os.environ, {})


def shown_to(config: DeployConfig) -> dict[str, Any]:
    """The fields of a record that say what the servers of a config are shown."""
    return dict(config.security.settings().credentials().paths())


class ClusterDirectory:
    """The folder with the records.

    Args:
        home: it is `clusters` in here; $ROWLOOM_HOME or ~/.rowloom by default.
    """

    def __init__(self, home: str | Path | None = None) -> None:
        try:
            self.home = expanded(home or os.environ.get("ROWLOOM_HOME") or "~/.rowloom")
        except NoHome as e:
            raise BadHome(f"{e}, where known clusters are remembered: {ELSEWHERE}") from None

    def __repr__(self) -> str:
        return f"<ClusterDirectory {self.home}>"

    def folder(self, name: str) -> Path:
        """A cluster's own folder, for its logs; made if need be."""
        folder = self.home / "clusters" / name
        with self.usable():
            folder.mkdir(parents=True, exist_ok=True)
        return folder

    def get(self, name: str) -> Record | None:
        """The record of a cluster, or None. Raises DamagedRecord."""
        path = self._path(name)
        try:
            with self.usable():
                try:
                    text = path.read_text()
                except FileNotFoundError:
                    return None
                except OSError as e:
                    if e.errno == errno.ENAMETOOLONG:  # so no cluster can have it
                        return None
                    raise
            data = json.loads(text)
            known = {f.name: f.default for f in dataclasses.fields(Record)}
            if missing := [k for k, usual in known.items() if usual is dataclasses.MISSING and k not in data]:
                raise ValueError(f"it lacks {', '.join(missing)}")
            record = Record(**{k: v for k, v in data.items() if k in known})
            _check(record, name)
            return record
        except (ValueError, TypeError, AttributeError, IsADirectoryError) as e:
            raise DamagedRecord(name, path, e) from None

    def put(self, record: Record) -> None:
        """Keep a record; replaces the one of that name."""
        path = self._path(record.name)
        with self.usable():
            write_atomic(path, json.dumps(dataclasses.asdict(record)))

    def set_aside(self, name: str) -> Path:
        """Move a damaged record out of the way. Returns where it is now."""
        first = aside = self._path(name).with_suffix(".json.damaged")
        numbers = itertools.count(2)
        while aside.exists():
            aside = first.with_name(f"{first.name}-{next(numbers)}")
        with self.usable():
            os.replace(self._path(name), aside)
        return aside

    def remove(self, name: str) -> None:
        """Forget a cluster; no error if it is not known."""
        with self.usable():
            self._path(name).unlink(missing_ok=True)

    def option(self, name: str) -> str:
        """What a command in a message needs to mean that cluster: empty if it is the only one that is known."""
        return "" if self.meant() == [name] else f" --name {name}"

    def meant(self) -> list[str]:
        """Those that a command without a name may mean: not what is only kept, if there is another. Raises BadHome."""
        names = self.names()
        return [name for name in names if not self._is_kept(name)] or names

    def at(self, address: str) -> str:
        """The cluster that is known to have its coordinator there, or to have had it; empty: none is."""
        for name in self.names():
            with contextlib.suppress(DamagedRecord):
                record = self.get(name)
                if record is not None and record.address == address:
                    return name
        return ""

    def _is_kept(self, name: str) -> bool:
        with contextlib.suppress(DamagedRecord):
            record = self.get(name)
            return record is not None and record.kept
        return False

    def names(self) -> list[str]:
        """The clusters that are known, sorted. Raises BadHome: that cannot be known, which is not the same as none."""
        with self.usable():
            try:
                files = os.listdir(self.home / "clusters")
            except FileNotFoundError:
                return []
        return sorted(name.removesuffix(".json") for name in files if name.endswith(".json"))

    @contextlib.contextmanager
    def lock(self, name: str, wait_s: float, waiting: Callable[[str], None] | None = None) -> Generator[None]:
        """Held while a cluster is started or ended, so that two `up` of one name do not cross. Ends with its process.

        Args:
            name: of the cluster.
            wait_s: for how long another one may hold it.
            waiting: told once who that is, if there is one.

        Raises:
            Unavailable: another one holds it still.
        """
        path = self.home / "clusters" / f"{name}.lock"
        until, told = time.monotonic() + wait_s, waiting is None
        while (file := self._opened(path)) is None:
            who = f"another rowloom{_holder(path)} is starting or ending {name!r}"
            if time.monotonic() >= until:
                raise Unavailable(f"{who}: try again when it is done, or end it")
            if waiting is not None and not told:
                waiting(f"{who}: waiting for it")
                told = True
            time.sleep(LOCK_POLL_S)
        with file:
            _sign(file)
            try:
                yield
            finally:
                if not self._path(name).exists():  # nobody knows the cluster: what is locked, is no more
                    with contextlib.suppress(OSError):
                        path.unlink()

    def _opened(self, path: Path) -> IO[str] | None:
        """The file of a lock, which is held then; None: another one holds it.

        Whoever holds a lock may remove its file. One that was opened before that, and is had after it, is no lock for
        those who come later: then it is tried again with the file that is there.
        """
        while True:
            with self.usable("nothing was started or ended"):
                path.parent.mkdir(parents=True, exist_ok=True)
                file = open(path, "a+")  # noqa: SIM115  # whoever gets it closes it
            if not _locked(file):
                file.close()
                return None
            if _is_at(file, path):
                return file
            file.close()

    def is_locked(self, name: str) -> bool:
        """Whether it is being started or ended."""
        try:
            with open(self.home / "clusters" / f"{name}.lock") as file:
                return not _locked(file)
        except OSError:
            return False

    @contextlib.contextmanager
    def usable(self, so: str = "") -> Generator[None]:
        """Around what reads or writes something in the folder. so: in words, what an error means for the cluster.

        Raises:
            BadHome: the folder is none, may not be entered, or is on a disk that is full or can only be read.
        """
        try:
            yield
        except IsADirectoryError:  # in the place of a record, which is damage of that one
            raise
        except OSError as e:
            said = f"{e.filename}: {e.strerror}" if e.filename else str(e)
            what = f"{self.home} is a file" if self.home.is_file() else said
            parts = (f"the folder that remembers clusters cannot be used: {what}", so, ELSEWHERE)
            raise BadHome("; ".join(filter(None, parts))) from e

    def _path(self, name: str) -> Path:
        return self.home / "clusters" / f"{name}.json"


def _check(record: Record, name: str) -> None:
    """Raises ValueError if a field is none that this version writes."""
    numbers = {"pid": int, "started": int, "stop_grace_s": (int, float), "kept": bool}
    for field in dataclasses.fields(Record):
        value: object = getattr(record, field.name)
        if not isinstance(value, numbers.get(field.name, str)):
            raise ValueError(f"{field.name} is {value!r}")
    if record.name != name:
        raise ValueError(f"name is {record.name!r}")


def _locked(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_at(file: IO[str], path: Path) -> bool:
    """Whether an open file is the one that is at a path now."""
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    return False


def _sign(file: IO[str]) -> None:
    """Say who holds a lock, which is held all the same where the disk is full."""
    with contextlib.suppress(OSError):
        os.ftruncate(file.fileno(), 0)
        os.write(file.fileno(), str(os.getpid()).encode())


def _holder(path: Path) -> str:
    with contextlib.suppress(OSError, ValueError):
        return f" (process {int(path.read_text())})"
    return ""
