"""Saying so, once, when a cluster keeps its client waiting. No I/O but a line in the log."""

from __future__ import annotations

import logging
from collections.abc import Callable

from ..calls.operation import Operation

log = logging.getLogger(__name__)
PATIENCE_S = 2.0  # silence beyond this looks like a program that hangs


def announced(
    operation: Operation, addresses: str, timeout_s: float, clock: Callable[[], float]
) -> Operation:
    """The same operation, which says in the log as a warning that it waits, for whom, and for what reason.

    A refused connection ends no wait: whoever starts trainers and a cluster together does not know which is up first.

    Args:
        operation: that may have to wait for a cluster.
        addresses: of whom, in words.
        timeout_s: how long it waits at most.
        clock: seconds; the one by which the operation is driven.
    """
    began, told, last = clock(), False, "no answer yet"
    try:
        turn = next(operation)
        while True:
            event = yield turn
            if event is not None:
                last = str(event.error or "it answers, and has no layout yet: it is starting")
            waited = clock() - began
            if not told and waited >= PATIENCE_S and (event is None or event.error is not None):
                told = True
                log.warning("waiting for a rowloom cluster at %s, up to %g s: %s", addresses, timeout_s, last)
            turn = operation.send(event)
    except StopIteration as end:
        return end.value
    finally:
        operation.close()
