"""Histories of readers whom standbys may answer: what they are told is never older than they agreed to.

One client pushes all the time, others pull. Of every pull is known which pushes were acknowledged before it began, and
when: rows lack none of them, with standbys that pushes wait for; else none that is older than the readers' bound.
"""

from collections import Counter
from collections.abc import Callable

import numpy as np
from simulation.broken_standbys import in_step
from simulation.cluster import CoordinatorNode
from simulation.lab import ROWS, WIDTH, Lab
from simulation.shards import ShardNode

from rowloom.client.calls import operations as ops
from rowloom.client.calls.bag_requests import Shares
from rowloom.client.calls.cutting import RequestSizes
from rowloom.client.lookups.bags import bags_in
from rowloom.client.lookups.pooling import factors
from rowloom.deploy.standby.rules import StandbyRules
from rowloom.server.standby.reading import StandbyReads

READERS = 3
LASTS_S = 60.0
EVERY = np.arange(ROWS)
COORDINATOR = CoordinatorNode.ADDRESS


class NearestHistory:
    """One world in which standbys answer.

    Args:
        seed: of all that is random.
        waits: pushes wait for standbys.

    Attributes:
        calls: how many there were of each kind.
        by_standbys: calls that standbys have answered.
    """

    def __init__(self, seed: int, *, waits: bool) -> None:
        # A server that stands still is not given up, where that would lose what its standby lacks.
        rules = StandbyRules(waits=waits, lease_s=1.0, after_s=2.0 if waits else 1000.0)
        self.lab = Lab(seed, 1 + seed % 3, rules=rules)
        self.world, self.waits = self.lab.world, waits
        self.rng = self.world.rng
        self.bound_s = self.rng.choice([0.0, 0.2, 1.0, 5.0] if waits else [0.2, 1.0, 5.0])
        self.world.max_staleness_s = self.bound_s
        self.world.weather(self.rng.choice(["calm", "doubling"]))
        self.world.lose = self.rng.choice([0.0, 0.0, 0.02])
        self.world.linger = self.rng.choice([0.0, 0.0, 0.01])
        self.acked: list[float] = []  # when each push was, in order
        self.begun = 0
        self.calls: Counter[str] = Counter()
        self.running = 0
        self._reads: list[StandbyReads] = []

    def finish(self) -> None:
        """Let it happen, and check every row that is read."""
        world = self.world
        in_step(self.lab)
        until = world.now + LASTS_S
        writer = self.lab.session = world.session([COORDINATOR], 2)
        readers = [world.session([COORDINATOR], 3 + k) for k in range(READERS)]
        for session in (writer, *readers):
            session.sizes = RequestSizes()  # a call is one request to each shard: there are many in the time
        self.running = 2 + READERS
        self._push(until)
        for reader in [writer, *readers]:
            self._pull(reader, until)
        self._strike(until)
        world.run(lambda: not self.running)

    @property
    def by_standbys(self) -> int:
        self._note_reads()
        return sum(reads.pulls for reads in self._reads)

    def _note_reads(self) -> None:
        """Also of processes that end."""
        there = [node.host.process.reads for node in self.lab.node.shards.values()]
        self._reads += [reads for reads in there if not any(reads is known for known in self._reads)]

    # --------------------------------------------------------------------------------------------------------- calls

    def _is_over(self, until: float) -> bool:
        """Whether a client calls no more; then it has said so."""
        self.running -= self.world.now >= until
        return self.world.now >= until

    def _push(self, until: float) -> None:
        if self._is_over(until):
            return
        self.begun += 1

        def ended(outcome: object) -> None:
            assert not isinstance(outcome, Exception), outcome
            self.acked.append(self.world.now)
            self.calls["push"] += 1
            self.world.at(self.rng.choice([0.0, 0.05, 1.0]), self._push, until)

        self.world.operate(self.lab.session, self.lab.push(EVERY.tolist(), 300.0), ended)

    def _pull(self, session, until: float) -> None:
        if self._is_over(until):
            return
        world, lab = self.world, self.lab
        world.look_for_standbys(session)
        # What a client has pushed itself it sees always.
        old_s = 0.0 if self.waits or session is lab.session else self.bound_s
        least = sum(at <= world.now - old_s for at in self.acked)

        def ended(outcome) -> None:
            assert not isinstance(outcome, Exception), outcome
            (rows,) = outcome if isinstance(outcome, list) else [outcome]
            assert rows.min() >= least, f"{rows.min()} of {least} pushes are there"
            assert rows.max() <= self.begun
            self.calls["pull"] += 1
            world.at(self.rng.expovariate(10.0), self._pull, session, until)

        if self.rng.random() < 0.5:
            operation = ops.pull(session, [(lab.entry, EVERY)], world.now + 300)
        else:
            bags = bags_in(EVERY[:, None])
            shares = Shares(bags.segments, factors(bags, "sum"))
            operation = ops.pull_bags(session, lab.entry, bags.ids, shares, bags.shape, world.now + 300)
        world.operate(session, operation, ended)

    # -------------------------------------------------------------------------------------------------------- faults

    def _strike(self, until: float) -> None:
        if self.world.now >= until:
            self.world.clogged.clear()
            self.world.severed.clear()
            return
        self._note_reads()
        self.world.at(self.rng.uniform(0.5, 4.0), self._strike, until)
        state = self.lab.node.coordinator.state
        index = self.rng.randrange(self.lab.node.coordinator.layout.n)
        if state.standby_in_step(index) is None or self.lab.node.busy:
            return
        first = self.lab.node.shards[state.keys[index]]
        second = self.lab.node.shards[state.standbys[index].key]
        rng = self.rng
        strikes: dict[str, Callable[[], object]] = {
            "standby stands still": lambda: second.sleep(rng.uniform(0.1, 8.0)),
            "standby is cut off": lambda: self._clog(second),
            "standby does not hear": lambda: self._sever((first.address, second.address)),
            "standby is not heard": lambda: self._sever((second.address, first.address)),
            "standby and coordinator do not hear": lambda: self._sever(
                (second.address, COORDINATOR), (COORDINATOR, second.address)
            ),
            "server stands still": lambda: first.sleep(rng.uniform(0.1, 4.0)),
        }
        if self.waits and not (self.world.severed or self.world.clogged or first.sleeps or second.sleeps):
            strikes["server ends"] = lambda: first.kill(None)
            strikes["standby ends"] = lambda: second.kill(None)
        kind = rng.choice(list(strikes))
        self.world.injected[kind] += 1
        strikes[kind]()

    def _clog(self, node: ShardNode) -> None:
        self.world.clogged.add(node.address)
        self.world.at(self.rng.uniform(0.1, 6.0), self.world.clogged.discard, node.address)

    def _sever(self, *ways: tuple[str, str]) -> None:
        self.world.severed.update(ways)
        self.world.at(self.rng.uniform(0.1, 6.0), self.world.severed.difference_update, ways)


def reader_of(lab: Lab, number: int, max_staleness_s: float):
    """A client that standbys may answer, and that knows them."""
    lab.world.max_staleness_s = max_staleness_s
    session = lab.world.session([COORDINATOR], number)
    lab.world.look_for_standbys(session)
    pulled(lab, session)
    return session


def pulled(lab: Lab, session) -> np.ndarray:
    """All rows, as such a client is told."""
    operation = ops.pull(session, [(lab.entry, EVERY)], lab.world.now + 300)
    lab.world.look_for_standbys(session)
    (rows,) = lab.wait(lambda ended: lab.world.operate(session, operation, ended))
    assert rows.shape == (ROWS, WIDTH)
    return rows
