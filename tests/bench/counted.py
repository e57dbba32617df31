"""Trainers that push while servers are away, and count: what is there at the end is held against what was acked."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Sequence

import numpy as np

from rowloom.client import Client

DIM = 64


class Trainer(threading.Thread):
    """Adds 1 to its own rows of table `counts` and pulls them, one call after the other."""

    def __init__(self, client: Client, ids: np.ndarray) -> None:
        super().__init__(daemon=True)
        self.table = client.table("counts")
        self.ids = ids
        self.grads = -np.ones((len(ids), DIM), np.float32)
        self.pushes = self.failed = self.wrong = 0
        self.longest_s = 0.0
        self.ending = threading.Event()

    def run(self) -> None:
        while not self.ending.is_set():
            began = time.perf_counter()
            try:
                self.table.push(self.ids, self.grads)
                self.pushes += 1
                self.wrong += int((self.table.pull(self.ids) != self.pushes).any())
            except Exception as e:
                print(f"a call failed: {e}", file=sys.stderr)
                self.failed += 1
            self.longest_s = max(self.longest_s, time.perf_counter() - began)


def ended(trainers: Sequence[Trainer]) -> dict[str, float]:
    """End them. Returns how their calls went."""
    for trainer in trainers:
        trainer.ending.set()
        trainer.join()
    lost = doubled = 0
    for trainer in trainers:
        found = trainer.table.pull(trainer.ids)[:, 0]
        lost += int((found < trainer.pushes).sum())
        doubled += int((found > trainer.pushes + trainer.failed).sum())
    return {
        "longest_call_s": max(t.longest_s for t in trainers),
        "pushes": sum(t.pushes for t in trainers),
        "failed": sum(t.failed for t in trainers),
        "wrong_reads": sum(t.wrong for t in trainers),
        "lost": lost,
        "doubled": doubled,
    }


def spread(seconds: Sequence[float]) -> dict[str, float]:
    """Of some times; empty: there are none."""
    return {"median": float(np.median(seconds)), "worst": max(seconds)} if seconds else {}
