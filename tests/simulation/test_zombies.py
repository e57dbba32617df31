"""Clients and messages that slept while the cluster became another one, or their trainer was started again."""

import numpy as np
import pytest
from simulation.cluster import CoordinatorNode
from simulation.lab import ROWS, WIDTH, Lab

from rowloom.client.calls import operations as ops
from rowloom.proto import methods
from rowloom.proto.errors import InvalidRequest, RowloomError


def start(lab: Lab, operation) -> list:
    out: list = []
    lab.world.operate(lab.session, operation, out.append)
    return out


def held_up(lab: Lab, shard: int, delay_s: float) -> list[RowloomError | bytes]:
    """Pushes to a shard come so much later, to whoever is at its address then. Returns what they were answered."""
    world, address, answers = lab.world, lab.node.shards[shard].address, []
    node = world.nodes[address]

    def late(method, data, answer):
        def deliver():
            there = world.nodes[address]
            there = node if there is late else there
            there(method, data, lambda said: (answers.append(said), answer(said)))

        if method == methods.PUSH:
            world.at(delay_s, deliver)
        else:
            node(method, data, answer)

    world.nodes[address] = late
    return answers


def another_cluster(lab: Lab, *, made_from: list) -> CoordinatorNode:
    """A cluster at the addresses of the one before, restored from what its shards were."""
    other = CoordinatorNode(lab.world)
    lab.wait(lambda ended: other.perform(other.coordinator.up(len(made_from)), ended))
    lab.wait(lambda ended: other.perform(other.coordinator.create_table(lab.entry.spec), ended))
    for old, node in zip(made_from, other.shards.values(), strict=True):
        node.host.shard.ledger.merge(old.ledger.read())
    return other


@pytest.mark.parametrize("seed", range(5))
def test_a_push_that_slept_while_its_cluster_was_restored_from_an_older_snapshot_is_not_applied(seed) -> None:
    lab = Lab(seed, 2)
    lab.world.linger = 0.0
    lab.do(lab.push([0, 1]))
    old = lab.shards()
    answers = held_up(lab, 1, 5.0)
    out = start(lab, lab.push([0, 1], 30.0))
    lab.world.run(lambda: old[0].counters.pushes == 2)  # it has begun
    other = another_cluster(lab, made_from=old)
    lab.world.run(lambda: bool(out))
    assert isinstance(out[0], RowloomError)
    assert [type(said).__name__ for said in answers][:1] == ["WrongCluster"]
    assert [node.host.shard.rows for node in other.shards.values()] == [0, 0]
    # Whoever slept stays with the cluster that it knew; who connects anew goes on with the one there is.
    assert isinstance(
        lab.outcome(lambda ended: lab.world.operate(lab.session, lab.push([2], 5.0), ended)), RowloomError
    )
    lab.session = lab.world.session([other.ADDRESS], 9)
    lab.do(lab.push([2]))
    assert lab.rows()[:4, 0].tolist() == [0, 0, 1, 0]


def test_a_trainer_that_was_started_again_and_the_one_before_are_two_clients() -> None:
    # Which of them is meant to train only whoever started them can know; whatever either pushes counts once.
    lab = Lab(1, 2)
    lab.world.linger = 0.0
    held_up(lab, 1, 3.0)
    out = start(lab, lab.push(list(range(ROWS))))  # it sleeps in the middle of this
    moment = lab.world.now + 0.5
    lab.world.run(lambda: lab.world.now > moment)
    lab.session, before = lab.world.session([lab.node.ADDRESS], 77), lab.session
    lab.do(lab.push(list(range(ROWS))))
    lab.world.run(lambda: bool(out))
    assert out == [None]
    assert set(lab.rows()[:, 0]) == {2}
    assert not {p.client_id for p in before.pushers} & {p.client_id for p in lab.session.pushers}


def test_a_client_that_keeps_its_id_ends_what_its_earlier_life_left_by_a_higher_epoch() -> None:
    # None of ours does, but any may that is written to the contract.
    lab = Lab(1, 1)
    lab.world.linger = 0.0
    pusher = lab.session.pushers[0]
    held_up(lab, 0, 3.0)
    out = start(lab, lab.push([3]))
    moment = lab.world.now + 0.5
    lab.world.run(lambda: lab.world.now > moment)
    again = lab.world.session([lab.node.ADDRESS], pusher.client_id)
    again.pushers[0].heads._whose = pusher.client_id, 2
    given = [(lab.entry, np.array([4]), -np.ones((1, WIDTH), np.float32))]
    del lab.world.nodes[lab.node.shards[0].address]
    lab.world.nodes[lab.node.shards[0].address] = lab.node.shards[0]._arrive
    lab.wait(lambda ended: lab.world.operate(again, ops.push(again, given, lab.world.now + 60), ended))
    lab.world.run(lambda: bool(out))
    assert isinstance(out[0], InvalidRequest)
    assert "client epoch 1 has ended: the client came back as epoch 2" in str(out[0])
    assert lab.rows()[3:5, 0].tolist() == [0, 1]
