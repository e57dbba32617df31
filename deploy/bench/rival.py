"""What every system that we measure ourselves against looks like, and the server processes that it starts."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...proto.errors import InvalidRequest

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Crew:
    """The trainers of one system, each a process of its own, and which of them this is.

    Attributes:
        rank: 0 starts the servers and makes the table.
        trainers: how many there are.
        ports: free ones that all of them know, one for each server and each trainer.
    """

    rank: int
    trainers: int
    ports: tuple[int, ...]

    @classmethod
    def of(cls, trainers: int, servers: int) -> list[Crew]:
        """A crew, by rank."""
        ports = tuple(free_ports(servers + trainers))
        return [cls(rank, trainers, ports) for rank in range(trainers)]


class Rival:
    """Another store of float32 rows behind server processes, with Adagrad applied where the rows are.

    Use as a context manager: entering starts the servers, leaving ends them. Nothing outlives the process that entered.

    Attributes:
        name, version: of the system.
        ops: what it can do of pull, push and step.
        keeps: float32 values that the servers hold for each value of a row: 2 with Adagrad's slot.
        takes_crews: whether several trainers can share its servers here.

    Args:
        rows: ids are in [0, rows).
        dim: columns.
        servers: server processes.
        crew: None for a trainer alone.

    Raises:
        InvalidRequest: it takes one trainer and got several; on entering: it is not installed, and how to get it.
    """

    name = ""
    version = ""
    ops: Sequence[str] = ("pull", "push", "step")
    keeps = 2
    takes_crews = False

    def __init__(self, rows: int, dim: int, servers: int, crew: Crew | None = None) -> None:
        self.rows, self.dim, self.servers = rows, dim, servers
        self.crew = crew or Crew.of(1, servers)[0]
        if self.crew.trainers > 1 and not self.takes_crews:
            raise InvalidRequest(f"{self.name} takes one trainer here, not {self.crew.trainers}")
        self._stack = ExitStack()
        self._pids: list[int] = []

    def __enter__(self) -> Rival:
        try:
            self._start()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    def _start(self) -> None:
        """Start the servers and make the table. What must be undone goes onto the stack."""
        raise NotImplementedError

    def pull(self, ids: np.ndarray) -> np.ndarray:
        """Rows of ids. ids: [N] int64, may repeat. Returns [N, dim] float32."""
        raise NotImplementedError

    def push(self, ids: np.ndarray, grads: np.ndarray) -> None:
        """Apply gradients [N, dim] float32 to the rows of ids [N] int64; those of equal ids are summed."""
        raise NotImplementedError

    def step(self, ids: np.ndarray, grads: np.ndarray) -> np.ndarray:
        """Pull rows of ids, then push gradients for them. Returns the rows from before, [N, dim] float32."""
        rows = self.pull(ids)
        self.push(ids, grads)
        return rows

    def server_cpu_s(self) -> float:
        """CPU seconds that the server processes have used."""
        return sum(cpu_s(pid) for pid in self._pids)

    def server_rss_bytes(self) -> int:
        """Resident memory of the server processes."""
        return sum(rss_bytes(pid) for pid in self._pids)

    def _serve(self, command: Sequence[str], env: dict[str, str] | None = None) -> subprocess.Popen[str]:
        """Start a server; it must end when its stdin closes, and its first line is for us to read."""
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **(env or {})},
        )
        self._stack.callback(_end, process)
        self._pids.append(process.pid)
        return process


def free_ports(n: int) -> list[int]:
    """Ports of this machine that nobody listened on a moment ago."""
    ends = [socket.create_server(("127.0.0.1", 0)) for _ in range(n)]
    ports = [end.getsockname()[1] for end in ends]
    for end in ends:
        end.close()
    return ports


def python(*arguments: str) -> list[str]:
    """The command that runs this Python on arguments."""
    return [sys.executable, *arguments]


def first_line(process: subprocess.Popen[str]) -> str:
    """What a server says when it is up. Raises RuntimeError if it ended instead."""
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise RuntimeError(f"server {process.args!r} ended with {process.wait()} before it was up")
    return line.strip()


def end_with_stdin() -> None:
    """Wait until whoever started this process is gone or done with it, then end it."""
    sys.stdin.read()
    # Skips freeing gigabytes page by page, and whatever a library would wait for.
    os._exit(0)


def _end(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.close()
    try:
        process.wait(3)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    process.stdout.close()


def cpu_s(pid: int) -> float:
    """CPU seconds, user and system, that a process has used."""
    # The name, in parentheses, may hold spaces.
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S


def rss_bytes(pid: int) -> int:
    """Resident memory of a process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE_BYTES
