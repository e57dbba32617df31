"""A bound on the memory that all connections of a server hold for messages together."""

from __future__ import annotations

import threading


class Budget:
    """Bytes that may be taken, and are given back. Thread-safe.

    Args:
        limit: how many there are.

    Attributes:
        used: how many are taken.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0
        self._returned = threading.Condition()

    @property
    def tight(self) -> bool:
        """Whether more than half is taken: what is kept for a next time only is then better given back."""
        return 2 * self.used > self.limit

    def take(self, size: int, wait_s: float) -> bool:
        """Take so many bytes, if need be after others have given some back; whether they were to be had in time."""
        with self._returned:
            if not self._returned.wait_for(lambda: self.used + size <= self.limit, wait_s):
                return False
            self.used += size
            return True

    def give(self, size: int) -> None:
        """Give back what was taken."""
        with self._returned:
            self.used -= size
            self._returned.notify_all()
