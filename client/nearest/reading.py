"""Which servers answer a client's pulls, as callers say it. Pure."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from dataclasses import dataclass

from ...proto.errors import InvalidRequest
from ...proto.recipes import is_number, shown
from .nearest import Nearest

PRIMARY, NEAREST = "primary", "nearest"
USUAL_S = 5.0
MOST_S = 1e9


@dataclass(frozen=True)
class ReadFrom:
    """As `connect` takes it.

    Attributes:
        word: PRIMARY or NEAREST.
        max_staleness_s: None: of no meaning.
    """

    word: str = PRIMARY
    max_staleness_s: float | None = None

    @classmethod
    def of(cls, word: object, max_staleness_s: object) -> ReadFrom:
        """What a caller has said. Raises InvalidRequest."""
        if word not in (PRIMARY, NEAREST):
            raise InvalidRequest(f"read_from must be {PRIMARY!r} or {NEAREST!r}, got {shown(word)}")
        if word == PRIMARY:
            if max_staleness_s is not None:
                raise InvalidRequest(
                    f"max_staleness_s={shown(max_staleness_s)} needs read_from={NEAREST!r}: shards answer with nothing "
                    "that is old"
                )
            return cls()
        seconds = USUAL_S if max_staleness_s is None else max_staleness_s
        if not is_number(seconds) or not 0 <= seconds <= MOST_S:  # type: ignore[operator]
            raise InvalidRequest(
                f"max_staleness_s must be in [0, {MOST_S:g}] seconds, got {shown(max_staleness_s)}"
            )
        return cls(NEAREST, float(seconds))  # type: ignore[arg-type]

    def nearest(self, rng: random.Random, is_here: Callable[[str], bool]) -> Nearest | None:
        """What says where the pulls of one process go. None: to shards."""
        if self.max_staleness_s is None:
            return None
        return Nearest(self.max_staleness_s, rng, threading.Lock(), is_here)
