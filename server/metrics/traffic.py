"""How long calls take and how many bytes they carry, by kind and table: for the threads of a server.

Why it is so. What must hold: it costs a call of 100 us nothing to speak of. So the bounds are fixed, a call only leaves
a note (0.2 us; what it runs through is not in the processor's caches, so each line of it costs several times what a
loop would measure), and notes are counted when there are many, or when somebody asks. A call of several tables counts
once, as "(several)": each of its tables would else claim all of its time.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ...proto import methods
from ...proto import rowloom_pb2 as pb
from .counters import MOST_TABLES, OTHER

# Upper bounds of the times that are counted together, in seconds; what took longer than the last is counted behind it.
BOUNDS_S = (
    *(0.00005, 0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02),
    *(0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0),
)
CALLS = {methods.PULL: "pull", methods.PULL_BAGS: "pull", methods.PUSH: "push", methods.STEP: "step"}
CONTROL = "control"  # all other calls
SEVERAL = "(several)"
_MOST_NOTES = 512
# Instead of the number of a table, which is above 0.
NO_TABLE, SEVERAL_TABLES, OTHER_TABLES = 0, -1, -2


def only(*tables: Sequence[Any]) -> int:
    """The number with which all of these begin; another word if there are several, or none."""
    if not tables:
        return NO_TABLE
    first = tables[0][0]
    return first if len(tables) == 1 or all(t[0] == first for t in tables) else SEVERAL_TABLES


class Timing:
    """Calls of one kind and table."""

    __slots__ = ("counts", "received", "seconds", "sent")

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS_S) + 1)
        self.seconds = 0.0
        self.received = 0
        self.sent = 0


class Traffic:
    """What a server has answered."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # of all but the notes
        self._notes: deque[tuple[str, int, float, int, int]] = deque()  # arguments of `add`
        self._timings: dict[tuple[str, int], Timing] = {}
        self._tables: set[int] = set()

    def add(self, method: str, table: int, seconds: float, received: int, sent: int) -> None:
        """A call was answered.

        Args:
            method: such as methods.PULL.
            table: the number of the only one that it named; SEVERAL_TABLES, NO_TABLE.
            seconds: that it took.
            received: bytes of its message.
            sent: bytes of its reply.
        """
        self._notes.append((method, table, seconds, received, sent))
        if len(self._notes) >= _MOST_NOTES:
            with self._lock:
                self._count()

    def _count(self) -> None:
        """Count what was noted. The lock is held; others go on to note."""
        notes = self._notes
        for _ in range(len(notes)):
            method, table, seconds, received, sent = notes.popleft()
            key = CALLS.get(method, CONTROL), table
            timing = self._timings.get(key) or self._begin(*key)
            timing.counts[bisect_left(BOUNDS_S, seconds)] += 1
            timing.seconds += seconds
            timing.received += received
            timing.sent += sent

    def _begin(self, call: str, table: int) -> Timing:
        """Where calls of that kind and table are counted."""
        if table > 0 and table not in self._tables:
            if len(self._tables) >= MOST_TABLES:
                table = OTHER_TABLES
            else:
                self._tables.add(table)
        timing = self._timings.get((call, table))
        if timing is None:
            timing = self._timings[call, table] = Timing()
        return timing

    def messages(self, names: Mapping[int, str]) -> Iterator[pb.CallTraffic]:
        """The times by kind and table. names: of the tables that exist; those of others are forgotten."""
        labels = {**names, NO_TABLE: "", SEVERAL_TABLES: SEVERAL, OTHER_TABLES: OTHER}
        with self._lock:
            self._count()
            self._tables &= names.keys()
            for key in [key for key in self._timings if key[1] not in labels]:
                del self._timings[key]
            for (call, table), timing in sorted(self._timings.items()):
                yield pb.CallTraffic(
                    call=call,
                    table=labels[table],
                    counts=timing.counts,
                    seconds=timing.seconds,
                    received_bytes=timing.received,
                    sent_bytes=timing.sent,
                )
