"""Who pushes: an identity that shards know, and the names of what it sends. No I/O, no threads.

Why names are kept like this. A part of a push is named by its origin - the layout's epoch and the shard it was first
meant for - and a number of that origin; a shard remembers the numbers above a low-water mark. So whatever ends a call,
its numbers are finished then (`Session.give_back`), or the mark would stand still and the shard's window fill up until
it refuses every push. A part that is split under a new layout keeps its old names, which are finished when all of its
pieces are.

Why a client may have several. Shards take the pushes of one identity in the order of their numbers: that is how a step
is counted once, however many requests a push has. So one identity's calls follow each other, and a client that had only
one made pushes of all its threads wait for a shard that only one of them needed, beyond the time that they were given.
Calls of several threads have no order between them that anybody could have asked for; each gets an identity that is
free. Rejected: one queue for each shard; it is as good until the layout changes in the middle of a push.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol

from ...proto.codec import PartName
from ...proto.layout import Layout
from .push_heads import PushHeads


@dataclass
class Numbers:
    """Numbers given to parts of one origin, and which of them are finished."""

    last: int = 0
    low_water: int = 0
    finished: set[int] = field(default_factory=set[int])

    def next(self) -> int:
        """The next number, from 1."""
        self.last += 1
        return self.last

    def finish(self, seq: int) -> None:
        """Part `seq` will never be sent again."""
        self.finished.add(seq)
        while self.low_water + 1 in self.finished:
            self.low_water += 1
            self.finished.discard(self.low_water)

    def finish_all(self) -> None:
        """None that was given will ever be sent again."""
        self.low_water = self.last
        self.finished.clear()


class Named(Protocol):
    """What of a push goes to one shard, as far as its names are concerned.

    Attributes:
        shard: whom it is sent to under the layout of the moment.
        names: what it was sent as, newest last.
    """

    shard: int
    names: list[PartName]


class Pusher:
    """One identity. Its push calls follow each other.

    Args:
        client_id: what shards know it as; random.
        lock: held around each change.

    Attributes:
        heads: of its PushRequests.
        forgotten: a shard knows nothing of it any more, and takes no push under this identity again.
    """

    def __init__(self, client_id: int, lock: AbstractContextManager[Any]) -> None:
        self.client_id = client_id
        self.heads = PushHeads(client_id, client_epoch=1)
        self.forgotten = False
        self._lock = lock
        self._numbers: dict[tuple[int, int], Numbers] = {}
        self._holders: dict[PartName, int] = {}  # name -> unfinished parts that carry it
        self._pushes = 0

    @property
    def open_numbers(self) -> int:
        """How many numbers are not finished; 0 between its calls."""
        return len(self._holders) + sum(n.last - n.low_water for n in self._numbers.values())

    def next_push(self) -> int:
        """The number of the next push call."""
        with self._lock:
            self._pushes += 1
            return self._pushes

    def name(self, request: Named, layout: Layout) -> tuple[int, int]:
        """Give what goes to a shard its name for this layout, once.

        Returns:
            low_water and oldest_epoch, as in PushRequest.
        """
        origin = epoch, shard = layout.epoch, request.shard
        with self._lock:
            numbers = self._numbers.get(origin)
            if numbers is None:
                numbers = self._numbers[origin] = Numbers()
            newest = request.names[-1] if request.names else None
            if newest is None or (newest.epoch, newest.shard) != origin:
                name = PartName(epoch, shard, numbers.next())
                request.names.append(name)
                self._holders[name] = 1
            oldest = min(self._holders).epoch
            if min(self._numbers)[0] < oldest:
                self._numbers = {o: n for o, n in self._numbers.items() if o[0] >= oldest}
            return numbers.low_water, oldest

    def replace(self, request: Named, pieces: Sequence[Named]) -> None:
        """It was split: its names are finished when all pieces are, not before."""
        with self._lock:
            for name in request.names:
                self._holders[name] += len(pieces) - 1

    def finish(self, request: Named) -> None:
        """It will never be sent again."""
        with self._lock:
            for name in request.names:
                self._holders[name] -= 1
                if not self._holders[name]:
                    self._finished(name)

    def end_call(self) -> None:
        """Nothing of its call will be sent again, however that has ended.

        All numbers, not those that somebody is known to hold: an exception may come between a number and its holder.
        """
        with self._lock:
            for numbers in self._numbers.values():
                numbers.finish_all()
            self._holders.clear()

    def _finished(self, name: PartName) -> None:
        self._numbers[name.epoch, name.shard].finish(name.seq)
        del self._holders[name]
