"""A trainer in a history: all kinds of calls at random, each checked when it ends."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from simulation.cluster import CoordinatorNode
from simulation.tables import ROWS, Counters, Owned, Table
from simulation.world import Cut

from rowloom.client.calls import operations as ops
from rowloom.client.calls.bag_requests import Shares
from rowloom.client.calls.control import ask
from rowloom.client.calls.operation import as_bytes
from rowloom.client.calls.requests import PushRequest
from rowloom.client.calls.session import Session
from rowloom.client.calls.values import GivenRows
from rowloom.client.lookups.bags import bags_in
from rowloom.client.lookups.pooling import factors
from rowloom.proto import codec, methods
from rowloom.proto import rowloom_pb2 as pb
from rowloom.proto.errors import (
    ClientForgotten,
    InvalidRequest,
    PushUnresolved,
    Rerouted,
    RowloomError,
    StateLost,
    Unavailable,
)
from rowloom.proto.layout import owner
from rowloom.proto.spec import TableEntry

if TYPE_CHECKING:
    from simulation.histories import History


def open_numbers(session: Session) -> int:
    """How many numbers of parts a session thinks are not finished."""
    return sum(pusher.open_numbers for pusher in session.pushers)


def poisoned(session: Session, entry: TableEntry, ids: np.ndarray) -> tuple[str, bytes, Callable[[], None]]:
    """A push of ones to ids of one shard, the last of which is not a number: no client of ours would send it.

    Returns:
        Where to, the request, and what to call when it is over.
    """
    layout = session.layout
    assert layout is not None
    owners = owner(entry.spec, ids, layout.n)
    ids = np.unique(ids[owners == owners[-1]])
    grads = np.ones((len(ids), entry.spec.width), np.float32)
    grads[-1, -1] = np.nan
    tables = [(entry, ids, GivenRows(grads))]
    pusher = session.take_pusher()
    request = PushRequest(layout.epoch, int(owners[-1]), tables, pusher, pusher.next_push())
    request.prepare(session, layout)
    address = layout.shards[request.shard].address
    return address, as_bytes(request), lambda: session.give_back(pusher)


class Trainer:
    """A client that does all kinds of calls at random and checks every row it reads."""

    def __init__(self, history: History, number: int, actions: int) -> None:
        self.history = history
        self.world = history.world
        self.number = number
        self.left = actions
        self.session = self.world.session([CoordinatorNode.ADDRESS], number + 1)

    def create(self, table: Table, then: Callable[[bool], None]) -> None:
        """Make a table; `then` hears whether there is one."""
        request = pb.DefineTableRequest(spec=table.spec.to_message())

        def ended(outcome: Any) -> None:
            if isinstance(outcome, RowloomError):
                assert self.history.may_end_reads(outcome), outcome
                then(False)
                return
            table.entry = TableEntry.from_message(pb.DefineTableReply.FromString(outcome).table)
            then(True)

        operation = ask(self.session, methods.CREATE_TABLE, request, self.world.now + 300)
        self.world.operate(self.session, operation, ended)

    def next(self) -> None:
        """Make the next call, or end."""
        if self.left == 0:
            self.history.training -= 1
            return
        self.left -= 1
        if self.history.come_and_go and self.world.rng.random() < 0.3:
            self._start_anew()
        kinds, weights = self.history.actions
        do = self.world.rng.choices(kinds, weights)[0]
        self.history.calls[do.__name__.strip("_")] += 1
        self.world.at(self.world.rng.expovariate(4), do, self)

    def _start_anew(self) -> None:
        """As another client, which knows the layout: it is promised to see what the one before has done."""
        before = self.session
        self.session = self.world.session([CoordinatorNode.ADDRESS], self.world.rng.getrandbits(63) | 1)
        self.session.layout, self.session.nearest = before.layout, before.nearest
        self.world.injected["client started anew"] += 1

    # ------------------------------------------------------------------------------------------------ what is asked

    def _some(self, what: str) -> list[Table]:
        """One or more tables that take such calls, in any order."""
        able = [table for table in self.history.tables if what in table.takes]
        return self.world.rng.sample(able, self.world.rng.randint(1, len(able)))

    def _rows(self) -> np.ndarray:
        random = self.world.rng.random
        return np.array([int(ROWS * random()) for _ in range(int(13 * random()))], np.int64)

    def _timeout(self) -> float:
        if self.history.patient:
            return self.world.now + 600.0
        return self.world.now + (0.3 if self.world.rng.random() < 0.25 else 60.0)

    def _do(self, operation, ended: Callable[[Any], None]) -> None:
        running = self.world.operate(self.session, operation, ended)
        if self.history.cut and self.world.rng.random() < 0.15:
            running.cut_in = int(6 * self.world.rng.random()) + 1

    def _change(self, operation, marks: list, *, then: Callable[[Any], None] | None = None) -> None:
        """A call that changes rows. marks: what it does; then: what to do with its result."""

        pushed = self.history.cuts.push(self.number, marks, self.world.now)

        def ended(outcome: Any) -> None:
            if isinstance(outcome, PushUnresolved | Cut) or (then and isinstance(outcome, RowloomError)):
                assert self.history.may_fail(outcome), outcome
                pushed.end("unresolved", self.world.now)
                self.history.unresolved += 1
                if isinstance(outcome.__cause__, ClientForgotten):
                    self.world.injected["client forgotten"] += 1
            elif isinstance(outcome, RowloomError):
                assert self.history.may_fail(outcome), outcome
                pushed.end("failed", self.world.now)
                for mark in marks:
                    mark.fail()
            else:
                pushed.end("acked", self.world.now)
                for mark in marks:
                    mark.ack()
                if then:
                    then(outcome)
            self.next()

        self._do(operation, ended)

    def _read(self, operation, then: Callable[[Any], None]) -> None:
        self.world.look_for_standbys(self.session)

        def ended(outcome: Any) -> None:
            if isinstance(outcome, RowloomError):
                assert self.history.may_end_reads(outcome), outcome
            elif not isinstance(outcome, Cut):
                then(outcome)
            self.next()

        self._do(operation, ended)

    # ------------------------------------------------------------------------------------------------ kinds of calls

    def push(self) -> None:
        given, marks = self._given()
        wire = self.world.rng.choice([None, None, "float32"])
        self._change(ops.push(self.session, given, self._timeout(), wire=wire), marks)

    def step(self) -> None:
        """A push and a pull in one: the rows show the push."""
        given, marks = self._given()
        wanted, check = self._wanted(None, marks)
        operation = ops.step(self.session, given, wanted, self._timeout())
        self._change(operation, marks, then=check)

    def pull(self) -> None:
        wire = self.world.rng.choice([None, None, "float32"])
        wanted, check = self._wanted(wire)
        self._read(ops.pull(self.session, wanted, self.world.now + 300, wire), check)

    def push_bags(self) -> None:
        table = self.world.rng.choice([t for t in self.history.tables if "bags" in t.takes])
        rows = self._rows()
        rows = rows[: len(rows) - len(rows) % 3].reshape(-1, 3)
        mark = table.attempt(self.number, rows.reshape(-1))
        grads = table.gradients(self.number, len(rows))
        bags = bags_in(table.keys[rows])
        shares = Shares(bags.segments, factors(bags, "sum"))
        operation = ops.push_bags(
            self.session, table.entry, bags.ids, shares, bags.shape, grads, self._timeout()
        )
        self._change(operation, [mark])

    def pull_bags(self) -> None:
        table = self.world.rng.choice([t for t in self.history.tables if "pull bags" in t.takes])
        rows = self._rows()
        rows = rows[: len(rows) - len(rows) % 3].reshape(-1, 3)
        looked, epoch = table.look(rows).sum(1), self.history.node.one_epoch()

        def check(sums: np.ndarray) -> None:
            least = self._promised(epoch, table, rows, looked)
            assert sums.shape == (len(rows), table.width)
            assert (sums >= least).all(), f"lost: bags of {table.spec.name}"
            assert (sums <= table.attempted[rows].sum(1)).all(), f"applied twice: bags of {table.spec.name}"

        bags = bags_in(table.keys[rows])
        shares, deadline = Shares(bags.segments, factors(bags, "sum")), self.world.now + 300
        operation = ops.pull_bags(self.session, table.entry, bags.ids, shares, bags.shape, deadline)
        self._read(operation, check)

    def assign(self) -> None:
        table = next(t for t in self.history.tables if isinstance(t, Owned))
        rows = table.mine(self.number, self._rows())
        values = table.values(len(rows))
        given = [(table.entry, rows, values[:, None] * np.array([3, 4], np.float32))]
        marks = [table.assign(rows, values)]
        self._change(ops.push(self.session, given, self._timeout(), codec.ASSIGN), marks)

    def renorm(self) -> None:
        table = self.world.rng.choice([t for t in self.history.tables if {"renorm", "idle renorm"} & t.takes])
        rows = self._rows()
        if isinstance(table, Owned):
            rows = table.mine(self.number, rows)
            marks, longest = [table.scale(rows)], Owned.NORM
        else:
            marks, longest = [], 1e9  # no row is as long
        operation = ops.renorm(self.session, table.entry, table.keys[rows], longest, 2.0, self._timeout())
        self._change(operation, marks)

    def poison(self) -> None:
        """A push that is refused whole."""
        table = self.world.rng.choice([t for t in self.history.tables if isinstance(t, Counters)])
        rows = self._rows()
        if not len(rows) or self.session.layout is None:
            self.next()
            return

        address, data, finish = poisoned(self.session, table.entry, table.keys[rows])

        def ended(outcome: Any) -> None:
            finish()
            fine = InvalidRequest | Rerouted | Unavailable | StateLost
            assert isinstance(outcome, fine), f"a push of nan ended with {outcome!r}"
            self.next()

        self.world.post(address, methods.PUSH, data, 10.0, ended)

    def _given(self) -> tuple[list, list]:
        """(what to push, marks)."""
        given, marks = [], []
        for table in self._some("push"):
            rows = self._rows()
            given.append((table.entry, table.keys[rows], table.gradients(self.number, len(rows))))
            marks.append(table.attempt(self.number, rows))
        return given, marks

    def _wanted(self, wire: str | None, pushed: list = ()) -> tuple[list, Callable[[list], None]]:
        """(what to pull, how to check it). pushed: marks of what the pull must show."""
        looks = []
        epoch = self.history.node.one_epoch()
        for table in self._some("pull"):
            rows = self._rows()
            least = table.look(rows)
            for mark in pushed:
                if getattr(mark, "table", None) is table and isinstance(table, Counters):
                    least = least + mark.added[rows]
            looks.append((table, rows, least))

        def check(outcome: list[np.ndarray]) -> None:
            for (table, rows, least), values in zip(looks, outcome, strict=True):
                exact = wire == "float32" or not isinstance(table, Counters) or not table.anchored
                least = self._promised(epoch, table, rows, least)
                table.check(rows, values, least, exact=exact)

        return [(table.entry, table.keys[rows]) for table, rows, _ in looks], check

    def _promised(self, epoch: int | None, table: Table, rows: np.ndarray, least: Any) -> Any:
        """What must be seen of a `look` that was taken when all servers were in `epoch`.

        While a new layout is taken up, a server of the old one may answer a pull of someone who has not heard of it:
        then rows lack what others have pushed since. So they do where a standby that pushes do not wait for may answer;
        how old such rows may be, histories of readers check. What a client has done itself it always sees.
        """
        still = epoch is not None and epoch == self.history.node.one_epoch() and not self.world.reads_lag
        return least if still else table.own(self.number, rows, least)
