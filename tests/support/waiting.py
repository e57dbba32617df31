"""Waiting for what another thread or process does."""

import threading
import time
from collections.abc import Callable

# A busy machine is no bug: what a test waits for comes in milliseconds, and this is only until it is given up.
PATIENCE_S = 120.0


def until(condition: Callable[[], object], seconds: float = PATIENCE_S) -> None:
    """A condition that nothing here can wait for otherwise."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        threading.Event().wait(0.001)


def least_seconds(call: Callable[[], object], enough_s: float, tries: int = 3) -> float:
    """How long a call takes on a machine that is not busy: the least of some tries, at most.

    What waits for something that is not there waits each time; what is held up by the machine is not. enough_s: once
    it took less than that, it is not tried again.
    """
    took: list[float] = []
    while len(took) < tries and (not took or took[-1] >= enough_s):
        began = time.monotonic()
        call()
        took.append(time.monotonic() - began)
    return min(took)
