"""Scalings: the one that runs, how those before it ended, and those that a policy decides."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from ..proto import rowloom_pb2 as pb
from ..proto.errors import InvalidRequest, RetryLater, RowloomError, in_words
from ..proto.spec import Dealing
from .config.sections import Autoscale
from .config.words import scaling_to
from .control.autoscaling import Autoscaler, Meter
from .control.coordinator import Coordinator
from .control.effects import Program
from .control.reshard import Cancelled, Progress, Reshard
from .performer import Performer

log = logging.getLogger(__name__)
LOOK_S = 15.0  # between two looks at the load
REMEMBERED = 64  # ended scalings, for those who ask late


class Mover(Protocol):
    """What moves rows: to another count of shards, or shards to other servers."""

    progress: Progress

    def run(self) -> Program:
        """Do it."""
        ...

    def cancel(self) -> bool:
        """Give it up. Returns whether that is still possible."""
        ...


@dataclass(frozen=True)
class Scaling:
    """One change of who owns which ids, or of the servers of shards.

    Attributes:
        number: its own for ever, also among those of coordinators before; how a caller asks for its end.
        what: in words; two of the same words are the same.
        progress: how far it is.
        move: what moves the rows; None where the rows have moved, and only the rest is to be done.
        handed_over: the shards that go over to other servers; none: ids change owners.
        then: called when it is done, and others may run.
    """

    number: int
    what: str
    progress: Progress
    move: Mover | None
    handed_over: Sequence[int] = ()
    then: Callable[[], None] = field(default=lambda: None)

    @property
    def ended(self) -> bool:
        """Whether it is done or has failed."""
        return self.progress.ended


class Scalings:
    """Starts scalings, one at a time.

    Args:
        coordinator: of the moment; another one after a restart.
        performer: runs them.
        on_done: called with the new number of shards.
        max_extra_bytes: what rows that move may take, as `Reshard` has it.
        check_there: raises NotStored if the storage is not where it was: a move would make new logs elsewhere.
    """

    def __init__(
        self,
        coordinator: Callable[[], Coordinator],
        performer: Performer,
        on_done: Callable[[int], None] = lambda shards: None,
        max_extra_bytes: Callable[[], int] = lambda: 0,
        check_there: Callable[[], object] = lambda: None,
    ) -> None:
        self._coordinator = coordinator
        self._performer = performer
        self._on_done, self._max_extra_bytes = on_done, max_extra_bytes
        self._check_there = check_there
        # Only whoever has begun at the performer writes these.
        self._running: Scaling | None = None
        self._known: dict[int, Scaling] = {}

    def start(self, shards: int, dealings: Mapping[str, Dealing] | None = None) -> pb.ScaleReply:
        """Start to scale. The same scaling that runs is taken for the one that is asked for.

        What is so already is "done" only if every server has taken its place; where a scaling failed after its commit,
        this one finishes it.

        Args:
            shards: how many there will be; 0: as many as there are, or as those that are being made.
            dealings: by name, how the ids of some tables are to be dealt; of all others as they are.

        Raises:
            RetryLater: something else runs; another scaling, which it names, included.
            InvalidRequest: shards is out of range, or a table cannot be dealt so.
            TableNotFound: there is no such table.
        """
        running, anew = self._under_way, self._anew(dealings or {})
        shards = shards or (running.progress.shards if running else self._coordinator().layout.n)
        what = scaling_to(shards, anew)
        return self._begin(what, lambda: self._scaling(what, shards, anew))

    def hand_over(
        self,
        what: str,
        indexes: Sequence[int],
        make: Callable[[], Mover],
        then: Callable[[], None] = lambda: None,
    ) -> pb.ScaleReply:
        """Start to hand shards over to other servers. One of the same words that runs is taken for it.

        Args:
            what: in words.
            indexes: of the shards.
            make: what does it; called when nothing else runs.
            then: called when it is done.

        Raises:
            RetryLater: something else runs.
            RowloomError: what `make` raises.
        """

        def scaling() -> Scaling:
            move = make()
            return Scaling(self._coordinator().turn(), what, move.progress, move, tuple(indexes), then)

        return self._begin(what, scaling)

    def _begin(self, what: str, make: Callable[[], Scaling | None]) -> pb.ScaleReply:
        """Start what `make` gives, if nothing else runs; None: there is nothing to do."""
        running = self._under_way
        if running is not None:
            if running.what == what:
                return self._reply(running)
            raise RetryLater(in_short(running), retry_after_s=0.5)
        self._performer.begin(what)
        try:
            scaling = make()
            if scaling is not None:
                if scaling.move is not None:
                    self._check_there()
                self._remember(scaling)
                name = "rowloom-scale"
                threading.Thread(target=self._run, args=(scaling,), name=name, daemon=True).start()
        except BaseException:
            self._running = None
            self._performer.end()
            raise
        if scaling is None:
            self._performer.end()
            layout = self._coordinator().layout
            return pb.ScaleReply(state="done", epoch=layout.epoch, shards_before=layout.n)
        return self._reply(scaling)

    def same(self, what: str) -> pb.ScaleReply | None:
        """The one that runs, if it is this one. what: in words."""
        running = self._under_way
        return self._reply(running) if running is not None and running.what == what else None

    @property
    def running(self) -> pb.ScaleReply | None:
        """The one that runs."""
        running = self._under_way
        return self._reply(running) if running is not None else None

    @property
    def _under_way(self) -> Scaling | None:
        running = self._running
        return None if running is None or running.ended else running

    def cancel(self) -> pb.ScaleReply:
        """Give up the one that runs. It ends soon; how, its progress tells.

        Raises:
            InvalidRequest: none runs, or its new layout is being committed.
        """
        running = self._under_way
        if running is None:
            raise InvalidRequest("nothing was changed: no scaling runs, so there is none to cancel")
        if running.move is None or not running.move.cancel():
            raise InvalidRequest(f"nothing was changed: it is too late: {in_short(running)}")
        return self._reply(running)

    def _remember(self, scaling: Scaling) -> None:
        self._running = self._known[scaling.number] = scaling
        if len(self._known) > REMEMBERED:
            del self._known[min(self._known)]

    def _anew(self, dealings: Mapping[str, Dealing]) -> dict[str, Dealing]:
        """Those of tables whose ids are dealt otherwise now, or that are not there."""
        tables = self._coordinator().state.tables
        return {n: d for n, d in dealings.items() if n not in tables or tables[n].spec.dealing != d}

    def _scaling(self, what: str, shards: int, anew: Mapping[str, Dealing]) -> Scaling | None:
        """What then runs and ends by itself; None if there is nothing to do."""
        coordinator = self._coordinator()
        moves = shards != coordinator.layout.n or bool(anew)
        if not moves and not coordinator.unfinished:
            return None
        reshard = Reshard(coordinator, shards, anew, self._max_extra_bytes()) if moves else None
        progress = (
            reshard.progress
            if reshard
            else Progress(shards, state="committing", started_s=coordinator.clock(), before=shards)
        )
        return Scaling(coordinator.turn(), what, progress, reshard)

    def _run(self, scaling: Scaling) -> None:
        progress, done = scaling.progress, False
        try:
            self._performer.run(self._program(scaling))
            self._on_done(progress.shards)
            done = True
        except Exception as e:
            unexpected = not isinstance(e, RowloomError)
            if isinstance(e, Cancelled):
                log.warning("%s was cancelled", scaling.what)
            else:
                log.error("%s failed: %s", scaling.what, e, exc_info=unexpected)
            if not scaling.ended:
                progress.ended_s = time.monotonic()
                progress.state, progress.error = "failed", in_words(e)
        finally:
            self._running = None
            self._performer.end()
        if done:
            scaling.then()

    def _program(self, scaling: Scaling) -> Program:
        if scaling.move is not None:
            yield from scaling.move.run()
        else:
            yield from self._coordinator().converge()
            scaling.progress.ended_s = time.monotonic()
            scaling.progress.state = "done"

    def progress(self, number: int) -> pb.ScaleReply:
        """How far a scaling is, or how it ended; state "unknown" if this coordinator knows none of that number."""
        scaling = self._known.get(number)
        if scaling is None:
            return pb.ScaleReply(state="unknown", epoch=self._coordinator().layout.epoch, scaling=number)
        return self._reply(scaling)

    def _reply(self, scaling: Scaling) -> pb.ScaleReply:
        progress = scaling.progress
        return pb.ScaleReply(
            state=progress.state,
            epoch=self._coordinator().layout.epoch,
            pause_s=progress.pause_s,
            rows=progress.rows,
            rows_total=progress.rows_total,
            error=progress.error,
            seconds=(progress.ended_s or time.monotonic()) - progress.started_s,
            scaling=scaling.number,
            shards=progress.shards,
            shards_before=progress.before,
            passes=progress.passes,
            left=progress.left,
            rows_per_s=progress.rows_per_s,
            brake_row_s=progress.brake_s,
            moved=progress.moved,
            held_bytes=0 if scaling.ended else progress.held_bytes,
            dealings=[
                pb.TableDealing(name=name, partition=how.partition, hash_ids=how.hash_ids)
                for name, how in progress.dealings.items()
            ],
            handed_over=scaling.handed_over,
            arrivals=[pb.ShardArrival(shard=i, rows=rows) for i, rows in progress.arrived.items()],
        )


def in_short(scaling: Scaling) -> str:
    """In words, what runs and how far it is."""
    progress, what = scaling.progress, f"{scaling.what} is in progress"
    if progress.state == "moving":
        return (
            f"{what}: pass {progress.passes + 1}, {progress.rows:,} of {progress.rows_total:,} rows are there"
        )
    return what if progress.state == "starting" else f"{what}: {progress.state}"


class Autoscaling:
    """Looks at the shards from time to time, and scales as the policy says that there is, if any.

    Args:
        scalings: starts what is decided.
        statuses: what every shard says of itself now.
        clock: in seconds, only forward.
    """

    def __init__(
        self,
        scalings: Scalings,
        statuses: Callable[[], Sequence[pb.ShardStatus]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._scalings = scalings
        self._statuses = statuses
        self._clock = clock
        self._autoscaler: Autoscaler | None = None
        self._meter = Meter()
        self._next_s = 0.0
        self.said = ""

    def follow(self, policy: Autoscale | None) -> None:
        """Decide by this policy from now on; None: by none."""
        self._autoscaler = None if policy is None else Autoscaler(policy)
        self._next_s = 0.0
        self.said = "" if policy is None else "not looked yet"

    def look(self) -> None:
        """Decide, if it is time to."""
        autoscaler, now = self._autoscaler, self._clock()
        if autoscaler is None or now < self._next_s:
            return
        self._next_s = now + LOOK_S
        loads = self._meter.loads(self._statuses())
        if isinstance(loads, str):
            self._say(loads)
            return
        decision = autoscaler.look(now, loads)
        dry_run = autoscaler.policy.dry_run
        if decision.shards == len(loads) or dry_run:
            would = "; only said, as `autoscale.dry_run` wants" if dry_run else ""
            self._say(f"{decision.why}{would}")
            return
        try:
            self._scalings.start(decision.shards)
            log.warning("autoscale: %s: scaling to %d", decision.why, decision.shards)
            self._say(f"{decision.why}: scaling to {decision.shards}")
        except RowloomError as e:
            self._say(f"{decision.why}: cannot scale now: {in_words(e)}")

    def _say(self, text: str) -> None:
        log.debug("autoscale: %s", text)
        self.said = text
