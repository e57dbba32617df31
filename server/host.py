"""What one server process holds: the shard that it serves now, and the one that it is receiving for the next epoch.

`handle` is the whole surface: a call in, an answer out, our errors raised. It knows no gRPC, no threads and no clock,
so the same host runs behind gRPC, behind a plain socket and in the simulator.

    Waiting ──Adopt(fresh)──▶ Serving ◀──Freeze──▶ Moving ──Adopt(next epoch)──▶ Serving | Retired
        └──Adopt──▶ Recovering ──▶ Serving, or Lost; without a log Lost

Why it is so. What must hold: a push is applied in one epoch only, so whether pushes wait is read in one place (`_push`
and `_step`, from the state) and changed in one place (`_become`). The state is one value, because the flags that it was
before could say two things at once (retired and lost). A shard that is being received stands beside it: the server may
be serving, moving or waiting meanwhile.
A host cannot wait, or the simulator could not run it: it answers `wait_for`, and whoever drives it handles the call
again when `changes` has moved. Rejected: a callback for each call that waits (the host would own its callers' lives).
Take that up again if thousands of calls wait at once, since each change of state handles all of them anew.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
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
    StateLost,
    WrongCluster,
    WrongLayout,
)
from ..proto.layout import Layout
from ..proto.spec import TableEntry
from . import states
from .call import Answer, Call, WaitFor
from .durable.extents import Owner
from .durable.records import Kind
from .journal import Journal, Journals
from .ledger import MAX_CLIENTS, Ledger
from .moving.receive import Receive, read_rows
from .shard import Counters, Shard
from .taking import Taking

MOVING_HOLD_S = 0.1  # that a push waits here for rows to have moved, before its client is told to come back
MOVING_RETRY_S = 0.02
RECOVERING_RETRY_S = 0.05
# What changes a shard beside pushes: acknowledged when that is in the log.
_NOTED = frozenset(
    [methods.ADOPT, methods.SHARD_CREATE_TABLE, methods.SHARD_DROP_TABLE, methods.SHARD_SET_LEARNING_RATE]
)


@dataclass
class Incoming:
    """A shard of the next epoch, being filled."""

    shard: Shard
    receive: Receive
    journal: Journal | None = None
    error: str = ""
    ended: bool = False  # nobody drives it any more
    safe: bool = False  # what it received is in its log, as far as it must be; said by the shell

    @property
    def done(self) -> bool:
        """Whether it can take the place of the shards before it."""
        return self.receive.done and (self.safe or self.journal is None)


@dataclass
class Recovery:
    """A shard that is to be read from its log.

    Attributes:
        owner: whose log it is.
        make: an empty shard.
        snapshots: folders of those that the log may go on from, newest first.
    """

    owner: Owner
    make: Callable[[], Shard]
    snapshots: Sequence[str]


@dataclass
class Process:
    """What the shell knows of the process, and does to it: filled in by the shell."""

    incarnation: int = 0
    hash_key: int = 0  # see `rows.index`
    started_s: float = 0.0
    now: Callable[[], float] = lambda: 0.0
    resident_bytes: Callable[[], int] = lambda: 0
    cpu_s: Callable[[], float] = lambda: 0.0
    lane: Callable[[], pb.LaneReply] = pb.LaneReply
    stop: Callable[[], None] = lambda: None  # soon: what is under way is still answered
    max_clients: int = MAX_CLIENTS  # that a shard remembers
    durability: str = "memory"
    journals: Journals | None = None  # where shards' logs are; None: nothing is logged


@dataclass
class Host:
    """One server process. Callers hold one lock around every method.

    Attributes:
        state: see `states`; changed by `_become` only.
        changes: how often it has changed: calls that wait are handled again when this moves.
        journal: the log of the shard that serves; None: nothing is logged.
        incoming: the shard of the next epoch.
        turn: the coordinator's latest step.
        refused: requests that were answered with an error.
        taking: the shard's part of a snapshot, the last one.
        discarded: logs that are needed no more; the shell drops them.
        tasks: what the shell has yet to start, in a thread of its own: see `Receive.run`, and `recovered`.
    """

    process: Process = field(default_factory=Process)
    state: states.State = field(default_factory=states.Waiting)
    changes: int = 0
    journal: Journal | None = None
    incoming: Incoming | None = None
    turn: int = 0
    refused: int = 0
    discarded: list[Journal] = field(default_factory=list[Journal])
    taking: Taking | None = None
    tasks: list[Incoming | Recovery | Taking] = field(default_factory=list["Incoming | Recovery | Taking"])

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
            methods.ADOPT: self._on(pb.AdoptRequest, self._adopt),
            methods.PREPARE: self._on(pb.PrepareRequest, self._prepare),
            methods.FREEZE: self._on(pb.FreezeRequest, self._freeze),
            methods.READ_ROWS: self._on(pb.ReadRowsRequest, self._read_rows),
            methods.READ_LEDGER: self._on(pb.ReadLedgerRequest, self._read_ledger),
            methods.PROGRESS: self._on(pb.ProgressRequest, self._progress),
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

    @property
    def shard(self) -> Shard | None:
        """The shard that serves, if there is one."""
        return self.state.shard

    def _new_shard(self, layout: Layout, index: int, tables: Sequence[pb.TableEntry]) -> Shard:
        entries = [TableEntry.from_message(m) for m in tables]
        ledger = Ledger(self.process.max_clients)
        return Shard(layout, index, entries, key=self.process.hash_key, ledger=ledger)

    def _become(self, state: states.State) -> None:
        self.state = state
        self.changes += 1

    def _serving(self) -> Shard:
        """The shard that serves. Raises WrongLayout or StateLost when there is none."""
        shard = self.state.shard
        if shard is not None:
            return shard
        if isinstance(self.state, states.Retired):
            raise WrongLayout("this server is no shard any more", epoch=self.state.layout.epoch)
        if self.incoming is not None:
            raise WrongLayout("this server is still receiving its rows")
        if isinstance(self.state, states.Recovering):
            raise RetryLater("this shard reads its rows from its log", retry_after_s=RECOVERING_RETRY_S)
        if isinstance(self.state, states.Waiting) and self.process.journals is not None:
            raise RetryLater("this server waits to hear which shard it is", retry_after_s=RECOVERING_RETRY_S)
        if isinstance(self.state, states.Lost) and self.state.why:
            raise StateLost(self.state.why)
        raise StateLost(
            "this shard server started anew and holds no rows: `rowloom export TABLE FILE --partial` saves those of "
            "the other shards, `rowloom recover --accept-loss SHARD` makes this one anew, from initial values"
        )

    # ------------------------------------------------------------------------------------------------- hot path

    def _pull(self, call: Call) -> Answer:
        reply = self._serving().pull(Pull.decode(call.data), call.space)
        call.placed = reply.placed
        return Answer() if reply.placed else Answer(reply.encode())

    def _pull_bags(self, call: Call) -> Answer:
        return Answer(self._serving().pull_bags(PullBags.decode(call.data)).encode())

    def _push(self, call: Call) -> Answer:
        shard, data = self._serving(), self._kept(call.data)
        request = Push.decode(data)
        if isinstance(self.state, states.Moving):
            return _later(shard, request.header)
        if self.journal is not None:
            self.journal.check()
        duplicate = shard.push(request)
        after = self._noted(Kind.PUSH, data, shard, request, duplicate)
        return Answer([encode_push_reply(duplicate)], after)

    def _step(self, call: Call) -> Answer:
        shard, data = self._serving(), self._kept(call.data)
        request = Step.decode(data)
        if isinstance(self.state, states.Moving):
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
        shard = self._serving()
        shard.check(request.header)
        entry = TableEntry.from_message(request.table)
        is_new = entry.number not in shard.tables
        self._change(
            lambda: shard.create_table(entry), Kind.CREATE, request.table.SerializeToString(), noted=is_new
        )

    def _drop_table(self, request: pb.DropTableRequest) -> None:
        shard = self._serving()
        shard.check(request.header)
        payload = request.SerializeToString()
        there = request.table in shard.tables
        self._change(lambda: shard.drop_table(request.table), Kind.DROP, payload, noted=there)

    def _list_tables(self, request: pb.ListTablesRequest) -> pb.ListTablesReply:
        return pb.ListTablesReply(tables=[e.to_message() for e in self._serving().entries()])

    def _set_lr(self, request: pb.SetLearningRateRequest) -> None:
        shard = self._serving()
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

    def _adopt(self, request: pb.AdoptRequest) -> None:
        layout = _layout_of(request.layout, 0 if request.retire else request.index)
        self._take_turn(layout.cluster_id, request.turn)
        shard = self.shard
        if shard is not None and shard.layout.epoch > layout.epoch:
            raise WrongLayout(f"epoch {layout.epoch} is over", epoch=shard.layout.epoch)
        if request.retire:
            self._end_taking("the layout changed")
            self._forget_incoming()
            self._replace_journal(None)
            self._become(states.Retired(layout))
        elif shard is not None and shard.layout.epoch == layout.epoch and shard.index == request.index:
            _check_size(shard, layout)
            shard.layout = layout
            self._forget_incoming()
            self._become(states.Serving(shard))
        elif self._received(layout, request.index):
            self._activate(layout)
        elif request.fresh and isinstance(self.state, states.Waiting | states.Lost):
            shard = self._new_shard(layout, request.index, request.tables)
            if self.process.journals is not None:
                self.journal = self.process.journals.begin(_owner(layout, request.index))
                for entry in request.tables:
                    self.journal.note(Kind.CREATE, entry.SerializeToString())
            self._become(states.Serving(shard))
        elif self._has_log(layout, request.index):
            self._recover(layout, request.index, list(request.snapshots))
        else:
            if isinstance(self.state, states.Lost) and self.state.why:
                raise StateLost(self.state.why)
            if isinstance(self.state, states.Waiting):
                self._become(states.Lost())
            self._forget_incoming()
            raise StateLost(
                f"this server holds no rows of epoch {layout.epoch}: it started anew, or received them only in part"
            )

    def _has_log(self, layout: Layout, index: int) -> bool:
        if isinstance(self.state, states.Recovering):
            return True
        journals = self.process.journals
        return (
            isinstance(self.state, states.Waiting)
            and journals is not None
            and journals.has(_owner(layout, index))
        )

    def _recover(self, layout: Layout, index: int, snapshots: Sequence[str]) -> None:
        """Read a shard from its log, in a thread of the shell's; the coordinator asks until that is done."""
        if not isinstance(self.state, states.Recovering):
            self._become(states.Recovering(layout, index))
            make = partial(self._new_shard, layout, index, ())
            self.tasks.append(Recovery(_owner(layout, index), make, snapshots))
        raise RetryLater("this shard reads its rows from its log", retry_after_s=RECOVERING_RETRY_S)

    def recovered(self, shard: Shard, journal: Journal) -> None:
        """A shard was read to the end of its log, which goes on behind that."""
        self.journal = journal
        self._become(states.Serving(shard))

    def not_recovered(self, why: str) -> None:
        """A shard could not be read from its log."""
        self._become(states.Lost(why))

    def _received(self, layout: Layout, index: int) -> bool:
        incoming = self.incoming
        return (
            incoming is not None
            and incoming.done
            and incoming.shard.layout.epoch == layout.epoch
            and incoming.shard.index == index
        )

    def _activate(self, layout: Layout) -> None:
        assert self.incoming is not None
        shard = self.incoming.shard
        _check_size(shard, layout)
        shard.layout = layout
        shard.counters = self.shard.counters if self.shard else Counters()
        self._end_taking("the layout changed")
        # The new layout is committed: nobody goes back to what the old log holds.
        self._replace_journal(self.incoming.journal)
        self.incoming = None
        self._become(states.Serving(shard))

    def _prepare(self, request: pb.PrepareRequest) -> None:
        source, layout = _layout_of(request.source), _layout_of(request.layout, request.index)
        self._take_turn(layout.cluster_id, request.turn)
        if self.shard is not None and self.shard.layout.epoch >= layout.epoch:
            raise WrongLayout(f"epoch {layout.epoch} is over", epoch=self.shard.layout.epoch)
        incoming = self.incoming
        if incoming is not None and incoming.shard.layout == layout and not incoming.error:
            return  # the same request again
        self._forget_incoming()
        shard = self._new_shard(layout, request.index, request.tables)
        journal: Journal | None = None
        if self.process.journals is not None:
            journal = self.process.journals.begin(_owner(layout, request.index))
            journal.note(Kind.RECEIVE, request.SerializeToString())
        self.incoming = Incoming(shard, Receive(source, shard), journal)
        self.tasks.append(self.incoming)

    def _forget_incoming(self) -> None:
        """Nothing will come of what it was receiving."""
        incoming, self.incoming = self.incoming, None
        if incoming is not None and incoming.ended:
            self._discard(incoming.journal)

    def ended(self, incoming: Incoming, error: str = "") -> None:
        """The shell drives a receive no more: it is done, or failed, or was forgotten."""
        incoming.ended, incoming.error, incoming.safe = True, error, not error
        if self.incoming is not incoming:
            self._discard(incoming.journal)

    def _replace_journal(self, journal: Journal | None) -> None:
        old, self.journal = self.journal, journal
        self._discard(old)

    def _discard(self, journal: Journal | None) -> None:
        if journal is not None:
            self.discarded.append(journal)

    def _freeze(self, request: pb.FreezeRequest) -> pb.FreezeReply:
        self._take_turn(request.cluster_id, request.turn)
        shard = self.shard
        if shard is None or shard.layout.epoch != request.epoch:
            known = shard.layout.epoch if shard else 0
            if not request.on:
                # Rolling back: a server that was started for the epoch only holds what it received.
                self._forget_incoming()
                return pb.FreezeReply()
            raise WrongLayout(f"this server is in epoch {known}, not {request.epoch}", epoch=known)
        if request.on:
            self._become(states.Moving(shard))
        else:
            self._forget_incoming()
            self._become(states.Serving(shard))
        return pb.FreezeReply(rows=shard.rows)

    def _read_rows(self, request: pb.ReadRowsRequest) -> pb.ReadRowsReply:
        shard = self._serving()
        shard.check(request.header)
        return read_rows(shard, request)

    def _read_ledger(self, request: pb.ReadLedgerRequest) -> pb.ReadLedgerReply:
        shard = self._serving()
        shard.check(request.header)
        if not isinstance(self.state, states.Moving):
            raise RetryLater("a ledger is read while pushes wait: freeze first", retry_after_s=0.05)
        shard.check_whole()
        return shard.ledger.read(request.cursor, request.limit_bytes)

    # ----------------------------------------------------------------------------------------------------- snapshots

    def _cut(self, request: pb.CutRequest) -> None:
        shard = self._serving()
        shard.check(request.header)
        self._take_turn(request.header.cluster_id, request.turn)
        taking = self.taking
        if taking is not None and taking.id == request.id and not request.abort:
            return  # the same request again
        self._end_taking("the snapshot was given up")
        if request.abort:
            return
        if not isinstance(self.state, states.Moving):
            raise RetryLater("a snapshot begins while pushes wait: freeze first", retry_after_s=0.05)
        cut = shard.cut()
        lsn = self.journal.lsn if self.journal is not None else 0
        parent = request.parent_generation
        self.taking = Taking(request.id, request.url, shard.index, lsn, parent, cut)
        self.tasks.append(self.taking)

    def _end_taking(self, error: str) -> None:
        taking = self.taking
        if taking is not None and taking.under_way:
            self.taken(taking, error=error)

    def taken(self, taking: Taking, stored: bytes = b"", error: str = "") -> None:
        """A snapshot is written, or will never be."""
        taking.stored, taking.error = stored, error
        taking.cut.end()

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
        self._serving().check(request.header)
        if self.journal is not None:
            self.journal.trim(request.lsn)

    def _progress(self, request: pb.ProgressRequest) -> pb.ProgressReply:
        if self.incoming is None:
            return pb.ProgressReply()
        receive = self.incoming.receive
        return pb.ProgressReply(
            epoch=self.incoming.shard.layout.epoch,
            done=self.incoming.done,
            rows=receive.rows,
            bytes=receive.bytes,
            error=self.incoming.error,
        )

    def _shutdown(self, request: pb.ShutdownRequest) -> None:
        self._check_cluster(request.cluster_id)
        self.process.stop()

    def _take_turn(self, cluster_id: str, turn: int) -> None:
        """Refuse a step of the coordinator that was held up on its way until later ones had been taken."""
        self._check_cluster(cluster_id)
        if turn < self.turn:
            raise InvalidRequest(f"step {turn} of the coordinator comes too late: step {self.turn} was taken")
        self.turn = turn

    def _check_cluster(self, cluster_id: str) -> None:
        known = self.state.layout
        if known is not None and known.cluster_id != cluster_id:
            raise WrongCluster(f"this is cluster {known.cluster_id!r}, not {cluster_id!r}")


