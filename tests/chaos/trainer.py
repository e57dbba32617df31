"""A trainer of a chaos run, in a process of its own: pushes what the plan says until it is told to end."""

from __future__ import annotations

import contextlib
import multiprocessing
import time
from collections.abc import Callable, Generator, Sequence
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
from chaos.history import (
    ACKED,
    BEGUN,
    COUNTERS,
    FAILED,
    SLOW_S,
    UNRESOLVED,
    WRONG,
    History,
    Left,
    Push,
)

from rowloom.client import Client, PushUnresolved, RowloomError, connect

Place = str | Callable[[], str]  # an address, or a function that finds it


def train(
    folder: str, trainer: int, address: Place, carrier: str, timeout_s: float, told: Connection
) -> None:
    """Until the other end of the pipe says something, or is gone."""
    history = History(Path(folder))
    with (
        connect(address, carrier=carrier, timeout_s=timeout_s) as client,
        open(history.heard(trainer), "ab", buffering=0) as heard,
        open(history.reasons(trainer), "a", buffering=1) as reasons,
        open(history.slow(trainer), "a", buffering=1) as slow,
    ):
        _Trainer(client, history, trainer, heard.write, reasons.write, slow.write).run(lambda: told.poll(0))


@contextlib.contextmanager
def pushing(
    history: History, ways: Sequence[tuple[str, Place]], timeout_s: float
) -> Generator[list[BaseProcess]]:
    """Trainers that push until the end of this. ways: carrier and address, by trainer in turns."""
    context = multiprocessing.get_context("spawn")
    jobs: list[BaseProcess] = []
    told: list[Connection] = []
    for trainer in range(history.plan.trainers):
        carrier, address = ways[trainer % len(ways)]
        theirs, ours = context.Pipe(duplex=False)
        arguments = (str(history.folder), trainer, address, carrier, timeout_s, theirs)
        jobs.append(context.Process(target=train, args=arguments, daemon=True))
        told.append(ours)
        jobs[-1].start()
    try:
        yield jobs
    finally:
        for ours in told:
            with contextlib.suppress(OSError):
                ours.send("end")
        for job in jobs:
            job.join(timeout_s)
            job.kill()
            job.join()


class _Trainer:
    def __init__(
        self,
        client: Client,
        history: History,
        number: int,
        hear: Callable[[bytes], object],
        say: Callable[[str], object],
        remember: Callable[[str], object],
    ) -> None:
        self._client, self._number, self._hear, self._say = client, number, hear, say
        self._remember = remember
        self._plan = history.plan
        self._own = self._plan.own(number).name
        self._table = client.table(COUNTERS)
        self._counts = np.zeros(self._plan.rows, np.int64)
        self._left = Left()

    def run(self, ended: Callable[[], bool]) -> None:
        pushes = 0
        while not ended():
            self._do(pushes, self._plan.push(self._number, pushes).without(self._left))
            pushes += 1

    def _do(self, number: int, push: Push) -> None:
        began = time.monotonic()
        self._hear(BEGUN)
        try:
            rows = self._timed(push, began)
        except PushUnresolved as e:
            self._left.add(push)
            self._hear(UNRESOLVED)
            self._say(f"{number} unresolved after {time.monotonic() - began:.1f} s: {e}\n")
            return
        except RowloomError as e:
            self._hear(FAILED)
            self._say(f"{number} failed after {time.monotonic() - began:.1f} s: {type(e).__name__}: {e}\n")
            return
        self._hear(ACKED)
        self._counts[push.ids] += push.amounts
        if rows is not None and not np.array_equal(rows, self._counts[push.ids]):
            self._hear(WRONG)
            wrong = np.flatnonzero(rows != self._counts[push.ids])
            ids = push.ids[wrong].tolist()
            got, want = rows[wrong].tolist(), self._counts[push.ids[wrong]].tolist()
            self._say(f"{number} pulled {got} for ids {ids}, it had pushed {want}\n")

    def _timed(self, push: Push, began: float) -> np.ndarray | None:
        try:
            return self._call(push)
        finally:
            took = time.monotonic() - began
            if took > SLOW_S:
                self._remember(f"{began} {took}\n")

    def _call(self, push: Push) -> np.ndarray | None:
        """Push, and the trainer's column of what was pulled, if the push pulls."""
        grads = np.zeros((len(push.ids), self._plan.trainers), np.float32)
        grads[:, self._number] = -push.amounts
        both = {COUNTERS: (push.ids, grads), self._own: (push.own_ids, push.own_grads)}
        if not push.pulls:
            self._client.push(both)
            return None
        rows = self._client.step(both, {COUNTERS: push.ids})[COUNTERS]
        return rows[:, self._number]
