"""Random histories in a made-up world: trainers that do all that users do, faults of all kinds, and what must hold.

At any time every row that is read is one that it may be; in the end everything ends, every row is exact, and nothing
that was begun is left half done.
"""

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
from simulation.cluster import BUSY_S, CoordinatorNode, Died
from simulation.cuts import Before, Cuts
from simulation.logs import Storage, rot
from simulation.shards import POINTS, ShardNode
from simulation.tables import CLIENTS, ROWS, Counters, Owned, Steps, all_tables
from simulation.trainer import Trainer, open_numbers
from simulation.world import Cut, World

from rowloom.client import SGD, TableSpec
from rowloom.client.calls import operations as ops
from rowloom.client.calls.cutting import RequestSizes
from rowloom.deploy.control.reshard import Cancelled
from rowloom.deploy.control.state import KnownSnapshot
from rowloom.deploy.standby.rules import StandbyRules
from rowloom.proto import methods
from rowloom.proto import rowloom_pb2 as pb
from rowloom.proto.errors import (
    NoAnswer,
    PushUnresolved,
    RetryLater,
    RowloomError,
    StateLost,
    TableExists,
    TableNotFound,
    Unavailable,
    WrongCluster,
)
from rowloom.proto.spec import Dealing
from rowloom.server.durable.log import Mode
from rowloom.server.states import Moving, Serving

# A seed switches half of these off.
KINDS = (
    "network",
    "clog",
    "commit fails",
    "commit is stored and fails",
    "disk",
    "coordinator dies",
    "cut",
    "launch fails",
    "empty server dies",
    "tables",
    "clients come and go",
    "servers die",  # these two where there are logs
    "log's disk",
)
# How often shards have logs, and of which mode. With `interval` no power fails: that takes acknowledged pushes.
MODES = {Mode.MEMORY: 3, Mode.PROCESS: 2, Mode.INTERVAL: 1, Mode.DISK: 3}
ONE_IN_LOSES_A_SHARD = 20
DEALINGS = [Dealing("mod"), Dealing("div"), Dealing("mod", True)]


