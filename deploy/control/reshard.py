"""From one layout to the next: the steps of scaling, as a program of effects.

    launch ─▶ freeze pushes ─▶ new owners receive rows, slots, ledgers ─▶ count ─▶ COMMIT ─▶ adopt ─▶ retire, stop
      └───────────────┴─────────────── roll back ────────────────────────────┘        └──── roll forward ────┘

Reads go on throughout; pushes wait from freeze to adopt, and their clients try again by themselves. A server that
stays holds both its old and its new rows until the new layout is adopted. Every step may be repeated.

Nothing is frozen before every shard has been seen to be there. Whatever fails before the commit thaws all that answer
at once; `Coordinator.converge` thaws the others. There is a way back only when it is certain that the new layout is not
stored, which is what `Coordinator.commit` finds out.
"""

from __future__ import annotations

import contextlib
import dataclasses
from dataclasses import dataclass

from ...proto import methods
from ...proto import rowloom_pb2 as pb
from ...proto.errors import InvalidRequest, Rerouted, RowloomError, StateLost, Unavailable, in_words
from ...proto.layout import Layout, ShardAddress
from ..launch.launcher import Launched
from .coordinator import ATTEMPT_S, Coordinator, addresses
from .effects import NotStored, Program, ServerCall, Sleep, call_all
from .state import ClusterState

POLL_S = (0.01, 0.2)  # first and longest pause between questions for progress
STEP_LIMIT_S = 10.0  # for each step while pushes wait
STALL_S = 30.0  # receiving has stopped when nothing has arrived for so long
THAW_LIMIT_S = 5.0
ADOPT_LIMIT_S = 300.0
REVIVES_ADOPT_LIMIT_S = 5.0
# A server that has not heard that it is no shard any more gives rows as they were: a lost request should cost little.
RETIRE_ATTEMPT_S, RETIRE_LIMIT_S = 0.3, 1.0


@dataclass
class Progress:
    """How far a scaling is. state: starting, moving, committing, done, failed."""

    shards: int
    state: str = "starting"
    started_s: float = 0.0
    ended_s: float = 0.0
    pause_s: float = 0.0
    rows: int = 0
    rows_total: int = 0
    error: str = ""


