"""The trainer processes of the demo, as the process that started them sees them."""

from __future__ import annotations

import dataclasses
import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from ...proto.errors import RowloomError
from .trainer import Job, Report

# One thread each: there are as many trainers as cores, and the shards want some too.
ONE_THREAD = {
    name: "1" for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
}
SILENCE_S = 120.0


class Crew:
    """Trainers that run until the `with` block ends.

    Args:
        jobs: one trainer for each.
        logs: folder for what they say when something goes wrong.
    """

    def __init__(self, jobs: Sequence[Job], logs: Path) -> None:
        self._logs = [logs / f"trainer-{i}.log" for i in range(len(jobs))]
        self._said: queue.Queue[tuple[int, Report | None]] = queue.Queue()
        self._processes: list[subprocess.Popen[str]] = []
        self._listeners: list[threading.Thread] = []
        for job, log in zip(jobs, self._logs, strict=True):
            self._start(job, log)

    def _start(self, job: Job, log: Path) -> None:
        command = [sys.executable, "-m", "rowloom.deploy.demo.trainer", json.dumps(dataclasses.asdict(job))]
        with open(log, "ab") as errors:
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env=os.environ | ONE_THREAD,
            )
        listener = threading.Thread(
            target=self._listen, args=(len(self._processes), process), name="rowloom-trainer", daemon=True
        )
        self._processes.append(process)
        self._listeners.append(listener)
        listener.start()

    def _listen(self, number: int, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            self._said.put((number, Report(**json.loads(line))))
        self._said.put((number, None))

    def __enter__(self) -> Crew:
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
        for number, process in enumerate(self._processes):
            self._tell(number, process, {"until": until, "within_s": within_s})
        busy = set(range(len(self._processes)))
        while busy:
            number, report = self._next()
            if report is None:
                raise RowloomError(f"trainer {number} ended too early: {self._last_words(number)}")
            on_report(number, report)
            if report.reached:
                busy.discard(number)

    def _tell(self, number: int, process: subprocess.Popen[str], order: dict[str, float]) -> None:
        assert process.stdin is not None
        try:
            process.stdin.write(json.dumps(order) + "\n")
            process.stdin.flush()
        except BrokenPipeError:
            process.wait()
            raise RowloomError(f"trainer {number} ended too early: {self._last_words(number)}") from None

    def _next(self) -> tuple[int, Report | None]:
        try:
            return self._said.get(timeout=SILENCE_S)
        except queue.Empty:
            raise RowloomError(f"no trainer has said anything for {SILENCE_S} s") from None

    def _last_words(self, number: int) -> str:
        lines = self._logs[number].read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else f"exit code {self._processes[number].poll()}, and no message"

    def close(self) -> None:
        """End the trainers: their standard input closes, and what does not end then is killed."""
        for process in self._processes:
            assert process.stdin is not None
            try:
                process.stdin.close()
            except BrokenPipeError:
                continue
        for process, listener in zip(self._processes, self._listeners, strict=True):
            try:
                process.wait(5.0)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            listener.join()
            assert process.stdout is not None
            process.stdout.close()
