"""Waiting for what takes as long as it takes, as long as it goes on."""

from __future__ import annotations

from collections.abc import Callable

from ...proto.errors import Unavailable
from .effects import Program, Sleep


def until_done(
    look: Callable[[], Program],
    clock: Callable[[], float],
    pauses_s: tuple[float, float],
    stall_s: float,
    stalled: str,
) -> Program:
    """Look again and again until it is done.

    Args:
        look: a program that returns whether it is done, and how far it is, as a number.
        clock: in seconds.
        pauses_s: the first and the longest, between two looks.
        stall_s: for which that number may stay the same.
        stalled: what is said then.

    Raises:
        Unavailable: it has stalled.
        RowloomError: what a look raises.
    """
    pause, longest = pauses_s
    seen, since = -1, clock()
    while True:
        done, far = yield from look()
        if done:
            return
        if far != seen:
            seen, since = far, clock()
        elif clock() >= since + stall_s:
            raise Unavailable(stalled)
        yield Sleep(pause)
        pause = min(longest, pause * 1.5)