class Reshard:
    """One change of the shard count."""

    def __init__(self, coordinator: Coordinator, shards: int) -> None:
        if not 1 <= shards <= 1024:
            raise InvalidRequest(f"shards must be in [1, 1024], got {shards}")
        self._coordinator = coordinator
        self._old = coordinator.layout
        self._frozen_s = 0.0
        self.progress = Progress(shards, started_s=coordinator.clock())

    def run(self) -> Program:
        """Move every row and slot to its owner among the new count of shards.

        Raises:
            Exception: it did not happen, and everything is as before; or, after the commit, a shard was lost.
        """
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
        keys, launched = yield from coordinator.launch(max(0, progress.shards - self._old.n))
        stay = [Launched(s.address, s.incarnation) for s in self._old.shards[: progress.shards]]
        target = self._old.next(addresses([*stay, *launched]))
        yield from self._look(target)
        self._frozen_s = coordinator.clock()
        replies = yield from self._freeze()
        progress.rows_total = sum(pb.FreezeReply.FromString(r).rows for r in replies)
        progress.state = "moving"
        turn = coordinator.turn()
        calls = [self._preparation(target, s, turn) for s in target.shards]
        yield from call_all(calls, coordinator.clock, STEP_LIMIT_S, ATTEMPT_S)
        yield from self._wait(target)
        if progress.rows != progress.rows_total:
            raise RowloomError(f"{progress.rows_total} rows set out and {progress.rows} arrived")
        return target, [*coordinator.state.keys[: progress.shards], *keys]

    def _look(self, target: Layout) -> Program:
        """Whether all that take part are there; found out while pushes go on."""
        ask = pb.HealthRequest().SerializeToString()
        wanted = {s.address: s.incarnation for s in (*self._old.shards, *target.shards)}
        calls = [ServerCall(address, methods.HEALTH, ask) for address in wanted]
        replies = yield from call_all(calls, self._coordinator.clock, STEP_LIMIT_S, ATTEMPT_S)
        for (address, incarnation), reply in zip(wanted.items(), replies, strict=True):
            health = pb.HealthReply.FromString(reply)
            if health.incarnation != incarnation or health.state == "lost":
                raise StateLost(f"the server at {address} started anew: its rows cannot be moved")

    def _after(self, target: Layout, keys: list[int]) -> ClusterState:
        """The state that the commit stores."""
        state = self._coordinator.state
        surplus = [key for key in (*state.surplus, *state.keys) if key not in keys]
        return dataclasses.replace(state, layout=target, keys=keys, surplus=surplus)

    def _preparation(self, target: Layout, shard: ShardAddress, turn: int) -> ServerCall:
        tables = [e.to_message() for e in self._coordinator.state.tables.values()]
        request = pb.PrepareRequest(
            source=self._old.to_message(),
            layout=target.to_message(),
            index=shard.index,
            tables=tables,
            turn=turn,
        )
        return ServerCall(shard.address, methods.PREPARE, request.SerializeToString())

    def _freeze(self) -> Program:
        self._coordinator.doubt()
        turn = self._coordinator.turn()
        request = pb.FreezeRequest(cluster_id=self._old.cluster_id, epoch=self._old.epoch, on=True, turn=turn)
        calls = [ServerCall(s.address, methods.FREEZE, request.SerializeToString()) for s in self._old.shards]
        return (yield from call_all(calls, self._coordinator.clock, STEP_LIMIT_S, ATTEMPT_S))

    def _wait(self, target: Layout) -> Program:
        """Until every new owner has received everything."""
        ask = pb.ProgressRequest().SerializeToString()
        clock = self._coordinator.clock
        pause, longest = POLL_S
        seen, since = -1, clock()
        while True:
            calls = [ServerCall(s.address, methods.PROGRESS, ask) for s in target.shards]
            answers = yield from call_all(calls, clock, STEP_LIMIT_S, ATTEMPT_S)
            replies = [pb.ProgressReply.FromString(r) for r in answers]
            for shard, reply in zip(target.shards, replies, strict=True):
                if reply.error:
                    raise Unavailable(
                        f"shard {shard.index} at {shard.address} stopped receiving: {reply.error}"
                    )
                if reply.epoch != target.epoch:
                    raise StateLost(f"shard {shard.index} at {shard.address} started anew while it received")
            self.progress.rows = sum(r.rows for r in replies)
            if all(r.done for r in replies):
                return
            received = sum(r.bytes + r.done for r in replies)
            if received != seen:
                seen, since = received, clock()
            elif clock() >= since + STALL_S:
                raise Unavailable(
                    f"no row has arrived for {STALL_S:.0f} s: a shard that gives rows may be gone"
                )
            yield Sleep(pause)
            pause = min(longest, pause * 1.5)

    def _roll_back(self, cause: Exception) -> Program:
        """Pushes go on in the old layout; what was received and started is dropped."""
        coordinator, progress = self._coordinator, self.progress
        known = "" if isinstance(cause, NotStored) else "; nothing was changed"  # which that one says itself
        progress.state, progress.error = "failed", f"{in_words(cause)}{known}"
        try:
            if self._frozen_s:
                yield from coordinator.adopt(THAW_LIMIT_S)
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
        for outcome in (yield from coordinator.adopt(REVIVES_ADOPT_LIMIT_S if revives else ADOPT_LIMIT_S)):
            if revives and isinstance(outcome, Rerouted | Unavailable):
                continue
            if isinstance(outcome, RowloomError):
                progress.state = "failed"
                progress.error = f"after the commit: {outcome}"
                progress.ended_s = coordinator.clock()
                raise outcome

    def _retire(self, target: Layout) -> Program:
        """Servers that are no shard any more say so for a moment, then end."""
        request = pb.AdoptRequest(
            layout=target.to_message(), retire=True, turn=self._coordinator.turn()
        ).SerializeToString()
        calls = [ServerCall(s.address, methods.ADOPT, request) for s in self._old.shards[target.n :]]
        if calls:
            with contextlib.suppress(RowloomError):  # they end all the same
                yield from call_all(calls, self._coordinator.clock, RETIRE_LIMIT_S, RETIRE_ATTEMPT_S)
            # Clients that had the old layout hear of the new one from them. If the cluster is ended meanwhile, the
            # scaling is done all the same.
            with contextlib.suppress(RowloomError):
                yield Sleep(0.5)
        yield from self._coordinator.stop_surplus()
