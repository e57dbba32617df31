"""How fast rows are fetched while trainers call: both share the cores of a machine. Pure.

Why it is so. What must hold: trainers keep most of what they had, and a move ends all the same. So rows travel a part
of the time, whether the cores are busy or not, and trainers have it all in between. Where other work takes the cores,
the time that rows have taken has become longer, and so has the pause: what trainers keep does not depend on that.
Where passes do not become shorter there is no pause, and then a brake on pushes: see `deploy/control/passes.py`.
Rejected: what trainers leave. Those that never pause leave nothing. Rejected: threads of a lower priority. They hold
locks that calls of trainers wait for.
"""

from __future__ import annotations

import math

SHARE = 0.35  # of the cores of a machine: so many shards fetch rows there at a time, on average
CALLED_S = 0.25  # so long after a call trainers are taken to be there
# What takes longer waits for no cores, but for a server that stood still or a lane that broke.
MOST_PAUSE_S = 2.0


class Pace:
    """Of one shard that receives.

    Args:
        cores: of its machine.
        receivers: shards that receive there, this one included.
    """

    def __init__(self, cores: int, receivers: int) -> None:
        self._part = min(1.0, SHARE * cores / receivers)
        self._calls: dict[int, int] = {}
        self._called_at = -math.inf

    def pause_s(self, now: float, old: int, calls: int, took_s: float) -> float:
        """How long to wait before the next block.

        Args:
            now: in seconds.
            old: the shard that gave the block.
            calls: for rows that it has answered so far.
            took_s: to fetch the block and to put it in.
        """
        if calls != self._calls.setdefault(old, calls):
            self._calls[old], self._called_at = calls, now
        if now > self._called_at + CALLED_S:
            return 0.0
        return min(MOST_PAUSE_S, took_s * (1 / self._part - 1))
