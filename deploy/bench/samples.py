"""How systems are measured: each in turn, round after round, so that all of them see the same weather."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from ..terminal import Stages
from .workload import Case

BLOCK_S = 0.25  # one system's turn
FILL_ROWS = 65_536
LEAST_CALLS = 3


class System(Protocol):
    """What can be measured."""

    def pull(self, ids: np.ndarray) -> Any:
        """Rows of ids [N] int64."""
        ...

    def push(self, ids: np.ndarray, grads: np.ndarray) -> Any:
        """Apply gradients [N, dim] float32 to the rows of ids [N] int64."""
        ...

    def step(self, ids: np.ndarray, grads: np.ndarray) -> Any:
        """Pull, then push."""
        ...

    def server_cpu_s(self) -> float:
        """CPU seconds that all servers have used."""
        ...


@dataclass(frozen=True)
class Sample:
    """What one system did with one case in one turn.

    Attributes:
        times: seconds of each call.
        seconds: of the whole turn.
        client_cpu_s, server_cpu_s: used in it.
        ids: asked for in it.
    """

    times: list[float]
    seconds: float
    client_cpu_s: float
    server_cpu_s: float
    ids: int


def take_sample(system: System, case: Case, block_s: float) -> Sample:
    """At least three calls, and as many as fit into block_s seconds."""
    server, client, began = system.server_cpu_s(), time.process_time(), time.perf_counter()
    times: list[float] = []
    while len(times) < LEAST_CALLS or sum(times) < block_s:
        start = time.perf_counter()
        _call(system, case, len(times))
        times.append(time.perf_counter() - start)
    seconds = time.perf_counter() - began
    return Sample(
        times,
        seconds,
        time.process_time() - client,
        system.server_cpu_s() - server,
        len(times) * case.batch,
    )


def _call(system: Any, case: Case, number: int) -> None:
    ids = case.ids[number % len(case.ids)]
    if case.op == "pull":
        system.pull(ids)
    elif case.op == "fused":
        system.fused(ids, case.grads, case.ids[(number + 1) % len(case.ids)])
    else:
        getattr(system, case.op)(ids, case.grads)


@dataclass
class Samples:
    """All turns of one system with one case."""

    all: list[Sample] = field(default_factory=list[Sample])

    def figures(self, row_bytes: int) -> dict[str, float]:
        """rows_per_s (the median turn), mb_per_s, p50_ms, p99_ms, and CPU seconds for a million ids."""
        rate = float(np.median([turn.ids / turn.seconds for turn in self.all]))
        times = np.concatenate([turn.times for turn in self.all])
        p50, p99 = np.percentile(times, [50, 99]) * 1000
        millions = sum(turn.ids for turn in self.all) / 1e6
        return {
            "rows_per_s": rate,
            "mb_per_s": rate * row_bytes / 1e6,
            "p50_ms": float(p50),
            "p99_ms": float(p99),
            "client_cpu_s_per_million": sum(turn.client_cpu_s for turn in self.all) / millions,
            "server_cpu_s_per_million": sum(turn.server_cpu_s for turn in self.all) / millions,
        }


def row_bytes(op: str, dim: int) -> int:
    """Bytes of float32 that one id of a call moves: a step moves a row there and its gradient back."""
    return 4 * dim * (1 if op in ("pull", "push") else 2)


class Seat(Protocol):
    """Where a system sits while it is measured: in this process or in one of its own."""

    def can(self, op: str) -> bool:
        """Whether the system has the op."""
        ...

    def turn(self, number: int, block_s: float) -> Sample:
        """Let the system take a turn with the case of that number."""
        ...


class Here:
    """A system in this process.

    Args:
        system: what is measured.
        cases: in the order of their numbers.
    """

    def __init__(self, system: System, cases: list[Case]) -> None:
        self.system, self._cases = system, cases

    def can(self, op: str) -> bool:
        """Whether the system has the op."""
        return hasattr(self.system, op)

    def turn(self, number: int, block_s: float) -> Sample:
        """As `take_sample`."""
        return take_sample(self.system, self._cases[number], block_s)


def measure(
    cases: list[Case], seats: dict[str, Any], rounds: int, block_s: float, stages: Stages
) -> list[dict[str, Samples]]:
    """Warm all systems up, then let them take turns.

    Args:
        cases: what is measured.
        seats: of the systems, by name, in the order of their turns.
        rounds: turns of each system with each case.
        block_s: seconds of a turn.
        stages: shows how far it is.

    Returns:
        For each case, the turns of each system that has its op.
    """
    found: list[dict[str, Samples]] = [
        {name: Samples() for name, seat in seats.items() if seat.can(case.op)} for case in cases
    ]
    with stages("warming up", total=len(cases)) as stage:
        for number, turns in enumerate(found):
            for name in turns:
                seats[name].turn(number, block_s / 4)
            stage.advance()
    with stages(f"measuring, {rounds} rounds", total=rounds * len(cases)) as stage:
        for _ in range(rounds):
            for number, (case, turns) in enumerate(zip(cases, found, strict=True)):
                for name, mine in turns.items():
                    mine.all.append(seats[name].turn(number, block_s))
                stage.advance(1, f"{case.distribution} {case.op} {case.batch:,}")
    return found


def fill(push: Any, rows: int, dim: int) -> Iterable[int]:
    """Make every row, in blocks; yields how many each time.

    By push and not by assigning, so that the slots' memory is not touched for the first time while being measured.
    """
    nothing = np.zeros((FILL_ROWS, dim), np.float32)
    for begin in range(0, rows, FILL_ROWS):
        ids = np.arange(begin, min(begin + FILL_ROWS, rows))
        push(ids, nothing[: len(ids)])
        yield len(ids)
