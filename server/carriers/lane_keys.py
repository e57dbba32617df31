"""The keys that lanes are opened with: given out over gRPC, which knows who asks, and said in the hello.

Where callers show tokens, each one gets a key of its own, which opens one lane, soon: whoever says it is the caller of
then. Else all have the same.
"""

from __future__ import annotations

import hmac
import secrets
import threading
import time
from collections.abc import Callable

from ..call import LANE, Caller

KEY_BYTES = 16
KEY_S = 10.0  # for a client to connect
MOST_KEYS = 4096  # not used yet; who asks for more takes the place of the one that has waited longest


class LaneKeys:
    """Those of one server. Thread-safe.

    Args:
        once: each opens one lane only.
        clock: seconds, monotonic.
    """

    def __init__(self, *, once: bool, clock: Callable[[], float] = time.monotonic) -> None:
        self.once = once
        self._clock = clock
        self._lock = threading.Lock()
        self._shared = secrets.token_bytes(KEY_BYTES)
        self._given: dict[bytes, tuple[float, Caller]] = {}  # key -> until when, whose; the oldest first

    def give(self, caller: Caller | None) -> bytes:
        """A key for who asks."""
        if not self.once or caller is None:
            return self._shared
        key, now = secrets.token_bytes(KEY_BYTES), self._clock()
        with self._lock:
            while self._given:
                oldest = next(iter(self._given))
                if self._given[oldest][0] > now and len(self._given) < MOST_KEYS:
                    break
                del self._given[oldest]
            self._given[key] = now + KEY_S, Caller(LANE, caller.principal, caller.rights)
        return key

    def take(self, key: bytes) -> Caller | None:
        """Whose a key is, which is of no use after that if it opens one lane only; None: nobody's."""
        if not self.once:
            return Caller(LANE) if hmac.compare_digest(key, self._shared) else None
        # Found by its hash, which is keyed anew in each process: how long that takes says nothing of other keys.
        with self._lock:
            until, caller = self._given.pop(key, (0.0, None))
        return caller if until > self._clock() else None
