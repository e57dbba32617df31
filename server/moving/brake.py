"""A brake on pushes, for when rows change faster than they can be moved: it gives each row of a push some time."""

from __future__ import annotations

MOST_BRAKED_S = 0.1  # that a push waits for those before it: no call shall stand still


class Brake:
    """Spaces pushes out. Callers hold the host's lock.

    Attributes:
        pushes: that were delayed.
        seconds: for so long, all together.
    """

    def __init__(self) -> None:
        self.pushes, self.seconds = 0, 0.0
        self._free_at = 0.0  # when all pushes that have come have had their time

    def admit(self, now: float, rows: int, row_s: float) -> float:
        """When a push that comes now may go on: now, or later, in the order in which they come.

        Args:
            now: in seconds.
            rows: of the push.
            row_s: for each of them, in which no other push goes on.
        """
        at = max(now, min(self._free_at, now + MOST_BRAKED_S))
        self._free_at = at + rows * row_s
        if at > now:
            self.pushes, self.seconds = self.pushes + 1, self.seconds + at - now
        return at
