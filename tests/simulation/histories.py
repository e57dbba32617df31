"""Random histories in a made-up world, and what must be true of them.

Column counters: client c only ever adds 1 to column c, with SGD(lr=1) and gradients of -1. So a row's column c is the
number of c's pushes that were applied to it: between what was acked and what was attempted at any time, equal to the
number of pushes at rest. Each push also writes the client's column in a second table, in the same call.
"""

import numpy as np
from simulation.world import CoordinatorNode, World

from rowloom.client import SGD, TableSpec, Zeros
from rowloom.client.calls import operations as ops
from rowloom.client.calls.control import ask
from rowloom.proto import rowloom_pb2 as pb
from rowloom.proto.errors import PushUnresolved, RowloomError, Unavailable
from rowloom.proto.spec import TableEntry

CLIENTS = 3
ROWS = 40
SERVICE = "/rowloom.v1.Coordinator/"


class Trainer:
    """A client that pushes and pulls at random and checks every row it reads."""

    def __init__(self, history: "History", number: int, actions: int) -> None:
        self.history = history
        self.world = history.world
        self.number = number
        self.actions = actions
        self.session = self.world.session([CoordinatorNode.ADDRESS], number + 1)
        self.entries: list[TableEntry] = []
        self.done = False
        self._create(list(history.specs))

    def _create(self, specs: list[TableSpec]) -> None:
        if not specs:
            self._next()
            return
        request = pb.DefineTableRequest(spec=specs[0].to_message()).SerializeToString()
        operation = ask(self.session, SERVICE + "CreateTable", request, self.world.now + 300)

        def ended(outcome) -> None:
            assert not isinstance(outcome, RowloomError), outcome
            self.entries.append(TableEntry.from_message(pb.DefineTableReply.FromString(outcome).table))
            self._create(specs[1:])

        self.world.operate(self.session, operation, ended)

    def _next(self) -> None:
        if self.actions == 0:
            self.done = True
            return
        self.actions -= 1
        rng = self.world.rng
        wait = rng.expovariate(20)
        self.world.at(wait, rng.choices([self._push, self._step, self._pull], [0.4, 0.2, 0.4])[0])

    def _ids(self) -> np.ndarray:
        rng = self.world.rng
        return np.array([rng.randrange(ROWS) for _ in range(rng.randint(0, 12))], np.int64)

    def _gradients(self) -> tuple[list[np.ndarray], list[tuple[TableEntry, np.ndarray, np.ndarray]], float]:
        """(ids of each table, what to push, for how long to try)."""
        ids = [self._ids() for _ in self.entries]
        timeout = self.world.rng.choice([0.3, 60.0, 60.0, 60.0])
        grads = []
        for some in ids:
            g = np.zeros((len(some), CLIENTS), np.float32)
            g[:, self.number] = -1
            grads.append(g)
        for entry, some in zip(self.entries, ids, strict=True):
            self.history.attempt(entry.spec.name, self.number, some)
        return ids, list(zip(self.entries, ids, grads, strict=True)), timeout

    def _step(self) -> None:
        """A push and a pull in one: the rows show the push."""
        ids, given, timeout = self._gradients()
        wanted = [(entry, self._ids()) for entry in self.entries]
        low = []
        for (entry, some), pushed in zip(wanted, ids, strict=True):
            least = self.history.acked[entry.spec.name].copy()
            np.add.at(least, (pushed, self.number), 1)
            low.append(least[some])

        def ended(outcome) -> None:
            if isinstance(outcome, RowloomError):
                assert isinstance(outcome, PushUnresolved | Unavailable), outcome
                self.history.unresolved += 1
                self._next()
                return
            self.history.steps += 1
            for (entry, some), pushed, rows, least in zip(wanted, ids, outcome, low, strict=True):
                self.history.ack(entry.spec.name, self.number, pushed)
                self.history.check(entry.spec.name, some, rows, least)
            self._next()

        operation = ops.step(self.session, given, wanted, self.world.now + timeout)
        self.world.operate(self.session, operation, ended)

    def _push(self) -> None:
        ids, given, timeout = self._gradients()
        operation = ops.push(self.session, given, self.world.now + timeout)

        def ended(outcome) -> None:
            names = [entry.spec.name for entry in self.entries]
            if outcome is None:
                self.history.pushes += 1
                for name, some in zip(names, ids, strict=True):
                    self.history.ack(name, self.number, some)
            elif isinstance(outcome, PushUnresolved):
                self.history.unresolved += 1
            else:
                assert isinstance(outcome, Unavailable), outcome
                for name, some in zip(names, ids, strict=True):
                    self.history.attempt(name, self.number, some, -1)
            self._next()

        self.world.operate(self.session, operation, ended)

    def _pull(self) -> None:
        ids = [self._ids() for _ in self.entries]
        low = [self.history.acked[e.spec.name][some] for e, some in zip(self.entries, ids, strict=True)]
        wanted = list(zip(self.entries, ids, strict=True))

        def ended(outcome) -> None:
            assert not isinstance(outcome, RowloomError), outcome
            for (entry, some), rows, least in zip(wanted, outcome, low, strict=True):
                self.history.check(entry.spec.name, some, rows, least)
            self.history.pulls += 1
            self._next()

        self.world.operate(self.session, ops.pull(self.session, wanted, self.world.now + 600), ended)


