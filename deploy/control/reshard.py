"""From one layout to the next - other shards, or ids dealt otherwise, or both: the steps, as a program of effects.

    launch ─▶ prepare ─▶ pass after pass ─▶ freeze ─▶ last pass, ledgers ─▶ count ─▶ COMMIT ─▶ adopt ─▶ retire, stop
      └──────────┴──────────────┴───────── roll back ─────────┴───────────────┘        └────── roll forward ─────┘

New owners receive all rows while trainers push and pull, then those that have changed meanwhile, pass after pass (see
`server/moving/`), until few are left (`passes.py`). Pushes wait from freeze to adopt: for the last pass, and for the
ledgers. Reads go on throughout. A server that stays holds both its old and its new rows until the new layout is
adopted. Every step may be repeated.

Nothing is frozen before every shard has been seen to be there. Whatever fails before the commit, or is cancelled,
thaws all that answer at once and ends their receiving; `Coordinator.converge` does so for the others. There is a way
back only when it is certain that the new layout is not stored, which is what `Coordinator.commit` finds out.

Why the freeze is a fence. A server that ends in the middle and comes back takes no push, and answers no question for
rows, before a coordinator adopts it, which this one does only when the program has ended. So an old shard that started
anew cannot be frozen, a frozen one that did cannot give its last rows, and the move rolls back.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ...proto import methods
from ...proto import rowloom_pb2 as pb
from ...proto.errors import (
    InvalidRequest,
    Overloaded,
    Rerouted,
    RowloomError,
    StateLost,
    TableNotFound,
    Unavailable,
    in_words,
)
from ...proto.layout import Layout, ShardAddress
from ...proto.spec import Dealing, TableEntry
from ..config.memory import extra_bytes, too_much
from ..launch.launcher import Launched, addresses
from .coordinator import ATTEMPT_S, Coordinator
from .effects import NotStored, Program, ServerCall, Sleep, call_all
from .passes import Passes
from .receiving import all_received, progress_of
from .stalling import until_done
from .starting import launch
from .state import ClusterState
from .surplus import expected_surplus

RATE_S = 0.5  # rows a second are over so long
STEP_LIMIT_S = 10.0  # for each step while pushes wait
# First and longest pause between two looks: while trainers push, and while pushes wait.
COPY_POLL_S, LAST_POLL_S = (0.01, 0.05), (0.002, 0.05)
STALL_S = 30.0  # receiving has stopped when nothing has arrived for so long
THAW_LIMIT_S = 5.0
ADOPT_LIMIT_S = 300.0
REVIVES_ADOPT_LIMIT_S = 5.0
# A server that has not heard that it is no shard any more gives rows as they were: a lost request should cost little.
RETIRE_ATTEMPT_S, RETIRE_LIMIT_S = 0.3, 1.0


_STALLED = f"no row has arrived for {STALL_S:.0f} s: a shard that gives rows may be gone"


class Cancelled(RowloomError):
    """An operator gave the move up."""


@dataclass
class Progress:
    """How far a scaling is.

    Attributes:
        shards: how many there will be.
        before: how many there were.
        dealings: by name, tables whose ids are dealt anew, and how they will be.
        state: starting, moving, finishing (pushes wait), committing, done, failed.
        rows, rows_total: that have arrived, and that there are.
        moved: rows, each as often as it travelled.
        passes: that are over.
        left: rows of the next one, about.
        brake_s: for which pushes are held up, for each of their rows.
        rows_per_s: that were moved, lately.
        held_bytes: of memory, by rows that have arrived and do not serve yet.
        arrived: rows, by the index of the shard that they will be of; of those that get any.
    """

    shards: int
    dealings: Mapping[str, Dealing] = field(default_factory=dict[str, Dealing])
    state: str = "starting"
    started_s: float = 0.0
    ended_s: float = 0.0
    pause_s: float = 0.0
    rows: int = 0
    rows_total: int = 0
    moved: int = 0
    passes: int = 0
    left: int = 0
    brake_s: float = 0.0
    rows_per_s: float = 0.0
    held_bytes: int = 0
    error: str = ""
    before: int = 0
    arrived: Mapping[int, int] = field(default_factory=dict[int, int])

    @property
    def ended(self) -> bool:
        """Whether it is done or has failed."""
        return self.state in ("done", "failed")


class Reshard:
    """One change of who owns which ids.

    Args:
        coordinator: of the cluster.
        shards: how many there will be.
        before: how many there were.
        dealings: by name, tables whose ids are to be dealt otherwise, and how.
        max_extra_bytes: of memory that rows may take of all shards together before they serve; 0: no bound.

    Raises:
        InvalidRequest: a number of shards out of range, or a dealing that is none, or not one for open-ended ids.
        TableNotFound: there is no such table.
    """

    HANDOVER = False  # each shard comes whole, from the server that had it before

    def __init__(
        self,
        coordinator: Coordinator,
        shards: int,
        dealings: Mapping[str, Dealing] | None = None,
        max_extra_bytes: int = 0,
    ) -> None:
        if not 1 <= shards <= 1024:
            raise InvalidRequest(f"shards must be in [1, 1024], got {shards}")
        self._dealings, self._max_extra_bytes = dict(dealings or {}), max_extra_bytes
        tables_dealt(coordinator.state.tables, self._dealings)
        self._coordinator = coordinator
        self._old = coordinator.layout
        self._givers = self._old.shards  # whose rows move
        self._frozen_s = 0.0
        self._begun = self._cancelled = False
        self._looked: tuple[float, int] | None = None  # when, and how many rows had been moved
        self._started: list[int] = []  # keys of its servers
        self._tables: dict[str, TableEntry] = {}  # as they will be
        self.progress = Progress(shards, self._dealings, started_s=coordinator.clock(), before=self._old.n)

    def run(self) -> Program:
        """Move every row and slot to its owner among the new count of shards.

        Raises:
            Exception: it did not happen, and everything is as before; or, after the commit, a shard was lost.
        """
        with expected_surplus(self._coordinator):
            yield from self._run()

    def _run(self) -> Program:
        coordinator, progress = self._coordinator, self.progress
        try:
            yield from coordinator.converge()
            target, keys = yield from self._prepare()
            progress.state = "committing"
            yield from coordinator.commit(self._after(target, keys))
        except Exception as e:  # whatever it is: pushes wait
            yield from self._roll_back(e)
            raise
        yield from self._finish()
        progress.pause_s = coordinator.clock() - self._frozen_s
        progress.state, progress.ended_s = "done", coordinator.clock()
        yield from self._retire(target)

    # ------------------------------------------------------------------------------------------- before the commit

    def _prepare(self) -> Program:
        """Returns the layout that every new owner has received its rows of, and the launcher's keys of its servers."""
        coordinator, progress = self._coordinator, self.progress
        if self._max_extra_bytes:
            yield from self._check_memory()
        self._tables = tables_dealt(coordinator.state.tables, self._dealings)
        target, keys = yield from self._servers()
        self._started = [key for key in keys if key not in coordinator.state.keys]
        yield from self._look(target)
        self._begun = True
        turn, receivers = coordinator.turn(), self._receivers(target)
        yield from self._call_all([self._preparation(target, s, turn) for s in receivers.shards])
        progress.state = "moving"
        yield from self._copy(receivers)
        progress.state, self._frozen_s = "finishing", coordinator.clock()
        replies = yield from coordinator.freeze(STEP_LIMIT_S, shards=self._givers)
        progress.rows_total = sum(pb.FreezeReply.FromString(r).rows for r in replies)
        yield from self._wait(receivers)
        self._check_cancelled()
        if progress.rows != progress.rows_total:
            raise RowloomError(f"{progress.rows_total} rows set out and {progress.rows} arrived")
        return target, keys

    def _servers(self) -> Program:
        """Start what is missing. Returns the layout that is to be, and the launcher's keys of its servers."""
        coordinator, shards = self._coordinator, self.progress.shards
        more = max(0, shards - self._old.n)
        keys, launched = yield from launch(coordinator, more, check=self._check_wanted)
        stay = [Launched(s.address, s.incarnation) for s in self._old.shards[:shards]]
        target = self._old.next(addresses([*stay, *launched]), self._tables.values())
        return target, [*coordinator.state.keys[:shards], *keys]

    def _receivers(self, target: Layout) -> Layout:
        """The shards of a layout that are to get rows."""
        return target

    def _check_memory(self) -> Program:
        """Whether all rows that exist may be there twice. Raises Overloaded."""
        ask = pb.StatisticsRequest().SerializeToString()
        replies = yield from self._call_all(
            [ServerCall(s.address, methods.STATISTICS, ask) for s in self._old.shards]
        )
        specs = {entry.number: entry.spec for entry in self._coordinator.state.tables.values()}
        counts = [(t.table, t.rows) for r in replies for t in pb.StatisticsReply.FromString(r).tables]
        held = [(specs[table], rows) for table, rows in counts if table in specs]
        needed = extra_bytes(held, len(specs), self.progress.shards)
        if why := too_much(needed, self._max_extra_bytes):
            raise Overloaded(why)

    def cancel(self) -> bool:
        """Give it up. Returns whether that is still possible: it is not once the new layout is being committed."""
        self._cancelled = self.progress.state in ("starting", "moving", "finishing")
        return self._cancelled

    def _check_wanted(self) -> Program:
        """While servers start, which may take minutes: raises what gives it up."""
        self._check_cancelled()
        yield from self._check_there()

    def _check_cancelled(self) -> None:
        if self._cancelled:
            raise Cancelled("it was cancelled")

    def _copy(self, target: Layout) -> Program:
        """Until few rows are left to move; pushes go on."""
        passes, clock = Passes(), self._coordinator.clock

        def look() -> Program:
            self._check_cancelled()
            yield from self._coordinator.tend_standbys()
            replies = yield from progress_of(target, clock, self._check_there)
            self._show(replies)
            arrived = zip(target.shards, replies, strict=True)
            self.progress.arrived = {shard.index: reply.rows for shard, reply in arrived}
            step = passes.judge(replies)
            if step.brake_s:
                yield from self._brake(step.brake_s)
            return step.freezes, sum(r.slowest_bytes for r in replies)

        yield from until_done(look, clock, COPY_POLL_S, STALL_S, _STALLED)

    def _show(self, replies: Sequence[pb.ProgressReply]) -> None:
        progress, now = self.progress, self._coordinator.clock()
        progress.rows = sum(reply.rows for reply in replies)
        progress.held_bytes = sum(reply.held_bytes for reply in replies)
        if why := too_much(progress.held_bytes, self._max_extra_bytes, so_far=True):
            raise Overloaded(why)
        progress.rows_total = max(progress.rows, *(reply.rows_total for reply in replies))
        progress.moved = sum(reply.moved for reply in replies)
        progress.passes = min(reply.passes for reply in replies)
        progress.left = (
            sum(reply.left for reply in replies) if progress.passes else progress.rows_total - progress.rows
        )
        at, moved = self._looked or (progress.started_s, 0)
        if now >= at + RATE_S:
            progress.rows_per_s = (progress.moved - moved) / (now - at)
            self._looked = now, progress.moved

    def _brake(self, row_s: float) -> Program:
        self.progress.brake_s = row_s
        layout = self._old
        request = pb.BrakeRequest(
            cluster_id=layout.cluster_id, epoch=layout.epoch, turn=self._coordinator.turn(), row_s=row_s
        ).SerializeToString()
        yield from self._call_all([ServerCall(s.address, methods.BRAKE, request) for s in self._givers])

    def _look(self, target: Layout) -> Program:
        """Whether all that take part are there; found out while pushes go on."""
        ask = pb.HealthRequest().SerializeToString()
        wanted = {s.address: s.incarnation for s in (*self._old.shards, *target.shards)}
        calls = [ServerCall(address, methods.HEALTH, ask) for address in wanted]
        replies = yield from self._call_all(calls)
        for (address, incarnation), reply in zip(wanted.items(), replies, strict=True):
            health = pb.HealthReply.FromString(reply)
            if health.incarnation != incarnation or health.state == "lost":
                raise StateLost(f"the server at {address} started anew: its rows cannot be moved")

    def _call_all(self, calls: Sequence[ServerCall]) -> Program:
        return call_all(calls, self._coordinator.clock, STEP_LIMIT_S, ATTEMPT_S, check=self._check_there)

    def _check_there(self) -> Program:
        return self._coordinator.check_there(self._started)

    def _after(self, target: Layout, keys: list[int]) -> ClusterState:
        """The state that the commit stores."""
        state = self._coordinator.state
        surplus = [key for key in (*state.surplus, *state.keys) if key not in keys]
        return dataclasses.replace(state, layout=target, keys=keys, surplus=surplus, tables=self._tables)

    def _preparation(self, target: Layout, shard: ShardAddress, turn: int) -> ServerCall:
        tables = [e.to_message() for e in self._tables.values()]
        request = pb.PrepareRequest(
            source=self._old.to_message(),
            layout=target.to_message(),
            index=shard.index,
            tables=tables,
            turn=turn,
            handover=self.HANDOVER,
        )
        return ServerCall(shard.address, methods.PREPARE, request.SerializeToString())

    def _wait(self, target: Layout) -> Program:
        """Until every new owner has received everything."""

        def count(rows: int) -> None:
            self.progress.rows = rows

        clock = self._coordinator.clock
        yield from all_received(
            target,
            clock,
            count,
            check=self._check_there,
            pauses_s=LAST_POLL_S,
            stall_s=STALL_S,
            stalled=_STALLED,
        )

    def _roll_back(self, cause: Exception) -> Program:
        """Pushes go on in the old layout; what was received and started is dropped."""
        coordinator, progress = self._coordinator, self.progress
        known = "" if isinstance(cause, NotStored) else "; nothing was changed"  # which that one says itself
        progress.state, progress.error = "failed", f"{in_words(cause)}{known}"
        try:
            if self._begun:
                looks = coordinator.revives or bool(coordinator.state.standbys)
                yield from coordinator.adopt(THAW_LIMIT_S, looks=looks)
            with contextlib.suppress(RowloomError):  # they stay surplus
                yield from coordinator.stop_surplus()
        finally:
            progress.ended_s = coordinator.clock()

    # -------------------------------------------------------------------------------------------- after the commit

    def _finish(self) -> Program:
        """Every new owner serves. There is no way back.

        Where shards have logs, one that does not answer has all its rows: it is started again and adopted when this
        program has ended, which until then stands in the way of that.
        """
        coordinator, progress = self._coordinator, self.progress
        revives = coordinator.revives
        limit_s = REVIVES_ADOPT_LIMIT_S if revives else ADOPT_LIMIT_S
        for outcome in (yield from coordinator.adopt(limit_s, looks=revives)):
            if revives and isinstance(outcome, Rerouted | Unavailable):
                continue
            if isinstance(outcome, RowloomError):
                progress.state = "failed"
                progress.error = f"after the commit: {outcome}"
                progress.ended_s = coordinator.clock()
                raise outcome

    def _leavers(self, target: Layout) -> Sequence[ShardAddress]:
        """Servers that are no shard in a layout."""
        return self._old.shards[target.n :]

    def _retire(self, target: Layout) -> Program:
        """Servers that are no shard any more say so for a moment, then end."""
        request = pb.AdoptRequest(
            layout=target.to_message(), retire=True, turn=self._coordinator.turn()
        ).SerializeToString()
        calls = [ServerCall(s.address, methods.ADOPT, request) for s in self._leavers(target)]
        if calls:
            with contextlib.suppress(RowloomError):  # they end all the same
                yield from call_all(calls, self._coordinator.clock, RETIRE_LIMIT_S, RETIRE_ATTEMPT_S)
            # Clients that had the old layout hear of the new one from them. If the cluster is ended meanwhile, the
            # scaling is done all the same.
            with contextlib.suppress(RowloomError):
                yield Sleep(0.5)
        yield from self._coordinator.stop_surplus()


def tables_dealt(tables: Mapping[str, TableEntry], dealings: Mapping[str, Dealing]) -> dict[str, TableEntry]:
    """All tables, some with their ids dealt otherwise.

    Raises:
        TableNotFound: one of those is none.
        InvalidRequest: one cannot be dealt so.
    """
    if unknown := sorted(dealings.keys() - tables.keys()):
        there = ", ".join(sorted(tables)) or "none"
        raise TableNotFound(f"no table {unknown[0]!r}, whose ids are to be dealt anew; there are: {there}")
    return {name: entry.dealt(dealings.get(name, entry.spec.dealing)) for name, entry in tables.items()}
