"""Virtual time, one seed, and a network that loses, doubles, delays and reorders: what a simulated cluster lives in.

The client's operations, the shard hosts and the coordinator's programs are the real ones. Only what lies around them -
clock, wires, processes, disk - is made up here and in `cluster.py`.
"""

import hashlib
import heapq
import itertools
import math
import os
import random
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext, suppress
from typing import Any

from rowloom.client.calls.control import look_for_standbys
from rowloom.client.calls.cutting import RequestSizes
from rowloom.client.calls.operation import Event, Operation, Send, as_bytes
from rowloom.client.calls.session import Session
from rowloom.client.nearest.nearest import Nearest
from rowloom.proto.errors import NoAnswer, RowloomError
from rowloom.server.ledger import MAX_CLIENTS

Outcome = bytes | RowloomError
Ended = Callable[[Any], None]
_WORLDS = itertools.count()


class World:
    """Clock, network and nodes. Everything random comes from one seed.

    Attributes:
        nodes: by address, what a request is given to: (method, data, what to call with the answer).
        clogged: addresses that nothing reaches and nothing comes from.
        severed: pairs of addresses; nothing that the first one says reaches the second, and the opposite may.
        injected: how often each kind of fault has happened.
        calls: how many requests were made.
        max_clients: how many clients a shard remembers.
        block_bytes: of rows that move, in one answer: few, so that pushes come between.
        snapshots: the URL under which snapshots are kept.
        max_staleness_s: of pulls that standbys may answer; None: there are none.
        reads_lag: these may lack what others have pushed just before: pushes do not wait for standbys.
        trace: a hash of all that was sent and done, if it was asked for.
    """

    def __init__(self, seed: int, *, traced: bool = False) -> None:
        self.rng = random.Random(seed)
        self.now = 0.0
        self.nodes: dict[str, Callable[[str, bytes, Ended], None]] = {}
        self.clogged: set[str] = set()
        self.severed: set[tuple[str, str]] = set()
        self.injected: Counter[str] = Counter()
        self.calls = 0
        self.max_clients = MAX_CLIENTS
        self.block_bytes = 100 if seed % 2 else 1 << 20
        self.snapshots = f"memory://simulated-{os.getpid()}-{next(_WORLDS)}"
        self.max_staleness_s: float | None = None
        self.reads_lag = False
        self.trace = hashlib.blake2b(digest_size=16) if traced else None
        self._order = 0
        self._events: list[tuple[float, int, Callable, tuple]] = []
        self.weather("calm")

    def weather(self, kind: str) -> None:
        """How bad the network is."""
        self.lose = {"lossy": 0.15, "stormy": 0.1}.get(kind, 0.0)
        self.double = {"doubling": 0.3, "stormy": 0.2}.get(kind, 0.0)
        self.slow = {"calm": 0.001, "lossy": 0.005}.get(kind, 0.05)
        self.linger = 0.02  # of the messages take longer than an attempt waits

    def clock(self) -> float:
        return self.now

    def at(self, delay_s: float, do: Callable, *args: Any) -> None:
        self._order += 1
        heapq.heappush(self._events, (self.now + delay_s if delay_s > 0 else self.now, self._order, do, args))

    def run(self, until: Callable[[], bool], limit_s: float = 10_000.0) -> None:
        """Let time pass until a condition holds."""
        events, pop, end = self._events, heapq.heappop, self.now + limit_s
        while not until():
            assert events, "nothing will happen any more"
            self.now, _, do, args = pop(events)
            assert self.now < end, "it goes on for ever"
            do(*args)

    def log(self, kind: str, address: str, method: str, size: int) -> None:
        """Add to the trace."""
        if self.trace is not None:
            self.trace.update(f"{self.now!r} {kind} {address} {method} {size}\n".encode())

    # ------------------------------------------------------------------------------------------------------ network

    def _delay(self) -> float:
        random = self.rng.random
        if random() < self.linger:  # an answer nobody expects any more
            self.injected["late message"] += 1
            return 12.0 * random()
        return -math.log(1.0 - random()) * self.slow

    def _lost(self, address: str, way: tuple[str, str]) -> bool:
        """address: of the two, who was called. way: who says it, and to whom."""
        if way in self.severed:
            self.injected["severed message"] += 1
            return True
        if address in self.clogged:
            self.injected["clogged message"] += 1
            return True
        if self.lose and self.rng.random() < self.lose:
            self.injected["lost message"] += 1
            return True
        return False

    def post(
        self, address: str, method: str, data: bytes, timeout_s: float, ended: Ended, caller: str = ""
    ) -> None:
        """A call: `ended` is called once, with the reply, an error, or NoAnswer when time is up.

        caller: its address; empty: a client.
        """
        self.calls += 1
        if self.trace is not None:
            self.log("send", address, method, len(data))
        waiting = [ended]
        self.at(timeout_s, self._answered, address, method, waiting, None)
        copies = 1
        if self.double and self.rng.random() < self.double:
            self.injected["doubled message"] += 1
            copies = 2
        for _ in range(copies):
            if not self._lost(address, (caller, address)):
                self.at(self._delay(), self._arrive, address, method, data, waiting, caller)

    def _arrive(self, address: str, method: str, data: bytes, waiting: list, caller: str) -> None:
        def answer(outcome: Outcome) -> None:
            if not self._lost(address, (address, caller)):
                self.at(self._delay(), self._answered, address, method, waiting, outcome)

        if self.trace is not None:
            self.log("arrive", address, method, len(data))
        node = self.nodes.get(address)
        if node is None:
            answer(NoAnswer(f"nobody listens at {address}"))
        else:
            node(method, data, answer)

    def _answered(self, address: str, method: str, waiting: list, outcome: Outcome | None) -> None:
        if waiting:
            if outcome is None:
                outcome = NoAnswer(f"{address} did not answer in time")
            if self.trace is not None:
                size = 0 if isinstance(outcome, RowloomError) else len(outcome)
                self.log(type(outcome).__name__, address, method, size)
            waiting.pop()(outcome)

    # ------------------------------------------------------------------------------------------------------ clients

    def operate(self, session: Session, operation: Operation, ended: Ended) -> "Running":
        """Drive one operation of a session; `ended` gets its result, its RowloomError, or Cut."""
        running = Running(self, operation, ended)
        running.step(None)
        return running

    def session(self, seeds: list[str], client_id: int) -> Session:
        rng = random.Random(self.rng.getrandbits(32))
        # Most calls here are small: limits of some rows cut them as larger ones are cut by a carrier's.
        sizes = self.rng.choice(
            [RequestSizes(), RequestSizes(whole=100, piece=60), RequestSizes(whole=300, piece=40)]
        )
        session = Session(seeds, client_id, rng, self.clock, nullcontext(), sizes)
        if self.max_staleness_s is not None:
            session.nearest = Nearest(self.max_staleness_s, rng, nullcontext())
        return session

    def look_for_standbys(self, session: Session) -> None:
        """What a client does beside its pulls, now and then."""
        if session.nearest is not None and session.nearest.is_due(self.now):
            self.operate(session, look_for_standbys(session, self.now + 1.0), lambda _: None)


