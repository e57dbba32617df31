"""What a client knows: the layout, the tables, who of it pushes. No I/O, no threads."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np

from ...proto import rowloom_pb2 as pb
from ...proto.errors import TableNotFound
from ...proto.layout import Layout
from ...proto.spec import TableEntry
from ..nearest.nearest import Nearest
from .cutting import RequestSizes
from .outages import Outages
from .placed import Placed, heads_of
from .pusher import Pusher

# An attempt gets this time, and a second more for so many bytes on their way; ever more, if attempts get no answer.
ATTEMPT_TIMEOUT_S, SLOWEST_BYTES_S = 10.0, 1 << 20
BACKOFF_S = (0.02, 1.0)  # first and longest pause between attempts, before jitter
MOST_PLACED = 1000


class Session:
    """One client's state. Its owner holds a lock around every method that says so; operations take it themselves.

    Args:
        seeds: addresses to start from: any shard or the coordinator.
        client_id: of the first of its pushers; random, unlike any other client's.
        rng: for jitter, and the ids of further pushers.
        clock: seconds, monotonic.
        lock: a context manager around state that several operations share.
        sizes: how much goes into one request; the carrier knows.

    Attributes:
        lost: told that nobody answers where the cluster was; returns at once, and may call `found` later.
        outages: the shards that do not answer, and who is told of them.
        nearest: where pulls go that standbys may answer; None: no pull is one.
        compiled_s: of a call's deadline, how long kernels were compiled since the call began.
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
        self.lost: Callable[[], object] = lambda: None
        self.layout: Layout | None = None
        self.entries: dict[str, TableEntry] = {}  # by name
        self.durability = ""  # as in DescribeLayoutReply
        self.rng = rng
        self.clock = clock
        self.sizes = sizes or RequestSizes()
        self.outages = Outages(lock)
        self.nearest: Nearest | None = None
        self.compiled_s: Callable[[float], float] = lambda deadline: 0.0
        self._lock = lock
        self._placed: dict[int, Placed] = {}  # by table number, all of one layout
        self._heads: tuple[Layout | None, list[np.ndarray]] = (None, [])
        # The same for standbys, by what they may lack.
        self._standby_heads: tuple[Layout | None, dict[float, list[np.ndarray]]] = (None, {})
        self.pushers = [Pusher(client_id, lock)]  # those that were ever needed at once
        self._idle = list(self.pushers)
        self.tags = itertools.count(1)

    def take_pusher(self) -> Pusher:
        """One for a push call alone, until it is given back: calls that do not overlap have the same one."""
        with self._lock:
            if self._idle:
                return self._idle.pop()
            pusher = Pusher(self.rng.getrandbits(63) | 1, self._lock)
            self.pushers.append(pusher)
            return pusher

    def give_back(self, pusher: Pusher) -> None:
        """Its call has ended: done, out of time, refused, or by an exception thrown into it."""
        pusher.end_call()
        with self._lock:
            if pusher.forgotten:
                self.pushers.remove(pusher)
            else:
                self._idle.append(pusher)

    def learn(self, reply: pb.DescribeLayoutReply) -> bool:
        """Take a newer layout. Returns whether there was one to take or to keep."""
        if not reply.HasField("layout"):
            return False
        layout = Layout.from_message(reply.layout)
        with self._lock:
            known = self.layout
            if known is not None and layout.cluster_id != known.cluster_id:
                self.outages.another = (  # someone else lives at that address now
                    f"what answers at {layout.coordinator} is another cluster, {layout.cluster_id!r}; this client is "
                    f"of {known.cluster_id!r}"
                )
                return False
            self.outages.another = ""
            if known is None or layout.epoch >= known.epoch:
                self.layout = layout
                self.durability = reply.durability or self.durability
                if reply.has_tables:
                    self.entries = {m.spec.name: TableEntry.from_message(m) for m in reply.tables}
                if self.nearest is not None and reply.has_standbys:
                    self.nearest.heard({one.index: one.address for one in reply.standbys})
            return True

    def addresses(self) -> list[str]:
        """Where the layout can be asked for, best first."""
        known = self.layout
        shards = [s.address for s in known.shards] if known else []
        coordinator = [known.coordinator] if known and known.coordinator else []
        return list(dict.fromkeys([*coordinator, *self.seeds, *shards]))

    def found(self, addresses: Sequence[str]) -> None:
        """The cluster may be there now."""
        self.seeds = tuple(addresses)

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

    def head(self, layout: Layout, shard: int, max_staleness_s: float | None = None) -> np.ndarray:
        """The bytes of a PullRequest to a shard up to its first table. max_staleness_s: as of `Layout.header`."""
        if max_staleness_s is not None:
            return self._standby_head(layout, shard, max_staleness_s)
        known, heads = self._heads
        if known is not layout:
            heads = heads_of(layout)
            self._heads = layout, heads
        return heads[shard]

    def _standby_head(self, layout: Layout, shard: int, max_staleness_s: float) -> np.ndarray:
        known, heads = self._standby_heads
        if known is not layout:
            heads = dict[float, list[np.ndarray]]()
            self._standby_heads = layout, heads
        if max_staleness_s not in heads:
            heads[max_staleness_s] = heads_of(layout, max_staleness_s)
        return heads[max_staleness_s][shard]


def backoff_s(attempts: int, rng: random.Random) -> float:
    """The pause before attempt number `attempts` + 1: doubling, with jitter."""
    first, longest = BACKOFF_S
    return min(longest, first * 2 ** min(attempts, 10)) * rng.uniform(0.5, 1.0)
