"""What a client knows and decides: the layout, its own numbers, what to retry, where and when. No I/O, no threads.

An operation is a generator. It yields a `Turn` - requests to send, and when it wants to be woken at the latest - and is
sent one `Event` at a time: a reply, an error, or None when that moment has come. Whatever drives it owns the clock and
the network: `transport.drive` for real ones, the simulator for made-up ones.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..proto import rowloom_pb2 as pb
from ..proto.channel import NoAnswer
from ..proto.codec import Buffer, PartName
from ..proto.errors import (
    InvalidRequest,
    Moving,
    Overloaded,
    PushUnresolved,
    Rerouted,
    RowloomError,
    TableNotFound,
    Unavailable,
    WrongCluster,
    WrongLayout,
)
from ..proto.layout import PROTOCOL, Layout
from ..proto.spec import TableEntry
from .parts import PullPart, PushPart

ATTEMPT_TIMEOUT_S = 10.0
BACKOFF_S = (0.02, 1.0)  # first and longest pause between attempts, before jitter
MOVING_LIMIT_S = 600.0  # how long a push waits for rows to move, beyond its own deadline
MAX_IN_FLIGHT = 16  # parts of one operation that are under way at a time
DESCRIBE = "/rowloom.v1.Directory/DescribeLayout"

Part = PullPart | PushPart


@dataclass
class Send:
    """A request to put on the wire."""

    tag: int
    address: str
    method: str
    buffers: Sequence[Buffer]
    timeout_s: float


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
        header = pb.Header(
            cluster_id=layout.cluster_id, epoch=layout.epoch, protocol=PROTOCOL, shard=part.shard
        )
        if isinstance(part, PullPart):
            return part.encode(header)
        with self._lock:
            self.name(part, layout)
            oldest = min(name.epoch for name in self._holders)
            self._numbers = {o: n for o, n in self._numbers.items() if o[0] >= oldest}
            low_water = self._numbers[layout.epoch, part.shard].low_water
        return part.encode(
            header,
            client_id=self.client_id,
            client_epoch=self.client_epoch,
            low_water=low_water,
            oldest_epoch=oldest,
        )


class Exchange:
    """One pull or push on its way: sends parts, retries them, splits them anew when the layout changes."""

    def __init__(self, session: Session, parts: Iterable[Part], deadline: float) -> None:
        self._session = session
        self._ready: list[Part] = list(parts)[::-1]
        self._waiting: list[tuple[float, Part]] = []
        self._in_flight: dict[int, tuple[Part, Layout]] = {}
        self._deadline = deadline
        self._extended = 0.0
        self._done: list[Part] = []
        self._failure: RowloomError | None = None
        self._last_error: RowloomError | None = None
        # Asking for the layout: the request under way, when to ask next, whom.
        self._asking: int | None = None
        self._ask_at: float | None = None
        self._ask: list[str] = []
        self._asked = 0
        self._stale_below = 0

    def run(self) -> Operation:
        """The operation. Raises RowloomError; PushUnresolved or Unavailable when the deadline passes."""
        while True:
            now = self._session.clock()
            if self._finished() or now >= self._deadline:
                break
            event = yield Turn(self._sends(now), self._wake_at())
            if event is not None:
                self._receive(event, self._session.clock())
        self._close()
        return None

    def _finished(self) -> bool:
        return not self._in_flight and (self._failure is not None or not (self._ready or self._waiting))

    def _wake_at(self) -> float:
        times = [self._deadline, *(at for at, _ in self._waiting)]
        if self._ask_at is not None and self._asking is None:
            times.append(self._ask_at)
        return min(times)

    # ---------------------------------------------------------------------------------------------------- out

    def _sends(self, now: float) -> list[Send]:
        if self._failure is not None:
            return []
        due = [part for at, part in self._waiting if at <= now]
        if due:
            self._waiting = [(at, part) for at, part in self._waiting if at > now]
            self._ready.extend(reversed(due))
        sends = self._ask_for_layout(now)
        layout = self._session.layout
        if layout is None or layout.epoch < self._stale_below:
            return sends
        while self._ready and len(self._in_flight) < MAX_IN_FLIGHT:
            part = self._ready.pop()
            if part.epoch != layout.epoch:
                self._ready.extend(reversed(self._split(part, layout)))
                continue
            sends.append(self._send(part, layout, now))
        return sends

    def _send(self, part: Part, layout: Layout, now: float) -> Send:
        tag = self._session.tag()
        self._in_flight[tag] = (part, layout)
        part.attempts += 1
        buffers = self._session.encode(part, layout)
        timeout = min(self._deadline - now, ATTEMPT_TIMEOUT_S)
        return Send(tag, layout.shards[part.shard].address, part.method, buffers, timeout)

    def _split(self, part: Part, layout: Layout) -> list[Part]:
        if isinstance(part, PullPart):
            return list(part.split(layout))
        pieces = list(part.split(layout))
        self._session.replace(part, pieces)
        return list(pieces)

    def _ask_for_layout(self, now: float) -> list[Send]:
        if self._ask_at is None or self._asking is not None or now < self._ask_at:
            return []
        if not self._ask:
            self._ask = self._session.addresses()
        self._asking = self._session.tag()
        address = self._ask.pop(0)
        return [Send(self._asking, address, DESCRIBE, [b""], min(self._deadline - now, 2.0))]

    # ----------------------------------------------------------------------------------------------------- in

    def _receive(self, event: Event, now: float) -> None:
        if event.tag == self._asking:
            self._answered(event, now)
            return
        found = self._in_flight.pop(event.tag, None)
        if found is None:
            return
        part, layout = found
        error = event.error
        if error is None:
            try:
                part.accept(event.data)
            except InvalidRequest as e:
                error = NoAnswer(f"the reply of shard {part.shard} makes no sense: {e}")
            else:
                self._done.append(part)
                if isinstance(part, PushPart):
                    self._session.finish(part)
                return
        self._refused(part, layout, error, now)

    def _refused(self, part: Part, layout: Layout, error: RowloomError, now: float) -> None:
        self._last_error = error
        if isinstance(error, NoAnswer) and isinstance(part, PushPart):
            part.maybe_applied = True
        if isinstance(error, Moving):
            # Waiting for rows to move is not failing, so it does not use up the caller's time; but not for ever.
            if self._extended < MOVING_LIMIT_S:
                self._deadline += error.retry_after_s
                self._extended += error.retry_after_s
            self._waiting.append((now + error.retry_after_s, part))
        elif isinstance(error, WrongLayout | WrongCluster):
            self._stale_below = max(self._stale_below, error.epoch)
            self._refresh(now, first=layout.shards[part.shard].address)
            self._waiting.append((now + self._pause(part.attempts), part))
        elif isinstance(error, Rerouted | Unavailable):
            if not isinstance(error, Overloaded):
                self._refresh(now)
            self._waiting.append((now + max(error.retry_after_s, self._pause(part.attempts)), part))
        else:
            self._failure = self._failure or error
            self._ready.append(part)

    def _pause(self, attempts: int) -> float:
        return backoff_s(attempts, self._session.rng)

    def _refresh(self, now: float, first: str | None = None) -> None:
        if self._ask_at is None:
            self._ask_at = now
            self._ask = list(dict.fromkeys([*([first] if first else []), *self._session.addresses()]))

    def _answered(self, event: Event, now: float) -> None:
        self._asking = None
        self._asked += 1
        if event.error is None and self._session.learn(pb.DescribeLayoutReply.FromString(bytes(event.data))):
            layout = self._session.layout
            if layout is not None and layout.epoch >= self._stale_below:
                self._ask_at = None
                return
        self._ask_at = now if self._ask else now + self._pause(self._asked)

    # ---------------------------------------------------------------------------------------------------- end

    def _close(self) -> None:
        left = [part for part, _ in self._in_flight.values()]
        for part in left:
            if isinstance(part, PushPart):
                part.maybe_applied = True
        left += [*self._ready, *(part for _, part in self._waiting)]
        if not left:
            return
        pushes = [p for p in left if isinstance(p, PushPart)]
        for part in pushes:
            self._session.finish(part)
        acked = sum(p.rows for p in self._done if isinstance(p, PushPart))
        unknown = sum(p.rows for p in pushes if p.maybe_applied)
        maybe = any(p.maybe_applied for p in pushes)
        cause = self._failure or self._last_error
        if pushes and (acked or maybe):
            raise PushUnresolved(
                f"the push ended before every shard had answered: {acked} rows have it, {unknown} may have it, "
                f"{sum(p.rows for p in pushes) - unknown} do not; each at most once. Last answer: {cause or 'none'}",
                acked_rows=acked,
                unknown_rows=unknown,
                unapplied_rows=sum(p.rows for p in pushes) - unknown,
            )
        if self._failure is not None:
            raise self._failure
        if isinstance(cause, Unavailable) and not isinstance(cause, NoAnswer):
            raise cause
        raise Unavailable(
            f"no answer within the deadline from {sorted({p.shard for p in left})} of the shards; last answer: "
            f"{cause or 'none'}. Is the cluster up (`rowloom status`)?"
        )


def fetch_layout(session: Session, deadline: float) -> Operation:
    """Ask all known addresses for the layout until one knows it. Raises Unavailable."""
    attempts, last = 0, "none"
    while True:
        for address in session.addresses():
            if session.clock() >= deadline:
                raise Unavailable(
                    f"no rowloom cluster answered at {', '.join(session.seeds)} within the deadline; last answer: "
                    f"{last}. Is it up (`rowloom status`), and is the address right?"
                )
            event = yield from _call(session, address, DESCRIBE, b"", min(deadline, session.clock() + 2.0))
            if event.error is None and session.learn(pb.DescribeLayoutReply.FromString(bytes(event.data))):
                return None
            if event.error is not None and not isinstance(event.error, Rerouted | Unavailable):
                raise event.error
            last = str(event.error or f"{address} has no layout yet")
        attempts += 1
        yield from _pause(session, attempts, deadline)


def ask(session: Session, method: str, request: bytes, deadline: float) -> Operation:
    """One call to the coordinator, repeated until it is answered. Returns the reply's bytes.

    Raises:
        RowloomError: what it answered; Unavailable when the deadline passes.
    """
    attempts, last = 0, "none"
    while session.clock() < deadline:
        layout = session.layout
        if layout is None or not layout.coordinator or attempts % 4 == 3:  # it may have moved
            yield from fetch_layout(session, deadline)
        assert session.layout is not None
        until = min(deadline, session.clock() + ATTEMPT_TIMEOUT_S)
        event = yield from _call(session, session.layout.coordinator, method, request, until)
        if event.error is None:
            return event.data
        if isinstance(event.error, TableNotFound) and attempts and method.endswith("/DropTable"):
            return b""  # an earlier attempt dropped it and its answer was lost
        if not isinstance(event.error, Rerouted | Unavailable):
            raise event.error
        last = str(event.error)
        attempts += 1
        yield from _pause(session, attempts, deadline)
    raise Unavailable(f"the coordinator did not answer within the deadline; last answer: {last}")


def ask_shards(session: Session, method: str, request: bytes, deadline: float) -> Operation:
    """One call to every shard, repeated until it is answered. Returns the replies by shard. Raises RowloomError."""
    replies = []
    if session.layout is None:
        yield from fetch_layout(session, deadline)
    assert session.layout is not None
    for index in range(session.layout.n):
        attempts = 0
        while True:
            assert session.layout is not None
            address = session.layout.shards[index].address
            until = min(deadline, session.clock() + ATTEMPT_TIMEOUT_S)
            event = yield from _call(session, address, method, request, until)
            if event.error is None:
                replies.append(event.data)
                break
            if not isinstance(event.error, Rerouted | Unavailable) or session.clock() >= deadline:
                raise event.error
            attempts += 1
            yield from _pause(session, attempts, deadline)
    return replies


def _call(
    session: Session, address: str, method: str, request: bytes, until: float
) -> Generator[Turn, Event | None, Event]:
    """One request and its end."""
    tag = session.tag()
    event = yield Turn([Send(tag, address, method, [request], max(0.0, until - session.clock()))], until)
    while session.clock() < until and (event is None or event.tag != tag):
        event = yield Turn([], until)
    if event is None or event.tag != tag:
        return Event(tag, error=NoAnswer(f"{address} did not answer in time"))
    return event


def _pause(session: Session, attempts: int, deadline: float) -> Generator[Turn, Event | None, None]:
    until = min(deadline, session.clock() + backoff_s(attempts, session.rng))
    while session.clock() < until:
        yield Turn([], until)


def backoff_s(attempts: int, rng: random.Random) -> float:
    """The pause before attempt number `attempts` + 1: doubling, with jitter."""
    first, longest = BACKOFF_S
    return min(longest, first * 2 ** min(attempts, 10)) * rng.uniform(0.5, 1.0)
