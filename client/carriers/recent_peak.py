"""How many of a thing were in use at once lately. No I/O, no threads."""

from __future__ import annotations

WINDOW_S = 30.0  # how long nobody needs a thing before it is let go: up to twice this


class RecentPeak:
    """Highest number seen in this window of time and in the one before."""

    def __init__(self) -> None:
        self._window = 0.0
        self._peaks = (0, 0)  # of the window before, of this one

    def saw(self, used: int, now: float) -> int:
        """So many are in use, or were until now. Returns the peak.

        now: seconds, monotonic. A number can only fall when one is given back, so it is enough to say this then.
        """
        window = now // WINDOW_S
        if window != self._window:
            before = self._peaks[1] if window == self._window + 1 else used
            self._window, self._peaks = window, (before, used)
        elif used > self._peaks[1]:
            self._peaks = (self._peaks[0], used)
        return max(self._peaks)
