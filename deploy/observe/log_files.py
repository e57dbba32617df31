"""Where the processes of a cluster log, and what they said last."""

from __future__ import annotations

import contextlib
import json
import os
import re
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ...proto import rowloom_pb2 as pb
from ...proto.errors import InvalidRequest, RowloomError
from ..launch.cluster_folder import config_of, coordinator_log_in, logs_in, shards_in, storage_of
from ..launch.processes import is_running, is_stopped
from ..launch.shard_folder import logged_keys, shard_log
from ..storage import StateFile

POLL_S = 0.2
COORDINATOR = "coordinator"
_TRACEBACK = re.compile(r' traceback=("(?:[^"\\]|\\.)*")$')
_TIME = re.compile(r'(?:time=|\{"time": ")(\S+?)["\s]')


@dataclass(frozen=True)
class ProcessLog:
    """The log of one process.

    Attributes:
        process: COORDINATOR, or the index of a shard.
        path: its file.
        node: where that is, if it is not here; for people.
        still: in words, why it says nothing more; empty: its process runs, or is elsewhere.
    """

    process: str
    path: Path
    node: str = ""
    still: str = ""

    @property
    def who(self) -> str:
        """For people."""
        return "the coordinator" if self.process == COORDINATOR else f"shard {self.process}"


def logs_here(folder: Path, pid: int = 0, began: int = 0) -> list[ProcessLog]:
    """Those of a cluster on this machine, whether or not it runs.

    Without its state, which says which server is which shard, servers are named by their keys.

    Args:
        folder: of the cluster.
        pid: the process of its coordinator; 0: not known.
        began: when that process began.
    """
    coordinator = ProcessLog(
        COORDINATOR, coordinator_log_in(folder), still=_why_still(pid, began) if pid else ""
    )
    stored = None
    # Logs are wanted most where something is broken: then those are shown that there are.
    with contextlib.suppress(RowloomError, OSError):
        stored = StateFile(storage_of(config_of(folder), folder)).load()
    logs, servers = logs_in(folder), shards_in(folder)
    named = enumerate(stored.keys) if stored is not None else ((key, key) for key in logged_keys(logs))

    def of_shard(shard: int, key: int) -> ProcessLog:
        known = servers.get(key)
        still = _why_still(known.pid, known.began) if known is not None else "does not run"
        return ProcessLog(str(shard), shard_log(logs, key), still=still)

    return [coordinator, *(of_shard(shard, key) for shard, key in named)]


def _why_still(pid: int, began: int) -> str:
    if not is_running(pid, began):
        return "does not run"
    return f"stands still: `kill -CONT {pid}` lets it go on" if is_stopped(pid) else ""


def still_in_words(logs: Sequence[ProcessLog]) -> str:
    """In words, which processes say nothing more, and where the last is that they said; empty: all run."""
    return "; ".join(f"{log.who} {log.still} (its last log: {log.path})" for log in logs if log.still)


def check_says(status: pb.StatusReply, process: str | None) -> None:
    """Raise RowloomError for a shard that does not answer where its log is."""
    for s in status.shards:
        wanted = process is not None and process.removeprefix("shard-") == str(s.shard.index)
        if wanted and not s.statistics.log_file:
            where = f" on {s.node}" if s.node else ""
            raise RowloomError(
                f"shard {s.shard.index} is {s.health}, so it does not say where its log is{where}. That of the "
                f"coordinator says what happened: `rowloom logs coordinator --address {status.layout.coordinator}`. On "
                f"the machine that `rowloom up` ran on, `rowloom logs {s.shard.index} --name {status.name}` shows its "
                "last lines"
            )


def logs_of(status: pb.StatusReply) -> list[ProcessLog]:
    """Those that the processes of a running cluster name."""
    found = [ProcessLog(COORDINATOR, Path(status.log_file))] if status.log_file else []
    return found + [
        ProcessLog(str(s.shard.index), Path(s.statistics.log_file), s.node)
        for s in status.shards
        if s.statistics.log_file
    ]


