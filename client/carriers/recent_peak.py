"""How many of something were in use at once lately: so many are worth keeping. Pure: its clock is handed in."""

from __future__ import annotations

WINDOW_S = 15.0  # lately is this window and the one before


class RecentPeak:
    """A count, and its peaks in this window and the one before. Not for several threads."""

    def __init__(self) -> None:
        self.used = 0
        self._window = 0.0
        self._peaks = (0, 0)  # of the window before, of this one

    def take(self, now: float) -> None:
        """One more is in use. now: seconds, monotonic."""
        if now // WINDOW_S != self._window:
            self._turn(now)
        self.used += 1
        if self.used > self._peaks[1]:
            self._peaks = (self._peaks[0], self.used)

    def give_back(self) -> None:
        """One less is."""
        self.used = max(0, self.used - 1)

    def most(self, now: float) -> int:
        """How many were in use at once, at some time within WINDOW_S to twice that."""
        self._turn(now)
        return max(self._peaks)

    def _turn(self, now: float) -> None:
        window = now // WINDOW_S
        if window != self._window:
            before = self._peaks[1] if window == self._window + 1 else self.used
            self._window, self._peaks = window, (before, self.used)
