"""One server process: what it answers to each request, from what it holds.

`handle` is the whole surface: a call in, an answer out, our errors raised. It knows no gRPC, no threads and no clock,
so the same host runs behind gRPC, behind a plain socket and in the simulator.

Why it is so. What must hold: whether a push waits is asked in two places, `_push` and `_step`, and read from the state.
A host cannot wait, or the simulator could not run it: it answers `wait_for`, and whoever drives it handles the call
again when `changes` has moved. Rejected: a callback for each call that waits (the host would own its callers' lives).
Take that up again if thousands of calls wait at once, since each change of state handles all of them anew.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
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
    Unavailable,
    WrongLayout,
)
from ..proto.spec import TableEntry
from . import states
from .access.rights import ADMIN, PULL, PUSH
from .call import Answer, Call, Fed, WaitFor
from .durable.records import Kind
from .holder import Holder
from .metrics.traffic import only
from .moving.giving import give_ledger, give_pass
from .moving.outgoing import read_rows
from .shard import Shard
from .standby import primary, secondary
from .taking import Taking

MOVING_HOLD_S = 0.1  # that a push waits here for rows to have moved, before its client is told to come back
MOVING_RETRY_S = 0.02
# Their messages are applied and then noted, both times the same: with a log, nobody else writes to them in between.
NOTED_ROWS = (methods.PUSH, methods.STEP)
_HEADS: dict[str, Callable[[Buffer], pb.Header]] = {
    methods.PULL: lambda data: Pull.decode(data).header,
    methods.PULL_BAGS: lambda data: PullBags.decode(data).header,
    methods.PUSH: lambda data: Push.decode(data).header,
    methods.STEP: lambda data: Step.decode(data).push.header,
}
_FED = frozenset([methods.SHARD_CREATE_TABLE, methods.SHARD_DROP_TABLE, methods.SHARD_SET_LEARNING_RATE])
_NOTED = _FED | {methods.ADOPT}


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
            methods.READ_PASS: partial(give_pass, self),
            methods.READ_ROWS: self._read_rows,
            methods.HOTTEST_IDS: self._hottest_ids,
            methods.DESCRIBE_LANE: self._describe_lane,
            methods.FOLLOW: partial(primary.follow, self),
        }
        self._methods: dict[str, Callable[[bytes | memoryview], Sequence[Buffer]]] = {
            methods.SHARD_CREATE_TABLE: self._on(pb.CreateTableRequest, self._create_table),
            methods.SHARD_DROP_TABLE: self._on(pb.DropTableRequest, self._drop_table),
            methods.LIST_TABLES: self._on(pb.ListTablesRequest, self._list_tables),
            methods.SHARD_SET_LEARNING_RATE: self._on(pb.SetLearningRateRequest, self._set_lr),
            methods.STATISTICS: self._on(pb.StatisticsRequest, self._statistics),
            methods.ADOPT: self._on(pb.AdoptRequest, partial(secondary.adopt, self)),
            methods.PREPARE: self._on(pb.PrepareRequest, self.prepare),
            methods.FREEZE: self._on(pb.FreezeRequest, partial(primary.freeze, self)),
            methods.BRAKE: self._on(pb.BrakeRequest, self.set_brake),
            methods.READ_LEDGER: self._on(pb.ReadLedgerRequest, partial(give_ledger, self)),
            methods.PROGRESS: self._on(pb.ProgressRequest, self.progress),
            methods.STAND_BY: self._on(pb.StandByRequest, partial(secondary.stand_by, self)),
            methods.SET_STANDBY: self._on(pb.SetStandbyRequest, partial(primary.set_standby, self)),
            methods.ATTACH: self._on(pb.AttachRequest, partial(primary.attach, self)),
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
            if call.caller.rights is not None:
                call.caller.rights.check_method(call.method)
            method = self._rows.get(call.method)
            if method:
                return method(call)
            buffers = self._methods[call.method](call.data)
            fed = primary.all_fed(self) if call.method in _FED else None
            return Answer(buffers, self._noted_up_to(call), fed=fed)
        except WrongLayout as e:
            if self._is_early(call):
                return Answer(wait_for=WaitFor(MOVING_HOLD_S, e))
            self.refused += 1
            raise
        except RowloomError:
            self.refused += 1
            raise

    def _is_early(self, call: Call) -> bool:
        """Whether a call is for the shard that is about to be adopted here: others of its layout were so before."""
        head, incoming = _HEADS.get(call.method), self.incoming
        if head is None or incoming is None or not incoming.done:
            return False
        header, layout = head(call.data), incoming.shard.layout
        return (header.cluster_id, header.epoch) == (layout.cluster_id, layout.epoch)

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

    def _noted_up_to(self, call: Call) -> int:
        """Up to where the log must be safe before the answer goes; also when the change was made before.

        Raises Unavailable: with a log that failed, nobody knows whether the change is in it.
        """
        if self.journal is None or call.method not in _NOTED:
            return 0
        if not self.journal.error:
            return self.journal.end
        # To adopt a shard that serves notes nothing, and ends a freeze, which a log that failed must not keep up.
        if call.method == methods.ADOPT and not pb.AdoptRequest.FromString(bytes(call.data)).fresh:
            return 0
        raise Unavailable(f"{call.method} is not safe yet: the log failed: {self.journal.error}")

    def _mine(self) -> Shard:
        """The shard that serves, and no other server does. Raises Unavailable, and as `serving`."""
        if self.feed is not None:
            primary.check_lease(self)
        return self.state.shard or self.serving()

    def _pullable(self, header: pb.Header) -> Shard:
        """What a pull is answered from: the shard, or what a standby has of it. Raises as `_mine`, and RetryLater."""
        return secondary.readable(self, header) if isinstance(self.state, states.Standing) else self._mine()

    # ------------------------------------------------------------------------------------------------- hot path

    def _pull(self, call: Call) -> Answer:
        request = Pull.decode(call.data)
        shard, tables = self._pullable(request.header), request.tables
        call.table = tables[0][0] if len(tables) == 1 else only(*tables)
        if call.caller.rights is not None:
            _permit(call, shard, request.header, PULL, [number for number, _ in request.tables])
        reply = shard.pull(request, call.space)
        call.placed = reply.placed
        if shard is not self.state.shard:
            self.process.reads.count(len(ids) for _, ids in tables)
        return Answer() if reply.placed else Answer(reply.encode())

    def _pull_bags(self, call: Call) -> Answer:
        request = PullBags.decode(call.data)
        shard = self._pullable(request.header)
        call.table = only(*((entries.table,) for entries in request.tables))
        if call.caller.rights is not None:
            _permit(call, shard, request.header, PULL, [entries.table for entries in request.tables])
        reply = shard.pull_bags(request)
        if shard is not self.state.shard:
            self.process.reads.count(len(entries.ids) for entries in request.tables)
        return Answer(reply.encode())

    def _push(self, call: Call) -> Answer:
        shard, data = self._mine(), primary.kept(self, call)
        request = Push.decode(data)
        call.table = only(*request.tables)
        if call.caller.rights is not None:
            _permit(call, shard, request.header, PUSH, [number for number, *_ in request.tables])
        if (later := self._later(call, shard, request)) is not None:
            return later
        try:
            if self.journal is not None:
                self.journal.check()
            self._let_in(call, shard, request)
            duplicate = shard.push(request)
        except RowloomError:
            shard.count_rejected(request)
            raise
        after, fed = self._kept(Kind.PUSH, data, shard, request, duplicate)
        return Answer([encode_push_reply(duplicate)], after, fed=fed)

    def _step(self, call: Call) -> Answer:
        shard, data = self._mine(), primary.kept(self, call)
        request = Step.decode(data)
        call.table = only(*request.push.tables, *request.pull.tables)
        if call.caller.rights is not None:
            header = request.push.header
            _permit(call, shard, header, PUSH, [number for number, *_ in request.push.tables])
            _permit(call, shard, header, PULL, [number for number, _ in request.pull.tables])
        if (later := self._later(call, shard, request.push)) is not None:
            return later
        try:
            if self.journal is not None:
                self.journal.check()
            self._let_in(call, shard, request.push)
            reply = shard.step(request, call.space)
        except RowloomError:
            shard.count_rejected(request.push)
            raise
        # The rows have the push in them, so they wait for it too.
        after, fed = self._kept(Kind.STEP, data, shard, request.push, reply.duplicate)
        call.placed = reply.pull.placed
        return Answer(() if reply.pull.placed else reply.encode(), after, fed=fed)

    def _let_in(self, call: Call, shard: Shard, push: Push) -> None:
        """Refuse a push that takes no right, and a client too many. Raises InvalidRequest, Overloaded; as `check`.

        Here and not in the shard: what a log has was let in when it came.
        """
        if not push.tables:
            shard.check(push.header)
            raise InvalidRequest("a push must name at least one table, with ids of it or without; got none")
        if call.caller.rights is not None and not shard.ledger.knows(push.client_id):
            self.process.newcomers.come(call.caller, self.process.now())

    def _later(self, call: Call, shard: Shard, push: Push) -> Answer | None:
        """What a push is told that must wait; None: it need not. Raises as `Shard.check`."""
        limit_s = MOVING_HOLD_S
        if braked := not self.waits(push):
            row_s = self.state.brake_s if isinstance(self.state, states.Serving) else 0.0
            if not row_s:
                return None
            now = self.process.now()
            if not call.not_before:
                call.not_before = self.brake.admit(now, sum(len(ids) for _, ids, _ in push.tables), row_s)
            limit_s = call.not_before - now
            if limit_s <= 0:
                return None
        shard.check(push.header)
        moving = Moving(
            "rows are moving to a new layout", epoch=shard.layout.epoch, retry_after_s=MOVING_RETRY_S
        )
        return Answer(wait_for=WaitFor(limit_s, moving, again=braked))

    def _kept(
        self, kind: Kind, data: bytes | memoryview, shard: Shard, push: Push, duplicate: bool
    ) -> tuple[int, Fed | None]:
        """Note a push in the log, and keep it for the standby. Returns what its answer waits for."""
        after, journal = 0, self.journal
        try:
            if journal is not None:  # the first copy of a duplicate is in it, but may not be safe yet
                after = journal.end if duplicate else journal.note(kind, data, *shard.trace(push))
        finally:  # it was applied, also where the log takes no more
            fed = primary.fed(self, kind, data, shard, push, duplicate, log_end=after)
        return after, fed

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
        """Make a change of a table, and note it if it is one.

        With a log that failed it is made and not noted, and the answer is that it is not safe: the snapshot by which
        pushes go on has it then, and has the same tables on every shard. After the cut of that it would be in nothing.
        """
        journal, end = self.journal if noted else None, 0
        if journal is not None and (not journal.error or journal.mending or self._is_cut):
            journal.check()
        else:
            journal = None
        change()
        try:
            end = journal.note(kind, payload) if journal is not None else 0
        finally:
            if noted:
                primary.fed_change(self, kind, payload, log_end=end)

    @property
    def _is_cut(self) -> bool:
        """Whether there is a cut of this shard that a snapshot may yet come of."""
        return self.taking is not None and not self.taking.error

    # --------------------------------------------------------------------------------------------- looking inside

    def _describe_lane(self, call: Call) -> Answer:
        return Answer(self._on(pb.LaneRequest, lambda _: self.process.lane(call.caller))(call.data))

    def _describe_layout(self, request: pb.DescribeLayoutRequest) -> pb.DescribeLayoutReply:
        layout, shard = self.state.layout, self.state.shard
        if layout is None:
            return pb.DescribeLayoutReply()
        reply = pb.DescribeLayoutReply(layout=layout.to_message(), durability=self.process.durability)
        if shard is not None:
            reply.tables.extend(entry.to_message() for entry in shard.entries())
            reply.has_tables = True
        return reply

    def _health(self, request: pb.HealthRequest) -> pb.HealthReply:
        process = self.process
        reply = pb.HealthReply(
            role="shard",
            incarnation=process.incarnation,
            uptime_s=process.now() - process.started_s,
            wall_s=process.wall_s(),
        )
        if self.journal is not None:
            reply.log_bytes, reply.log_error = self.journal.bytes, self.journal.error
            reply.passed_snapshot, reply.passed_why = self.journal.passed
        states.tell(self.state, reply)
        secondary.tell_health(self, reply)
        return reply

    def _statistics(self, request: pb.StatisticsRequest) -> pb.StatisticsReply:
        reply = self.shard.statistics() if self.shard else pb.StatisticsReply()
        process = self.process
        reply.refused = self.refused
        reply.resident_bytes = process.resident_bytes()
        reply.uptime_s = process.now() - process.started_s
        reply.cpu_s = process.cpu_s()
        reply.durability = process.durability
        reply.quotas.extend(process.in_flight.messages())
        reply.braked_pushes, reply.braked_s = self.brake.pushes, self.brake.seconds
        if self.journal is not None:
            reply.log_bytes, reply.log_error = self.journal.bytes, self.journal.error
            reply.log_end, reply.log_safe = self.journal.end, self.journal.safe
        if self.incoming is not None:
            reply.receiving_rows = self.incoming.receive.rows
        if self.taking is not None and self.taking.under_way:
            reply.snapshot_rows, reply.snapshot_bytes = self.taking.rows, self.taking.bytes
        primary.observe(self, reply)
        secondary.observe(self, reply)
        held = self.shard or (self.following.shard if self.following is not None else None)
        process.observe(reply, held.names if held else {})
        return reply

    # ------------------------------------------------------------------------------------------ change of layout

    def _read_rows(self, call: Call) -> Answer:
        def read(request: pb.ReadRowsRequest) -> pb.ReadRowsReply:
            shard = self._mine()
            if call.caller.rights is not None:
                _permit(call, shard, request.header, PULL, [request.table])
            shard.check(request.header)
            return read_rows(shard, request)

        return Answer(self._on(pb.ReadRowsRequest, read)(call.data))

    def _hottest_ids(self, call: Call) -> Answer:
        def read(request: pb.HottestIdsRequest) -> pb.HottestIdsReply:
            shard, rights = self.serving(), call.caller.rights
            shard.check(request.header)
            name = shard.table(request.table).spec.name
            if rights is not None and not rights.may(ADMIN, name):
                rights.check(PULL, name)
            return shard.hot.message(request)

        return Answer(self._on(pb.HottestIdsRequest, read)(call.data))

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
            if taking is not None:
                taking.error = taking.error or "the snapshot was given up"
            return
        url = self.process.snapshot_url(request.id)
        if not isinstance(self.state, states.Moving):
            raise RetryLater("a snapshot begins while pushes wait: freeze first", retry_after_s=0.05)
        cut = shard.cut(request.tables, request.id, request.parent)
        lsn, end = (self.journal.lsn, self.journal.end) if self.journal is not None else (0, 0)
        self.taking = Taking(request.id, url, shard.index, lsn, end, cut)
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
        journal = self.journal
        if journal is not None and request.lsn:
            journal.trim(request.lsn)
        # Since the cut nothing was applied: pushes and changes of tables were refused.
        if journal is not None and journal.error and self._is_stored(request.snapshot, journal.lsn):
            journal.renew()

    def _is_stored(self, snapshot: str, lsn: int) -> bool:
        """Whether this shard has written its part of a snapshot, and all records up to one are in that."""
        taking = self.taking
        if taking is None or taking.error or not taking.stored:
            return False
        return (taking.id, taking.lsn) == (snapshot, lsn)

    def _shutdown(self, request: pb.ShutdownRequest) -> None:
        self.check_cluster(request.cluster_id)
        self.process.stop()


def _permit(call: Call, shard: Shard, header: pb.Header, verb: str, numbers: Sequence[int]) -> None:
    """Raise PermissionDenied if the caller may not do that with one of the tables. Unknown ones the shard refuses.

    Numbers mean tables of one cluster, so what is meant for another one raises as `Shard.check` first.
    """
    rights = call.caller.rights
    shard.check(header)
    for number in numbers:
        table = shard.tables.get(number)
        if rights is not None and table is not None:
            rights.check(verb, table.entry.spec.name)