def request_bytes(send: Send) -> bytes:
    """What a driver puts on the wire: the one place that knows how a Send has it."""
    return as_bytes(send.message)


class Cut(Exception):
    """The caller's own exception ended the call; what became of a push is not known."""


class Running:
    """One operation on its way.

    Attributes:
        cut_in: before which of the next events an exception ends it; None: never.
    """

    def __init__(self, world: World, operation: Operation, ended: Ended) -> None:
        self._world = world
        self._operation = operation
        self._ended = ended
        self._steps = 0
        self.cut_in: int | None = None

    def step(self, event: Event | None, number: int = 0) -> None:
        """Give it an event; None: the moment that it asked to be woken at after step `number`."""
        if number != self._steps or self._ended is None:
            return
        if self.cut_in is not None:
            self.cut_in -= 1
            if self.cut_in <= 0:
                self._cut()
                return
        self._steps = number = number + 1
        try:
            turn = self._operation.send(event)
        except StopIteration as end:
            self._end(end.value)
            return
        except RowloomError as e:
            self._end(e)
            return
        world = self._world
        for send in turn.sends:
            tag = send.tag
            world.post(
                send.address,
                send.method,
                request_bytes(send),
                send.until - world.now,
                lambda outcome, tag=tag: self._deliver(tag, outcome),
            )
        world.at(turn.wake_at - world.now, self.step, None, number)

    def _deliver(self, tag: int, outcome: Outcome) -> None:
        if self._ended is not None:
            failed = isinstance(outcome, RowloomError)
            self.step(Event(tag, error=outcome) if failed else Event(tag, outcome), self._steps)  # type: ignore[arg-type]

    def _cut(self) -> None:
        self._world.injected["call cut by an exception"] += 1
        if self._world.rng.random() < 0.5:
            self._operation.close()
        else:
            with suppress(KeyboardInterrupt):
                self._operation.throw(KeyboardInterrupt())
        self._end(Cut())

    def _end(self, outcome: Any) -> None:
        ended, self._ended = self._ended, None  # type: ignore[assignment]
        ended(outcome)