class History:
    """One world, its trainers, an operator who scales and changes tables under them, and faults.

    Args:
        seed: of all that is random.
        actions: calls of each trainer.
        scalings: how often the cluster is scaled.
        snapshots: how many snapshots are asked for; None: the seed says.
        traced: there will be a `digest`.
        mode: of the shards' logs; None: the seed says.
        on: the kinds of faults that there are; None: the seed says.
        patient: no call is given up by its caller, so none may fail.
        rules: of standbys; None: there are none.

    Attributes:
        on: the kinds of faults that there are.
        calls: how many calls of each kind there were.
    """

    def __init__(
        self,
        seed: int,
        *,
        actions: int = 9,
        scalings: int = 2,
        snapshots: int | None = None,
        traced: bool = False,
        mode: Mode | None = None,
        on: set[str] | None = None,
        patient: bool = False,
        rules: StandbyRules | None = None,
    ) -> None:
        self.world = World(seed, traced=traced)
        rng = self.world.rng
        drawn = rng.choices(list(MODES), list(MODES.values()))[0]
        self.mode = mode or drawn
        self.patient = patient
        some = set(rng.sample(KINDS, len(KINDS) // 2))
        self.on = on = some if on is None else on
        self.cut = "cut" in on
        self._lost = False
        kinds = all_tables()
        self.come_and_go = "clients come and go" in on
        if self.come_and_go:
            # A copy of a push that its client gave up may be applied after what the client did under another name. Of
            # rows that are only added to that cannot be seen; others must not be in such a history.
            kinds = [table for table in kinds if not isinstance(table, Owned)]
            self.world.max_clients = rng.randint(2, 4)
        self.tables = rng.sample(kinds, rng.randint(1, 4))
        if not any(isinstance(t, Counters) for t in self.tables):
            self.tables.append(kinds[0])
        self.cuts = Cuts(self.tables, CLIENTS)
        weights = {
            Trainer.push: 5,
            Trainer.step: 3,
            Trainer.pull: 4,
            Trainer.push_bags: 2,
            Trainer.pull_bags: 2,
            Trainer.assign: 3 if any(isinstance(t, Owned) for t in self.tables) else 0,
            Trainer.renorm: 2,
            Trainer.poison: 1,
        }
        self.actions = list(weights), list(weights.values())
        self.calls: Counter[str] = Counter()
        self.unresolved = self.scalings = self.operating = 0
        self.training = CLIENTS
        self.scratch = 0
        self.storage = None if self.mode is Mode.MEMORY else Storage(self.world, self.mode)
        self.node = CoordinatorNode(self.world, self.storage, rules)
        up: list = []
        self.node.perform(self.node.coordinator.up(rng.randint(1, 5)), up.append)
        self.world.run(lambda: bool(up))
        assert not isinstance(up[0], RowloomError), up[0]
        drawn_snapshots = rng.choice([0, 0, 1, 2])
        self._snapshots = drawn_snapshots if snapshots is None else snapshots
        self._begin_faults(on)
        self.trainers = [Trainer(self, c, actions) for c in range(CLIENTS)]
        self._made(True)
        for _ in range(scalings):
            self._later(self._scale)

    def _made(self, there_is: bool) -> None:
        """Tables are made one after the other, then all trainers begin."""
        left = [table for table in self.tables if not table.entry.number]
        if not there_is:
            self.training = 0  # there is nothing to train any more
        elif left:
            self.trainers[len(left) % CLIENTS].create(left[0], self._made)
        else:
            for trainer in self.trainers:
                trainer.next()
            for _ in range(self._snapshots):
                self._later(self._snapshot)

    @property
    def lost(self) -> bool:
        """Whether a shard lost its rows."""
        return self._lost or self.node.lost

    def may_fail(self, outcome: RowloomError | Cut) -> bool:
        """Whether a push may end like this."""
        if self.patient:
            return False
        allowed = [PushUnresolved, Unavailable, Cut]
        allowed += [StateLost] if self.lost else []
        return isinstance(outcome, tuple(allowed))

    def may_end_reads(self, outcome: RowloomError) -> bool:
        """Whether anything else may: it has time enough for all but a shard that is gone."""
        return self.lost and isinstance(outcome, StateLost | Unavailable)

    # ------------------------------------------------------------------------------------------------------- faults

    def _begin_faults(self, on: set[str]) -> None:
        world, node, rng = self.world, self.node, self.world.rng
        if "network" in on:
            world.weather(rng.choice(["lossy", "doubling", "stormy"]))
            world.linger = rng.choice([0.02, 0.1])
        node.disk.fail_before = 0.15 if "commit fails" in on else 0.0
        node.disk.fail_after = 0.2 if "commit is stored and fails" in on else 0.0
        # The worst moment to end is when memory and disk may differ.
        node.dies_after_failed_commit = 0.5 if "coordinator dies" in on else 0.0
        node.launch_fails = node.launch_waits = 0.3 if "launch fails" in on else 0.0
        node.empty_dies = 0.3 if "empty server dies" in on else 0.0
        if "clog" in on:
            for _ in range(rng.randint(1, 3)):
                self._later(self._clog)
        if "disk" in on:
            self._later(self._break_disk)
        if "coordinator dies" in on:
            for _ in range(rng.randint(1, 3)):
                self._later(self._doom)
        if "tables" in on:
            for _ in range(rng.randint(1, 4)):
                self._later(self._change_tables)
        if "servers die" in on and self.storage is not None:
            for _ in range(rng.randint(1, 5)):
                self._later(self._end_server)
        if "log's disk" in on and self.storage is not None:
            self._later(self._break_log)
        self._later(self._stray)
        if rng.randrange(ONE_IN_LOSES_A_SHARD) == 0 and not self.patient:
            self._later(self._lose)

    def _later(self, do: Callable[[], None]) -> None:
        self.operating += 1
        self.world.at(self.world.rng.uniform(0.0, 3.0), do)

    def _over(self) -> None:
        self.operating -= 1

    def _clog(self) -> None:
        addresses = sorted(self.world.nodes)
        if addresses:
            address = self.world.rng.choice(addresses)
            self.world.clogged.add(address)
            self.world.injected["clogged server"] += 1
            self.world.at(self.world.rng.uniform(0.1, 15.0), self.world.clogged.discard, address)
        self._over()

    def _break_disk(self) -> None:
        disk = self.node.disk
        disk.full, disk.broken = True, self.world.rng.random() < 0.5
        self.world.injected["disk broken" if disk.broken else "disk full"] += 1
        if self.world.rng.random() < 0.7:  # else until everything is healed
            self.world.at(self.world.rng.uniform(0.1, 20.0), self._mend_disk)
        self._over()

    def _mend_disk(self) -> None:
        self.node.disk.full = self.node.disk.broken = False

    def _doom(self) -> None:
        self.node.doom = int(25 * self.world.rng.random()) + 1
        self._over()

    def _serving(self) -> list[ShardNode]:
        return [n for n in self.node.shards.values() if n.host.shard and n.alive]

    def _lose(self) -> None:
        """A server of the cluster ends with its rows, and comes back without; with a log, that is damaged."""
        serving = self._serving()
        if serving:
            node = self.world.rng.choice(serving)
            node.kill(self.world.rng.uniform(0.0, 1.0))
            if self.storage is None:
                self._lost = True
                self.world.injected["shard lost"] += 1
            elif node.journal is not None and rot(self.storage, node.journal):
                self._lost = True
                self.world.injected["log damaged"] += 1
        self._over()

    def _end_server(self) -> None:
        """A server that has a log ends: now, or at a worse moment."""
        rng, alive = self.world.rng, [n for n in self.node.shards.values() if n.alive]
        node = rng.choice(alive) if alive else None
        kind = rng.choice(["now", "all", "disk", *POINTS])
        if node is None:
            pass
        elif kind == "now":
            self.world.injected["server killed"] += 1
            node.die()
        elif kind == "all":
            self.world.injected["all servers killed"] += 1
            for one in alive:
                one.die()
        elif kind == "disk":
            node.doom = rng.randint(1, 20)
        elif kind.startswith(("received", "adopted")):  # whoever receives rows next
            assert self.storage is not None
            self.storage.lurking = kind
            self.storage.slow_s = rng.choice([self.storage.slow_s, 1.0])
        elif kind in ("recovering", "recovered"):  # the one that follows
            self.world.injected["server killed"] += 1
            node.next_lurks = kind
            node.die(returns=True)
        else:
            node.lurking = kind
            if kind == "answered again":  # which a push must come twice for
                self.world.double = max(self.world.double, 0.5)
        self._over()

    def _break_log(self) -> None:
        """A server's part of the disk fails, until everything is healed."""
        assert self.storage is not None
        serving = self._serving()
        if serving:
            node = self.world.rng.choice(serving)
            self.storage.failing[node.key] = self.world.rng.choice(
                ["full", "write", "sync", "write once", "sync once"]
            )
        self._over()

    def _scale(self) -> None:
        def ended(outcome: Any) -> None:
            # When faults are too many it gives up, and everything is as before.
            # It also does when a shard has not yet read its rows.
            fine = isinstance(outcome, Unavailable | StateLost | RetryLater | Cancelled)
            assert fine or not isinstance(outcome, RowloomError), outcome
            self.scalings += outcome is None
            self.calls["tables dealt anew"] += len(dealings) if outcome is None else 0
            frozen = any(isinstance(n.host.state, Moving) for n in self.node.shards.values() if n.alive)
            known = isinstance(outcome, Died) or self.node.coordinator.unfinished
            assert known or not frozen, "a shard stays frozen and nobody knows"
            self._over()

        rng = self.world.rng
        bounded = [table.spec.name for table in self.tables if table.spec.num_embeddings is not None]
        some = rng.sample(bounded, rng.randint(0, len(bounded))) if rng.random() < 0.5 else []
        dealings = {name: rng.choice(DEALINGS) for name in some}
        self.node.move(rng.randint(1, 7), ended, dealings)
        if self.world.rng.random() < 0.1:
            self.world.at(self.world.rng.uniform(0.0, 2.0), self._cancel)

    def _cancel(self) -> None:
        moving = self.node.moving
        if moving is not None and moving.cancel():
            self.calls["scaling cancelled"] += 1

    def _snapshot(self) -> None:
        before: list[Before] = []

        def ended(outcome: Any) -> None:
            if isinstance(outcome, KnownSnapshot):
                self.calls["snapshot"] += 1
                self.cuts.take(outcome, before[0])
                if "servers die" in self.on and self.storage is not None and self.world.rng.random() < 0.5:
                    self.world.injected["all servers killed"] += 1
                    for node in self._serving():  # they go on from what was just taken
                        node.die()
            else:
                fine = isinstance(outcome, Unavailable | StateLost | RetryLater | Died)
                assert fine, outcome
                self.world.injected["snapshot failed"] += 1
            self._over()

        self.node.snapshot(ended, lambda: before.append(self.cuts.before()))

    def _stray(self) -> None:
        """A client of a cluster that was at this address before drops a table, as it thinks, of its own."""
        name = self.world.rng.choice(self.tables).spec.name
        request = pb.RemoveTableRequest(name=name, cluster_id="sim-of-before")

        def ended(outcome: Any) -> None:
            refused = isinstance(outcome, WrongCluster | RetryLater | NoAnswer)
            assert refused, f"a call for another cluster ended with {outcome!r}"
            self._over()

        self.calls["call for another cluster"] += 1
        self.world.post(self.node.ADDRESS, methods.DROP_TABLE, request.SerializeToString(), 10.0, ended)

    def _change_tables(self) -> None:
        """Someone makes, drops, and changes tables; each of it may fail, none of it may stay half done."""
        node, rng = self.node, self.world.rng
        if node.busy or not node.alive:
            self.world.at(BUSY_S, self._change_tables)
            return
        coordinator = node.coordinator
        kind, name = rng.randrange(3), f"scratch-{rng.randrange(2)}"
        if kind == 0:
            spec = TableSpec(name, ROWS, dim=1 + rng.randrange(2), optimizer=SGD())
            program, allowed = coordinator.create_table(spec), TableExists
        elif kind == 1:
            program, allowed = coordinator.drop_table(name), TableNotFound
        else:
            table = rng.choice(self.tables)
            lr = 0.1 * rng.randrange(10) if isinstance(table, Steps) else 1.0
            program, allowed = coordinator.set_lr(table.spec.name, lr), TableNotFound

        def ended(outcome: Any) -> None:
            fine = isinstance(outcome, Unavailable | StateLost | allowed)
            assert fine or not isinstance(outcome, RowloomError), outcome
            self._over()

        self.calls[("create table", "drop table", "set lr")[kind]] += 1
        node.perform(program, ended)

    def _heal(self) -> None:
        self.world.weather("calm")
        self.world.linger = 0.0
        self.world.clogged.clear()
        self.world.severed.clear()
        node = self.node
        node.disk.fail_before = node.disk.fail_after = node.launch_fails = node.launch_waits = 0.0
        node.empty_dies = 0.0
        node.dies_after_failed_commit = 0.0
        node.doom = None
        self._mend_disk()
        if self.storage is not None:
            self.storage.lurking = None
        for shard in node.shards.values() if self.storage is not None else ():
            shard.doom = shard.lurking = shard.next_lurks = None
            self.storage.failing.pop(shard.key, None)
            if shard.key in self.storage.failed and shard.alive:
                # What failed is mended, and who has a log that failed started again, by hand.
                self.storage.failed.remove(shard.key)
                shard.kill(0.1)

    # ------------------------------------------------------------------------------------------------------- the end

    def finish(self) -> None:
        """Let all trainers end, heal everything, then check all that must hold at rest."""
        # An end by itself is not promised before all is healed: the disk may be broken until then.
        self.world.at(40.0, self._heal)
        self.world.run(lambda: not (self.training or self.operating), 1000.0)
        self._heal()
        self.world.run(lambda: self._at_rest() or self.lost, 60.0)
        for trainer in self.trainers:
            assert open_numbers(trainer.session) == 0, "numbers of parts are never finished"
        self.cuts.check()
        self.cuts.forget(self.world.snapshots)
        if self.lost:
            self._check_survivors()
        else:
            self._check_rows()
            self._check_cluster()

    def _at_rest(self) -> bool:
        node = self.node
        if not node.alive or node.busy or node.coordinator.unfinished:
            return False
        if self.storage is None:
            return True
        state = node.coordinator.state
        found = [node.shards.get(key) for key in state.keys]
        return all(
            n is not None and n.alive and isinstance(n.host.state, Serving) and n.address == there.address
            for n, there in zip(found, state.layout.shards, strict=True)
        )

    def digest(self) -> str:
        """Of all that happened."""
        assert self.world.trace is not None
        return self.world.trace.hexdigest()

    def _ask(self, wanted: list, wire: str | None = "float32") -> Any:
        out: list = []
        operation = ops.pull(self.trainers[0].session, wanted, self.world.now + 30, wire)
        self.world.operate(self.trainers[0].session, operation, out.append)
        self.world.run(lambda: bool(out))
        return out[0]

    def _check_rows(self) -> None:
        every = np.arange(ROWS)
        self.trainers[0].session.sizes = RequestSizes()  # what is read at rest need not come in pieces
        out = self._ask([(table.entry, table.keys) for table in self.tables])
        assert not isinstance(out, RowloomError), out
        for table, rows in zip(self.tables, out, strict=True):
            table.check(every, rows, table.look(every))
            if isinstance(table, Counters) and not self.unresolved:
                np.testing.assert_array_equal(rows, table.acked)

    def _check_survivors(self) -> None:
        """What is not lost is right; what is lost says so."""
        for table in (one for one in self.tables if one.entry.number):  # those that were made in time
            for row in range(0, ROWS, 7):
                rows = np.array([row])
                out = self._ask([(table.entry, table.keys[rows])])
                if isinstance(out, RowloomError):
                    assert isinstance(out, StateLost | Unavailable), out
                else:
                    table.check(rows, out[0], table.own(0, rows, table.look(rows)))

    def _check_cluster(self) -> None:
        """Every shard serves, has the tables as they are to be, and no row is on two; no other server runs."""
        coordinator, node = self.node.coordinator, self.node
        state = coordinator.state
        assert sorted(node.shards) == sorted(state.server_keys), "servers run that are no shard"
        stored = node.disk.load()
        assert stored.layout == state.layout
        seen: dict[int, list[int]] = {}
        for index, key in enumerate(state.keys):
            host = node.shards[key].host
            assert host.state.word == "serving", f"shard {index} is {host.state.word}"
            shard = host.shard
            assert (shard.index, shard.layout.epoch) == (index, state.layout.epoch)
            for entry in state.tables.values():
                table = shard.tables[entry.number]
                assert table.entry.lr_version == entry.lr_version, f"shard {index} has another learning rate"
                assert table.spec.dealing == entry.spec.dealing, f"shard {index} deals ids otherwise"
                seen.setdefault(entry.number, []).extend(table.read(0, 1 << 30)[0].tolist())
            for table in self.tables:
                if isinstance(table, Steps):
                    step = shard.tables[table.entry.number].step
                    assert table.acked <= step <= table.attempted, (table.acked, step, table.attempted)
        for ids in seen.values():
            assert len(ids) == len(set(ids)), "a row is on two shards"
