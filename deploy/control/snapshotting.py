"""A snapshot of the whole cluster while trainers go on: held for a moment, cut everywhere, written, committed.

    converge ─▶ hold pushes ─▶ cut every shard ─▶ thaw ─▶ shards write ─▶ manifest ─▶ COMMIT ─▶ logs are made shorter
                    └──────────────── given up: thaw, abort ─────┘

Why it is so. What must hold: a push that was acknowledged before the freeze is in the snapshot, on every shard that it
went to, because every shard had applied it by then; nothing that follows the thaw is in it; and what lies between is in
it on all of its shards or on none (`hold.py`). Pushes wait for three rounds of small calls, however large the tables
are, and as long as a push takes that has begun already.
The manifest is written last, and the coordinator's state lists the snapshot after that. So a crash in between leaves a
snapshot that is whole and in no list, never one that is listed and not whole.
Logs are made shorter up to the cut of the newest snapshot but one that has no file in common with the newest: should
that turn out to be damaged, the other and the log still give everything.
A log that failed - its disk was full - is behind the rows of its shard, which refuses pushes since. A snapshot has
those rows, so with its commit the log goes on behind it, in a new file, and pushes with it: nothing that was read is
taken back, and pulls never stop. Rejected: to start such a shard again from its log. That takes back rows that trainers
have read, needs the log to be readable on the disk that failed, and has no pulls meanwhile.
What is in such a log goes when a second snapshot has it too. Where the disk has little room that one is taken before
pushes go on: else they fill what room there is, and the second one finds none.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import os
from collections.abc import Callable

from ...proto import methods
from ...proto import rowloom_pb2 as pb
from ...proto.errors import RowloomError, Unavailable
from ...proto.layout import Layout, ShardAddress
from ...proto.spec import TableEntry
from .coordinator import ATTEMPT_S, Coordinator
from .effects import Program, ServerCall, WriteManifest, call_all
from .hold import Hold
from .lineage import listed, recovery_points
from .stalling import until_done
from .state import KnownSnapshot

FULL = os.strerror(errno.ENOSPC)
STEP_LIMIT_S = 10.0  # for each step while pushes wait
POLL_S = (0.02, 0.5)  # first and longest pause between questions for progress
STALL_S = 120.0  # a shard has stopped writing when nothing was written for so long


class Snapshotting:
    """One snapshot.

    Args:
        coordinator: of the cluster.
        id: its name, unlike any other's.
        url: its folder.
        created_s: the time now, in seconds since 1970.
        extra: what a trainer wants back with it, as `encode_extra`.
        parent: the one that it is made upon; None: every shard writes all of its rows.
        automatic: it only keeps logs short.
        scheduled: it was asked for with a number of those to keep.
        mends: it is for logs that failed. What was begun need not be finished first: because of them it cannot. They
            do not hear of it before `tell_logs` is run.
    """

    def __init__(
        self,
        coordinator: Coordinator,
        id: str,
        url: str,
        created_s: float,
        extra: bytes = b"",
        *,
        parent: KnownSnapshot | None = None,
        automatic: bool = False,
        scheduled: bool = False,
        mends: bool = False,
    ) -> None:
        self._parent, self._automatic, self._scheduled, self._mends = parent, automatic, scheduled, mends
        self._coordinator = coordinator
        self._layout: Layout = coordinator.layout
        self._id, self._url, self._created_s, self._extra = id, url, created_s, extra
        self._began_s, self._cut_s = coordinator.clock(), created_s
        self.pause_s = 0.0

    def run(self) -> Program:
        """Take it. Returns a KnownSnapshot.

        Raises:
            RowloomError: there is none, and pushes go on.
        """
        coordinator = self._coordinator
        if self._mends:
            # Of one before: until then shards change no tables. And whoever is lost does not hear of it: nothing is
            # frozen, again and again, for a snapshot that cannot be.
            yield from self._everywhere(lambda s: self._cut(s, abort=True), ATTEMPT_S)
            with contextlib.suppress(RowloomError):
                yield from coordinator.converge(0.0)
        else:
            yield from coordinator.converge()
        try:
            yield from self._cut_all()
            stored = yield from self._written()
            made = WriteManifest(
                self._id,
                self._url,
                self._cut_s,
                coordinator.state.name,
                self._layout,
                stored,
                self._tables,
                self._extra,
                self._parent,
            )
            known: KnownSnapshot = yield made
            # The next one is due so long after this one was.
            known = dataclasses.replace(
                known, created_s=self._created_s, automatic=self._automatic, scheduled=self._scheduled
            )
        except Exception:
            yield from self._abort()
            raise
        state = coordinator.state
        yield from coordinator.commit(dataclasses.replace(state, snapshots=listed([*state.snapshots, known])))
        if not self._mends:
            yield from self.tell_logs()
        return known

    def _cut_all(self) -> Program:
        """Hold pushes back, cut every shard, and let them go on, whatever happens."""
        hold = Hold(self._coordinator)
        try:
            if self._mends:  # shards refuse what would make pushes whole; it comes when their logs go on
                yield from hold.freeze()
            else:
                yield from hold.run()
            yield from self._everywhere(self._cut)
            # Pushes may have been waited for, so that is later: what logs have behind the cut was made since.
            self._cut_s = self._created_s + self._coordinator.clock() - self._began_s
        except Exception:
            yield from self._coordinator.adopt(0.0)
            raise
        yield from self._coordinator.adopt(0.0)  # those that do not answer are thawed by `converge`
        self.pause_s = max(hold.longest_s, self._coordinator.clock() - hold.since_s)

    def _everywhere(
        self, call: Callable[[ShardAddress], ServerCall], limit_s: float = STEP_LIMIT_S
    ) -> Program:
        calls = [call(shard) for shard in self._layout.shards]
        coordinator = self._coordinator
        return (
            yield from call_all(calls, coordinator.clock, limit_s, ATTEMPT_S, check=coordinator.check_there)
        )

    @property
    def _tables(self) -> tuple[TableEntry, ...]:
        """What is in it. A log that failed may keep a table from being finished: it is there, with no rows yet."""
        state = self._coordinator.state
        return (*state.tables.values(), *state.making.values())

    def _cut(self, shard: ShardAddress, *, abort: bool = False) -> ServerCall:
        request = pb.CutRequest(
            header=self._layout.header(shard.index),
            turn=self._coordinator.turn(),
            id=self._id,
            abort=abort,
            parent=self._parent.id if self._parent else "",
            tables=[entry.number for entry in self._tables],
        )
        return ServerCall(shard.address, methods.CUT, request.SerializeToString())

    def _written(self) -> Program:
        """What each shard has written, in order, once all of them have."""
        ask = pb.CutProgressRequest(id=self._id).SerializeToString()
        stored: list[bytes] = []

        def look() -> Program:
            yield from self._coordinator.tend_standbys()
            answers = yield from self._everywhere(lambda s: ServerCall(s.address, methods.CUT_PROGRESS, ask))
            replies = [pb.CutProgressReply.FromString(answer) for answer in answers]
            for shard, reply in zip(self._layout.shards, replies, strict=True):
                if reply.error:
                    full = "; once there is room, take it again" if FULL in reply.error else ""
                    raise Unavailable(
                        f"shard {shard.index} could not write its part: {reply.error}; there is no new snapshot{full}"
                    )
            stored[:] = [reply.stored for reply in replies]
            return all(reply.done for reply in replies), sum(r.bytes + r.done for r in replies)

        stalled = f"no shard has written anything for {STALL_S:.0f} s"
        yield from until_done(look, self._coordinator.clock, POLL_S, STALL_S, stalled)
        return stored

    def _abort(self) -> Program:
        """Shards need not keep what only the snapshot needs; those that do not hear of it do so until the next one."""
        with contextlib.suppress(RowloomError):
            yield from self._everywhere(lambda s: self._cut(s, abort=True))

    def tell_logs(self) -> Program:
        """Logs are made shorter, and those that failed go on. May be repeated once it is taken."""
        kept = recovery_points(self._coordinator.state.snapshots, self._layout.epoch)

        def trim(shard: ShardAddress) -> ServerCall:
            lsn = max(0, kept[0].lsns[shard.index]) if len(kept) > 1 else 0
            header = self._layout.header(shard.index)
            request = pb.TrimLogRequest(header=header, lsn=lsn, snapshot=self._id)
            return ServerCall(shard.address, methods.TRIM_LOG, request.SerializeToString())

        with contextlib.suppress(
            RowloomError
        ):  # the next one does it; for logs that failed there will be one
            yield from self._everywhere(trim)
