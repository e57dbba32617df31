"""What one server process holds, and how that changes: its shard of an epoch, that of the next, and their logs.

    Waiting ──adopt(fresh)──▶ Serving ◀──freeze──▶ Moving ──adopt(next epoch)──▶ Serving | Retired
        └──adopt──▶ Recovering ──▶ Serving, or Lost; without a log Lost

Why it is so. What must hold: a push is applied in one epoch only, so whether pushes wait is read from the state and
changed in one place (`become`). The state is one value, because the flags that it was before could say two things at
once (retired and lost). A shard that is being received stands beside it: the server may be serving, moving or waiting
meanwhile. It takes the place of the one before only when all of it is in its own log, if there are logs: from then on
nobody goes back to the old one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from ..proto import rowloom_pb2 as pb
from ..proto.codec import Push
from ..proto.errors import InvalidRequest, RetryLater, StateLost, WrongCluster, WrongLayout
from ..proto.layout import Layout
from ..proto.spec import NAME, TableEntry
from . import states
from .access.in_flight import CallsInFlight
from .access.newcomers import Newcomers
from .access.quotas import Quotas
from .call import Caller
from .durable.extents import Owner
from .durable.records import Kind
from .durable.succession import Succession
from .journal import Journal, Journals
from .ledger import MAX_CLIENTS, Ledger
from .moving.brake import Brake
from .moving.outgoing import BLOCK_BYTES
from .moving.receive import Receive
from .shard import Shard
from .standby.feed import Feed
from .standby.following import Following
from .standby.reading import StandbyReads
from .taking import Taking

RECOVERING_RETRY_S = 0.05
WAYS_OUT = (
    "`rowloom status` names the ways out: a copy of the files put back, a snapshot, or the rows of the others saved "
    "and this shard made anew"
)
MOST_SAVED_BYTES = 256 << 20  # of rows that change while they wait to be written to a snapshot


@dataclass
class Incoming:
    """A shard of the next epoch, being filled.

    Attributes:
        snapshot: the folder of the snapshot that has its rows; none: other shards have them.
    """

    shard: Shard
    receive: Receive
    journal: Journal | None = None
    snapshot: str = ""
    error: str = ""
    error_kind: int = 0  # as in ErrorInfo
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
    number: Callable[[], int] = lambda: 1  # a random one, not 0
    wall_s: Callable[[], float] = lambda: 0.0  # since 1970; for people only: it may jump
    resident_bytes: Callable[[], int] = lambda: 0
    cpu_s: Callable[[], float] = lambda: 0.0
    lane: Callable[[Caller], pb.LaneReply] = lambda _: pb.LaneReply()
    stop: Callable[[], None] = lambda: None  # soon: what is under way is still answered
    max_clients: int = MAX_CLIENTS  # that a shard remembers
    block_bytes: int = BLOCK_BYTES  # of rows that move, in one answer
    durability: str = "memory"
    replicated: bool = False  # shards have standbys: who holds nothing waits to hear what it is
    snapshots: str = ""  # folder or URL where they are kept; none: this server writes and reads none
    journals: Journals | None = None  # where shards' logs are; None: nothing is logged
    in_flight: CallsInFlight = field(default_factory=CallsInFlight)  # the shell counts calls in it
    newcomers: Newcomers = field(default_factory=Newcomers)
    reads: StandbyReads = field(default_factory=StandbyReads)
    # Fills in what the shell knows of itself; names: of the shard's tables, by number.
    observe: Callable[[pb.StatisticsReply, Mapping[int, str]], None] = lambda reply, names: None

    def snapshot_url(self, id: str) -> str:
        """The folder of a snapshot. Raises InvalidRequest: there is no place for any, or it is no name for one."""
        if not self.snapshots:
            raise InvalidRequest("this server was started without a place for snapshots")
        if not NAME.fullmatch(id):
            raise InvalidRequest(f"{id!r} is no name of a snapshot: letters, digits, `.`, `_` and `-`")
        return f"{self.snapshots.rstrip('/')}/{id}"


@dataclass
class Holder:
    """What a process holds. Callers hold one lock around every method.

    Attributes:
        state: see `states`; changed by `become` only.
        changes: how often it has changed: calls that wait are handled again when this moves.
        journal: the log of the shard that serves; None: nothing is logged.
        incoming: the shard of the next epoch.
        turn: the coordinator's latest step.
        taking: the shard's part of a snapshot, the last one.
        brake: on pushes.
        quotas: of principals, as they were told last.
        discarded: logs that are needed no more; the shell drops them.
        outlived: shards of layouts that are over, whose memory the shell gives back in pieces.
        tasks: what the shell has yet to start, in a thread of its own: see `Receive.run`, `recovered`, `taken`.
        standby: who may follow this shard: (incarnation of a server, or 0; whether pushes wait for it; lease_s).
        attached: the last feed that began: (incarnation of its standby, name). Later ones have higher names.
        feed: what is kept for that one, once it has been filled.
        following: of a standby.
    """

    process: Process = field(default_factory=Process)
    state: states.State = field(default_factory=states.Waiting)
    changes: int = 0
    journal: Journal | None = None
    incoming: Incoming | None = None
    turn: int = 0
    taking: Taking | None = None
    discarded: list[Journal] = field(default_factory=list[Journal])
    brake: Brake = field(default_factory=Brake)
    quotas: Quotas = field(default_factory=Quotas)
    outlived: list[Shard] = field(default_factory=list[Shard])
    tasks: list[Incoming | Recovery | Succession | Taking | Following] = field(
        default_factory=list["Incoming | Recovery | Succession | Taking | Following"]
    )
    standby: tuple[int, bool, float] = (0, False, 0.0)
    attached: tuple[int, int] = (0, 0)
    feed: Feed | None = None
    following: Following | None = None

    @property
    def moves(self) -> int:
        """Goes up whenever a call that waits may go on."""
        return self.changes + (self.feed.moves if self.feed is not None else 0)

    def end_feed(self) -> None:
        """Nothing waits for the standby any more: the coordinator has stored that it takes nobody's place."""
        if self.feed is not None:
            self.feed.ended = True
            self.changes += self.feed.moves + 1  # what waits sees it
            self.feed = None

    @property
    def must_wait(self) -> bool:
        """Whether pushes wait for memory: a snapshot's writer has yet to read what changed, or a standby to take it."""
        taking = self.taking
        if self.feed is not None and self.feed.is_full and self.feed.begun:
            return True
        return taking is not None and taking.under_way and taking.cut.saved_bytes > MOST_SAVED_BYTES

    def end_taking(self, why: str) -> None:
        """Nothing will come of a snapshot that is being written."""
        taking = self.taking
        if taking is not None and taking.under_way:
            self.taken(taking, error=why)

    def taken(self, taking: Taking, stored: bytes = b"", error: str = "") -> None:
        """A snapshot is written, or will never be."""
        taking.stored, taking.error = stored, error
        taking.cut.end()

    @property
    def shard(self) -> Shard | None:
        """The shard that serves, if there is one."""
        return self.state.shard

    def new_shard(self, layout: Layout, index: int, tables: Sequence[pb.TableEntry]) -> Shard:
        """An empty one, with tables."""
        entries = [TableEntry.from_message(m) for m in tables]
        ledger = Ledger(self.process.max_clients)
        return Shard(layout, index, entries, key=self.process.hash_key, ledger=ledger)

    def become(self, state: states.State) -> None:
        """The only way to another state."""
        if state.shard is not None:  # not before: what it reads from its log, or receives, is never refused
            state.shard.owned.quotas = self.quotas
        self.state = state
        self.changes += 1

    def serving(self) -> Shard:
        """The shard that serves. Raises WrongLayout or StateLost when there is none."""
        shard = self.state.shard
        if shard is not None:
            return shard
        if isinstance(self.state, states.Retired):
            layout = self.state.layout
            raise WrongLayout(
                "this server is no shard any more",
                epoch=layout.epoch,
                layout=layout.to_message().SerializeToString(),
            )
        if self.incoming is not None:
            raise WrongLayout("this server is still receiving its rows")
        if isinstance(self.state, states.Standing):
            raise RetryLater("this server is a standby", retry_after_s=RECOVERING_RETRY_S)
        unread = self.state.why if isinstance(self.state, states.Waiting | states.Recovering) else ""
        if unread:
            raise RetryLater(
                f"this shard cannot read its rows from its log yet: {unread}. It is tried again and again",
                retry_after_s=RECOVERING_RETRY_S,
            )
        if isinstance(self.state, states.Recovering):
            raise RetryLater("this shard reads its rows from its log", retry_after_s=RECOVERING_RETRY_S)
        if isinstance(self.state, states.Waiting) and (self.process.journals or self.process.replicated):
            raise RetryLater("this server waits to hear which shard it is", retry_after_s=RECOVERING_RETRY_S)
        why = self.state.why if isinstance(self.state, states.Lost) else ""
        raise StateLost(f"{why or 'this shard server started anew and holds no rows'}. {WAYS_OUT}")

    def adopt(self, request: pb.AdoptRequest) -> None:
        """Become a shard of a layout, or no shard of it any more. Raises StateLost: it does not have those rows."""
        layout = layout_of(request.layout, 0 if request.retire else request.index)
        self.take_turn(layout.cluster_id, request.turn)
        shard = self.shard
        if shard is not None and shard.layout.epoch > layout.epoch:
            raise WrongLayout(f"epoch {layout.epoch} is over", epoch=shard.layout.epoch)
        self.set_quotas(request)
        if request.retire:
            self._forget_standby()
            self.end_taking("the layout changed")
            self._forget_incoming()
            self._replace_journal(None)
            self._outlive()
            self.become(states.Retired(layout))
        elif shard is not None and shard.layout.epoch == layout.epoch and shard.index == request.index:
            check_size(shard, layout)
            shard.layout = layout
            self._forget_incoming()
            self.become(states.Serving(shard))
        elif self._received(layout, request.index):
            self._activate(layout)
        elif request.fresh and isinstance(self.state, states.Waiting | states.Lost):
            shard = self.new_shard(layout, request.index, request.tables)
            if self.process.journals is not None:
                self.journal = self.process.journals.begin(_owner(layout, request.index))
                for entry in request.tables:
                    self.journal.note(Kind.CREATE, entry.SerializeToString())
            self.become(states.Serving(shard))
        elif self.process.replicated and not self.is_named(layout, request.index):
            raise RetryLater(
                "the layout names another server, whose standby may have its rows", retry_after_s=0.1
            )
        elif self._has_log(layout, request.index):
            self._recover(layout, request.index, [self.process.snapshot_url(id) for id in request.snapshots])
        else:
            if isinstance(self.state, states.Lost) and self.state.why:
                raise StateLost(self.state.why)
            if isinstance(self.state, states.Waiting):
                self.become(states.Lost(self._no_log(layout, request.index)))
            self._forget_incoming()
            raise StateLost(
                f"this server holds no rows of epoch {layout.epoch}: it started anew, or received them only in part"
            )

    def set_quotas(self, request: pb.AdoptRequest) -> None:
        """Those of principals, if any are said. Raises InvalidRequest."""
        if request.HasField("quotas"):
            self.quotas = self.process.in_flight.quotas = Quotas.from_json(request.quotas)

    def is_named(self, layout: Layout, index: int) -> bool:
        """Whether a layout means this very process."""
        return layout.shards[index].incarnation == self.process.incarnation

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
        check_size(shard, layout)
        shard.layout = layout
        if self.shard is not None:
            shard.counters, shard.owned = self.shard.counters, self.shard.owned
        self._forget_standby()
        self.end_taking("the layout changed")
        # The new layout is committed: nobody goes back to what the old log holds.
        self._replace_journal(self.incoming.journal)
        self._outlive()
        self.incoming = None
        self.become(states.Serving(shard))

    def _forget_standby(self) -> None:
        """The layout has changed: nobody takes the place that this server had in the one before."""
        self.end_feed()
        self.standby = (0, False, 0.0)

    def _outlive(self) -> None:
        """The shard of now is about to be none any more."""
        if self.shard is not None:
            self.outlived.append(self.shard)

    def _has_log(self, layout: Layout, index: int) -> bool:
        if isinstance(self.state, states.Recovering):
            return True
        journals = self.process.journals
        return (
            isinstance(self.state, states.Waiting)
            and journals is not None
            and journals.has(_owner(layout, index))
        )

    def _no_log(self, layout: Layout, index: int) -> str:
        """In words, what became of a log that should be there; empty if none should."""
        if self.process.journals is None:
            return ""
        return (
            f"there is no log of {_owner(layout, index)}: its folder was removed, or its disk is not mounted"
        )

    def _recover(self, layout: Layout, index: int, snapshots: Sequence[str]) -> None:
        """Read a shard from its log, in a thread of the shell's; the coordinator asks until that is done."""
        if not isinstance(self.state, states.Recovering):
            why = self.state.why if isinstance(self.state, states.Waiting) else ""
            self.become(states.Recovering(layout, index, why))
            make = partial(self.new_shard, layout, index, ())
            self.tasks.append(Recovery(_owner(layout, index), make, snapshots))
        raise RetryLater("this shard reads its rows from its log", retry_after_s=RECOVERING_RETRY_S)

    def recovered(self, shard: Shard, journal: Journal) -> None:
        """A shard was read to the end of its log, which goes on behind that."""
        self.journal = journal
        self.become(states.Serving(shard))

    def not_recovered(self, why: str, *, again: bool = False) -> None:
        """A shard could not be read from its log. again: it is to be tried when the coordinator asks next."""
        self.become(states.Waiting(why) if again else states.Lost(why))

    def prepare(self, request: pb.PrepareRequest) -> None:
        """Begin to receive what a shard of the next epoch will own."""
        layout = layout_of(request.layout, request.index)
        only = request.index if request.handover else None
        source = layout_of(request.source, only or 0)
        self.take_turn(layout.cluster_id, request.turn)
        if self.shard is not None and self.shard.layout.epoch >= layout.epoch:
            raise WrongLayout(f"epoch {layout.epoch} is over", epoch=self.shard.layout.epoch)
        incoming = self.incoming
        if incoming is not None and incoming.shard.layout == layout and not incoming.error:
            return  # the same request again
        self._forget_incoming()
        if request.snapshot and not isinstance(self.state, states.Waiting):
            raise InvalidRequest("only a server that holds nothing yet reads a snapshot")
        if request.handover and self.process.journals is not None:
            raise InvalidRequest("a shard with a log goes over to another server by its log, not row by row")
        shard = self.new_shard(layout, request.index, request.tables)
        journal: Journal | None = None
        if self.process.journals is not None:
            journal = self.process.journals.begin(_owner(layout, request.index))
            journal.note(Kind.RECEIVE, request.SerializeToString())
        receive = Receive(source, shard, self.process.now, self.process.block_bytes, only)
        self.incoming = Incoming(shard, receive, journal, request.snapshot)
        self.tasks.append(self.incoming)

    def _forget_incoming(self) -> None:
        """Nothing will come of what it was receiving."""
        incoming, self.incoming = self.incoming, None
        if incoming is not None and incoming.ended:
            self._discard(incoming.journal)

    def ended(self, incoming: Incoming, error: str = "", kind: int = 0) -> None:
        """The shell drives a receive no more: it is done, or failed, or was forgotten. kind: as in ErrorInfo."""
        incoming.ended, incoming.error, incoming.safe = True, error, not error
        incoming.error_kind = kind
        if self.incoming is not incoming:
            self._discard(incoming.journal)

    def _replace_journal(self, journal: Journal | None) -> None:
        old, self.journal = self.journal, journal
        self._discard(old)

    def _discard(self, journal: Journal | None) -> None:
        if journal is not None:
            self.discarded.append(journal)

    def freeze(self, request: pb.FreezeRequest) -> pb.FreezeReply:
        """Pushes wait from now on, or go on; then nothing comes of what was received."""
        self.take_turn(request.cluster_id, request.turn)
        shard = self.shard
        if shard is None or shard.layout.epoch != request.epoch:
            known = shard.layout.epoch if shard else 0
            if not request.on:
                # Rolling back: a server that was started for the epoch only holds what it received.
                self._forget_incoming()
                return pb.FreezeReply()
            raise WrongLayout(f"this server is in epoch {known}, not {request.epoch}", epoch=known)
        if request.report and self.journal is not None:
            self.journal.check()  # else pushes that it refuses would be taken for those of clients that are gone
        admitted = frozenset((one.client_id, one.push) for one in request.admitted)
        if request.on:
            self.become(states.Moving(shard, admitted))
        else:
            self._forget_incoming()
            self.become(states.Serving(shard))
        latest = shard.ledger.latest([client for client, _ in admitted]) if request.report else ()
        return pb.FreezeReply(rows=shard.rows, latest=latest)

    def set_brake(self, request: pb.BrakeRequest) -> None:
        """Pushes are slowed down from now on, or not any more."""
        self.take_turn(request.cluster_id, request.turn)
        shard = self.serving()
        if shard.layout.epoch != request.epoch:
            raise WrongLayout(f"this server is in epoch {shard.layout.epoch}, not {request.epoch}")
        if isinstance(self.state, states.Serving):
            self.become(states.Serving(shard, min(1.0, max(0.0, request.row_s))))

    def waits(self, push: Push) -> bool:
        """Whether a push waits: for rows that move, for a cut, or for a snapshot's writer."""
        state = self.state
        if isinstance(state, states.Moving):
            return (push.client_id, push.push) not in state.admitted
        return self.must_wait

    def progress(self, request: pb.ProgressRequest) -> pb.ProgressReply:
        """How far receiving is."""
        if self.incoming is None:
            return pb.ProgressReply()
        incoming, reply = self.incoming, self.incoming.receive.progress()
        reply.epoch, reply.done = incoming.shard.layout.epoch, incoming.done
        reply.error, reply.error_kind = incoming.error, incoming.error_kind  # pyright: ignore[reportAttributeAccessIssue]
        return reply

    def take_turn(self, cluster_id: str, turn: int) -> None:
        """Refuse a step of the coordinator that was held up on its way until later ones had been taken."""
        self.check_cluster(cluster_id)
        if turn < self.turn:
            raise InvalidRequest(f"step {turn} of the coordinator comes too late: step {self.turn} was taken")
        self.turn = turn

    def check_cluster(self, cluster_id: str) -> None:
        """Raise WrongCluster if this server belongs to another one."""
        known = self.state.layout
        if known is not None and known.cluster_id != cluster_id:
            raise WrongCluster(f"this is cluster {known.cluster_id!r}, not {cluster_id!r}")


def _owner(layout: Layout, index: int) -> Owner:
    return Owner(layout.cluster_id, layout.epoch, index)


def layout_of(message: pb.Layout, index: int = 0) -> Layout:
    """A layout that has a shard of that index. Raises InvalidRequest."""
    layout = Layout.from_message(message)
    if index >= layout.n:
        raise InvalidRequest(
            f"epoch {layout.epoch} of cluster {layout.cluster_id!r} comes with {layout.n} shards, so none has index "
            f"{index}: a layout lists all of its shards, at least one"
        )
    return layout


def check_size(shard: Shard, layout: Layout) -> None:
    """Raise InvalidRequest for a layout of the same epoch in which other ids belong to a shard."""
    if shard.layout.dealt != layout.dealt:
        raise InvalidRequest(
            f"epoch {layout.epoch} deals the ids of its tables otherwise than the request says: another dealing is "
            "another epoch"
        )
    if shard.layout.n != layout.n:
        raise InvalidRequest(
            f"epoch {layout.epoch} has {shard.layout.n} shards, the request says {layout.n}: another number of "
            "shards is another epoch"
        )
