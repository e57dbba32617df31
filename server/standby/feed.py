"""What a primary keeps for its standby: its changes, in order, until the standby has them; and how long it may serve.

    attach ─▶ kept, nothing waits ─first follow─▶ begun: acknowledged when the standby has it ─▶ the coordinator ends it

Why it is so. What must hold: what was acknowledged, the server that takes the primary's place has. So
- a feed that has begun is ended by the coordinator only, which stores before that the standby can take the place no
  more. Neither an error, nor time, nor a late message ends it: the primary would acknowledge what only it has.
- a feed begins with the first question of the standby, not with the answer by which it was filled: that answer may be
  lost, and then nobody is there to wait for. Changes that were kept before and acknowledged without the standby lie
  below the `end` of the first reply; the standby is in step when it has those.
- a primary that sleeps, or that nobody reaches, must not serve beside its successor. It serves for `lease_s` after it
  *made* the last reply that the standby says to have; the standby does not take its place for `lease_s` after it *got*
  one, which was later. No clocks are compared, only seconds of one machine, which go on while a process sleeps.
Rejected: to send changes to the standby. A standby that asks decides itself when it stops, which is what a takeover
needs; and one question acknowledges all that came before it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from ...proto.framing import Buffer, size_of
from ..durable.records import Kind

MOST_BYTES = 64 << 20  # of changes that the standby has not; beyond them pushes wait for it
REPLY_BYTES = 4 << 20  # of changes in one reply, about
REMEMBERED_REPLIES = 16
# For so long after a reply that says so the standby may answer pulls, and nothing is acknowledged without it.
READS_S = 1.0


@dataclass(frozen=True, slots=True)
class FedChange:
    """One change that was applied; as in `Journal.note`.

    Attributes:
        made_s: when.
        lsn: of its record in the log; 0: it is not in it.
        log_end: where that ends.
    """

    kind: Kind
    payload: Buffer
    rows_after: int
    fold: int
    made_s: float
    lsn: int
    log_end: int


class Feed:
    """All changes of a shard since its standby was filled, of which the standby has some.

    Args:
        name: random.
        waits: pushes are acknowledged when the standby has them, too.
        lease_s: see above.
        reply_bytes: of changes in one reply, about.

    Attributes:
        begun: the standby has asked.
        ended: nothing waits for this standby any more.
        confirmed: how many changes the standby has.
        bytes: of the others.
        moves: goes up with whatever somebody may wait for.
    """

    def __init__(self, name: int, *, waits: bool, lease_s: float, reply_bytes: int = REPLY_BYTES) -> None:
        self._reply_bytes = reply_bytes
        self.name, self._waits, self.lease_s = name, waits, lease_s
        self._all_from = 0  # what lies before it may be acknowledged, and the standby lack it
        self._reads_until, self._reads_number = 0.0, 0  # of the last reply that let the standby answer pulls
        self._reads_end = False
        self.begun = self.ended = False
        self.confirmed = self.bytes = self.moves = 0
        self._changes: deque[FedChange] = deque()
        self._number = 0  # of the last reply
        self._made: dict[int, float] = {}  # when the last replies were made, by number
        self._until = 0.0  # of the lease

    @property
    def waits(self) -> bool:
        """See above."""
        return self._waits

    @waits.setter
    def waits(self, waits: bool) -> None:
        if waits and not self._waits:
            self._all_from = self.end
        self._waits = waits
        self._reads_end = False

    @property
    def end(self) -> int:
        """How many changes there were."""
        return self.confirmed + len(self._changes)

    @property
    def replied(self) -> bool:
        """Whether the standby was ever answered."""
        return self._number > 0

    @property
    def is_full(self) -> bool:
        """Whether it takes no more for now."""
        return self.bytes >= MOST_BYTES

    def behind_s(self, now: float) -> float:
        """For how long the standby has lacked the oldest change that it lacks; 0: it has all."""
        return now - self._changes[0].made_s if self._changes else 0.0

    def note(
        self,
        kind: Kind,
        payload: Buffer,
        rows_after: int = 0,
        fold: int = 0,
        *,
        now: float = 0.0,
        logged: tuple[int, int] = (0, 0),
    ) -> int:
        """Keep a change, made now. payload: stays as it is; logged: its lsn and log_end. Returns the new end."""
        self._changes.append(FedChange(kind, payload, rows_after, fold, now, *logged))
        self.bytes += size_of([payload])
        self.moves += 1
        return self.end

    def confirm(self, position: int) -> None:
        """The standby has so many changes."""
        while self.confirmed < position and self._changes:
            self.bytes -= size_of([self._changes.popleft().payload])
            self.confirmed += 1
            self.moves += 1

    def since(self, position: int) -> Sequence[FedChange]:
        """Changes from a position on that is not below `confirmed`, about as many as fit into a reply."""
        found: list[FedChange] = []
        size = 0
        for k in range(position - self.confirmed, len(self._changes)):
            found.append(self._changes[k])
            size += size_of([found[-1].payload])
            if size >= self._reply_bytes:
                break
        return found

    def heard(self, number: int) -> None:
        """The standby has asked, and says which reply was the last that it got; 0: none."""
        self.begun = True
        if number in self._made:
            self._until = max(self._until, self._made[number] + self.lease_s)
        if number > self._reads_number:  # it has heard of no more reads since
            self._reads_until = 0.0

    def replies(self, now: float) -> int:
        """A reply is made. Returns its number."""
        self._number += 1
        self._made[self._number] = now
        if len(self._made) > REMEMBERED_REPLIES:
            del self._made[next(iter(self._made))]
        if self._number == 1:  # before it, the standby could not take the place of anybody
            self._until = max(self._until, now + self.lease_s)
        return self._number

    # --------------------------------------------------------------------------------------- pulls from the standby

    def may_read(self, position: int) -> bool:
        """Whether a standby that has so many changes may be let answer pulls."""
        return self._waits and not self._reads_end and position >= self._all_from

    def reads_left_s(self, now: float) -> float:
        """For how long from now on the standby may answer pulls, as it was told; 0: it may not, and knows it."""
        return max(0.0, self._reads_until - now)

    def is_news(self, now: float, *, reads: bool) -> bool:
        """Whether the standby is to be told at once whether it may answer pulls."""
        if self.reads_left_s(now):
            return not reads and self._reads_number == self._number
        return reads

    def let_read(self, now: float) -> float:
        """The reply that is made now lets the standby answer pulls. Returns for how long."""
        self._reads_until, self._reads_number = now + READS_S, self._number
        return READS_S

    def end_reads(self, now: float, *, for_good: bool) -> float:
        """The standby is to answer no more pulls. Returns for how long it may yet; 0: what waits for that may go on."""
        left = self.reads_left_s(now)
        self._reads_end |= for_good and left > 0
        self.moves += left > 0  # a question that is held is answered, so that the standby hears of it
        return left

    def holds(self, now: float) -> bool:
        """Whether the primary may serve: nobody else does."""
        return self.ended or not self.begun or now < self._until

    def covers(self, position: int) -> bool:
        """Whether what lies before a position may be acknowledged."""
        return self.confirmed >= position or self.ended or not self.begun
