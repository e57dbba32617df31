"""Owns the layout and the list of tables, and decides every change to them. No I/O: programs yield effects.

One program runs at a time. A program that ends early, at any effect, leaves a cluster that the next one can go on from:

- What is shown to clients is durable first. A state becomes the coordinator's own when it is known to be stored.
- A change is stored as begun before a server hears of it, and as done when every server has it. `converge` repeats what
  was begun until it holds; whoever takes over (`revival.py`) begins with it.
- Servers are brought to the committed layout by Adopt, which also ends a freeze. Who has not answered one since there
  was doubt is remembered and asked again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import random
from collections.abc import Callable, Collection, Sequence
from typing import Any

from ...proto import methods
from ...proto import rowloom_pb2 as pb
from ...proto.errors import (
    Rerouted,
    RowloomError,
    StateLost,
    TableExists,
    TableNotFound,
    Unavailable,
    WrongCluster,
)
from ...proto.layout import Layout, ShardAddress
from ...proto.optimizers import checked_rate
from ...proto.spec import TableEntry, TableSpec
from ..config.words import told_apart
from ..launch.launcher import addresses
from .effects import Calls, Commit, NotStored, Program, ServerCall, Sleep, Stop, Stored, call_all
from .lineage import recovery_points
from .quotas import check_tables
from .rounds import begun, check_there, ended_of, tell_all
from .starting import launch
from .state import GONE, ClusterState

ATTEMPT_S = 2.0  # how long a server may take for a step that is always short; a lost request costs this much
# For shards to take a change that is stored, until whoever asked for it hears which has not. Callers give up after
# 10 s, and then know nothing; the change is repeated without them.
CHANGE_LIMIT_S = 3.0
PAUSE_S = (0.05, 2.0)  # first and longest pause between attempts to reach the storage, or servers


class Coordinator:
    """Decisions over one cluster.

    Args:
        state: as it was stored, or a new one.
        clock: seconds, monotonic.
        rng: for the cluster's name.
        address: where clients reach this coordinator.
        revives: shards whose process ends are started again, because they have logs.
    """

    def __init__(
        self,
        state: ClusterState,
        clock: Callable[[], float],
        rng: random.Random,
        address: str,
        *,
        revives: bool = False,
    ) -> None:
        self.state = state
        self.clock = clock
        self.address = address
        self.revives = revives
        self.quotas = ""  # that principals have, as JSON
        self._rng = rng
        self._turn = 0
        self._serial = state.serial
        self.unfinished_pushes: dict[int, int] = {}  # by client, one that it has given up, as a hold found
        self.expects_surplus = 0  # programs whose servers may be no shard for a while; see `expected_surplus`
        self.ended: set[int] = set()  # shards whose server before has ended for certain
        # (epoch, incarnation) of servers that do not answer, and whose standbys are to take their places.
        self.given_up: frozenset[tuple[int, int]] = frozenset()
        # What standbys need while a program takes long; None: there are none.
        self.tend: Callable[[], Program] | None = None
        self._doubtful: set[int] = set()  # shards that have not adopted the layout since there was doubt
        state.term += 1  # stored with the first commit, before the first turn is taken

    def turn(self) -> int:
        """The number of the next step for servers; higher than all before, also of coordinators before."""
        self._turn += 1
        return self.state.term << 32 | self._turn

    @property
    def layout(self) -> Layout:
        """The committed layout. Raises Unavailable before there is one."""
        if self.state.layout is None:
            raise Unavailable("the cluster is starting")
        return self.state.layout

    def check_cluster(self, cluster_id: str) -> None:
        """Refuse a call that is meant for another cluster, which was at this address before.

        Args:
            cluster_id: whom the caller means; empty: it knows none yet.

        Raises:
            WrongCluster: nothing changed.
        """
        known = self.state.layout.cluster_id if self.state.layout is not None else ""
        if cluster_id and cluster_id != known:
            raise WrongCluster(f"this is cluster {known!r}, not {cluster_id!r}")

    @property
    def unfinished(self) -> bool:
        """Whether `converge` has something to do."""
        return bool(self._doubtful) or self.state.unfinished

    def commit(self, state: ClusterState) -> Program:
        """Make a state the coordinator's own: stored first, then shown.

        A commit that fails may have stored the state. To go on without knowing would be to serve one layout while the
        next coordinator finds another. So the storage is read until it says; meanwhile nothing else changes.

        Raises:
            RowloomError: the state is not stored, and the coordinator's own is as before.
        """
        state = self._numbered(state)
        try:
            yield Commit(state)
        except NotStored:
            raise
        except RowloomError:
            if not (yield from self._is_stored(state)):
                raise
        self.state = state

    def _numbered(self, state: ClusterState) -> ClusterState:
        self._serial += 1
        return dataclasses.replace(state, serial=self._serial)

    def _is_stored(self, state: ClusterState) -> Program:
        pause, longest = PAUSE_S
        while True:
            try:
                found: ClusterState | None = yield Stored()
                if found is None or (found.term, found.serial) != (state.term, state.serial):
                    return False
                yield Commit(state)  # what can be read may yet be lost with the power
            except RowloomError:
                yield Sleep(pause)
                pause = min(longest, pause * 2)
            else:
                return True

    def _note(self, state: ClusterState) -> Program:
        """Make a state the coordinator's own that only says less is to do: at worst it is done once more."""
        self.state = self._numbered(state)
        with contextlib.suppress(RowloomError):  # the next commit says it too
            yield Commit(self.state)

    # ------------------------------------------------------------------------------------------------------ start

    def up(self, shards: int, specs: Sequence[TableSpec] = ()) -> Program:
        """Start a cluster from nothing: servers, layout, no tables.

        specs: tables that `make_begun` makes next. They are stored as begun together with the layout: a coordinator
        that takes over from there makes them, instead of serving a cluster without.

        Raises:
            InvalidRequest: all tables together would be too much for a client to be told.
        """
        self.state.with_begun(specs)  # or nothing is launched
        keys, launched = yield from launch(self, shards)
        layout = Layout(self.new_cluster_id(), 1, addresses(launched), self.address)
        yield from call_all(self.adoptions(layout, range(layout.n), fresh=True), self.clock)
        surplus = [key for key in self.state.surplus if key not in keys]
        yield from self.commit(
            dataclasses.replace(self.state.with_begun(specs), layout=layout, keys=list(keys), surplus=surplus)
        )

    def new_cluster_id(self) -> str:
        """The name of a cluster that begins, unlike any other's."""
        return f"{self.state.name}-{self._rng.getrandbits(64):016x}"

    def doubt(self, shards: Sequence[int] | None = None) -> None:
        """All, or some, may be frozen, or of another layout than the committed one: `adopt` or `converge` mends it."""
        self._doubtful = set(range(self.layout.n)) if shards is None else self._doubtful | set(shards)

    def freeze(
        self,
        limit_s: float,
        *,
        report: bool = False,
        admitted: Sequence[pb.LatestPush] = (),
        shards: Sequence[ShardAddress] | None = None,
    ) -> Program:
        """Pushes wait on every shard from now on, until `adopt` or `converge`. Returns FreezeReplies, as bytes.

        Args:
            limit_s: for the shards to hear of it.
            report: they say how much of each client's latest push they have.
            admitted: pushes that go on.
            shards: only on these.

        Raises:
            RowloomError: a shard has not heard of it within `limit_s`; others may have.
        """
        self.doubt()
        request = pb.FreezeRequest(on=True, report=report, admitted=admitted)
        return (yield from self._ask_to_freeze(request, limit_s, shards))

    def report(self, limit_s: float) -> Program:
        """What shards have of each client's latest push, while pushes go on. As `freeze`, but nothing is frozen."""
        return (yield from self._ask_to_freeze(pb.FreezeRequest(report=True), limit_s))

    def _ask_to_freeze(
        self, request: pb.FreezeRequest, limit_s: float, shards: Sequence[ShardAddress] | None = None
    ) -> Program:
        request.cluster_id, request.epoch, request.turn = (
            self.layout.cluster_id,
            self.layout.epoch,
            self.turn(),
        )
        data = request.SerializeToString()
        calls = [ServerCall(shard.address, methods.FREEZE, data) for shard in shards or self.layout.shards]
        return (yield from call_all(calls, self.clock, limit_s, ATTEMPT_S, check=self.check_there))

    def check_there(self, others: Sequence[int] = ()) -> Program:
        """Raise Unavailable when it is of no use to wait for a shard, or a server of `others`, which are keys."""
        keys = [key for index, key in enumerate(self.state.keys) if self.comes_back(index)]
        return check_there(self.layout, self._given_up(), [*keys, *others] if keys else [])

    def check_standing(self) -> Program:
        """Raise Unavailable when a standby is to take the place of a shard that does not answer."""
        if self.state.layout is not None:
            yield from check_there(self.layout, self._given_up(), ())

    def tend_standbys(self) -> Program:
        """Now and then in a program that takes long: see `Standbys.tend`.

        Not between two attempts of a request that has a turn: the second one would come too late.
        """
        if self.tend is not None:
            with contextlib.suppress(RowloomError):  # whoever looks at the standbys does it later
                yield from self.tend()

    def _given_up(self) -> set[int]:
        layout = self.layout
        return {s.index for s in layout.shards if (layout.epoch, s.incarnation) in self.given_up}

    def comes_back(self, index: int) -> str:
        """In words, how a shard whose process has ended goes on: by its log, or its standby; empty: it does not."""
        if self.revives:
            return "is started again"
        return "its standby takes its place" if self.state.standby_in_step(index) is not None else ""

    def adopt(self, limit_s: float, gone: Collection[int] = (), *, looks: bool = False) -> Program:
        """Bring every server of the committed layout to its shard of it, and end a freeze: at once those that answer.

        Those that have not when `limit_s` is over are asked again by `converge`. Returns, by shard, the reply or a
        RowloomError; nothing is raised.

        Args:
            limit_s: see above.
            gone: shards that are not waited for.
            looks: nor are those whose process has ended: another one is to take its place.
        """
        self.doubt()
        outcomes: list[bytes | RowloomError] = [Unavailable("was not asked")] * self.layout.n
        until, (pause, longest) = self.clock() + limit_s, PAUSE_S
        while True:
            for index, outcome in (yield from self._adopt_doubtful()).items():
                outcomes[index] = outcome
            left = self._doubtful - set(gone) - self._given_up()
            if looks and left:
                left -= yield from ended_of(left, self.state.keys)
            if not left or self.clock() >= until:
                return outcomes
            yield Sleep(pause)
            pause = min(longest, pause * 2)

    def _adopt_doubtful(self) -> Program:
        """One round. Returns the outcomes by shard."""
        doubtful = sorted(self._doubtful - self._given_up())
        calls = self.adoptions(self.layout, doubtful, fresh=False)
        outcomes = dict(zip(doubtful, (yield Calls(calls, ATTEMPT_S)), strict=True))
        # One that has lost its rows has answered: it serves nobody, whatever it is told.
        self._doubtful -= {i for i, o in outcomes.items() if not isinstance(o, Rerouted | Unavailable)}
        self.ended &= self._doubtful
        return outcomes

    def adoptions(self, layout: Layout, shards: Sequence[int], *, fresh: bool) -> list[ServerCall]:
        """Calls that bring servers to their shards of a layout. fresh: to empty ones, with all tables."""
        tables = [e.to_message() for e in self.state.tables.values()]
        snapshots = list(reversed(recovery_points(self.state.snapshots, layout.epoch)))
        request = pb.AdoptRequest(layout=layout.to_message(), fresh=fresh, tables=tables, turn=self.turn())
        request.quotas = self.quotas
        calls: list[ServerCall] = []
        for index in shards:
            request.index, request.ended = index, index in self.ended
            request.snapshots[:] = [s.id for s in snapshots if s.lsns[index] != GONE]
            calls.append(ServerCall(layout.shards[index].address, methods.ADOPT, request.SerializeToString()))
        return calls

    # --------------------------------------------------------------------------------------------------- converging

    def converge(self, limit_s: float = 10.0) -> Program:
        """Finish what was begun: thaw, end surplus servers, make, drop and change tables where that is still to do.

        To be run from time to time while `unfinished`, and before anything that needs every shard in order.

        Raises:
            RowloomError: the first that stands in the way, such as Unavailable for a shard that does not answer within
                `limit_s`; the rest is left for the next time.
        """
        steps: list[Program] = [self._adopt_all()] if self._doubtful else []
        steps += [self.stop_surplus()]
        steps += [self._make(entry, limit_s) for entry in self.state.making.values()]
        steps += [self._drop(number, limit_s) for number in self.state.dropping]
        steps += [self._change(name, limit_s) for name in self.state.changing]
        first: RowloomError | None = None
        for step in steps:  # a shard that is lost for one of them is no reason to leave out the others
            try:
                yield from step
            except RowloomError as e:
                first = first or e
        if first is not None:
            raise first

    def _adopt_all(self) -> Program:
        for outcome in (yield from self._adopt_doubtful()).values():
            if isinstance(outcome, RowloomError):
                raise outcome

    def stop_surplus(self) -> Program:
        """End the servers that are no shard."""
        if self.state.surplus:
            yield Stop(list(self.state.surplus))
            yield from self._note(dataclasses.replace(self.state, surplus=[]))

    # ----------------------------------------------------------------------------------------------------- tables

    def make_begun(self, limit_s: float) -> Program:
        """Make all tables that are begun, at the start of a cluster. Raises as the first shard that takes one not.

        They are committed together: a commit writes all tables, so one for each would take minutes for a thousand.
        """
        for entry in self.state.making.values():
            yield from self._make_on_shards(entry, limit_s)
        tables = {**self.state.tables, **self.state.making}
        if self.state.making:
            yield from self.commit(dataclasses.replace(self.state, tables=tables, making={}))

    def create_table(self, spec: TableSpec, limit_s: float = CHANGE_LIMIT_S, owner: str = "") -> Program:
        """Make a table on every shard. Returns its entry; the existing one if the spec is the same, as made or as now.

        Args:
            spec: of the table. Programs go on as they are when an operator has given it another rate, or deals its ids
                anew: they may say what it was made with, or what is so now.
            limit_s: for the shards to take it.
            owner: the principal who creates it, if there is none yet; empty: it is the cluster's own.

        Raises:
            TableExists: with another spec.
            QuotaExceeded: the owner has as many tables as it may.
            InvalidRequest: all tables together would be too much for a client to be told.
            Unavailable, StateLost: a shard has not taken it, and the message names it. The table is recorded, and made
                as soon as the shard answers, unless it is dropped before.
        """
        known = self.state.tables.get(spec.name) or self.state.making.get(spec.name)
        if known is not None and not known.is_made_by(spec):
            raise TableExists(
                f"table {spec.name!r} exists with another spec ({told_apart(known.spec, spec)}): use that spec, "
                "another name, or drop the table first"
            )
        if spec.name in self.state.tables:
            return self.state.tables[spec.name]
        if known is None:
            check_tables(self.state, self.quotas, owner)
            yield from self.commit(self.state.with_begun([spec], owner))
            known = self.state.making[spec.name]
        yield from begun(f"table {spec.name!r}", self._make(known, limit_s))
        return known

    def _make(self, entry: TableEntry, limit_s: float) -> Program:
        name = entry.spec.name
        making = {k: v for k, v in self.state.making.items() if k != name}
        try:
            yield from self._make_on_shards(entry, limit_s)
        except (Unavailable, Rerouted, StateLost):
            raise  # later it may answer
        except RowloomError:  # a shard will not have it: none shall
            dropping = [*self.state.dropping, entry.number]
            yield from self.commit(dataclasses.replace(self.state, making=making, dropping=dropping))
            yield from self._drop(entry.number, limit_s)
            raise
        tables = {**self.state.tables, name: entry}
        yield from self.commit(dataclasses.replace(self.state, tables=tables, making=making))

    def _make_on_shards(self, entry: TableEntry, limit_s: float) -> Program:
        def request(header: pb.Header) -> pb.CreateTableRequest:
            return pb.CreateTableRequest(header=header, table=entry.to_message())

        return self._on_every_shard(methods.SHARD_CREATE_TABLE, request, limit_s)

    def drop_table(self, name: str) -> Program:
        """Drop a table on every shard, also one that is only half made.

        Raises:
            TableNotFound.
            Unavailable, StateLost: a shard has not taken it, and the message names it. The table is gone for clients,
                and from that shard as soon as it answers.
        """
        if name not in self.state.making and name not in self.state.tables:
            # It may be one of those: who drops it again, having heard that it was begun, is answered when it is done.
            for number in self.state.dropping:
                yield from begun(
                    f"the end of a dropped table, which {name!r} may be,", self._drop(number, CHANGE_LIMIT_S)
                )
        entry = self.state.making.get(name) or self._entry(name)
        state = dataclasses.replace(
            self.state,
            tables={k: v for k, v in self.state.tables.items() if k != name},
            making={k: v for k, v in self.state.making.items() if k != name},
            changing=[one for one in self.state.changing if one != name],
            dropping=[*self.state.dropping, entry.number],
        )
        yield from self.commit(state)
        yield from begun(f"the end of table {name!r}", self._drop(entry.number, CHANGE_LIMIT_S))

    def _drop(self, number: int, limit_s: float) -> Program:
        yield from self._on_every_shard(
            methods.SHARD_DROP_TABLE, lambda header: pb.DropTableRequest(header=header, table=number), limit_s
        )
        dropping = [one for one in self.state.dropping if one != number]
        yield from self._note(dataclasses.replace(self.state, dropping=dropping))

    def set_lr(self, name: str, lr: float) -> Program:
        """Change a learning rate on every shard.

        Raises:
            TableNotFound, InvalidRequest.
            Unavailable, StateLost: a shard has not taken it, and the message names it. The rate is recorded, and the
                shard hears of it as soon as it answers.
        """
        lr = checked_rate(lr, name)
        old = self._entry(name)
        tables = {**self.state.tables, name: dataclasses.replace(old, lr=lr, lr_version=old.lr_version + 1)}
        changing = list(dict.fromkeys([*self.state.changing, name]))
        yield from self.commit(dataclasses.replace(self.state, tables=tables, changing=changing))
        yield from begun(f"lr {lr} of table {name!r}", self._change(name, CHANGE_LIMIT_S))

    def _change(self, name: str, limit_s: float) -> Program:
        entry = self.state.tables[name]
        yield from self._on_every_shard(
            methods.SHARD_SET_LEARNING_RATE,
            lambda header: pb.SetLearningRateRequest(
                header=header, table=entry.number, lr=entry.lr, version=entry.lr_version
            ),
            limit_s,
        )
        changing = [one for one in self.state.changing if one != name]
        yield from self._note(dataclasses.replace(self.state, changing=changing))

    def _entry(self, name: str) -> TableEntry:
        entry = self.state.tables.get(name)
        if entry is None:
            known = ", ".join(sorted(self.state.tables)) or "none"
            raise TableNotFound(f"no table {name!r}; there are: {known}")
        return entry

    def _on_every_shard(self, method: str, request: Callable[[pb.Header], object], limit_s: float) -> Program:
        def call(shard: ShardAddress) -> ServerCall:
            message: Any = request(self.layout.header(shard.index))
            return ServerCall(shard.address, method, message.SerializeToString())

        yield from tell_all(
            self.layout.shards,
            self.state.keys,
            call,
            self.clock,
            limit_s=limit_s,
            attempt_s=ATTEMPT_S,
            comes_back=self.comes_back,
        )

    # ----------------------------------------------------------------------------------------------------- looking

    def describe(self) -> pb.DescribeLayoutReply:
        """The committed layout and the tables."""
        layout = self.state.layout
        return pb.DescribeLayoutReply(
            layout=layout.to_message() if layout else None,
            tables=[e.to_message() for e in self.state.tables.values()],
            has_tables=layout is not None,
        )

    def waiting(self) -> list[str]:
        """What was begun and does not hold everywhere yet, each in words; `converge` repeats it until it does."""
        return self.state.waiting(sorted(self._doubtful), expected=self.expects_surplus > 0)
