"""One trainer of the demo: a process that walks through its part of the text and trains both tables by pull and push.

It is told what to do in lines of JSON on its standard input, and answers in lines of JSON on its standard output.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...client import Client
from ...client.opening import open_client
from ...proto.allocator import keep_freed_memory
from .skipgram import Negatives, chances, gradients, kept

INPUT, OUTPUT = "demo-input", "demo-output"
REPORT_EVERY = 20


@dataclass(frozen=True)
class Job:
    """What one trainer does.

    Attributes:
        address: of the cluster.
        folder: holds tokens.npy and counts.npy, as `Corpus` has them.
        begin, end: its part of the tokens, half-open.
        steps: that it may take in all.
        length: tokens of a step.
        negatives: drawn per step, shared by all its tokens.
        weight: how many of them each pair stands for.
        window: neighbours on each side.
        threshold: see `skipgram.chances`.
        seed: of what is drawn.
    """

    address: str
    folder: str
    begin: int
    end: int
    steps: int
    length: int = 1024
    negatives: int = 64
    weight: float = 5.0
    window: int = 5
    threshold: float = 1e-4
    seed: int = 0


@dataclass(frozen=True)
class Report:
    """How far a trainer is.

    Attributes:
        step: taken so far.
        steps: of them, since the last report.
        loss: mean over these; 0 if there are none.
        rows: distinct rows pulled and distinct rows pushed in these.
        reached: it has stopped and waits to be told more.
    """

    step: int
    steps: int
    loss: float
    rows: int
    reached: bool = False


class Trainer:
    """The state of one trainer: where it is in the text.

    Args:
        client: of the cluster; only `pull` and `push` are used.
        job: what to do.
        tokens: [T] word ids of its part of the text.
        counts: [V], of the whole text.
    """

    def __init__(self, client: Client, job: Job, tokens: np.ndarray, counts: np.ndarray) -> None:
        self._client = client
        self._job = job
        self._rng = np.random.default_rng(job.seed)
        self._noise = Negatives(counts)
        self._stretches = self._walk(tokens, counts)
        self.step = 0

    def _walk(self, tokens: np.ndarray, counts: np.ndarray) -> Iterator[np.ndarray]:
        """Stretches of the text, over and over; other occurrences of frequent words are left out each time."""
        chance = chances(counts, self._job.threshold)
        while True:
            left = kept(tokens, chance, self._rng).astype(np.int64)
            length = min(self._job.length, len(left))
            for begin in range(0, len(left) - length + 1, length):
                yield left[begin : begin + length]

    def train(
        self, until: int, within_s: float, now: Callable[[], float] = time.monotonic
    ) -> Iterator[Report]:
        """Take steps until there are `until` of them or `within_s` seconds are over; the last report says `reached`."""
        start = now()
        losses: list[float] = []
        rows = 0
        while self.step < until and now() - start < within_s:
            loss, moved = self._one_step(next(self._stretches))
            self.step += 1
            losses.append(loss)
            rows += moved
            if len(losses) == REPORT_EVERY:
                yield Report(self.step, len(losses), float(np.mean(losses)), rows)
                losses, rows = [], 0
        yield Report(self.step, len(losses), float(np.mean(losses or [0.0])), rows, reached=True)

    def _one_step(self, stretch: np.ndarray) -> tuple[float, int]:
        """Pull, compare, push. Returns (loss, rows moved)."""
        job = self._job
        noise = self._noise.draw(job.negatives, self._rng)
        words, at = np.unique(stretch, return_inverse=True)
        others, at_others = np.unique(np.concatenate([stretch, noise]), return_inverse=True)
        rows = self._client.pull({INPUT: words, OUTPUT: others})
        out = rows[OUTPUT][at_others]
        found = gradients(
            rows[INPUT][at], out[: len(stretch)], out[len(stretch) :], window=job.window, weight=job.weight
        )
        # A word that occurs twice in the stretch has two gradients; push adds them up.
        out_ids = np.concatenate([stretch, noise])
        out_grads = np.concatenate([found.contexts, found.negatives])
        self._client.push({INPUT: (stretch, found.words), OUTPUT: (out_ids, out_grads)})
        return found.loss, 2 * (len(words) + len(others))


def serve(job: Job, orders: Iterable[str], answer: Callable[[dict[str, Any]], None]) -> None:
    """Follow orders, `{"until": steps, "within_s": seconds}` each, until there are no more."""
    folder = Path(job.folder)
    tokens = np.load(folder / "tokens.npy", mmap_mode="r")[job.begin : job.end]
    with open_client(job.address) as client:
        trainer = Trainer(client, job, np.asarray(tokens), np.load(folder / "counts.npy"))
        for line in orders:
            order = json.loads(line)
            for report in trainer.train(order["until"], order["within_s"]):
                answer(dataclasses.asdict(report))


def main() -> None:
    """`python -m rowloom.deploy.demo.trainer JOB`, with the job as JSON; ends with its standard input."""

    def answer(report: dict[str, Any]) -> None:
        sys.stdout.write(json.dumps(report) + "\n")
        sys.stdout.flush()

    keep_freed_memory()
    serve(Job(**json.loads(sys.argv[1])), sys.stdin, answer)


if __name__ == "__main__":
    main()