class History:
    """One world, its trainers, and a coordinator that scales under them."""

    def __init__(self, seed: int, *, actions: int = 12, scalings: int = 2) -> None:
        self.world = World(seed)
        rng = self.world.rng
        self.specs = [
            TableSpec("mod", ROWS, dim=CLIENTS, partition="mod", optimizer=SGD(lr=1.0), initializer=Zeros()),
            TableSpec("div", ROWS, dim=CLIENTS, partition="div", optimizer=SGD(lr=1.0), initializer=Zeros()),
        ]
        self.acked = {s.name: np.zeros((ROWS, CLIENTS), np.float32) for s in self.specs}
        self.attempted = {s.name: np.zeros((ROWS, CLIENTS), np.float32) for s in self.specs}
        self.pushes = self.pulls = self.steps = self.unresolved = self.scalings = 0
        self.node = CoordinatorNode(self.world)
        up: list = []
        self.node.perform(self.node.coordinator.up(rng.randint(1, 5)), up.append)
        self.world.run(lambda: bool(up))
        assert not isinstance(up[0], RowloomError), up[0]
        self.world.weather(rng.choice(["calm", "lossy", "doubling", "stormy"]))
        self.trainers = [Trainer(self, c, actions) for c in range(CLIENTS)]
        self._left = scalings
        self._schedule()

    def _schedule(self) -> None:
        if self._left:
            self._left -= 1
            self.world.at(self.world.rng.uniform(0.1, 2.0), self._scale)

    def _scale(self) -> None:
        def ended(outcome) -> None:
            # Under a bad network a scaling may give up; then everything is as before.
            assert outcome is None or isinstance(outcome, Unavailable), outcome
            self.scalings += outcome is None
            self._schedule()

        self.node.scale(self.world.rng.randint(1, 7), ended)

    def attempt(self, name: str, client: int, ids: np.ndarray, times: int = 1) -> None:
        np.add.at(self.attempted[name], (ids, client), times)

    def ack(self, name: str, client: int, ids: np.ndarray) -> None:
        np.add.at(self.acked[name], (ids, client), 1)

    def check(self, name: str, ids: np.ndarray, rows: np.ndarray, least: np.ndarray) -> None:
        assert rows.shape == (len(ids), CLIENTS)
        most = self.attempted[name][ids]
        assert (rows >= least).all(), f"lost: {name} {ids[(rows < least).any(1)]}"
        assert (rows <= most).all(), f"applied twice: {name} {ids[(rows > most).any(1)]}"

    def finish(self) -> None:
        """Let all trainers end, then check every row at rest."""
        self.world.run(lambda: all(t.done for t in self.trainers) and not self.node.busy and not self._left)
        trainer = self.trainers[0]
        out: list = []
        wanted = [(entry, np.arange(ROWS)) for entry in trainer.entries]
        self.world.operate(
            trainer.session, ops.pull(trainer.session, wanted, self.world.now + 600), out.append
        )
        self.world.run(lambda: bool(out))
        assert not isinstance(out[0], RowloomError), out[0]
        for entry, rows in zip(trainer.entries, out[0], strict=True):
            name = entry.spec.name
            self.check(name, np.arange(ROWS), rows, self.acked[name])
            if not self.unresolved:
                np.testing.assert_array_equal(rows, self.acked[name])
        self._check_owners()

    def _check_owners(self) -> None:
        """No row is on two shards."""
        for entry in self.trainers[0].entries:
            seen: list[int] = []
            for node in self.node.shards.values():
                shard = node.host.shard
                if shard is not None:
                    table = shard.tables[entry.number]
                    seen += table.read(0, 1 << 30)[0].tolist()
            assert len(seen) == len(set(seen))
