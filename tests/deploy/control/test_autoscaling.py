"""The policy of shard counts, on made-up load."""

import itertools
import random

import pytest

from rowloom.deploy.config.sections import Autoscale
from rowloom.deploy.control.autoscaling import UP_S, Autoscaler, Meter, ShardLoad, wanted_of
from rowloom.proto import rowloom_pb2 as pb

GIB = 1 << 30
BY_SIZE = Autoscale(min=1, max=8, target_bytes_per_shard=4 * GIB, cooldown=300)
BY_WORK = Autoscale(min=1, max=8, target_qps_per_shard=1000, cooldown=300)


def loads(n, gib=0.0, rows_per_s=0.0):
    """Of n shards that have so much together, spread evenly."""
    return [ShardLoad(int(gib * GIB / n), rows_per_s / n)] * n


def played(policy, n, load, seconds, step=15):
    """The cluster does at once what is decided. load: (second, n) -> loads. Returns (second, count) of each change."""
    autoscaler, changes = Autoscaler(policy), []
    for second in range(0, seconds, step):
        decision = autoscaler.look(float(second), load(second, n))
        if decision.shards != n:
            n = decision.shards
            changes.append((second, n))
    return changes


@pytest.mark.parametrize(
    ("policy", "n", "gib", "rows", "wanted"),
    [
        (BY_SIZE, 2, 8.0, 0, 2),  # on target
        (BY_SIZE, 2, 8.7, 0, 2),  # within a tenth of it
        (BY_SIZE, 2, 9.0, 0, 3),
        (BY_SIZE, 2, 30.0, 0, 8),
        (BY_SIZE, 2, 300.0, 0, 8),  # no more than max
        (BY_SIZE, 4, 0.0, 0, 1),
        (BY_WORK, 2, 100.0, 2000, 2),
        (BY_WORK, 2, 0, 4100, 5),
        (Autoscale(min=3, max=8, target_qps_per_shard=1000), 4, 0, 10, 3),
        (Autoscale(max=8, target_bytes_per_shard=GIB, target_qps_per_shard=1000), 2, 5.0, 3000, 5),
        (Autoscale(max=8, target_bytes_per_shard=GIB, target_qps_per_shard=1000), 2, 2.0, 6000, 6),
        (Autoscale(max=3, target_bytes_per_shard=GIB), 5, 5.0, 0, 3),  # by hand beyond max
    ],
)
def test_the_load_is_spread_over_as_many_shards_as_bring_each_to_its_target(policy, n, gib, rows, wanted):
    found, why = wanted_of(policy, loads(n, gib, rows))
    assert found == wanted, why


def test_steady_load_is_met_once_and_then_left_alone():
    changes = played(BY_WORK, 1, lambda _, n: loads(n, rows_per_s=3500), 4000)
    assert changes == [(300, 4)]


def test_a_burst_that_is_over_sooner_than_it_takes_to_be_sure_moves_nothing():
    def load(second, n):
        return loads(n, rows_per_s=8000 if second % 600 < UP_S - 15 else 900)

    assert played(BY_WORK, 1, load, 6000) == []


def test_fewer_shards_come_only_after_a_whole_cooldown_has_wanted_fewer():
    def load(second, n):
        return loads(n, rows_per_s=4000 if second < 1000 or 1200 <= second < 1230 else 1000)

    changes = played(BY_WORK, 4, load, 4000)
    assert [count for _, count in changes] == [1]
    assert changes[0][0] >= 1230 + BY_WORK.cooldown


def test_after_a_change_by_hand_nothing_happens_for_a_cooldown():
    autoscaler = Autoscaler(BY_WORK)
    for second in range(0, 1000, 15):
        assert autoscaler.look(second, loads(2, rows_per_s=2000)).shards == 2
    for second in range(1000, 1290, 15):  # somebody scaled to 5
        decision = autoscaler.look(second, loads(5, rows_per_s=2000))
        assert decision.shards == 5
        assert "not before" in decision.why
    assert autoscaler.look(1315, loads(5, rows_per_s=2000)).shards == 2


@pytest.mark.parametrize("seed", range(20))
def test_whatever_the_load_changes_keep_their_distance_and_the_bounds(seed):
    rng = random.Random(seed)
    policy = Autoscale(min=2, max=6, target_bytes_per_shard=GIB, target_qps_per_shard=1000, cooldown=120)
    level = [rng.uniform(0, 9) for _ in range(50)]
    changes = played(
        policy,
        3,
        lambda s, n: loads(n, level[s // 200] * rng.uniform(0.7, 1.3), 1000 * rng.uniform(0, 7)),
        9000,
    )
    assert changes
    assert all(2 <= count <= 6 for _, count in changes)
    assert all(b - a >= policy.cooldown for (a, _), (b, _) in itertools.pairwise(changes))


def test_requests_that_go_to_every_shard_do_not_add_shards_for_ever():
    # 500 calls a second of 4 rows: each shard gets each call, and its share of the rows.
    changes = played(BY_WORK, 1, lambda _, n: loads(n, rows_per_s=500 * 4), 9000)
    assert changes == [(300, 2)]


def test_a_shard_that_has_most_of_the_rows_is_named():
    uneven = [ShardLoad(9 * GIB, 0), ShardLoad(GIB, 0)]
    _, why = wanted_of(BY_SIZE, uneven)
    assert "shard 0 has 1.8 times the mean: another `partition` may spread better" in why


# ---------------------------------------------------------------------------------------------------------- the meter


def status(index=0, health="serving", up=10.0, rows=0, size=0, incarnation=None):
    figures = pb.StatisticsReply(uptime_s=up, pulled_rows=rows, tables=[pb.TableStatistics(bytes=size)])
    shard = pb.ShardAddress(index=index, incarnation=incarnation or index + 1)
    return pb.ShardStatus(shard=shard, health=health, statistics=figures)


def test_rates_are_of_the_time_between_two_looks():
    meter = Meter()
    assert isinstance(meter.loads([status(rows=1_000_000)]), str)
    assert meter.loads([status(up=20.0, rows=1_005_000, size=7)]) == [ShardLoad(7, 500.0)]
    assert meter.loads([status(up=30.0, rows=1_005_000, size=8)]) == [ShardLoad(8, 0.0)]


def test_nothing_is_decided_while_a_shard_is_dead_or_has_just_come_back():
    meter = Meter()
    meter.loads([status(0), status(1)])
    dead = meter.loads([status(0, up=20), status(1, "dead", up=0)])
    assert dead == "nothing is decided while shard 1 is dead"
    assert meter.loads([status(0, up=30), status(1, up=1.0, incarnation=99)]) == "not looked long enough yet"
    assert isinstance(meter.loads([status(0, up=40), status(1, up=11.0, incarnation=99)]), list)
