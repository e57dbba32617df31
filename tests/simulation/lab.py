"""A world with one table and one client, whose operations run one at a time: for tests of one thing."""

import json
from collections.abc import Callable

import numpy as np
from simulation.cluster import CoordinatorNode
from simulation.logs import Storage
from simulation.world import World

from rowloom.client import SGD, TableSpec, Zeros
from rowloom.client.calls import operations as ops
from rowloom.client.calls.bag_requests import Shares
from rowloom.client.calls.control import ask
from rowloom.client.lookups.bags import bags_in
from rowloom.client.lookups.pooling import factors
from rowloom.deploy.standby.rules import StandbyRules
from rowloom.proto import methods
from rowloom.proto import rowloom_pb2 as pb
from rowloom.proto.snapshots.snapshot import open_snapshot
from rowloom.proto.spec import Dealing, TableEntry
from rowloom.server.durable.log import Mode
from rowloom.server.states import State

ROWS, WIDTH = 40, 3


class Lab:
    """A world with one table and one client, whose operations run one at a time."""

    def __init__(
        self,
        seed: int,
        shards: int,
        partition: str = "mod",
        *,
        mode: Mode = Mode.MEMORY,
        rules: StandbyRules | None = None,
        wanted: bool = True,
    ) -> None:
        self.world = World(seed)
        self.storage = None if mode is Mode.MEMORY else Storage(self.world, mode)
        self.node = CoordinatorNode(self.world, self.storage, rules, wanted=wanted)
        self.wait(lambda ended: self.node.perform(self.node.coordinator.up(shards), ended))
        self.session = self.world.session([CoordinatorNode.ADDRESS], 1)
        spec = TableSpec(
            "t", ROWS, dim=WIDTH, partition=partition, optimizer=SGD(lr=1.0), initializer=Zeros()
        )
        request = pb.DefineTableRequest(spec=spec.to_message())
        reply = self.do(ask(self.session, methods.CREATE_TABLE, request, 300.0))
        self.entry = TableEntry.from_message(pb.DefineTableReply.FromString(reply).table)

    def outcome(self, start):
        """What something ends with that is started with a callback: a result, or an error."""
        out: list = []
        start(out.append)
        self.world.run(lambda: bool(out))
        return out[0]

    def wait(self, start):
        """As `outcome`, and it is no error."""
        out = self.outcome(start)
        assert not isinstance(out, Exception), out
        return out

    def do(self, operation):
        return self.wait(lambda ended: self.world.operate(self.session, operation, ended))

    def push(self, ids: list[int], timeout_s: float = 600.0):
        """A push that adds 1 to rows."""
        grads = -np.ones((len(ids), WIDTH), np.float32)
        return ops.push(self.session, [(self.entry, np.array(ids), grads)], self.world.now + timeout_s)

    def push_bags(self, ids: np.ndarray, grads: np.ndarray, weights: np.ndarray):
        bags = bags_in(ids, None, weights)
        shares, until = Shares(bags.segments, factors(bags, "sum")), self.world.now + 600
        return ops.push_bags(self.session, self.entry, bags.ids, shares, bags.shape, grads, until)

    def pull_bags(self, ids: np.ndarray) -> np.ndarray:
        bags = bags_in(ids)
        shares, until = Shares(bags.segments, factors(bags, "sum")), self.world.now + 600
        return self.do(ops.pull_bags(self.session, self.entry, bags.ids, shares, bags.shape, until))

    def rows(self) -> np.ndarray:
        wanted = [(self.entry, np.arange(ROWS))]
        return self.do(ops.pull(self.session, wanted, self.world.now + 600))[0]

    def change(self, program):
        """What a program of the coordinator ends with."""
        return self.outcome(lambda ended: self.node.perform(program, ended))

    def scale(self, shards: int, dealing: Dealing | None = None):
        """What scaling ends with. dealing: of the table, from then on."""
        dealings = {} if dealing is None else {"t": dealing}
        return self.outcome(lambda ended: self.node.scale(shards, ended, dealings))

    def snapshot(self) -> dict[int, float]:
        """By id, the first column of the rows that are in a snapshot which is taken now."""
        return self.rows_in(self.wait(self.node.snapshot).url)

    @staticmethod
    def rows_in(url: str) -> dict[int, float]:
        found: dict[int, float] = {}
        for block in open_snapshot(url).read("t"):
            found.update(zip(block.ids.tolist(), block.values[:, 0].tolist(), strict=True))
        return found

    def settle(self) -> None:
        """Until nothing is unfinished."""
        node = self.node
        self.world.run(lambda: node.alive and not node.busy and not node.coordinator.unfinished)

    def replicate(self, replicas: int, *, waits: bool = True):
        """What it ends with that shards have standbys from now on, or none."""
        standby = {"mode": "sync" if waits else "async"}
        said = json.dumps({"replicas": replicas, "standby": standby})
        return self.outcome(lambda ended: self.node.replicate(said, ended))

    def shards(self) -> list:
        """What each shard of the layout serves."""
        return [state.shard for state in self.states()]

    def states(self) -> list[State]:
        """The state of each server of the layout."""
        return [self.node.shards[key].host.state for key in self.node.coordinator.state.keys]

    def after(self, method: str, do) -> None:
        """Do something once, when a server has been asked for the first time."""
        done: list = []
        for address, node in list(self.world.nodes.items()):

            def watched(name, data, answer, address=address, node=node):
                node(name, data, answer)
                if name == method and not done:
                    done.append(address)
                    do(address)

            self.world.nodes[address] = watched

    def double_next(self, method: str) -> Callable[[], None]:
        """The next request to a method comes twice, the first time without a reply; call the result to let it come."""
        held: list[Callable[[], None]] = []
        for address, node in list(self.world.nodes.items()):

            def twice(name, data, answer, address=address, node=node):
                if name != method or held:
                    node(name, data, answer)
                else:
                    held.append(lambda: node(name, data, answer))
                    node(name, data, lambda _: None)

            self.world.nodes[address] = twice
        return lambda: held[0]()

    def lose_replies(self, method: str, count: int) -> list[str]:
        """The next replies to a method never arrive; the shards do what they were asked. Returns whose were lost."""
        lost: list[str] = []
        for address, node in list(self.world.nodes.items()):

            def deaf(name, data, answer, address=address, node=node):
                if name != method or len(lost) >= count:
                    node(name, data, answer)
                else:
                    lost.append(address)
                    node(name, data, lambda _: None)

            self.world.nodes[address] = deaf
        return lost
