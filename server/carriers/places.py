"""Places that whoever comes takes and gives back, shared so that the last ones are left to those who have none.

Why it is so. What must hold: one that takes all that it gets, and gives nothing back, leaves places to others, who need
not wait for somebody to be thrown out. So somebody who has k places gets another one only while more than k are free:
alone it gets half of them, of n that want all each gets one in n + 1, and as many are free for who comes next.
While more than half are free, nobody has as many as are free. So nobody is asked who it is before fewer are: that takes
longer than all else here.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable


class Place:
    """A place that somebody has or waits for.

    asked: whose it is.

    Attributes:
        ready: the wait is over; None: there was none.
        has: it has the place.
    """

    __slots__ = ("_asked", "_who", "has", "ready")

    def __init__(self, asked: Callable[[], str]) -> None:
        self._asked = asked
        self._who: str | None = None
        self.has = False
        self.ready: threading.Event | None = None

    @property
    def who(self) -> str:
        """Whose."""
        if self._who is None:
            self._who = self._asked()
        return self._who


class Places:
    """Callers hold one lock around every method.

    count: how many there are.
    """

    def __init__(self, count: int) -> None:
        self.free = count
        self._half = count // 2
        self._unasked: set[Place] = (
            set()
        )  # places of those who were not asked who they are; nobody waits then
        self._held: dict[str, int] = {}
        self._waiting: dict[str, deque[Place]] = {}

    def held(self, who: str) -> int:
        """How many somebody has, of those who were asked."""
        return self._held.get(who, 0)

    @property
    def shut_out(self) -> int:
        """How many of those who wait have none."""
        return sum(who not in self._held for who in self._waiting)

    @property
    def queued(self) -> int:
        """Places that are waited for."""
        return sum(map(len, self._waiting.values()))

    def take(self, asked: Callable[[], str]) -> Place:
        """A place, or one as soon as it is there: then `ready` is to be waited for. `leave` must follow.

        asked: who wants it.
        """
        turn = Place(asked)
        if self.free > self._half:
            self.free -= 1
            turn.has = True
            self._unasked.add(turn)
            return turn
        for one in self._unasked:
            self._held[one.who] = self.held(one.who) + 1
        self._unasked.clear()
        who = turn.who
        if who not in self._waiting and self.free > self.held(who):
            self._give(turn)
        else:
            turn.ready = threading.Event()
            self._waiting.setdefault(who, deque()).append(turn)
        return turn

    def leave(self, turn: Place) -> None:
        """Give a place back, which the one who has fewest of those that wait gets; or wait no more."""
        if not turn.has:
            self._remove(turn)
            return
        turn.has = False
        self.free += 1
        if turn in self._unasked:
            self._unasked.remove(turn)
            return
        left = self.held(turn.who) - 1
        if left:
            self._held[turn.who] = left
        else:
            del self._held[turn.who]
        while self._waiting:
            first = min(self._waiting, key=self.held)
            if self.free <= self.held(first):
                return
            following = self._waiting[first][0]
            self._remove(following)
            self._give(following)

    def _give(self, turn: Place) -> None:
        self.free -= 1
        self._held[turn.who] = self.held(turn.who) + 1
        turn.has = True
        if turn.ready is not None:
            turn.ready.set()

    def _remove(self, turn: Place) -> None:
        waiting = self._waiting[turn.who]
        waiting.remove(turn)
        if not waiting:
            del self._waiting[turn.who]
