"""Snapshots while pushes are on one shard and not yet on another: each push is in them whole, or not at all."""

import numpy as np
import pytest
from simulation.lab import ROWS, Lab
from simulation.world import Cut

from rowloom.client.calls import operations as ops
from rowloom.client.calls.cutting import RequestSizes
from rowloom.deploy.control import hold
from rowloom.proto import methods
from rowloom.proto import rowloom_pb2 as pb
from rowloom.proto.errors import Unavailable
from rowloom.proto.spec import TableEntry
from rowloom.server import ledger
from rowloom.server.durable.log import Mode


def start(lab: Lab, operation, *, cut_in: int | None = None) -> list:
    """What it ends with, later. cut_in: before which of its events an exception ends it."""
    out: list = []
    lab.world.operate(lab.session, operation, out.append).cut_in = cut_in
    return out


def late_at(lab: Lab, shard: int, delay_s: float) -> None:
    """Pushes reach a shard so much later."""
    address = lab.node.shards[shard].address
    node = lab.world.nodes[address]

    def late(method, data, answer):
        if method == methods.PUSH:
            lab.world.at(delay_s, node, method, data, answer)
        else:
            node(method, data, answer)

    lab.world.nodes[address] = late


@pytest.mark.parametrize("mode", [Mode.MEMORY, Mode.DISK])
@pytest.mark.parametrize("delay_s", [0.01, 0.5, 1.5, 8.0])
def test_a_push_that_has_begun_is_let_in_everywhere_before_the_cut(delay_s: float, mode: Mode) -> None:
    # It was in snapshots on one shard and not on the other.
    for seed in range(10):
        lab = Lab(seed, 2, mode=mode)
        lab.world.linger = 0.0
        lab.do(lab.push([0, 1]))
        late_at(lab, 1, delay_s)
        out = start(lab, lab.push([0, 1]))
        lab.world.run(lambda lab=lab: lab.shards()[0].counters.pushes == 2)
        began = lab.world.now
        assert lab.snapshot() == {0: 2, 1: 2}
        assert lab.world.now - began < delay_s + 4
        lab.world.run(lambda out=out: bool(out))
        assert out == [None]


def half_a_push(seed: int) -> Lab:
    """A world in which a push is on shard 0, and its client died before shard 1 had it."""
    lab = Lab(seed, 2)
    lab.world.linger = 0.0
    lab.do(lab.push([0, 1]))
    late_at(lab, 1, 1e6)
    out = start(lab, lab.push([0, 1]), cut_in=1)
    lab.world.run(lambda: bool(out))
    assert isinstance(out[0], Cut)
    del lab.world.nodes[lab.node.shards[1].address]
    lab.world.nodes[lab.node.shards[1].address] = lab.node.shards[1]._arrive
    return lab


def test_a_client_that_died_in_the_middle_of_a_push_holds_others_up_once_and_not_for_long() -> None:
    lab = half_a_push(1)
    other = lab.world.session([lab.node.ADDRESS], 2)
    longest = 0.0

    def train(outcome=None, since: float = 0.0) -> None:
        nonlocal longest
        assert not isinstance(outcome, Exception), outcome
        longest = max(longest, lab.world.now - since)
        since = lab.world.now
        given = [(lab.entry, np.array([2, 3]), -np.ones((2, 3), np.float32))]
        operation = ops.push(other, given, since + 60)
        lab.world.operate(other, operation, lambda outcome: train(outcome, since))

    train(since=lab.world.now)
    began = lab.world.now
    taken = lab.snapshot()
    assert taken[0] == 2
    assert taken[1] == 1  # its caller was told that nobody knows
    assert taken[2] == taken[3]
    assert lab.world.now - began < hold.HOLD_S[0] + hold.GONE_S + 2
    assert longest < hold.HOLD_S[0] + 0.2
    began, longest = lab.world.now, 0.0
    assert lab.snapshot()[1] == 1
    assert lab.world.now - began < 1.0  # most of it to write it
    assert longest < 0.2


def test_a_client_whose_push_was_cut_is_waited_for_no_more_once_it_goes_on() -> None:
    lab = half_a_push(2)
    lab.do(lab.push([0]))  # to shard 0 alone
    began = lab.world.now
    assert lab.snapshot() == {0: 3, 1: 1}
    assert lab.world.now - began < 1.0


def test_a_push_in_many_requests_to_one_shard_is_in_a_snapshot_whole() -> None:
    for seed in range(10):
        lab = Lab(seed, 1)
        lab.session.sizes = RequestSizes(whole=100, piece=60)
        lab.world.linger = 0.0
        lab.do(lab.push(list(range(ROWS))))
        late_at(lab, 0, 0.1)
        before = lab.shards()[0].counters.pushes
        out = start(lab, lab.push(list(range(ROWS))))
        lab.world.run(lambda lab=lab, n=before: lab.shards()[0].counters.pushes == n + 5)
        assert set(lab.snapshot().values()) == {2}
        lab.world.run(lambda out=out: bool(out))


