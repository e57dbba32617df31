"""What a client knows and decides: the layout, its own numbers, what to retry, where and when. No I/O, no threads.

An operation is a generator. It yields a `Turn` - requests to send, and when it wants to be woken at the latest - and is
sent one `Event` at a time: a reply, an error, or None when that moment has come. Whatever drives it owns the clock and
the network: `transport.drive` for real ones, the simulator for made-up ones.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from ...proto import rowloom_pb2 as pb
from ...proto.codec import Buffer, PartName
from ...proto.errors import RowloomError, TableNotFound
from ...proto.layout import Layout
from ...proto.spec import TableEntry
from .requests import PullPart, PushPart

ATTEMPT_TIMEOUT_S = 10.0
BACKOFF_S = (0.02, 1.0)  # first and longest pause between attempts, before jitter

Part = PullPart | PushPart


@dataclass
class Send:
    """A request to put on the wire. reply_bytes: how long its reply may get, where that is known."""

    tag: int
    address: str
    method: str
    buffers: Sequence[Buffer]
    timeout_s: float
    reply_bytes: int = 0


@dataclass
class Turn:
    """What an operation wants done before its next event. `wake_at`: on the driver's clock."""

    sends: list[Send]
    wake_at: float


@dataclass
class Event:
    """The end of one request: `data`, or `error`."""

    tag: int
    data: bytes | memoryview = b""
    error: RowloomError | None = None


Operation = Generator[Turn, Event | None, Any]


@dataclass
class Numbers:
    """Numbers given to parts of one origin, and which of them are finished."""

    last: int = 0
    low_water: int = 0
    finished: set[int] = field(default_factory=set)

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


class Session:
    """One client's state. Its owner holds a lock around every method that says so; operations take it themselves.

    Args:
        seeds: addresses to start from: any shard or the coordinator.
        client_id: random, unlike any other client's.
        rng: for jitter.
        clock: seconds, monotonic.
        lock: a context manager around state that several operations share.
    """

    def __init__(
        self, seeds: Sequence[str], client_id: int, rng: random.Random, clock: Callable[[], float], lock
    ) -> None:
        self.seeds = tuple(seeds)
        self.client_id = client_id
        self.client_epoch = 1
        self.layout: Layout | None = None
        self.entries: dict[str, TableEntry] = {}  # by name
        self.rng = rng
        self.clock = clock
        self._lock = lock
        self._numbers: dict[tuple[int, int], Numbers] = {}
        self._holders: dict[PartName, int] = {}  # name -> unfinished parts that carry it
        self._pushes = 0
        self._tags = 0

    def next_push(self) -> int:
        """The number of the next push call."""
        with self._lock:
            self._pushes += 1
            return self._pushes

    def tag(self) -> int:
        """A number for one request, never used before."""
        with self._lock:
            self._tags += 1
            return self._tags

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

    @contextmanager
    def naming(self, entries: Sequence[TableEntry]) -> Iterator[None]:
        """Shards know tables by number; say the name when one is gone, and look it up anew the next time."""
        try:
            yield
        except TableNotFound as error:
            names = sorted({entry.spec.name for entry in entries})
            for name in names:
                self.entries.pop(name, None)
            raise TableNotFound(f"table {' or '.join(map(repr, names))} was dropped") from error

    # ------------------------------------------------------------------------------------------------- numbers

    def name(self, part: PushPart, layout: Layout) -> None:
        """Give a part its name for this layout, once."""
        origin = (layout.epoch, part.shard)
        if part.names and (part.names[-1].epoch, part.names[-1].shard) == origin:
            return
        name = PartName(*origin, self._numbers.setdefault(origin, Numbers()).next())
        part.names.append(name)
        self._holders[name] = 1

    def replace(self, part: PushPart, pieces: list[PushPart]) -> None:
        """The part was split: its names are finished when all pieces are, not before."""
        with self._lock:
            for name in part.names:
                self._holders[name] += len(pieces) - 1

    def finish(self, part: PushPart) -> None:
        """The part will never be sent again."""
        with self._lock:
            for name in part.names:
                self._holders[name] -= 1
                if not self._holders[name]:
                    del self._holders[name]
                    self._numbers[name.epoch, name.shard].finish(name.seq)

    def encode(self, part: Part, layout: Layout) -> list[Buffer]:
        """The request of a part."""
        header = layout.header(part.shard)
        return (
            part.encode(header)
            if isinstance(part, PullPart)
            else part.encode(header, **self._said(part, layout))
        )

    def head(self, part: PushPart, layout: Layout) -> bytes:
        """The request of a part, up to its first table."""
        return part.head(layout.header(part.shard), **self._said(part, layout))

    def _said(self, part: PushPart, layout: Layout) -> dict[str, int]:
        """What a request says of this client and its other parts."""
        with self._lock:
            self.name(part, layout)
            oldest = min(self._holders).epoch
            if min(self._numbers)[0] < oldest:
                self._numbers = {o: n for o, n in self._numbers.items() if o[0] >= oldest}
            low_water = self._numbers[layout.epoch, part.shard].low_water
        return {
            "client_id": self.client_id,
            "client_epoch": self.client_epoch,
            "low_water": low_water,
            "oldest_epoch": oldest,
        }


def backoff_s(attempts: int, rng: random.Random) -> float:
    """The pause before attempt number `attempts` + 1: doubling, with jitter."""
    first, longest = BACKOFF_S
    return min(longest, first * 2 ** min(attempts, 10)) * rng.uniform(0.5, 1.0)
