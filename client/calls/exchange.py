"""One pull or push on its way: what to send, what to do with each answer. No I/O, no threads."""

from __future__ import annotations

from collections.abc import Iterable

from ...proto import methods
from ...proto import rowloom_pb2 as pb
from ...proto.errors import (
    InvalidRequest,
    Moving,
    NoAnswer,
    Overloaded,
    PushUnresolved,
    Rerouted,
    RowloomError,
    Unavailable,
    WrongCluster,
    WrongLayout,
)
from ...proto.layout import Layout
from .requests import PullPart, PushPart
from .session import ATTEMPT_TIMEOUT_S, Event, Operation, Part, Send, Session, Turn, backoff_s

MOVING_LIMIT_S = 600.0  # how long a push waits for rows to move, beyond its own deadline
MAX_IN_FLIGHT = 16  # parts of one operation that are under way at a time


class Exchange:
    """One pull or push on its way: sends parts, retries them, splits them anew when the layout changes.

    Args:
        session: whose.
        parts: what is to be done.
        deadline: on the session's clock.
        done: parts of the same call that were done already.
    """

    def __init__(
        self, session: Session, parts: Iterable[Part], deadline: float, done: Iterable[Part] = ()
    ) -> None:
        self._session = session
        self._ready: list[Part] = list(parts)[::-1]
        self._waiting: list[tuple[float, Part]] = []
        self._in_flight: dict[int, tuple[Part, Layout]] = {}
        self._deadline = deadline
        self._extended = 0.0
        self._done: list[Part] = list(done)
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
        try:
            while True:
                now = self._session.clock()
                if self._finished() or now >= self._deadline:
                    break
                event = yield Turn(self._sends(now), self._wake_at())
                if event is not None:
                    self._receive(event, self._session.clock())
        finally:
            # Also when Ctrl-C or a closed generator ends it: a number that stays open is remembered by every shard.
            left = self._abandon()
        self._explain(left)
        return None

    def _finished(self) -> bool:
        return not self._in_flight and (self._failure is not None or not (self._ready or self._waiting))

    def _wake_at(self) -> float:
        if (
            self._failure is not None
        ):  # nothing more is sent; else this would be a moment that has passed, for ever
            return self._deadline
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
            part = self._ready[-1]  # taken out once it is somewhere else, so that it is never nowhere
            if part.epoch != layout.epoch:
                self._ready[-1:] = reversed(self._split(part, layout))
                continue
            sends.append(self._send(part, layout, now))
            self._ready.pop()
        return sends

    def _send(self, part: Part, layout: Layout, now: float) -> Send:
        tag = self._session.tag()
        self._in_flight[tag] = (part, layout)
        part.attempts += 1
        buffers = self._session.encode(part, layout)
        timeout = min(self._deadline - now, ATTEMPT_TIMEOUT_S)
        address = layout.shards[part.shard].address
        return Send(tag, address, part.method, buffers, timeout, part.reply_bytes)

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
        return [Send(self._asking, address, methods.DESCRIBE_LAYOUT, [b""], min(self._deadline - now, 2.0))]

    # ----------------------------------------------------------------------------------------------------- in

    def _receive(self, event: Event, now: float) -> None:
        if event.tag == self._asking:
            self._answered(event, now)
            return
        found = self._in_flight.get(event.tag)
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
                del self._in_flight[event.tag]
                self._done.append(part)
                if isinstance(part, PushPart):
                    self._session.finish(part)
                return
        del self._in_flight[event.tag]
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
            part.attempts -= 1
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
                # Those that wait for a new layout need not wait any longer.
                self._ready += [part for _, part in self._waiting if part.epoch < layout.epoch]
                self._waiting = [(at, part) for at, part in self._waiting if part.epoch >= layout.epoch]
                return
        self._ask_at = now if self._ask else now + self._pause(self._asked)

    # ---------------------------------------------------------------------------------------------------- end

    def _abandon(self) -> list[Part]:
        """Those that are not done, whose numbers are finished with this: none of them is sent again."""
        left = [part for part, _ in self._in_flight.values()]
        for part in left:
            if isinstance(part, PushPart):
                part.maybe_applied = True
        waiting = [*self._ready, *(part for _, part in self._waiting)]
        left += [part for part in waiting if all(part is not one for one in left)]
        for part in left:
            if isinstance(part, PushPart):
                self._session.finish(part)
        self._in_flight, self._ready, self._waiting = {}, [], []
        return left

    def _explain(self, left: list[Part]) -> None:
        """Raise what became of a call that left parts undone."""
        if not left:
            return
        pushes = [p for p in left if isinstance(p, PushPart)]
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
