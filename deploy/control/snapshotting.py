"""A snapshot of the whole cluster while trainers go on: held for a moment, cut everywhere, written, committed.

    converge ─▶ freeze pushes ─▶ cut every shard ─▶ thaw ─▶ shards write ─▶ manifest ─▶ COMMIT ─▶ logs are made shorter
                    └───────────────── given up: thaw, abort ─────┘

Why it is so. What must hold: a push that was acknowledged before the freeze is in the snapshot, on every shard that it
went to, because every shard had applied it by then; and nothing that follows the thaw is in it. Pushes wait for three
rounds of small calls, however large the tables are.
The manifest is written last, and the coordinator's state lists the snapshot after that. So a crash in between leaves a
snapshot that is whole and in no list, never one that is listed and not whole.
Logs are made shorter up to the cut of the second newest snapshot only: should the newest one turn out to be damaged,
the one before and the log still give everything.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable

from ...proto import methods
from ...proto import rowloom_pb2 as pb
from ...proto.errors import RowloomError, Unavailable
from ...proto.layout import Layout, ShardAddress
from .coordinator import ATTEMPT_S, Coordinator
from .effects import Program, ServerCall, Sleep, WriteManifest, call_all
from .state import KnownSnapshot

STEP_LIMIT_S = 10.0  # for each step while pushes wait
POLL_S = (0.02, 0.5)  # first and longest pause between questions for progress
STALL_S = 120.0  # a shard has stopped writing when nothing was written for so long
KEPT = 2  # snapshots of an epoch that its logs can go on from


class Snapshotting:
    """One snapshot.

    Args:
        coordinator: of the cluster.
        id: its name, unlike any other's.
        url: its folder.
        created_s: the time, in seconds since 1970.
        extra: bytes that a trainer wants back with it.
        automatic: it only keeps logs short.
    """

    def __init__(
        self,
        coordinator: Coordinator,
        id: str,
        url: str,
        created_s: float,
        extra: bytes = b"",
        *,
        automatic: bool = False,
    ) -> None:
        self._automatic = automatic
        self._coordinator = coordinator
        self._layout: Layout = coordinator.layout
        self._id, self._url, self._created_s, self._extra = id, url, created_s, extra
        self.pause_s = 0.0
        self.rows = 0

    def run(self) -> Program:
        """Take it. Returns a KnownSnapshot.

        Raises:
            RowloomError: there is none, and pushes go on.
        """
        coordinator = self._coordinator
        yield from coordinator.converge()
        began = coordinator.clock()
        try:
            try:
                yield from self._freeze()
                yield from self._everywhere(self._cut)
            finally:
                yield from coordinator.adopt(0.0)  # those that do not answer are thawed by `converge`
                self.pause_s = coordinator.clock() - began
            stored = yield from self._written()
            tables = tuple(coordinator.state.tables.values())
            made = WriteManifest(
                self._id, self._url, self._created_s, self._layout, stored, tables, self._extra
            )
            known: KnownSnapshot = yield made
            known = dataclasses.replace(known, automatic=self._automatic)
        except BaseException:
            yield from self._abort()
            raise
        state = coordinator.state
        yield from coordinator.commit(dataclasses.replace(state, snapshots=[*state.snapshots, known][-KEPT:]))
        yield from self._trim()
        return known

    def _everywhere(self, call: Callable[[ShardAddress], ServerCall]) -> Program:
        calls = [call(shard) for shard in self._layout.shards]
        return (yield from call_all(calls, self._coordinator.clock, STEP_LIMIT_S, ATTEMPT_S))

    def _freeze(self) -> Program:
        self._coordinator.doubt()
        request = pb.FreezeRequest(
            cluster_id=self._layout.cluster_id,
            epoch=self._layout.epoch,
            on=True,
            turn=self._coordinator.turn(),
        ).SerializeToString()
        yield from self._everywhere(lambda s: ServerCall(s.address, methods.FREEZE, request))

    def _cut(self, shard: ShardAddress, *, abort: bool = False) -> ServerCall:
        request = pb.CutRequest(
            header=self._layout.header(shard.index),
            turn=self._coordinator.turn(),
            id=self._id,
            abort=abort,
        )
        return ServerCall(shard.address, methods.CUT, request.SerializeToString())

    def _written(self) -> Program:
        """What each shard has written, in order, once all of them have."""
        clock, (pause, longest) = self._coordinator.clock, POLL_S
        ask = pb.CutProgressRequest(id=self._id).SerializeToString()
        seen, since = -1, clock()
        while True:
            answers = yield from self._everywhere(lambda s: ServerCall(s.address, methods.CUT_PROGRESS, ask))
            replies = [pb.CutProgressReply.FromString(answer) for answer in answers]
            for shard, reply in zip(self._layout.shards, replies, strict=True):
                if reply.error:
                    raise Unavailable(f"shard {shard.index} could not write its part: {reply.error}")
            self.rows = sum(reply.rows for reply in replies)
            if all(reply.done for reply in replies):
                return [reply.stored for reply in replies]
            written = sum(reply.bytes + reply.done for reply in replies)
            if written != seen:
                seen, since = written, clock()
            elif clock() >= since + STALL_S:
                raise Unavailable(f"no shard has written anything for {STALL_S:.0f} s")
            yield Sleep(pause)
            pause = min(longest, pause * 1.5)

    def _abort(self) -> Program:
        """Shards need not keep what only the snapshot needs; those that do not hear of it do so until the next one."""
        with contextlib.suppress(RowloomError):
            yield from self._everywhere(lambda s: self._cut(s, abort=True))

    def _trim(self) -> Program:
        kept = [s for s in self._coordinator.state.snapshots if s.epoch == self._layout.epoch]
        if len(kept) < KEPT:
            return

        def trim(shard: ShardAddress) -> ServerCall:
            request = pb.TrimLogRequest(
                header=self._layout.header(shard.index), lsn=kept[0].lsns[shard.index]
            )
            return ServerCall(shard.address, methods.TRIM_LOG, request.SerializeToString())

        with contextlib.suppress(RowloomError):  # the next snapshot does it
            yield from self._everywhere(trim)
