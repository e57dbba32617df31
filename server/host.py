"""What one server process holds: the shard that it serves now, and the one that it is receiving for the next epoch.

`handle` is the whole surface: method name and request bytes in, reply buffers out, our errors raised. It knows no gRPC,
no threads and no clock, so the same host runs behind gRPC, behind a plain socket and in the simulator.

    waiting ──Adopt(fresh)──▶ serving ◀──Freeze──▶ moving ──Adopt(next epoch)──▶ serving | retired
        └──Adopt──▶ lost
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from ..proto import methods
from ..proto import rowloom_pb2 as pb
from ..proto.codec import Buffer, Pull, Push, Room, Step, encode_push_reply
from ..proto.codec_bags import PullBags
from ..proto.errors import InvalidRequest, RetryLater, RowloomError, StateLost, WrongCluster, WrongLayout
from ..proto.layout import Layout
from ..proto.spec import TableEntry
from .moving.receive import Receive, read_rows
from .shard import Counters, Shard


@dataclass
class Incoming:
    """A shard of the next epoch, being filled."""

    shard: Shard
    receive: Receive
    error: str = ""


@dataclass
class Process:
    """What the shell knows of the process: filled in by it, read by statistics."""

    incarnation: int = 0
    started_s: float = 0.0
    now: Callable[[], float] = lambda: 0.0
    resident_bytes: Callable[[], int] = lambda: 0
    cpu_s: Callable[[], float] = lambda: 0.0
    lane: Callable[[], pb.LaneReply] = pb.LaneReply


@dataclass
class Host:
    """One server process. Callers hold one lock around every method."""

    process: Process = field(default_factory=Process)
    current: Shard | None = None
    incoming: Incoming | None = None
    retired: Layout | None = None
    lost: bool = False
    refused: int = 0
    stopping: bool = False
    turn: int = 0
    # Receives that the shell has yet to start; see `Receive.run`.
    tasks: list[Incoming] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._rows: dict[str, Callable[[bytes | memoryview, memoryview | None], Sequence[Buffer]]] = {
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
            methods.DESCRIBE_LAYOUT: self._on(pb.DescribeLayoutRequest, self._describe_layout),
            methods.HEALTH: self._on(pb.HealthRequest, self._health),
        }

    def handles(self, method: str) -> bool:
        """Whether there is such a method."""
        return method in self._rows or method in self._methods

    def handle(
        self, method: str, data: bytes | memoryview, space: memoryview | None = None
    ) -> Sequence[Buffer]:
        """Answer one request: buffers of the reply, in order. Raises RowloomError.

        Args:
            method: such as methods.PULL.
            data: the message; what is returned does not refer to it.
            space: where the reply will lie in the end, if that is known: rows are then written to their places in it.
        """
        try:
            move = self._rows.get(method)
            return move(data, space) if move else self._methods[method](data)
        except RowloomError:
            self.refused += 1
            raise

    def _on(self, cls: type, answer: Callable) -> Callable[[bytes | memoryview], Sequence[Buffer]]:
        def method(data: bytes | memoryview) -> Sequence[Buffer]:
            try:
                request = cls.FromString(bytes(data))
            except Exception as e:
                raise InvalidRequest(f"malformed message: {cls.__name__} does not parse") from e
            reply = answer(request)
            return [(reply if reply is not None else pb.Done()).SerializeToString()]

        return method

    @property
    def state(self) -> str:
        """One word, as in HealthReply."""
        if self.lost:
            return "lost"
        if self.current is None:
            return "retired" if self.retired else "waiting"
        return "moving" if self.current.frozen else "serving"

    def _serving(self) -> Shard:
        """The shard that serves. Raises WrongLayout or StateLost when there is none."""
        if self.current is not None:
            return self.current
        if self.retired is not None:
            raise WrongLayout("this server is no shard any more", epoch=self.retired.epoch)
        if self.incoming is not None:
            raise WrongLayout("this server is still receiving its rows")
        raise StateLost(
            "this shard server started anew and holds no rows: restore a snapshot, or start the cluster "
            "again (`rowloom down`, `rowloom up`) to train from initial values"
        )

    # ------------------------------------------------------------------------------------------------- hot path

    def _pull(self, data: bytes | memoryview, space: memoryview | None) -> Sequence[Buffer]:
        shard = self._serving()
        if space is not None and (length := shard.answer_pull(data, space)) >= 0:
            return [space[:length]]
        return shard.pull(Pull.decode(data), Room(space)).encode()

    def _pull_bags(self, data: bytes | memoryview, space: memoryview | None) -> Sequence[Buffer]:
        return self._serving().pull_bags(PullBags.decode(data)).encode()

    def _push(self, data: bytes | memoryview, space: memoryview | None) -> Sequence[Buffer]:
        return [encode_push_reply(self._serving().push(Push.decode(data)))]

    def _step(self, data: bytes | memoryview, space: memoryview | None) -> Sequence[Buffer]:
        return self._serving().step(Step.decode(data), space).encode()

    # --------------------------------------------------------------------------------------------------- tables

    def _create_table(self, request: pb.CreateTableRequest) -> None:
        shard = self._serving()
        shard.check(request.header)
        shard.create_table(TableEntry.from_message(request.table))

    def _drop_table(self, request: pb.DropTableRequest) -> None:
        shard = self._serving()
        shard.check(request.header)
        shard.drop_table(request.table)

    def _list_tables(self, request: pb.ListTablesRequest) -> pb.ListTablesReply:
        return pb.ListTablesReply(tables=[e.to_message() for e in self._serving().entries()])

    def _set_lr(self, request: pb.SetLearningRateRequest) -> None:
        shard = self._serving()
        shard.check(request.header)
        shard.table(request.table).set_lr(request.lr, request.version)

    # --------------------------------------------------------------------------------------------- looking inside

    def _describe_layout(self, request: pb.DescribeLayoutRequest) -> pb.DescribeLayoutReply:
        if self.current is not None:
            entries = [e.to_message() for e in self.current.entries()]
            return pb.DescribeLayoutReply(
                layout=self.current.layout.to_message(), tables=entries, has_tables=True
            )
        if self.retired is not None:
            return pb.DescribeLayoutReply(layout=self.retired.to_message())
        return pb.DescribeLayoutReply()

    def _health(self, request: pb.HealthRequest) -> pb.HealthReply:
        shard, process = self.current, self.process
        return pb.HealthReply(
            role="shard",
            state=self.state,
            incarnation=process.incarnation,
            epoch=shard.layout.epoch if shard else 0,
            uptime_s=process.now() - process.started_s,
            index=shard.index if shard else 0,
            cluster_id=shard.layout.cluster_id if shard else "",
        )

    def _statistics(self, request: pb.StatisticsRequest) -> pb.StatisticsReply:
        reply = self.current.statistics() if self.current else pb.StatisticsReply()
        process = self.process
        reply.refused = self.refused
        reply.resident_bytes = process.resident_bytes()
        reply.uptime_s = process.now() - process.started_s
        reply.cpu_s = process.cpu_s()
        return reply

    # ------------------------------------------------------------------------------------------ change of layout

    def _adopt(self, request: pb.AdoptRequest) -> None:
        layout = Layout.from_message(request.layout)
        self._take_turn(layout.cluster_id, request.turn)
        current = self.current
        if current is not None and current.layout.epoch > layout.epoch:
            raise WrongLayout(f"epoch {layout.epoch} is over", epoch=current.layout.epoch)
        if request.retire:
            self.current, self.incoming, self.retired = None, None, layout
        elif current is not None and current.layout.epoch == layout.epoch and current.index == request.index:
            current.layout, current.frozen, self.incoming = layout, False, None
        elif self._received(layout, request.index):
            self._activate(layout)
        elif request.fresh and current is None and self.retired is None:
            entries = [TableEntry.from_message(m) for m in request.tables]
            self.current, self.lost = Shard(layout, request.index, entries), False
        else:
            self.lost, self.incoming = current is None, None  # nothing will come of what it was receiving
            raise StateLost(
                f"this server holds no rows of epoch {layout.epoch}: it started anew, or received them only in part"
            )

    def _received(self, layout: Layout, index: int) -> bool:
        incoming = self.incoming
        return (
            incoming is not None
            and incoming.receive.done
            and incoming.shard.layout.epoch == layout.epoch
            and incoming.shard.index == index
        )

    def _activate(self, layout: Layout) -> None:
        assert self.incoming is not None
        shard = self.incoming.shard
        shard.layout = layout
        shard.counters = self.current.counters if self.current else Counters()
        self.current, self.incoming, self.retired = shard, None, None

    def _prepare(self, request: pb.PrepareRequest) -> None:
        source, layout = Layout.from_message(request.source), Layout.from_message(request.layout)
        self._take_turn(layout.cluster_id, request.turn)
        if self.current is not None and self.current.layout.epoch >= layout.epoch:
            raise WrongLayout(f"epoch {layout.epoch} is over", epoch=self.current.layout.epoch)
        incoming = self.incoming
        if incoming is not None and incoming.shard.layout == layout and not incoming.error:
            return  # the same request again
        shard = Shard(layout, request.index, [TableEntry.from_message(m) for m in request.tables])
        self.incoming = Incoming(shard, Receive(source, shard))
        self.tasks.append(self.incoming)

    def _freeze(self, request: pb.FreezeRequest) -> pb.FreezeReply:
        self._take_turn(request.cluster_id, request.turn)
        shard = self.current
        if shard is None or shard.layout.epoch != request.epoch:
            known = shard.layout.epoch if shard else 0
            if (
                not request.on
            ):  # rolling back: a server that was started for the epoch only holds what it received
                self.incoming = None
                return pb.FreezeReply()
            raise WrongLayout(f"this server is in epoch {known}, not {request.epoch}", epoch=known)
        shard.frozen = request.on
        if not request.on:
            self.incoming = None
        return pb.FreezeReply(rows=shard.rows)

    def _read_rows(self, request: pb.ReadRowsRequest) -> pb.ReadRowsReply:
        shard = self._serving()
        shard.check(request.header)
        return read_rows(shard, request)

    def _read_ledger(self, request: pb.ReadLedgerRequest) -> pb.ReadLedgerReply:
        shard = self._serving()
        shard.check(request.header)
        if not shard.frozen:
            raise RetryLater("a ledger is read while pushes wait: freeze first", retry_after_s=0.05)
        return shard.ledger.to_message()

    def _progress(self, request: pb.ProgressRequest) -> pb.ProgressReply:
        if self.incoming is None:
            return pb.ProgressReply()
        receive = self.incoming.receive
        return pb.ProgressReply(
            epoch=self.incoming.shard.layout.epoch,
            done=receive.done,
            rows=receive.rows,
            bytes=receive.bytes,
            error=self.incoming.error,
        )

    def _shutdown(self, request: pb.ShutdownRequest) -> None:
        self._check_cluster(request.cluster_id)
        self.stopping = True

    def _take_turn(self, cluster_id: str, turn: int) -> None:
        """Refuse a step of the coordinator that was held up on its way until later ones had been taken."""
        self._check_cluster(cluster_id)
        if turn < self.turn:
            raise InvalidRequest(f"step {turn} of the coordinator comes too late: step {self.turn} was taken")
        self.turn = turn

    def _check_cluster(self, cluster_id: str) -> None:
        known = self.current.layout if self.current else self.retired
        if known is not None and known.cluster_id != cluster_id:
            raise WrongCluster(f"this is cluster {known.cluster_id!r}, not {cluster_id!r}")
