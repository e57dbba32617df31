"""What every system that we measure ourselves against looks like, and the server processes that it starts."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np

from ...proto.errors import InvalidRequest
from ..launch.processes import Child, cpu_s, rss_bytes

END_S = 3.0  # what a server gets to end, until it is killed


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

    def _serve(self, command: Sequence[str], env: dict[str, str] | None = None) -> Child:
        """Start a server; it must end when its stdin closes, and its first line is for us to read."""
        child = Child(f"a server of {self.name or type(self).__name__}", command, environment=env)
        self._stack.callback(child.close)
        self._stack.callback(child.end, END_S)
        self._pids.append(child.pid)
        return child


def free_ports(n: int) -> list[int]:
    """Ports of this machine that nobody listened on a moment ago."""
    ends = [socket.create_server(("127.0.0.1", 0)) for _ in range(n)]
    ports = [end.getsockname()[1] for end in ends]
    for end in ends:
        end.close()
    return ports
