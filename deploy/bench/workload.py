"""What is measured: pull, push and step, on ids of two distributions, in batches of several sizes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

BATCHES = (1024, 16_384, 65_536)
OPS = ("pull", "push", "step")
ZIPF = 1.05
BATCHES_MADE = 8  # of each size, used in turn


@dataclass(frozen=True)
class Case:
    """One measurement: an op on ids of one distribution and number.

    Attributes:
        distribution: a key of DISTRIBUTIONS.
        op: what is called.
        batch: N, ids in a call.
        ids: batches [N] int64, used in turn.
        grads: [N, dim] float32.
    """

    distribution: str
    op: str
    batch: int
    ids: list[np.ndarray]
    grads: np.ndarray

    def distinct(self) -> float:
        """Distinct ids of a batch, the median."""
        return float(np.median([len(np.unique(some)) for some in self.ids]))


def make_cases(
    batches: Sequence[int],
    rows: int,
    dim: int,
    seed: int,
    ops: Sequence[str] = OPS,
) -> list[Case]:
    """Every op on every distribution and batch size; the same arguments give the same ids and gradients."""
    rng = np.random.default_rng(seed)
    cases: list[Case] = []
    for distribution, draw in DISTRIBUTIONS.items():
        for batch in batches:
            ids = [draw(batch, rows, rng) for _ in range(BATCHES_MADE)]
            grads = rng.standard_normal((batch, dim), np.float32) * np.float32(1e-3)
            cases += [Case(distribution, op, batch, ids, grads) for op in ops]
    return cases


def zipf_ids(n: int, rows: int, rng: np.random.Generator, exponent: float = ZIPF) -> np.ndarray:
    """Ids with a bounded Zipf distribution, the popular ones scattered over the whole range.

    Args:
        n: how many.
        rows: ids are in [0, rows).
        rng: draws them.
        exponent: above 1: the id of rank k comes in proportion to k ** -exponent.

    Returns:
        [n] int64.
    """
    # The inverse of the continuous distribution's cumulative function, on [1, rows + 1).
    power = 1.0 - exponent
    rank = (1.0 + rng.random(n) * ((rows + 1.0) ** power - 1.0)) ** (1.0 / power)
    return scattered(np.minimum(rank.astype(np.int64), rows) - 1, rows)


def scattered(ranks: np.ndarray, rows: int) -> np.ndarray:
    """Another order of [0, rows): ranks [N] int64 in it become ids in it, each its own."""
    factor = max(1, int(rows * 0.6180339887))
    while np.gcd(factor, rows) != 1:
        factor += 1
    return (ranks * factor + rows // 3) % rows


def uniform_ids(n: int, rows: int, rng: np.random.Generator) -> np.ndarray:
    """[n] int64 ids, each of [0, rows) as likely."""
    return rng.integers(0, rows, n)


DISTRIBUTIONS: dict[str, Callable[[int, int, np.random.Generator], np.ndarray]] = {
    "zipf": zipf_ids,
    "uniform": uniform_ids,
}
