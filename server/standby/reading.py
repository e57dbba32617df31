"""When a standby may answer a pull: what it can show of its rows without asking anybody.

    sync:  nothing is acknowledged without the standby for `reads_s` after a reply: it lacks nothing that was
    async: it had all that there was at `fresh_s`: it lacks nothing that was acknowledged before

Why it is so. What must hold: an answer lacks nothing that its caller has not agreed to, also when the standby stood
still, is cut off, or was given up without hearing of it. So it goes by what its primary said last, and when; where that
is too long ago it refuses, and the client asks the primary. The primary for its part ends a feed, or lets pushes go on
without the standby, only when what it has said so is over (`Feed.end_reads`).
A reply was made after its question was asked and held: that is how old it is at the most. No clocks are compared.
Rejected: to ask the primary at each pull. It would cost what the standby is to spare it: a call.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from ...proto import rowloom_pb2 as pb
from ...proto.errors import RetryLater

WANTED_S = 10.0  # after it was asked for rows, for so long a standby asks its primary to be allowed to answer
RETRY_S = 0.05


@dataclass(slots=True)
class StandbyReads:
    """What a process was asked for as a standby, since it started.

    Attributes:
        pulls: answered.
        rows: of these.
        refused: because its rows could not be shown to be new enough.
    """

    pulls: int = 0
    rows: int = 0
    refused: int = 0

    def count(self, rows: Iterable[int]) -> None:
        """One was answered, with so many rows of each table."""
        self.pulls, self.rows = self.pulls + 1, self.rows + sum(rows)


class Freshness:
    """What a standby knows of how old its rows are.

    Args:
        clock: in seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._asked_s = 0.0  # when the question was asked that is under way
        self._proved_s = -1.0  # the last reply was made then, or later
        self._fresh_s = -1.0  # it has all that there was then
        # How many changes there were, and when: more than it has.
        self._ends: deque[tuple[int, float]] = deque()
        self._reads_s = 0.0
        self._alone = False
        self._wanted_until = 0.0

    @property
    def is_wanted(self) -> bool:
        """Whether somebody wanted rows lately."""
        return self._clock() < self._wanted_until

    def asks(self) -> None:
        """A question goes to the primary now."""
        self._asked_s = self._clock()

    def came(self, reply: pb.FollowReply, position: int) -> None:
        """It was answered, and what that brought was applied. position: changes that the standby has."""
        self._proved_s = self._asked_s + max(0.0, reply.held_s)
        self._reads_s, self._alone = reply.reads_s, reply.alone
        if self._ends and self._ends[-1][0] == reply.end:
            self._ends.pop()
        self._ends.append((reply.end, self._proved_s))
        while self._ends and self._ends[0][0] <= position:
            self._fresh_s = self._ends.popleft()[1]

    def check(self, max_staleness_s: float) -> None:
        """A pull has come. Raises RetryLater: the rows may lack more than it agrees to."""
        now = self._clock()
        self._wanted_until = now + WANTED_S
        if self._alone:
            shown = self._fresh_s >= 0 and now - self._fresh_s < max_staleness_s
        else:
            # Who has yet to hear of another layout is told no more than that its rows are not older.
            least = min(self._reads_s, max_staleness_s) if max_staleness_s else self._reads_s
            shown = self._proved_s >= 0 and now - self._proved_s < least
        if not shown or not max_staleness_s >= 0:  # nor if it is no number
            raise RetryLater(
                f"this standby cannot show that its rows lack nothing that was acknowledged {max_staleness_s:g} s ago",
                retry_after_s=RETRY_S,
            )
