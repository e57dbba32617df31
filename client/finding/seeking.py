"""Where a cluster is, found by a function of the caller's: at first, and whenever nobody answers where it was."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Sequence

from ...proto.errors import RowloomError, Unavailable, in_words
from .addresses import as_addresses

Find = Callable[[], "str | Sequence[str]"]

log = logging.getLogger(__name__)
AGAIN_S = 2.0  # between two calls of the function, which may ask a service of many clients
FIRST_AGAIN_S = 0.2
SAY_AGAIN_S = 60.0


def first_found(find: Find, timeout_s: float) -> tuple[str, ...]:
    """The addresses, as soon as there are any.

    Raises:
        Unavailable: the function has raised that until the time was over.
        Exception: what else the function raises, at once.
        InvalidRequest: what it returns is no address.
    """
    until = time.monotonic() + timeout_s
    while True:
        try:
            return as_addresses(find())
        except Unavailable:
            if time.monotonic() + FIRST_AGAIN_S >= until:
                raise
        time.sleep(FIRST_AGAIN_S)


class Seeker:
    """Calls the function in a thread of its own, so that no call of the client waits for it.

    Args:
        find: the function.
        tell: told the addresses that it finds.
    """

    def __init__(self, find: Find, tell: Callable[[tuple[str, ...]], object]) -> None:
        self._find, self._tell = find, tell
        self._lock = threading.Lock()
        self._next_s = 0.0
        self._seeks = False
        self._said, self._said_s = "", -math.inf  # what was logged last, and when

    def seek(self) -> None:
        """Begin to look, unless that is under way or was a moment ago. Returns at once."""
        with self._lock:
            if self._seeks or time.monotonic() < self._next_s:
                return
            self._seeks = True
        threading.Thread(target=self._seek, name="rowloom-seek", daemon=True).start()

    def _say(self, why: str) -> None:
        """Log why it is not found, but not the same again and again."""
        now = time.monotonic()
        if why != self._said or now - self._said_s >= SAY_AGAIN_S:
            self._said, self._said_s = why, now
            log.info("the cluster is not found yet: %s", why)

    def _seek(self) -> None:
        try:
            self._tell(as_addresses(self._find()))
        except RowloomError as e:
            self._say(in_words(e))
        except Exception:
            log.warning("the function that finds the cluster has failed", exc_info=True)
        finally:
            with self._lock:
                self._seeks, self._next_s = False, time.monotonic() + AGAIN_S