def chosen(logs: Sequence[ProcessLog], process: str | None) -> list[ProcessLog]:
    """The logs that are meant, whose files are here.

    Raises:
        InvalidRequest: there is no such process.
        RowloomError: none of the files is on this machine; the message says where they are.
    """
    there = [log for log in logs if process is None or log.process == process.removeprefix("shard-")]
    if not there:
        known = ", ".join(log.process for log in logs) or "none"
        raise InvalidRequest(f"no process {process!r} whose log is known; there are: {known}")
    here = [log for log in there if log.path.exists()]
    if not here:
        where = "; ".join(
            f"{log.process}: {log.path}{' on ' + log.node if log.node else ''}" for log in there
        )
        raise RowloomError(f"no log of it is on this machine: {where}")
    return here


def last_lines(logs: Sequence[ProcessLog], count: int, since: str = "") -> list[str]:
    """The last lines of all of them together, by time.

    since: when the cluster began; what was logged before is of another one of that name, and left out.
    """
    timed: list[tuple[str, str]] = []
    for log in logs:
        when = ""
        for line in _tail(log.path, count):
            found = _TIME.match(line)
            when = found[1] if found else when
            timed.append((when, line))
    timed = sorted((one for one in timed if not one[0] or one[0] >= since), key=lambda one: one[0])
    return [line for _, line in timed[-count:]] if count else []


def with_older(logs: Sequence[ProcessLog], since: str) -> list[ProcessLog]:
    """Those whose files also have lines of an earlier cluster of that name."""
    return [log for log in logs if since and _first_time(log.path) < since]


def _first_time(path: Path) -> str:
    """Of the first line that has one; behind all others where there is none."""
    for file in (Path(f"{path}.1"), path):
        with contextlib.suppress(FileNotFoundError), open(file, encoding="utf-8", errors="replace") as f:
            for line in f:
                if found := _TIME.match(line):
                    return found[1]
    return "~"


def unfolded(line: str) -> str:
    """A line for people: a traceback at its end, which a log has in one line with the rest, as lines of their own."""
    found = _TRACEBACK.search(line)
    if found is None:
        return line
    try:
        traceback = json.loads(found[1])
    except ValueError:
        return line
    return "\n  ".join([line[: found.start()], *traceback.splitlines()])


def _tail(path: Path, count: int) -> list[str]:
    """The last lines of a log, of the file before it, too, if need be."""
    lines: deque[str] = deque(maxlen=count)
    for file in (Path(f"{path}.1"), path):
        with contextlib.suppress(FileNotFoundError), open(file, encoding="utf-8", errors="replace") as f:
            lines.extend(line.rstrip("\n") for line in f)
    return list(lines)


class Follower:
    """What is added to logs from now on, also when a file is put aside and another one takes its place."""

    def __init__(self, logs: Sequence[ProcessLog]) -> None:
        self._open = {log.path: _Followed(log.path) for log in logs}

    def __enter__(self) -> Follower:
        return self

    def __exit__(self, *exc: object) -> None:
        for followed in self._open.values():
            followed.close()

    def lines(self, wait: Callable[[float], object] = time.sleep) -> Iterator[str]:
        """Whole lines, as they come; without end. wait: between two looks."""
        while True:
            for followed in self._open.values():
                yield from followed.more()
            wait(POLL_S)


class _Followed:
    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = open(path, "rb")  # noqa: SIM115  # as long as it is followed
        self._file.seek(0, os.SEEK_END)
        self._begun = b""

    def close(self) -> None:
        self._file.close()

    def more(self) -> Iterator[str]:
        yield from self._rest()
        with contextlib.suppress(FileNotFoundError):  # it is being put aside
            if os.stat(self._path).st_ino != os.fstat(self._file.fileno()).st_ino:
                yield from self._rest()  # what was added before it was
                self._file.close()
                self._file = open(self._path, "rb")  # noqa: SIM115
                yield from self._rest()

    def _rest(self) -> Iterator[str]:
        *lines, self._begun = (self._begun + self._file.read()).split(b"\n")
        yield from (line.decode(errors="replace") for line in lines)
