"""The requests of one call on their way: what to send, what to do with each answer. No I/O, no threads.

What must hold, whatever happens to messages, shards, layouts and the caller:
- a push is acked only when every shard has acked its request; one that is sent again keeps its name, so that no shard
  applies it twice; one whose layout has changed is split anew and keeps its old names;
- an error says what is known and no more: a request that was sent and not answered may have been applied.

Rejected: one operation for each shard. It is simpler until the layout changes in the middle of a push; then the pieces
of several shards go to one, and only who knows all of them can say what became of the push.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from ...proto import methods
from ...proto import rowloom_pb2 as pb
from ...proto.errors import (
    ClientForgotten,
    InvalidRequest,
    Moving,
    NoAnswer,
    Overloaded,
    PushUnresolved,
    Rerouted,
    RowloomError,
    StateLost,
    Unavailable,
    Unreached,
    WrongCluster,
    WrongLayout,
)
from ...proto.layout import Layout
from ..nearest.nearest import FIRST_S, Choice, Nearest
from .operation import Event, Message, Operation, Send, Turn
from .outages import CALL_AGAIN, NO_ANSWER, PATIENCE_S, SAYS_WHAT, dead, named
from .requests import PullRequest, PushRequest, Request
from .session import ATTEMPT_TIMEOUT_S, SLOWEST_BYTES_S, Session, backoff_s
from .unresolved import told_of

MOVING_LIMIT_S = 600.0  # how long a push waits for rows to move, beyond its own deadline
MOST_IN_FLIGHT = 4  # requests of one call to one shard that are under way at a time
MOST_NAMED = 3  # shards, in an error
_LAYOUT_TIMEOUT_S = 2.0


class Exchange:
    """The requests of one call: sent, sent again, split anew when the layout changes.

    Args:
        session: whose.
        requests: what is to be done.
        deadline: on the session's clock.
        pushed_rows: of the same call's push, if that has been done already.
        nearest: where pulls go, of which standbys may answer some; None: all go to shards.
    """

    # How every call begins, and most of them end.
    _moving_until = _extended = _compiled = 0.0
    _failure: RowloomError | None = None
    _last_error: RowloomError | None = None
    _last_shard = -1  # which had that
    # Asking for the layout: the request under way, when to ask next, whom.
    _asking: int | None = None
    _ask_at: float | None = None
    _ask: Sequence[str] = ()
    _asked = _stale_below = 0

    def __init__(
        self,
        session: Session,
        requests: Iterable[Request],
        deadline: float,
        pushed_rows: int | None = None,
        nearest: Nearest | None = None,
    ) -> None:
        self._session = session
        self._ready: list[Request] = list(requests)
        self._waiting: list[tuple[float, Request]] = []
        self._in_flight: dict[int, tuple[Request, Layout, float]] = {}  # by tag; since when
        self._deadline = self._due = deadline
        self._nearest = nearest
        self._pushed = pushed_rows is not None  # at least in part
        self.pushed_rows = pushed_rows or 0

    def run(self) -> Operation:
        """The operation. Raises RowloomError; PushUnresolved or Unavailable when the deadline passes."""
        clock = self._session.clock
        try:
            now = clock()
            while self._in_flight or (self._failure is None and (self._ready or self._waiting)):
                if now >= self._deadline and not self._excused(now):
                    break
                if self._ready or self._waiting or self._ask_at is not None:
                    turn = Turn(self._sends(now), self._wake_at())
                else:
                    turn = Turn([], self._deadline)  # there is nothing to do before an answer has come
                event = yield turn
                now = clock()
                if event is not None:
                    self._receive(event, now)
                else:
                    self._name_silent(now)
        finally:
            left = self._give_up()
        if left:
            raise self._error(left)
        return None

    def _wake_at(self) -> float:
        wake_at = self._deadline
        if self._failure is not None:  # nothing is sent any more: no other moment matters
            return wake_at
        for at, _ in self._waiting:
            wake_at = min(wake_at, at)
        if self._ask_at is not None and self._asking is None:
            wake_at = min(wake_at, self._ask_at)
        return wake_at

    # ---------------------------------------------------------------------------------------------------- out

    def _sends(self, now: float) -> list[Send]:
        if self._failure is not None:
            return []
        if self._waiting:
            self._ready += [request for at, request in self._waiting if at <= now]
            self._waiting = [(at, request) for at, request in self._waiting if at > now]
        sends = self._ask_for_layout(now) if self._ask_at is not None else []
        session = self._session
        layout = session.layout
        if layout is None or layout.epoch < self._stale_below or not self._ready:
            return sends
        for request in self._ready:
            if request.epoch != layout.epoch:
                self._ready = [piece for request in self._ready for piece in self._split(request, layout)]
                break
        in_flight, later, under_way = self._in_flight, self._keep_back(), 0
        for request, _, _ in in_flight.values() if in_flight else ():
            under_way += request.size + request.reply_bytes
        for request in self._ready:
            address = layout.shards[request.shard].address
            if self._nearest is not None and isinstance(request, PullRequest):
                address = self._placed(self._nearest, request, address, now)
            request.prepare(session, layout)
            tag = next(session.tags)
            in_flight[tag] = (request, layout, now)
            under_way += request.size + request.reply_bytes
            # However much else is on the same link: were attempts too short, none would ever end.
            doublings = request.attempts if request.attempts < 6 else 6
            until = now + ATTEMPT_TIMEOUT_S + (under_way << doublings) / SLOWEST_BYTES_S
            if until > self._deadline:
                until = self._deadline
            if self._nearest is not None and not request.attempts:
                until = self._soon(request, now, until, under_way)
            request.attempts += 1
            sends.append(Send(tag, address, request.method, request, until))
        self._ready = later
        return sends

    @staticmethod
    def _placed(nearest: Nearest, request: PullRequest, own: str, now: float) -> str:
        """Where a pull goes that a standby may answer."""
        request.place = nearest.place(request.shard, own, request.numbers, request.avoid, now)
        return request.place.address

    def _soon(self, request: Request, now: float, until: float, under_way: int) -> float:
        """When the first attempt ends of a pull that another server may answer as well."""
        place = request.place if isinstance(request, PullRequest) else None
        if place is None or not place.has_other:
            return until
        return min(until, now + FIRST_S + under_way / SLOWEST_BYTES_S, now + (self._deadline - now) / 2)

    def _keep_back(self) -> list[Request]:
        """Take those out of the ready ones that must wait until their shard has fewer of this call under way."""
        later: list[Request] = []
        if len(self._ready) + len(self._in_flight) <= MOST_IN_FLIGHT:
            return later
        busy = Counter(request.shard for request, _, _ in self._in_flight.values())
        now: list[Request] = []
        for request in self._ready:
            (now if busy[request.shard] < MOST_IN_FLIGHT else later).append(request)
            busy[request.shard] += 1
        self._ready = now
        return later

    def _split(self, request: Request, layout: Layout) -> list[Request]:
        if request.epoch == layout.epoch:
            return [request]
        pieces: list[Request] = list(request.split(layout))
        if isinstance(request, PushRequest):
            request.pusher.replace(request, [piece for piece in pieces if isinstance(piece, PushRequest)])
        return pieces

    def _ask_for_layout(self, now: float) -> list[Send]:
        if self._ask_at is None or self._asking is not None or now < self._ask_at:
            return []
        first, *self._ask = self._ask or self._session.addresses()
        self._asking = next(self._session.tags)
        until = min(self._deadline, now + _LAYOUT_TIMEOUT_S)
        return [Send(self._asking, first, methods.DESCRIBE_LAYOUT, Message(b""), until)]

    # ----------------------------------------------------------------------------------------------------- in

    def _receive(self, event: Event, now: float) -> None:
        if event.tag == self._asking:
            self._answered(event, now)
            return
        found = self._in_flight.get(event.tag)
        if found is None:
            return
        request, layout, sent = found
        error = event.error
        if error is None:
            try:
                request.accept(event.data)
            except InvalidRequest as e:
                error = NoAnswer(f"the reply of shard {request.shard} makes no sense: {e}")
        # Not before the reply is taken: an exception from outside in between would lose the request.
        del self._in_flight[event.tag]
        place = request.place if isinstance(request, PullRequest) else None
        if place is not None and self._tell(place, request, error, now - sent, now):
            return
        if error is not None:
            self._refused(request, layout, error, sent, now)
            return
        if self._session.outages.open:
            asked = "push" if isinstance(request, PushRequest) else "pull"
            self._session.outages.answered(request.shard, now, asked)
        if isinstance(request, PushRequest):
            self._pushed = True
            self.pushed_rows += request.rows
            request.pusher.finish(request)
            if self._session.nearest is not None:
                self._session.nearest.wrote([entry.number for entry, *_ in request.tables], now)

    def _tell(
        self, place: Choice, request: Request, error: RowloomError | None, seconds: float, now: float
    ) -> bool:
        """How a pull ended that a standby might answer. Returns whether that is all that is to be done with it."""
        assert self._nearest is not None
        assert isinstance(request, PullRequest)
        of_standby, request.place, request.avoid = place.max_staleness_s is not None, None, ""
        if error is None:
            self._nearest.answered(place, seconds, request.size + request.reply_bytes, now)
        elif isinstance(error, Rerouted | Unavailable) or of_standby:
            self._nearest.failed(place, now)
            request.avoid = place.address
        else:
            self._nearest.answered(place, seconds, request.size, now)
        if of_standby and error is not None:  # the shard has the last word, whatever it was
            self._ready.append(request)
        return of_standby

    def _refused(
        self, request: Request, layout: Layout, error: RowloomError, sent: float, now: float
    ) -> None:
        self._last_error, self._last_shard = error, request.shard
        if isinstance(request, PushRequest) and _leaves_open(error):
            request.maybe_applied = True
        if isinstance(error, Moving):
            self._extend(sent, now + error.retry_after_s)
            request.attempts -= 1
            self._waiting.append((now + error.retry_after_s, request))
        elif isinstance(error, WrongLayout) and self._told(error, request):
            self._ready.append(request)
        elif isinstance(error, WrongLayout | WrongCluster):
            self._silent(request, layout, error, sent, now)
            self._stale_below = max(self._stale_below, error.epoch)
            self._refresh(now, first=layout.shards[request.shard].address)
            self._waiting.append((now + self._pause(request.attempts), request))
        elif isinstance(error, Rerouted | Unavailable):
            if not isinstance(error, Overloaded):
                self._silent(request, layout, error, sent, now)
                self._refresh(now)
            pause = max(error.retry_after_s, self._pause(request.attempts))
            self._waiting.append((now + pause, request))
        else:
            if isinstance(error, ClientForgotten) and isinstance(request, PushRequest):
                request.pusher.forgotten = True
            if isinstance(error, StateLost):  # it knows its rows, and who asks for which shard
                error = StateLost(f"{named(layout.shards[request.shard])}: {error}")
            self._failure = self._failure or error
            self._ready.append(request)

    def _silent(self, request: Request, layout: Layout, error: RowloomError, sent: float, now: float) -> None:
        """A shard does not answer, or is none for now."""
        session, shard = self._session, layout.shards[request.shard]
        push = isinstance(request, PushRequest)
        session.outages.failed(shard, error, sent, now, self._deadline, session.durability, push=push)

    def _name_silent(self, now: float) -> None:
        """Nothing has come for a while. A shard that stands still keeps its connections: attempts take long to end."""
        if now >= self._deadline:
            return
        under_way = sum(request.size + request.reply_bytes for request, _, _ in self._in_flight.values())
        for request, layout, sent in self._in_flight.values():
            if isinstance(request, PullRequest) and request.max_staleness_s is not None:
                continue  # the shard was not asked
            if now - sent >= PATIENCE_S + under_way / SLOWEST_BYTES_S:
                self._silent(request, layout, NoAnswer(NO_ANSWER), sent, now)

    def _told(self, error: WrongLayout, request: Request) -> bool:
        """Whether a refusal has brought a newer layout than that of the request, which then goes on now."""
        if not error.layout:
            return False
        reply = pb.DescribeLayoutReply()
        reply.layout.ParseFromString(error.layout)
        layout = self._session.layout if self._session.learn(reply) else None
        if layout is None or layout.epoch <= request.epoch:
            return False
        self._learned(layout)
        return True

    def _learned(self, layout: Layout) -> None:
        """There is a new layout: requests that wait for one need not wait any longer."""
        if layout.epoch >= self._stale_below:
            self._ask_at = None
        self._ready += [request for _, request in self._waiting if request.epoch < layout.epoch]
        self._waiting = [(at, request) for at, request in self._waiting if request.epoch >= layout.epoch]

    def _extend(self, begin: float, end: float) -> None:
        """Waiting for rows to move is not failing, so it does not use up the caller's time; but not for ever.

        Several requests may wait at the same time: that time counts once.
        """
        more = end - max(begin, self._moving_until)
        if more > 0 and self._extended < MOVING_LIMIT_S:
            self._deadline += more
            self._extended += more
            self._moving_until = end

    def _excused(self, now: float) -> bool:
        """Whether there is time left, because some of it went into compiling kernels: once on a machine.

        That is no fault of a shard. It is asked for only here, so that calls that end in time pay nothing for it.
        """
        compiled = self._session.compiled_s(self._due)
        self._deadline += compiled - self._compiled
        self._compiled = compiled
        return now < self._deadline

    def _pause(self, attempts: int) -> float:
        return backoff_s(attempts, self._session.rng)

    def _refresh(self, now: float, first: str | None = None) -> None:
        if self._ask_at is None:
            self._ask_at = now
            self._ask = list(dict.fromkeys([*([first] if first else []), *self._session.addresses()]))

    def _answered(self, event: Event, now: float) -> None:
        self._asking = None
        self._asked += 1
        reply = (
            pb.DescribeLayoutReply() if event.error else pb.DescribeLayoutReply.FromString(bytes(event.data))
        )
        if event.error is None and self._session.learn(reply):
            layout = self._session.layout
            if layout is not None and layout.epoch >= self._stale_below:
                self._learned(layout)
                if reply.dead and reply.layout.epoch == layout.epoch:
                    self._end_waiting(layout, reply.dead)
                return
        if not self._ask and event.error is not None:
            self._session.lost()
        self._ask_at = now if self._ask else now + self._pause(self._asked)

    def _end_waiting(self, layout: Layout, gone: Sequence[int]) -> None:
        """The coordinator knows that shards are dead for good: nobody waits for them."""
        if self._failure is None:
            needed = (
                r.shard for r in (*self._ready, *(r for _, r in self._waiting)) if r.epoch == layout.epoch
            )
            self._failure = next((dead(layout.shards[shard]) for shard in needed if shard in gone), None)

    # ---------------------------------------------------------------------------------------------------- end

    def _give_up(self) -> list[Request]:
        """Nothing is sent any more. Returns what is not done.

        An exception may have come from anywhere, so a request may stand in two lists.
        """
        if not (self._in_flight or self._ready or self._waiting):
            return []
        under_way = [request for request, _, _ in self._in_flight.values()]
        for request in under_way:
            if isinstance(request, PushRequest):
                request.maybe_applied = True
            elif request.place is not None and self._nearest is not None:
                self._nearest.given_up(request.place)
        every = [*under_way, *self._ready, *(request for _, request in self._waiting)]
        left = list({id(request): request for request in every}.values())
        self._in_flight, self._ready, self._waiting = {}, [], []
        return left

    def _error(self, left: list[Request]) -> RowloomError:
        pushes = [request for request in left if isinstance(request, PushRequest)]
        unknown = sum(request.rows for request in pushes if request.maybe_applied)
        maybe = any(request.maybe_applied for request in pushes)
        cause = self._failure or self._last_error
        if self._pushed or maybe:
            unapplied = sum(request.rows for request in pushes) - unknown
            what, todo, then = told_of(pushes[0].kind if pushes else None)
            unresolved = PushUnresolved(
                f"{what}: {self.pushed_rows} rows have the push, {unknown} may have it, {unapplied} do not; each at "
                f"most once. {todo}. {self._why(left, then)}",
                acked_rows=self.pushed_rows,
                unknown_rows=unknown,
                unapplied_rows=unapplied,
            )
            unresolved.__cause__ = cause
            return unresolved
        if self._failure is not None:
            return self._failure
        if isinstance(cause, Overloaded):
            return cause
        return Unavailable(self._why(left))

    def _why(self, left: list[Request], then: str = CALL_AGAIN) -> str:
        """In words, which shards have not done their part, why, and what to do; `then`: when they serve."""
        session, layout = self._session, self._session.layout
        if self._failure is not None or isinstance(self._last_error, Overloaded) or layout is None:
            # As when a shard's log failed.
            todo = f". {SAYS_WHAT}" if isinstance(self._failure, PushUnresolved) else ""
            return f"Last answer: {self._failure or self._last_error or 'none'}{todo}"
        now, why = session.clock(), {self._last_shard: str(self._last_error)}
        shards = [layout.shards[k] for k in sorted({request.shard for request in left}) if k < layout.n]
        said = [session.outages.in_words(s, now, why.get(s.index, NO_ANSWER)) for s in shards[:MOST_NAMED]]
        said += [f"and {len(shards) - MOST_NAMED} shards more"] if len(shards) > MOST_NAMED else []
        return f"{'; '.join(said)}. {session.outages.what_next(shards, session.durability, then)}"


def _leaves_open(error: RowloomError) -> bool:
    """Whether a push that was answered so may have been applied.

    No answer, an internal error, one half-way; and a shard that cannot know: whatever repeats messages between us and
    it may have brought it the push before, when it still knew the client. Not one that could not be reached.
    """
    if isinstance(error, Unreached):
        return False
    return isinstance(error, NoAnswer | PushUnresolved | ClientForgotten) or type(error) is RowloomError
