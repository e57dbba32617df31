"""What a client knows and decides: the layout, its own numbers, what to retry, where and when. No I/O, no threads.

Why numbers are kept like this. A part of a push is named by its origin - the layout's epoch and the shard it was first
meant for - and a number of that origin; a shard remembers the numbers above a low-water mark. So whatever ends a call,
its numbers must be finished sooner or later, or the mark stands still and the shard's window fills up until it refuses
every push. A part that is split under a new layout keeps its old names, which are finished when all of its pieces are.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from ...proto import rowloom_pb2 as pb
from ...proto.codec import PartName
from ...proto.errors import TableNotFound
from ...proto.layout import Layout
from ...proto.spec import TableEntry
from .cutting import RequestSizes
from .placed import Placed, heads_of

ATTEMPT_TIMEOUT_S = 10.0
BACKOFF_S = (0.02, 1.0)  # first and longest pause between attempts, before jitter
MOST_PLACED = 1000


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


class Named(Protocol):
    """What of a push goes to one shard, as far as its names are concerned.

    Attributes:
        shard: whom it is sent to under the layout of the moment.
        names: what it was sent as, newest last.
    """

    shard: int
    names: list[PartName]


class Session:
    """One client's state. Its owner holds a lock around every method that says so; operations take it themselves.

    Args:
        seeds: addresses to start from: any shard or the coordinator.
        client_id: random, unlike any other client's.
        rng: for jitter, and for another id when shards have forgotten this one.
        clock: seconds, monotonic.
        lock: a context manager around state that several operations share.
        sizes: how much goes into one request; the carrier knows.
    """

    def __init__(
        self,
        seeds: Sequence[str],
        client_id: int,
        rng: random.Random,
        clock: Callable[[], float],
        lock: AbstractContextManager[Any],
        sizes: RequestSizes | None = None,
    ) -> None:
        self.seeds = tuple(seeds)
        self.client_id = client_id
        self.client_epoch = 1
        self.layout: Layout | None = None
        self.entries: dict[str, TableEntry] = {}  # by name
        self.rng = rng
        self.clock = clock
        self.sizes = sizes or RequestSizes()
        self._lock = lock
        self._placed: dict[int, Placed] = {}  # by table number, all of one layout
        self._heads: tuple[Layout | None, list[np.ndarray]] = (None, [])
        self._numbers: dict[tuple[int, int], Numbers] = {}
        self._holders: dict[PartName, int] = {}  # name -> unfinished parts that carry it
        self._pushes = 0
        self._forgotten = False
        self.tags = itertools.count(1)

    def next_push(self) -> int:
        """The number of the next push call. A client that was forgotten goes on under a new name."""
        with self._lock:
            if self._forgotten and not self._holders:
                self.client_id = self.rng.getrandbits(63) | 1
                self._numbers, self._pushes, self._forgotten = {}, 0, False
            self._pushes += 1
            return self._pushes

    def forgotten(self) -> None:
        """A shard knows nothing of this client any more, and takes no push under its name again."""
        self._forgotten = True

    def learn(self, reply: pb.DescribeLayoutReply) -> bool:
        """Take a newer layout. Returns whether there was one to take or to keep."""
        if not reply.HasField("layout"):
            return False
        layout = Layout.from_message(reply.layout)
        with self._lock:
            known = self.layout
            if known is not None and layout.cluster_id != known.cluster_id:
                return False  # someone else lives at that address now
            if known is None or layout.epoch >= known.epoch:
                self.layout = layout
                if reply.has_tables:
                    self.entries = {m.spec.name: TableEntry.from_message(m) for m in reply.tables}
            return True

    def addresses(self) -> list[str]:
        """Where the layout can be asked for, best first."""
        known = self.layout
        shards = [s.address for s in known.shards] if known else []
        coordinator = [known.coordinator] if known and known.coordinator else []
        return list(dict.fromkeys([*coordinator, *self.seeds, *shards]))

    def keep(self, entry: TableEntry) -> TableEntry:
        """Remember a table."""
        with self._lock:
            self.entries[entry.spec.name] = entry
        return entry

    def gone(self, entries: Iterable[TableEntry]) -> TableNotFound:
        """Shards know tables by number; the error by name when one is gone, which is looked up anew the next time."""
        names = sorted({entry.spec.name for entry in entries})
        for name in names:
            self.entries.pop(name, None)
        return TableNotFound(f"table {' or '.join(map(repr, names))} was dropped")

    def placed(self, entry: TableEntry, layout: Layout) -> Placed:
        """What a layout says of a table."""
        found = self._placed.get(entry.number)
        if found is None or found.layout is not layout:
            if len(self._placed) > MOST_PLACED:  # of tables that were dropped, mostly
                self._placed.clear()
            found = self._placed[entry.number] = Placed.of(entry, layout)
        return found

    def head(self, layout: Layout, shard: int) -> np.ndarray:
        """The bytes of a PullRequest to a shard up to its first table."""
        known, heads = self._heads
        if known is not layout:
            heads = heads_of(layout)
            self._heads = layout, heads
        return heads[shard]

    # ------------------------------------------------------------------------------------------------- numbers

    def name(self, request: Named, layout: Layout) -> tuple[int, int]:
        """Give what goes to a shard its name for this layout, once.

        Returns:
            low_water and oldest_epoch, as in PushRequest.
        """
        origin = (layout.epoch, request.shard)
        with self._lock:
            newest = request.names[-1] if request.names else None
            if newest is None or (newest.epoch, newest.shard) != origin:
                name = PartName(*origin, self._numbers.setdefault(origin, Numbers()).next())
                request.names.append(name)
                self._holders[name] = 1
            oldest = min(self._holders).epoch
            if min(self._numbers)[0] < oldest:
                self._numbers = {o: n for o, n in self._numbers.items() if o[0] >= oldest}
            return self._numbers[origin].low_water, oldest

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

    def abandon(self, names: Iterable[PartName]) -> None:
        """Nothing that carries one of these names will be sent again. All of them are of one call."""
        with self._lock:
            for name in set(names):
                if name in self._holders:
                    self._finished(name)

    def _finished(self, name: PartName) -> None:
        del self._holders[name]
        self._numbers[name.epoch, name.shard].finish(name.seq)


def backoff_s(attempts: int, rng: random.Random) -> float:
    """The pause before attempt number `attempts` + 1: doubling, with jitter."""
    first, longest = BACKOFF_S
    return min(longest, first * 2 ** min(attempts, 10)) * rng.uniform(0.5, 1.0)
