"""The servers that may answer a pull of one client, and how quick they have been. No I/O, no threads."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass

USUAL_BYTES = 1 << 16  # that take as long as all that is not bytes
KEPT = 0.8  # of what is known of a server, when one more answer has come
HALF_FORGOTTEN_S = 2.0  # what is not tried is forgotten, so that it is tried again
ALIKE = 2.0  # within this factor servers are taken for equally quick, and take turns by chance
OUT_S = (0.25, 8.0)  # how long a server is not asked that did not answer: at first, and at most


@dataclass(slots=True)
class _Server:
    cost_s: float = 0.0  # about, of a usual pull; 0: not known
    at: float = 0.0  # when that was so
    under_way: int = 0
    failures: int = 0  # in a row
    out_until: float = 0.0


class Servers:
    """What one client knows of servers, by address and by what is asked of them. Its owner locks.

    Args:
        rng: who is asked of those that are alike.
        is_here: whether a host is this machine.
    """

    def __init__(self, rng: random.Random, is_here: Callable[[str], bool]) -> None:
        self._rng, self._is_here = rng, is_here
        self._known: dict[tuple[str, bool], _Server] = {}

    def _of(self, key: tuple[str, bool]) -> _Server:
        return self._known.setdefault(key, _Server())

    def is_out(self, key: tuple[str, bool], now: float) -> bool:
        """Whether a server is better not asked for now."""
        known = self._known.get(key)
        return known is not None and now < known.out_until

    def pick(self, one: tuple[str, bool], other: tuple[str, bool], now: float) -> tuple[str, bool]:
        """Which of two is asked: the one on this machine, else the quicker one; by chance if they are alike."""
        here = [self._is_here(key[0].rpartition(":")[0]) for key in (one, other)]
        if here[0] != here[1]:
            return one if here[0] else other
        costs = [self._cost(key, now) for key in (one, other)]
        if max(costs) <= ALIKE * min(costs) or not max(costs):
            return self._rng.choice((one, other))
        return one if costs[0] < costs[1] else other

    def _cost(self, key: tuple[str, bool], now: float) -> float:
        known = self._known.get(key)
        if known is None:
            return 0.0
        return known.cost_s * math.exp((known.at - now) / HALF_FORGOTTEN_S) * (known.under_way + 1)

    def asked(self, key: tuple[str, bool], now: float) -> None:
        """A request goes to it. One that was out is tried by this one alone."""
        known = self._of(key)
        known.under_way += 1
        if known.failures:
            known.out_until = now + OUT_S[0]

    def answered(self, key: tuple[str, bool], seconds: float, size: int, now: float) -> None:
        """It has answered a request of so many bytes, reply included."""
        known, cost_s = self._of(key), seconds / (1 + size / USUAL_BYTES)
        known.cost_s = KEPT * known.cost_s + (1 - KEPT) * cost_s if known.cost_s else cost_s
        known.at, known.failures, known.out_until = now, 0, 0.0
        known.under_way -= 1

    def failed(self, key: tuple[str, bool], now: float) -> None:
        """It has not, or said that it cannot."""
        known = self._of(key)
        known.under_way -= 1
        known.out_until = now + min(OUT_S[1], OUT_S[0] * 2**known.failures)
        known.failures = min(known.failures + 1, 16)

    def given_up(self, key: tuple[str, bool]) -> None:
        """Nobody waits for it any more."""
        self._of(key).under_way -= 1
