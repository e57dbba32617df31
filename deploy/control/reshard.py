"""From one layout to the next: the steps of scaling, as a program of effects.

    launch ─▶ freeze pushes ─▶ new owners receive rows, slots, ledgers ─▶ count ─▶ COMMIT ─▶ adopt ─▶ retire, stop
      └───────────────┴─────────────── roll back ────────────────────────────┘        └──── roll forward ────┘

Reads go on throughout; pushes wait from freeze to adopt, and their clients try again by themselves. A server that
stays holds both its old and its new rows until the new layout is adopted. Every step may be repeated.
"""

from __future__ import annotations

from dataclasses import dataclass

from ...proto import methods
from ...proto import rowloom_pb2 as pb
from ...proto.errors import InvalidRequest, RowloomError, StateLost, Unavailable
from ...proto.layout import Layout, ShardAddress
from ..launch.launcher import Launched
from .coordinator import Coordinator, addresses
from .effects import Call, Calls, Commit, Program, Sleep, Stop, call_all

POLL_S = (0.01, 0.2)  # first and longest pause between questions for progress
ADOPT_LIMIT_S = 300.0


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
    reported: bool = False
    error: str = ""


class Reshard:
    """One change of the shard count."""

    def __init__(self, coordinator: Coordinator, shards: int) -> None:
        if not 1 <= shards <= 1024:
            raise InvalidRequest(f"shards must be in [1, 1024], got {shards}")
        self._coordinator = coordinator
        self._old = coordinator.layout
        self.progress = Progress(shards, started_s=coordinator.clock())

    def run(self) -> Program:
        """Move every row and slot to its owner among the new count of shards.

        Raises:
            RowloomError: it did not happen, and everything is as before; or, after the commit, a shard was lost.
        """
        coordinator, progress = self._coordinator, self.progress
        keys = list(coordinator.state.keys)
        try:
            target = yield from self._prepare(keys)
            coordinator.state.layout = target
            coordinator.state.keys = coordinator.state.keys[: target.n]
            try:
                yield Commit()
            except BaseException:
                coordinator.state.layout = self._old
                raise
        except RowloomError as e:
            coordinator.state.keys = keys
            yield from self._roll_back(e)
            raise
        progress.state = "committing"
        yield from self._finish(target)
        progress.pause_s = coordinator.clock() - self._frozen_s
        progress.state, progress.ended_s = "done", coordinator.clock()
        yield from self._retire(target, keys)

    # ------------------------------------------------------------------------------------------- before the commit

    def _prepare(self, keys: list[int]) -> Program:
        coordinator, progress = self._coordinator, self.progress
        launched: list[Launched] = yield from coordinator.launch(max(0, progress.shards - len(keys)))
        stay = [Launched(s.address, s.incarnation) for s in self._old.shards[: progress.shards]]
        target = self._old.next(addresses([*stay, *launched]))
        self._frozen_s = coordinator.clock()
        replies = yield from self._freeze(on=True)
        progress.rows_total = sum(pb.FreezeReply.FromString(r).rows for r in replies)
        progress.state = "moving"
        turn = coordinator.turn()
        yield from call_all([self._preparation(target, s, turn) for s in target.shards], coordinator.clock)
        yield from self._wait(target)
        if progress.rows != progress.rows_total:
            raise RowloomError(
                f"{progress.rows_total} rows set out and {progress.rows} arrived: nothing was changed"
            )
        return target

    def _preparation(self, target: Layout, shard: ShardAddress, turn: int) -> Call:
        tables = [e.to_message() for e in self._coordinator.state.tables.values()]
        request = pb.PrepareRequest(
            source=self._old.to_message(),
            layout=target.to_message(),
            index=shard.index,
            tables=tables,
            turn=turn,
        )
        return Call(shard.address, methods.PREPARE, request.SerializeToString())

    def _freeze(self, *, on: bool) -> Program:
        turn = self._coordinator.turn()
        request = pb.FreezeRequest(cluster_id=self._old.cluster_id, epoch=self._old.epoch, on=on, turn=turn)
        calls = [Call(s.address, methods.FREEZE, request.SerializeToString()) for s in self._old.shards]
        return (yield from call_all(calls, self._coordinator.clock))

    def _wait(self, target: Layout) -> Program:
        """Until every new owner has received everything."""
        ask = pb.ProgressRequest().SerializeToString()
        pause, longest = POLL_S
        while True:
            calls = [Call(s.address, methods.PROGRESS, ask) for s in target.shards]
            replies = [
                pb.ProgressReply.FromString(r) for r in (yield from call_all(calls, self._coordinator.clock))
            ]
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
            yield Sleep(pause)
            pause = min(longest, pause * 1.5)

    def _roll_back(self, cause: RowloomError) -> Program:
        """Pushes go on in the old layout; what was received and started is dropped."""
        coordinator, progress = self._coordinator, self.progress
        started = range(
            coordinator.state.next_key - max(0, progress.shards - self._old.n), coordinator.state.next_key
        )
        try:
            yield from self._freeze(on=False)
        finally:
            if started:
                yield Stop(list(started))
            progress.state, progress.error = "failed", f"{type(cause).__name__}: {cause}"
            progress.ended_s = coordinator.clock()

    # -------------------------------------------------------------------------------------------- after the commit

    def _finish(self, target: Layout) -> Program:
        """Every new owner serves. Repeated until it does: there is no way back."""
        coordinator = self._coordinator
        try:
            yield from coordinator.adopt(target, ADOPT_LIMIT_S)
        except RowloomError as e:
            self.progress.state, self.progress.error = "failed", f"after the commit: {type(e).__name__}: {e}"
            self.progress.ended_s = coordinator.clock()
            raise

    def _retire(self, target: Layout, keys: list[int]) -> Program:
        """Servers that are no shard any more say so for a moment, then end."""
        request = pb.AdoptRequest(
            layout=target.to_message(), retire=True, turn=self._coordinator.turn()
        ).SerializeToString()
        calls = [Call(s.address, methods.ADOPT, request) for s in self._old.shards[target.n :]]
        if calls:
            yield Calls(calls)
            yield Sleep(0.5)  # clients that had the old layout hear of the new one from them
            yield Stop(keys[target.n :])
