"""Pushes and pulls by bag when replies are lost, requests are doubled, and rows move in between."""

import numpy as np
import pytest
from simulation.world import CoordinatorNode, World

from rowloom.client import SGD, TableSpec, Zeros
from rowloom.client.calls import operations as ops
from rowloom.client.calls.bag_requests import Shares
from rowloom.client.calls.control import ask
from rowloom.client.calls.cutting import Limits
from rowloom.client.lookup.bags import bags_in
from rowloom.client.lookup.pooling import factors
from rowloom.proto import rowloom_pb2 as pb
from rowloom.proto.errors import RowloomError
from rowloom.proto.spec import TableEntry

ROWS, WIDTH = 40, 3
PUSH = "/rowloom.v1.Shard/Push"


class Lab:
    """A world with one table and one client, whose operations run one at a time."""

    def __init__(self, seed: int, shards: int, partition: str = "mod") -> None:
        self.world = World(seed)
        self.node = CoordinatorNode(self.world)
        self.wait(lambda ended: self.node.perform(self.node.coordinator.up(shards), ended))
        self.session = self.world.session([CoordinatorNode.ADDRESS], 1)
        spec = TableSpec(
            "t", ROWS, dim=WIDTH, partition=partition, optimizer=SGD(lr=1.0), initializer=Zeros()
        )
        request = pb.DefineTableRequest(spec=spec.to_message()).SerializeToString()
        reply = self.do(ask(self.session, "/rowloom.v1.Coordinator/CreateTable", request, 300.0))
        self.entry = TableEntry.from_message(pb.DefineTableReply.FromString(reply).table)

    def wait(self, start):
        out: list = []
        start(out.append)
        self.world.run(lambda: bool(out))
        assert not isinstance(out[0], RowloomError), out[0]
        return out[0]

    def do(self, operation):
        return self.wait(lambda ended: self.world.operate(self.session, operation, ended))

    def push_bags(self, ids: np.ndarray, grads: np.ndarray, weights: np.ndarray):
        bags = bags_in(ids, None, weights)
        shares = Shares(bags.segments, factors(bags, "sum"))
        until = self.world.now + 600
        return ops.push_bags(self.session, self.entry, bags.ids, shares, bags.shape, grads, until)

    def pull_bags(self, ids: np.ndarray) -> np.ndarray:
        bags = bags_in(ids)
        shares = Shares(bags.segments, factors(bags, "sum"))
        until = self.world.now + 600
        return self.do(ops.pull_bags(self.session, self.entry, bags.ids, shares, bags.shape, until))

    def rows(self) -> np.ndarray:
        wanted = [(self.entry, np.arange(ROWS))]
        return self.do(ops.pull(self.session, wanted, self.world.now + 600))[0]

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


def random_push(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ids [B, L], whole numbers as weights and gradients: sums are exact, so each push counts visibly."""
    ids = rng.integers(0, ROWS, (rng.integers(1, 9), rng.integers(1, 7)))
    grads = rng.integers(-4, 5, (len(ids), WIDTH)).astype(np.float32)
    return ids, grads, rng.integers(1, 4, ids.shape).astype(np.float32)


def expect(rows: np.ndarray, ids: np.ndarray, grads: np.ndarray, weights: np.ndarray) -> None:
    np.subtract.at(rows, ids, weights[..., None] * grads[:, None, :])


@pytest.mark.parametrize("scale_to", [None, 1, 3, 5])
@pytest.mark.parametrize("partition", ["mod", "div"])
def test_a_push_whose_replies_are_lost_is_applied_once_also_where_its_rows_have_gone(
    partition: str, scale_to: int | None
) -> None:
    lab, rng = Lab(1, 2, partition), np.random.default_rng(1)
    expected = np.zeros((ROWS, WIDTH), np.float32)
    given = random_push(rng)
    expect(expected, *given)
    lost = lab.lose_replies(PUSH, 2)
    done: list = []
    lab.world.operate(lab.session, lab.push_bags(*given), done.append)
    lab.world.run(lambda: len(lost) == 2)
    assert not done
    if scale_to is not None:  # before the client finds out and sends it again, to other shards
        lab.wait(lambda ended: lab.node.scale(scale_to, ended))
        assert not done
    lab.world.run(lambda: bool(done))
    assert done == [None]
    np.testing.assert_array_equal(lab.rows(), expected)
    np.testing.assert_array_equal(lab.pull_bags(given[0]), expected[given[0]].sum(1))


@pytest.mark.parametrize("weather", ["calm", "lossy", "doubling", "stormy"])
def test_random_bags_under_a_bad_network_and_scalings_are_exact(weather: str) -> None:
    for seed in range(12):
        lab, rng = Lab(seed, 1 + seed % 5, ["mod", "div"][seed % 2]), np.random.default_rng(seed)
        lab.session.limits = Limits(200, 200)  # several requests to each shard
        lab.world.weather(weather)
        expected = np.zeros((ROWS, WIDTH), np.float32)
        for _ in range(8):
            given = random_push(rng)
            expect(expected, *given)
            if rng.random() < 0.5:
                shards = int(rng.integers(1, 6))
                lab.world.at(rng.uniform(0, 0.5), lambda n=shards, lab=lab: lab.node.scale(n, lambda _: None))
            assert lab.do(lab.push_bags(*given)) is None
            ids = rng.integers(0, ROWS, (5, 4))
            np.testing.assert_array_equal(lab.pull_bags(ids), expected[ids].sum(1))
        lab.world.run(lambda lab=lab: not lab.node.busy)
        np.testing.assert_array_equal(lab.rows(), expected)
