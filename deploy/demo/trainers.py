"""The trainer processes of the demo, as the process that started them sees them."""

from __future__ import annotations

import dataclasses
import json
import queue
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from ...proto.errors import RowloomError
from ..launch.processes import Child, last_line, python
from .trainer import Job, Report

# One thread each: there are as many trainers as cores, and the shards want some too.
ONE_THREAD = {
    name: "1" for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
}
SILENCE_S = 120.0
END_S = 5.0  # what a trainer gets to end, until it is killed


class Trainers:
    """Trainers that run until the `with` block ends.

    Args:
        jobs: one trainer for each.
        logs: folder for what they say when something goes wrong.
    """

    def __init__(self, jobs: Sequence[Job], logs: Path) -> None:
        self._logs = [logs / f"trainer-{i}.log" for i in range(len(jobs))]
        self._said: queue.Queue[tuple[int, Report | None]] = queue.Queue()
        self._children: list[Child] = []
        self._listeners: list[threading.Thread] = []
        try:
            for number, (job, log) in enumerate(zip(jobs, self._logs, strict=True)):
                self._start(number, job, log)
        except BaseException:
            self.close()
            raise

    def _start(self, number: int, job: Job, log: Path) -> None:
        command = python("-m", "rowloom.deploy.demo.trainer", json.dumps(dataclasses.asdict(job)))
        child = Child(f"trainer {number}", command, log=log, environment=ONE_THREAD)
        listener = threading.Thread(
            target=self._listen, args=(number, child), name="rowloom-trainer", daemon=True
        )
        self._children.append(child)
        self._listeners.append(listener)
        listener.start()

    def _listen(self, number: int, child: Child) -> None:
        for line in child.lines():
            self._said.put((number, Report(**json.loads(line))))
        self._said.put((number, None))

    def __enter__(self) -> Trainers:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def train(self, until: int, within_s: float, on_report: Callable[[int, Report], None]) -> None:
        """Let every trainer go on to step `until`, or for `within_s` seconds; returns when all have stopped.

        Args:
            until: step of each trainer, counted from its start.
            within_s: seconds.
            on_report: called with (number of the trainer, what it reports).

        Raises:
            RowloomError: a trainer ended, or said nothing for a long time; the message holds its last words.
        """
        for number in range(len(self._children)):
            self._tell(number, {"until": until, "within_s": within_s})
        busy = set(range(len(self._children)))
        while busy:
            number, report = self._next()
            if report is None:
                raise RowloomError(f"trainer {number} ended too early: {self._last_words(number)}")
            on_report(number, report)
            if report.reached:
                busy.discard(number)

    def _tell(self, number: int, order: dict[str, float]) -> None:
        try:
            self._children[number].tell(json.dumps(order))
        except BrokenPipeError:
            self._children[number].end(END_S)
            raise RowloomError(f"trainer {number} ended too early: {self._last_words(number)}") from None

    def _next(self) -> tuple[int, Report | None]:
        try:
            return self._said.get(timeout=SILENCE_S)
        except queue.Empty:
            raise RowloomError(f"no trainer has said anything for {SILENCE_S} s") from None

    def _last_words(self, number: int) -> str:
        code = self._children[number].poll()
        return f"{last_line(self._logs[number])} (exit code {code})"

    def close(self) -> None:
        """End the trainers: their standard input closes, and what does not end then is killed."""
        for child in self._children:
            child.ask_to_end()
        for child, listener in zip(self._children, self._listeners, strict=True):
            child.end(END_S)
            listener.join()
            child.close()
