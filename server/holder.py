"""What one server process holds, and how that changes: its shard of an epoch, that of the next, and their logs.

    Waiting ──adopt(fresh)──▶ Serving ◀──freeze──▶ Moving ──adopt(next epoch)──▶ Serving | Retired
        └──adopt──▶ Recovering ──▶ Serving, or Lost; without a log Lost

Why it is so. What must hold: a push is applied in one epoch only, so whether pushes wait is read from the state and
changed in one place (`_become`). The state is one value, because the flags that it was before could say two things at
once (retired and lost). A shard that is being received stands beside it: the server may be serving, moving or waiting
meanwhile. It takes the place of the one before only when all of it is in its own log, if there are logs: from then on
nobody goes back to the old one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from ..proto import rowloom_pb2 as pb
from ..proto.errors import InvalidRequest, RetryLater, StateLost, WrongCluster, WrongLayout
from ..proto.layout import Layout
from ..proto.spec import TableEntry
from . import states
from .durable.extents import Owner
from .durable.records import Kind
from .journal import Journal, Journals
from .ledger import MAX_CLIENTS, Ledger
from .moving.receive import Receive
from .shard import Counters, Shard
from .taking import Taking

RECOVERING_RETRY_S = 0.05
MOST_SAVED_BYTES = 256 << 20  # of rows that change while they wait to be written to a snapshot
SNAPSHOT_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


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
    snapshots: str = ""  # folder or URL where they are kept; none: this server writes and reads none
    journals: Journals | None = None  # where shards' logs are; None: nothing is logged

    def snapshot_url(self, id: str) -> str:
        """The folder of a snapshot. Raises InvalidRequest: there is no place for any, or it is no name for one."""
        if not self.snapshots:
            raise InvalidRequest("this server was started without a place for snapshots")
        if not SNAPSHOT_ID.fullmatch(id):
            raise InvalidRequest(f"{id!r} is no name of a snapshot: letters, digits, `.`, `_` and `-`")
        return f"{self.snapshots.rstrip('/')}/{id}"


@dataclass
class Holder:
    """What a process holds. Callers hold one lock around every method.

    Attributes:
        state: see `states`; changed by `_become` only.
        changes: how often it has changed: calls that wait are handled again when this moves.
        journal: the log of the shard that serves; None: nothing is logged.
        incoming: the shard of the next epoch.
        turn: the coordinator's latest step.
        taking: the shard's part of a snapshot, the last one.
        discarded: logs that are needed no more; the shell drops them.
        tasks: what the shell has yet to start, in a thread of its own: see `Receive.run`, `recovered`, `taken`.
    """

    process: Process = field(default_factory=Process)
    state: states.State = field(default_factory=states.Waiting)
    changes: int = 0
    journal: Journal | None = None
    incoming: Incoming | None = None
    turn: int = 0
    taking: Taking | None = None
    discarded: list[Journal] = field(default_factory=list[Journal])
    tasks: list[Incoming | Recovery | Taking] = field(default_factory=list["Incoming | Recovery | Taking"])

    @property
    def must_wait(self) -> bool:
        """Whether pushes wait for a snapshot's writer: copies of rows that it has yet to read take too much memory."""
        taking = self.taking
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

    def _new_shard(self, layout: Layout, index: int, tables: Sequence[pb.TableEntry]) -> Shard:
        entries = [TableEntry.from_message(m) for m in tables]
        ledger = Ledger(self.process.max_clients)
        return Shard(layout, index, entries, key=self.process.hash_key, ledger=ledger)

    def _become(self, state: states.State) -> None:
        self.state = state
        self.changes += 1

    def serving(self) -> Shard:
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

    def adopt(self, request: pb.AdoptRequest) -> None:
        """Become a shard of a layout, or no shard of it any more. Raises StateLost: it does not have those rows."""
        layout = _layout_of(request.layout, 0 if request.retire else request.index)
        self.take_turn(layout.cluster_id, request.turn)
        shard = self.shard
        if shard is not None and shard.layout.epoch > layout.epoch:
            raise WrongLayout(f"epoch {layout.epoch} is over", epoch=shard.layout.epoch)
        if request.retire:
            self.end_taking("the layout changed")
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
            self._recover(layout, request.index, [self.process.snapshot_url(id) for id in request.snapshots])
        else:
            if isinstance(self.state, states.Lost) and self.state.why:
                raise StateLost(self.state.why)
            if isinstance(self.state, states.Waiting):
                self._become(states.Lost())
            self._forget_incoming()
            raise StateLost(
                f"this server holds no rows of epoch {layout.epoch}: it started anew, or received them only in part"
            )

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
        self.end_taking("the layout changed")
        # The new layout is committed: nobody goes back to what the old log holds.
        self._replace_journal(self.incoming.journal)
        self.incoming = None
        self._become(states.Serving(shard))

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

    def not_recovered(self, why: str, *, again: bool = False) -> None:
        """A shard could not be read from its log. again: it is to be tried when the coordinator asks next."""
        self._become(states.Waiting() if again else states.Lost(why))

    def prepare(self, request: pb.PrepareRequest) -> None:
        """Begin to receive what a shard of the next epoch will own."""
        source, layout = _layout_of(request.source), _layout_of(request.layout, request.index)
        self.take_turn(layout.cluster_id, request.turn)
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
        if request.on:
            self._become(states.Moving(shard))
        else:
            self._forget_incoming()
            self._become(states.Serving(shard))
        return pb.FreezeReply(rows=shard.rows)

    def progress(self, request: pb.ProgressRequest) -> pb.ProgressReply:
        """How far receiving is."""
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
