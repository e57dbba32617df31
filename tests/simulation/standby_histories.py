"""Histories of clusters with standbys: servers end, stand still and are cut off, and what was acknowledged stays.

Standbys come and go meanwhile.
"""

import json
from collections.abc import Callable

import numpy as np
from simulation.histories import History
from simulation.shards import ShardNode

from rowloom.deploy.control.state import Standby
from rowloom.deploy.standby.rules import StandbyRules
from rowloom.proto.errors import RowloomError, Unavailable
from rowloom.server.durable.log import Mode

STRIKES = 6
STALENESS = (None, 0.0, 0.5, 5.0)  # of what standbys may answer; None: nothing
CHANGES = 4  # of whether there are standbys
SETTLED_S = 4.0  # after all was healed, until nobody is silent any more


class StandbyHistory(History):
    """A history whose shards have standbys. Of a shard and its standby one ends at a time: more is a loss without logs.

    Args:
        seed: of all that is random.
        waits: pushes wait for standbys.
        mode: of the shards' logs. Where there are logs, servers end at any time, at the points where that is worst, and
            all at once.
    """

    def __init__(
        self, seed: int, *, waits: bool = True, traced: bool = False, mode: Mode = Mode.MEMORY
    ) -> None:
        rules = StandbyRules(waits=waits, lease_s=1.0, after_s=2.0)
        self._healed_s = 0.0
        self._changes, self._seed, self._waits = bool(seed % 3), seed, waits
        super().__init__(seed, mode=mode, rules=rules, traced=traced, scalings=seed % 2)

    def _begin_faults(self, on: set[str]) -> None:
        super()._begin_faults(on)
        self.world.max_staleness_s = STALENESS[self._seed // 4 % len(STALENESS)]
        self.world.reads_lag = not self._waits and bool(self.world.max_staleness_s)
        for _ in range(self.world.rng.randint(1, STRIKES)):
            self._later(self._strike)
        for _ in range(self.world.rng.randint(0, CHANGES) if self._changes else 0):
            self._later(self._replicate)

    def _replicate(self) -> None:
        """There are to be standbys, or none, from now on."""
        rng = self.world.rng
        replicas, after = rng.randint(0, 1), rng.choice([1.0, 2.0])

        def ended(outcome: object) -> None:
            assert isinstance(outcome, Unavailable) or not isinstance(outcome, RowloomError), outcome
            self.calls[f"replicas: {replicas}"] += not isinstance(outcome, Exception)
            self._over()

        standby = {"after": after, "mode": "sync"}
        wait_s = rng.uniform(0.0, 12.0)  # as long as all that is begun in the first moments takes
        self.world.at(
            wait_s, self.node.replicate, json.dumps({"replicas": replicas, "standby": standby}), ended
        )

    def _lose(self) -> None:
        """Others lose a shard; these strike."""
        self._over()

    def _in_step(self) -> list[tuple[ShardNode, ShardNode]]:
        """Servers and their standbys that are in step, as is stored."""
        stored = self.node.disk.stored
        assert stored is not None
        if stored.layout is None:
            return []
        found: list[tuple[ShardNode, ShardNode]] = []
        for index, standby in stored.standbys.items():
            shard = stored.layout.shards[index] if index < stored.layout.n else None
            pair = [self.node.shards.get(key) for key in (stored.keys[index], standby.key)] if shard else []
            if shard and standby.in_step and _follows(standby, shard.incarnation, stored.layout.epoch):
                alive = [node.incarnation for node in pair if node is not None and node.alive]
                if alive == [shard.incarnation, standby.incarnation]:
                    found.append((pair[0], pair[1]))  # type: ignore[arg-type]
        return found

    def _strike(self, tries: int = 20) -> None:
        rng, pairs = self.world.rng, self._in_step()
        if not pairs:
            if tries:
                self.world.at(rng.uniform(0.1, 1.0), self._strike, tries - 1)
            else:
                self._over()
            return
        primary, standby = rng.choice(pairs)
        strikes: dict[str, Callable[[], object]] = {
            "primary stood still": lambda: primary.sleep(rng.uniform(0.1, 12.0)),
            "primary stood still and was cut off": lambda: (
                primary.sleep(rng.uniform(0.1, 6.0)),
                self._cut_off(primary),
            ),
            "primary cut off": lambda: self._cut_off(primary),
            "standby stood still": lambda: standby.sleep(rng.uniform(0.1, 12.0)),
            "standby cut off": lambda: self._cut_off(standby),
            "primary reached by clients only": lambda: self._sever(self._ways(primary.address, standby)),
            "ways severed": lambda: self._sever(
                rng.sample(
                    every := self._ways(primary.address, standby, all=True), rng.randint(1, len(every))
                )
            ),
        }
        # Both at once are a loss, also where the primary is only about to be given up.
        both = self._struck(primary) or self._struck(standby) or self._suspected(primary)
        if self.storage is not None or not both:
            # Where one comes back, as it might on Ray, servers know from their start that there may be standbys.
            away_s = rng.choice([None, rng.uniform(0.0, 1.0)]) if primary.replicated else None
            strikes["primary killed"] = lambda: primary.kill(away_s)
            strikes["standby killed"] = lambda: standby.kill(None)
        if self.storage is not None:
            strikes["both killed"] = lambda: (primary.die(), standby.die())
            strikes["killed when its log is taken"] = lambda: self._kill_successor(primary, standby)
        kind = rng.choice(list(strikes))
        self.world.injected[kind] += 1
        strikes[kind]()
        self._over()

    def _kill_successor(self, primary: ShardNode, standby: ShardNode) -> None:
        standby.lurking = self.world.rng.choice(["succeeding", "succeeded"])
        primary.kill(None)

    def _suspected(self, primary: ShardNode) -> bool:
        """Whether the coordinator takes it for gone, or may just now."""
        standbys = self.node.standbys
        return self.node.busy or standbys is None or standbys.is_suspected(primary.incarnation)

    def _struck(self, node: ShardNode) -> bool:
        world = self.world
        return (
            node.sleeps or node.address in world.clogged or any(node.address in way for way in world.severed)
        )

    def _ways(self, primary: str, standby: ShardNode, *, all: bool = False) -> list[tuple[str, str]]:
        """From a server to its standby and the coordinator, and back. all: between those two, too."""
        there = self.node.ADDRESS, standby.address
        ways = [way for other in there for way in ((primary, other), (other, primary))]
        return [*ways, there, there[::-1]] if all else ways

    def _sever(self, ways: list[tuple[str, str]]) -> None:
        self.world.severed.update(ways)
        self.world.at(self.world.rng.uniform(0.5, 10.0), self.world.severed.difference_update, ways)

    def _heal(self) -> None:
        super()._heal()
        self._healed_s = self.world.now
        for node in self.node.shards.values():
            node.wake_up()

    def _cut_off(self, node: ShardNode) -> None:
        self.world.clogged.add(node.address)
        self.world.at(self.world.rng.uniform(0.1, 15.0), self.world.clogged.discard, node.address)

    def _at_rest(self) -> bool:
        coordinator, state = self.node.coordinator, self.node.coordinator.state
        # Who was not reached for long enough before is given up yet.
        if not super()._at_rest() or self.world.now < self._healed_s + SETTLED_S:
            return False
        assert self.node.standbys is not None
        if self.node.standbys.said():
            return False
        wanted = self.node.standbys.wanted
        if not all(bool(state.standby_in_step(i)) == wanted for i in range(coordinator.layout.n)):
            return False
        if not wanted:
            assert not state.standbys
            return all(self.node.shards[key].host.feed is None for key in state.keys)
        pairs = [
            (self.node.shards[state.keys[i]].host, self.node.shards[one.key].host)
            for i, one in state.standbys.items()
        ]
        return all(a.feed and b.following and a.feed.end == b.following.position for a, b in pairs)

    def _check_cluster(self) -> None:
        self.world.run(self._at_rest, 60.0)  # a push that was late may have come meanwhile
        super()._check_cluster()
        state = self.node.coordinator.state
        for index, standby in state.standbys.items():
            first = self.node.shards[state.keys[index]].host.shard
            following = self.node.shards[standby.key].host.following
            assert following is not None
            second = following.shard
            assert set(first.tables) == set(second.tables)
            for number, table in first.tables.items():
                other = second.tables[number]
                assert (table.step, table.entry) == (other.step, other.entry)
                mine, theirs = table.read(0, 1 << 30), other.read(0, 1 << 30)
                order, same = np.argsort(mine[0]), np.argsort(theirs[0])
                np.testing.assert_array_equal(mine[0][order], theirs[0][same])
                for a, b in zip([mine[1], *mine[2]], [theirs[1], *theirs[2]], strict=True):
                    np.testing.assert_array_equal(a[order], b[same])
            assert first.ledger.read().SerializeToString() == second.ledger.read().SerializeToString()


def _follows(standby: Standby, incarnation: int, epoch: int) -> bool:
    return (standby.primary, standby.epoch) == (incarnation, epoch)