@pytest.mark.parametrize("shards", [3, 5])
def test_a_push_that_was_split_by_a_scaling_is_in_a_snapshot_whole(shards: int) -> None:
    # Its parts are counted as shares: those of the old layout, and pieces of the new one.
    whole = set()
    for seed in range(20):
        lab = Lab(seed, 2)
        lab.world.linger, lab.session.sizes = 0.0, RequestSizes()
        rows = list(range(ROWS))
        lab.do(lab.push(rows))
        late_at(lab, 1, 0.3)
        out = start(lab, lab.push(rows))
        lab.world.run(lambda lab=lab: lab.shards()[0].counters.pushes == 2)
        assert lab.scale(shards) is None
        for node in lab.node.shards:
            late_at(lab, node, 0.2 * lab.world.rng.random())
        moment = lab.world.now + 0.4 * lab.world.rng.random()
        lab.world.at(0.4, lambda: None)
        lab.world.run(lambda lab=lab, moment=moment: lab.world.now > moment)
        taken = lab.snapshot()
        assert len(set(taken.values())) == 1, taken
        whole.update(taken.values())
        lab.world.run(lambda out=out: bool(out))
        assert out == [None]
        assert set(lab.rows()[:, 0]) == {2}
    assert whole == {2}


def test_a_shard_that_has_long_forgotten_a_client_keeps_no_snapshot_waiting(monkeypatch) -> None:
    monkeypatch.setattr(ledger, "MOST_EVICTED", 0)
    lab = half_a_push(3)
    for shard in lab.shards():
        shard.ledger.max_clients = 1
    lab.session = lab.world.session([lab.node.ADDRESS], 2)
    lab.do(lab.push([1]))  # so shard 1 knows nothing of the first client any more
    began = lab.world.now
    assert lab.snapshot() == {0: 2, 1: 2}
    assert lab.world.now - began < 1.0


def test_a_push_is_whole_although_one_of_its_shards_has_forgotten_its_client_meanwhile() -> None:
    # Nobody said any more that it had begun: it was in snapshots on that shard alone.
    lab = Lab(6, 2)
    lab.world.linger = 0.0
    lab.do(lab.push([0, 1]))
    late_at(lab, 1, 0.5)
    out = start(lab, lab.push([0, 1]))
    lab.world.run(lambda: lab.shards()[0].counters.pushes == 2)
    lab.shards()[0].ledger.max_clients = 1
    lab.session = lab.world.session([lab.node.ADDRESS], 2)
    lab.do(lab.push([2]))
    assert not lab.shards()[0].ledger.knows(1)
    assert lab.snapshot() == {0: 2, 1: 2, 2: 1}
    assert out == [None]


def test_a_push_is_known_to_be_whole_after_its_shards_started_again() -> None:
    # One of them from a snapshot, the other one goes on: had it forgotten its share, every snapshot would wait.
    lab = Lab(4, 2, mode=Mode.PROCESS)
    lab.world.linger = 0.0
    lab.do(lab.push([0, 1]))
    lab.snapshot(), lab.snapshot()
    lab.node.shards[1].kill(0.1)
    lab.world.run(lambda: bool(lab.world.injected["shard read from its log"]))
    lab.settle()
    began = lab.world.now
    assert lab.snapshot() == {0: 1, 1: 1}
    assert lab.world.now - began < 1.0


def test_a_snapshot_of_pushes_that_never_end_is_given_up_and_pushes_go_on() -> None:
    lab = Lab(5, 2)
    lab.world.linger = 0.0
    lab.do(lab.push([0, 1]))
    late_at(lab, 1, 6.0)  # longer than any hold
    out = start(lab, lab.push([0, 1]))
    again = lambda _: out.append(None) or lab.world.operate(lab.session, lab.push([0, 1]), again)  # noqa: E731
    lab.world.run(lambda: bool(out))
    again(None)
    taken = lab.outcome(lab.node.snapshot)
    assert isinstance(taken, Unavailable)
    assert "take so long that no moment was found" in str(taken)
    before = len(out)
    lab.world.run(lambda: len(out) > before + 1)


def test_a_table_that_a_late_message_left_on_one_shard_is_in_no_snapshot() -> None:
    # No snapshot could be taken any more: its shards did not have the same tables.
    lab = Lab(7, 2)
    lab.do(lab.push([0, 1]))
    lab.shards()[0].create_table(TableEntry(99, lab.entry.spec))
    assert lab.snapshot() == {0: 1, 1: 1}


def test_what_is_whole_is_seen_from_the_shares_of_all_shards() -> None:
    def report(*shares: tuple[int, int, int, int], push: int = 7, client: int = 1) -> list[pb.LatestPush]:
        some = [pb.PushShare(epoch=e, shard=s, count=c, of=of) for e, s, c, of in shares]
        return [pb.LatestPush(client_id=client, push=push, shares=some)]

    half, other = report((1, 0, 1, 2)), report((1, 1, 1, 2))
    assert not hold.unfinished([half, other])
    assert hold.unfinished([half, []])[1][0] == 7
    assert hold.unfinished([half, half])  # the same half, inherited by two shards
    assert not hold.unfinished([half, report((2, 1, 1, 4)), report((2, 0, 1, 4))])
    assert not hold.unfinished([half, report(push=8)])  # its client has gone on
    assert not hold.unfinished([half, [pb.LatestPush(client_id=1, forgotten=True)]])
    assert not hold.unfinished([report((1, 0, 1, 3), (1, 1, 2, 3)), report((1, 1, 1, 3))])
