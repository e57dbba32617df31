"""One server process: what it answers to each request, from what it holds.

`handle` is the whole surface: a call in, an answer out, our errors raised. It knows no gRPC, no threads and no clock,
so the same host runs behind gRPC, behind a plain socket and in the simulator.

Why it is so. What must hold: whether pushes wait is read in two places, `_push` and `_step`, from the state.
A host cannot wait, or the simulator could not run it: it answers `wait_for`, and whoever drives it handles the call
again when `changes` has moved. Rejected: a callback for each call that waits (the host would own its callers' lives).
Take that up again if thousands of calls wait at once, since each change of state handles all of them anew.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ..proto import methods
from ..proto import rowloom_pb2 as pb
from ..proto.codec import Buffer, Pull, Push, Step, encode_push_reply
from ..proto.codec_bags import PullBags
from ..proto.errors import (
    InvalidRequest,
    Moving,
    RetryLater,
    RowloomError,
)
from ..proto.spec import TableEntry
from . import states
from .call import Answer, Call, WaitFor
from .durable.records import Kind
from .holder import Holder
from .moving.receive import read_rows
from .shard import Shard
from .taking import Taking

MOVING_HOLD_S = 0.1  # that a push waits here for rows to have moved, before its client is told to come back
MOVING_RETRY_S = 0.02
# What changes a shard beside pushes: acknowledged when that is in the log.
_NOTED = frozenset(
    [methods.ADOPT, methods.SHARD_CREATE_TABLE, methods.SHARD_DROP_TABLE, methods.SHARD_SET_LEARNING_RATE]
)


@dataclass
class Host(Holder):
    """One server process. Callers hold one lock around every method.

    Attributes:
        refused: requests that were answered with an error.
    """

    refused: int = 0

    def __post_init__(self) -> None:
        self._rows: dict[str, Callable[[Call], Answer]] = {
            methods.PULL: self._pull,
            methods.PULL_BAGS: self._pull_bags,
            methods.PUSH: self._push,
            methods.STEP: self._step,
        }
        self._methods: dict[str, Callable[[bytes | memoryview], Sequence[Buffer]]] = {
            methods.DESCRIBE_LANE: self._on(pb.LaneRequest, lambda _: self.process.lane()),
            methods.SHARD_CREATE_TABLE: self._on(pb.CreateTableRequest, self._create_table),
            methods.SHARD_DROP_TABLE: self._on(pb.DropTableRequest, self._drop_table),
            methods.LIST_TABLES: self._on(pb.ListTablesRequest, self._list_tables),
            methods.SHARD_SET_LEARNING_RATE: self._on(pb.SetLearningRateRequest, self._set_lr),
            methods.STATISTICS: self._on(pb.StatisticsRequest, self._statistics),
            methods.ADOPT: self._on(pb.AdoptRequest, self.adopt),
            methods.PREPARE: self._on(pb.PrepareRequest, self.prepare),
            methods.FREEZE: self._on(pb.FreezeRequest, self.freeze),
            methods.READ_ROWS: self._on(pb.ReadRowsRequest, self._read_rows),
            methods.READ_LEDGER: self._on(pb.ReadLedgerRequest, self._read_ledger),
            methods.PROGRESS: self._on(pb.ProgressRequest, self.progress),
            methods.SHUT_DOWN_SHARD: self._on(pb.ShutdownRequest, self._shutdown),
            methods.CUT: self._on(pb.CutRequest, self._cut),
            methods.CUT_PROGRESS: self._on(pb.CutProgressRequest, self._cut_progress),
            methods.TRIM_LOG: self._on(pb.TrimLogRequest, self._trim_log),
            methods.DESCRIBE_LAYOUT: self._on(pb.DescribeLayoutRequest, self._describe_layout),
            methods.HEALTH: self._on(pb.HealthRequest, self._health),
        }

    def handles(self, method: str) -> bool:
        """Whether there is such a method."""
        return method in self._rows or method in self._methods

    def handle(self, call: Call) -> Answer:
        """Answer one request. Raises RowloomError."""
        try:
            method = self._rows.get(call.method)
            if method:
                return method(call)
            buffers = self._methods[call.method](call.data)
            # Also when it was done before: that may not be safe yet.
            return Answer(buffers, self.journal.end if self.journal and call.method in _NOTED else 0)
        except RowloomError:
            self.refused += 1
            raise

    def _on(
        self, cls: type[Any], answer: Callable[[Any], Any]
    ) -> Callable[[bytes | memoryview], Sequence[Buffer]]:
        def method(data: bytes | memoryview) -> Sequence[Buffer]:
            try:
                request = cls.FromString(bytes(data))
            except Exception as e:
                raise InvalidRequest(f"malformed message: {cls.__name__} does not parse") from e
            reply = answer(request)
            return [(reply if reply is not None else pb.Done()).SerializeToString()]

        return method

    # ------------------------------------------------------------------------------------------------- hot path

    def _pull(self, call: Call) -> Answer:
        reply = self.serving().pull(Pull.decode(call.data), call.space)
        call.placed = reply.placed
        return Answer() if reply.placed else Answer(reply.encode())

    def _pull_bags(self, call: Call) -> Answer:
        return Answer(self.serving().pull_bags(PullBags.decode(call.data)).encode())

    def _push(self, call: Call) -> Answer:
        shard, data = self.serving(), self._kept(call.data)
        request = Push.decode(data)
        if isinstance(self.state, states.Moving) or self.must_wait:
            return _later(shard, request.header)
        if self.journal is not None:
            self.journal.check()
        duplicate = shard.push(request)
        after = self._noted(Kind.PUSH, data, shard, request, duplicate)
        return Answer([encode_push_reply(duplicate)], after)

    def _step(self, call: Call) -> Answer:
        shard, data = self.serving(), self._kept(call.data)
        request = Step.decode(data)
        if isinstance(self.state, states.Moving) or self.must_wait:
            return _later(shard, request.push.header)
        if self.journal is not None:
            self.journal.check()
        reply = shard.step(request, call.space)
        # The rows have the push in them, so they wait for it too.
        after = self._noted(Kind.STEP, data, shard, request.push, reply.duplicate)
        call.placed = reply.pull.placed
        return Answer((), after) if reply.pull.placed else Answer(reply.encode(), after)

    def _kept(self, data: bytes | memoryview) -> bytes | memoryview:
        """A message that is applied and then noted, both times the same: nobody else may write to it in between."""
        if self.journal is None or isinstance(data, bytes):
            return data
        return memoryview(bytearray(data))

    def _noted(self, kind: Kind, data: bytes | memoryview, shard: Shard, push: Push, duplicate: bool) -> int:
        """Note a push. Returns up to where the log must be safe before the answer goes."""
        if self.journal is None:
            return 0
        if duplicate:  # its first copy is in the log, but may not be safe yet
            return self.journal.end
        return self.journal.note(kind, data, *shard.trace(push))

    # --------------------------------------------------------------------------------------------------- tables

    def _create_table(self, request: pb.CreateTableRequest) -> None:
        shard = self.serving()
        shard.check(request.header)
        entry = TableEntry.from_message(request.table)
        is_new = entry.number not in shard.tables
        self._change(
            lambda: shard.create_table(entry), Kind.CREATE, request.table.SerializeToString(), noted=is_new
        )

    def _drop_table(self, request: pb.DropTableRequest) -> None:
        shard = self.serving()
        shard.check(request.header)
        payload = request.SerializeToString()
        there = request.table in shard.tables
        self._change(lambda: shard.drop_table(request.table), Kind.DROP, payload, noted=there)

    def _list_tables(self, request: pb.ListTablesRequest) -> pb.ListTablesReply:
        return pb.ListTablesReply(tables=[e.to_message() for e in self.serving().entries()])

    def _set_lr(self, request: pb.SetLearningRateRequest) -> None:
        shard = self.serving()
        shard.check(request.header)
        table = shard.table(request.table)
        payload = request.SerializeToString()
        is_new = request.version > table.entry.lr_version
        self._change(lambda: table.set_lr(request.lr, request.version), Kind.SET_LR, payload, noted=is_new)

    def _change(self, change: Callable[[], None], kind: Kind, payload: bytes, *, noted: bool) -> None:
        """Make a change of a table, and note it if it is one."""
        if self.journal is not None and noted:
            self.journal.check()
        change()
        if self.journal is not None and noted:
            self.journal.note(kind, payload)

    # --------------------------------------------------------------------------------------------- looking inside

    def _describe_layout(self, request: pb.DescribeLayoutRequest) -> pb.DescribeLayoutReply:
        layout, shard = self.state.layout, self.state.shard
        if layout is None:
            return pb.DescribeLayoutReply()
        if shard is None:
            return pb.DescribeLayoutReply(layout=layout.to_message())
        entries = [entry.to_message() for entry in shard.entries()]
        return pb.DescribeLayoutReply(layout=layout.to_message(), tables=entries, has_tables=True)

    def _health(self, request: pb.HealthRequest) -> pb.HealthReply:
        shard, process = self.shard, self.process
        return pb.HealthReply(
            role="shard",
            state=self.state.word,
            incarnation=process.incarnation,
            epoch=shard.layout.epoch if shard else 0,
            uptime_s=process.now() - process.started_s,
            index=shard.index if shard else 0,
            cluster_id=shard.layout.cluster_id if shard else "",
            log_bytes=self.journal.bytes if self.journal is not None else 0,
        )

    def _statistics(self, request: pb.StatisticsRequest) -> pb.StatisticsReply:
        reply = self.shard.statistics() if self.shard else pb.StatisticsReply()
        process = self.process
        reply.refused = self.refused
        reply.resident_bytes = process.resident_bytes()
        reply.uptime_s = process.now() - process.started_s
        reply.cpu_s = process.cpu_s()
        reply.durability = process.durability
        reply.log_bytes = self.journal.bytes if self.journal is not None else 0
        return reply

    # ------------------------------------------------------------------------------------------ change of layout

    def _read_rows(self, request: pb.ReadRowsRequest) -> pb.ReadRowsReply:
        shard = self.serving()
        shard.check(request.header)
        return read_rows(shard, request)

    def _read_ledger(self, request: pb.ReadLedgerRequest) -> pb.ReadLedgerReply:
        shard = self.serving()
        shard.check(request.header)
        if not isinstance(self.state, states.Moving):
            raise RetryLater("a ledger is read while pushes wait: freeze first", retry_after_s=0.05)
        shard.check_whole()
        return shard.ledger.read(request.cursor, request.limit_bytes)

    # ----------------------------------------------------------------------------------------------------- snapshots

    def _cut(self, request: pb.CutRequest) -> None:
        shard = self.serving()
        shard.check(request.header)
        self.take_turn(request.header.cluster_id, request.turn)
        taking = self.taking
        if taking is not None and taking.id == request.id and not request.abort:
            return  # the same request again
        self.end_taking("the snapshot was given up")
        if request.abort:
            return
        url = self.process.snapshot_url(request.id)
        if (
            self.journal is not None
        ):  # a log that failed ends before what is in the rows: no log could go on from the cut
            self.journal.check()
        if not isinstance(self.state, states.Moving):
            raise RetryLater("a snapshot begins while pushes wait: freeze first", retry_after_s=0.05)
        cut = shard.cut()
        lsn = self.journal.lsn if self.journal is not None else 0
        self.taking = Taking(request.id, url, shard.index, lsn, cut)
        self.tasks.append(self.taking)

    def _cut_progress(self, request: pb.CutProgressRequest) -> pb.CutProgressReply:
        taking = self.taking
        if taking is None or taking.id != request.id:
            return pb.CutProgressReply(
                error=f"this server writes no snapshot {request.id!r}: it has started anew"
            )
        return pb.CutProgressReply(
            done=bool(taking.stored),
            rows=taking.rows,
            bytes=taking.bytes,
            error=taking.error,
            stored=taking.stored,
        )

    def _trim_log(self, request: pb.TrimLogRequest) -> None:
        self.serving().check(request.header)
        if self.journal is not None:
            self.journal.trim(request.lsn)

    def _shutdown(self, request: pb.ShutdownRequest) -> None:
        self.check_cluster(request.cluster_id)
        self.process.stop()


def _later(shard: Shard, header: pb.Header) -> Answer:
    """What a push is told whose shard is moving. Raises as `Shard.check`."""
    shard.check(header)
    moving = Moving("rows are moving to a new layout", epoch=shard.layout.epoch, retry_after_s=MOVING_RETRY_S)
    return Answer(wait_for=WaitFor(MOVING_HOLD_S, moving))