def _owner(layout: Layout, index: int) -> Owner:
    return Owner(layout.cluster_id, layout.epoch, index)


def _layout_of(message: pb.Layout, index: int = 0) -> Layout:
    """A layout that has a shard of that index. Raises InvalidRequest."""
    layout = Layout.from_message(message)
    if index >= layout.n:
        raise InvalidRequest(
            f"epoch {layout.epoch} of cluster {layout.cluster_id!r} comes with {layout.n} shards, so none has index "
            f"{index}: a layout lists all of its shards, at least one"
        )
    return layout


def _check_size(shard: Shard, layout: Layout) -> None:
    """Raise InvalidRequest for a layout of the same epoch in which other ids belong to a shard."""
    if shard.layout.n != layout.n:
        raise InvalidRequest(
            f"epoch {layout.epoch} has {shard.layout.n} shards, the request says {layout.n}: another number of "
            "shards is another epoch"
        )


def _later(shard: Shard, header: pb.Header) -> Answer:
    """What a push is told whose shard is moving. Raises as `Shard.check`."""
    shard.check(header)
    moving = Moving("rows are moving to a new layout", epoch=shard.layout.epoch, retry_after_s=MOVING_RETRY_S)
    return Answer(wait_for=WaitFor(MOVING_HOLD_S, moving))
