"""Whether one version is slower than another: turns, ratios of their times, and what these ratios say."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

BEFORE, AFTER = 0, 1
SMALL_BATCH, SMALL_BOUND, BOUND = 16, 1.08, 1.03
RESAMPLES = 4000
CONFIDENCE = 0.90
LEAST_ROUNDS = 5  # all of four lie on one side of the true median with a probability of 1/8
OK, NOISE, EXCEEDED = "ok", "noise", "exceeded"


def turns(round_number: int) -> tuple[int, int, int, int]:
    """Who is measured when in a round: ABBA, and BAAB in the next one, so that a steady drift cancels out."""
    return (BEFORE, AFTER, AFTER, BEFORE) if round_number % 2 == 0 else (AFTER, BEFORE, BEFORE, AFTER)


def bound_of(batch: int) -> float:
    """How many times as long a call of so many ids may take as before."""
    return SMALL_BOUND if batch <= SMALL_BATCH else BOUND


def interval(ratios: Sequence[float], seed: int = 0) -> tuple[float, float]:
    """Where the median of the ratios lies with a probability of 90 %, by the bootstrap.

    Args:
        ratios: one for each round, at least LEAST_ROUNDS, else the interval is too narrow.
        seed: of the resampling; the same ratios and seed give the same interval.
    """
    values = np.asarray(ratios, np.float64)
    drawn = np.random.default_rng(seed).integers(0, len(values), (RESAMPLES, len(values)))
    low, high = np.quantile(np.median(values[drawn], axis=1), [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)


def verdict(low: float, high: float, bound: float) -> str:
    """What an interval of the ratio says.

    Returns:
        "exceeded": all of it is above the bound; "ok": none of it is; "noise": the bound lies inside, so this run
        cannot tell.
    """
    if low > bound:
        return EXCEEDED
    return OK if high <= bound else NOISE


@dataclass(frozen=True)
class Round:
    """What one version did with one case in one round.

    Attributes:
        call_us: the median call, microseconds.
        cpu_us: CPU of the client's process for a call, the mean, microseconds.
    """

    call_us: float
    cpu_us: float

    @staticmethod
    def of(blocks: Sequence[dict]) -> "Round":
        """From the answers of the worker: call_ns of each call, and cpu_ns of all of them."""
        calls = np.concatenate([block["call_ns"] for block in blocks])
        cpu = sum(block["cpu_ns"] for block in blocks)
        return Round(float(np.median(calls)) / 1e3, cpu / len(calls) / 1e3)


@dataclass(frozen=True)
class Comparison:
    """Two versions at one case.

    Attributes:
        before_us, after_us: of a call, medians over the rounds.
        before_cpu_us, after_cpu_us: of the client's process for a call, medians over the rounds.
        ratio: after / before, the median over the rounds.
        low, high: its 90 % interval.
        bound: what the ratio may be.
        verdict: as `verdict`.
    """

    before_us: float
    after_us: float
    before_cpu_us: float
    after_cpu_us: float
    ratio: float
    low: float
    high: float
    bound: float
    verdict: str


def compare(before: Sequence[Round], after: Sequence[Round], batch: int) -> Comparison:
    """Both versions' rounds at one case of so many ids, in the same order.

    Only times of one round are divided by each other: what else the machine did then, it did to both.
    """
    ratios = [mine.call_us / theirs.call_us for theirs, mine in zip(before, after, strict=True)]
    low, high = interval(ratios)
    bound = bound_of(batch)
    return Comparison(
        float(np.median([one.call_us for one in before])),
        float(np.median([one.call_us for one in after])),
        float(np.median([one.cpu_us for one in before])),
        float(np.median([one.cpu_us for one in after])),
        float(np.median(ratios)),
        low,
        high,
        bound,
        verdict(low, high, bound),
    )
