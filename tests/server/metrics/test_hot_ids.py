"""The ids that a shard is asked for most: what is counted of them, how wrong it may be, and that chance picks them."""

from collections import Counter

import numpy as np
import pytest

from rowloom.client import SGD, TableSpec
from rowloom.proto import rowloom_pb2 as pb
from rowloom.proto.codec import Block, PartName, Pull, Push
from rowloom.proto.layout import Layout, ShardAddress
from rowloom.proto.spec import TableEntry
from rowloom.server.metrics import hot_ids
from rowloom.server.metrics.families import HOTTEST, shard_families
from rowloom.server.metrics.hot_ids import EVERY, FADES_AT, MOST, RECENT, HotIds, HotTables
from rowloom.server.shard import Shard

CALL = 1 << 20  # ids
ENTRIES = [TableEntry(k, TableSpec(f"t{k}", 1 << 20, dim=1, optimizer=SGD(lr=1.0))) for k in (1, 2)]


def sampled(hot: HotIds, calls: list[np.ndarray]) -> Counter[int]:
    """Show it the ids of calls. Returns how often each was looked at: of one call, fewer than it remembers."""
    found: Counter[int] = Counter()
    for ids in calls:
        before = hot.hottest(1).looked_at
        hot.see(ids)
        new = hot.hottest(1).looked_at - before
        assert new < RECENT
        places = np.arange(before, before + new) % RECENT
        found.update(hot._recent[places].tolist())
    return found


def test_no_count_is_too_high_and_none_lacks_more_than_was_taken():
    rng = np.random.default_rng(1)
    hot = HotIds(key=12345)
    seen = sampled(hot, [np.minimum(rng.zipf(1.1, CALL), 1 << 40) for _ in range(20)])
    found = hot.hottest(MOST)
    assert found.seen == found.looked_at == sum(seen.values())
    assert 0 < found.taken <= 2 * found.seen / MOST
    places = np.flatnonzero(hot._counts)
    counted = dict(zip(hot._ids[places].tolist(), hot._counts[places].tolist(), strict=True))
    assert all(count <= seen[row_id] <= count + found.taken for row_id, count in counted.items())
    assert all(row_id in counted for row_id, count in seen.items() if count > found.taken)
    first = [row_id for row_id, _ in seen.most_common(5)]
    assert found.ids[:5].tolist() == first
    np.testing.assert_allclose(found.shares[:5], [seen[row_id] / found.seen for row_id in first], atol=1e-3)


def test_chance_looks_at_each_place_of_what_comes_in_order():
    hot = HotIds(key=7)
    for _ in range(64):
        hot.see(np.arange(CALL) % 8)
    found = hot.hottest(10)
    assert found.looked_at == pytest.approx(64 * CALL / EVERY, rel=0.02)
    assert sorted(found.ids.tolist()) == list(range(8))
    np.testing.assert_allclose(found.shares, 1 / 8, atol=0.01)
    alone = HotIds(key=8)
    for k in range(400_000):
        alone.see(np.array([k % 2, 2 + k % 2]))
    assert sorted(alone.hottest(4).ids.tolist()) == [0, 1, 2, 3]


def test_what_was_hot_long_ago_fades():
    hot = HotIds(key=3)
    first, second = (np.full(CALL * 8, row_id) for row_id in (1, 2))
    while hot.hottest(1).looked_at < FADES_AT - 1:
        hot.see(first)
    assert hot.hottest(2).ids.tolist() == [1]
    while hot.hottest(1).looked_at < 2 * FADES_AT:
        hot.see(second)
    found = hot.hottest(2)
    assert found.ids.tolist() == [2, 1]
    assert found.seen < FADES_AT
    assert found.shares[0] > 0.6


def test_what_was_seen_once_does_not_stand_out():
    hot = HotIds(key=5)
    hot.see(np.arange(CALL))
    assert hot.hottest(10).looked_at > 900
    assert len(hot.hottest(10).ids) == 0
    assert hot.recent().shape == (hot.hottest(1).looked_at,)


def test_tables_beyond_the_limit_are_not_counted_and_one_that_is_dropped_makes_room(monkeypatch):
    monkeypatch.setattr(hot_ids, "MOST_TABLES", 2)
    tables = HotTables(key=1)
    ids = np.full(CALL, 9)
    for number in (1, 2, 3):
        tables.see(number, ids)
    assert [len(tables.of(number).hottest(1).ids) for number in (1, 2, 3)] == [1, 1, 0]
    tables.forget(1)
    tables.see(3, ids)
    assert [len(tables.of(number).hottest(1).ids) for number in (1, 2, 3)] == [0, 1, 1]


def test_a_shard_counts_ids_that_are_pulled_and_pushed_and_its_metrics_have_shares_and_no_ids():
    shard = Shard(Layout("c", 1, (ShardAddress(0, "h:1", 1),)), 0, ENTRIES, key=77)
    header = shard.layout.header(0)
    ids = np.full(50_000, 123_456)
    for _ in range(4):
        shard.pull(Pull(header, [(1, ids)]))
    assert shard.statistics().tables[0].hottest_share == 1.0
    ones = Block(np.ones((len(ids), 1), np.float32))
    for seq in range(1, 5):
        other = [(1, ids + 1, ones)]
        assert not shard.push(Push(header, 7, (PartName(1, 0, seq),), push=seq, tables=other))
    said = shard.statistics()
    one, two = said.tables
    assert one.sampled_ids == pytest.approx(400, abs=60)
    assert one.hottest_share == pytest.approx(0.5, abs=0.1)
    assert one.hottest_10_share == 1.0
    assert (two.sampled_ids, two.hottest_share) == (0, 0.0)
    (family,) = [family for family in shard_families(said) if family.name == HOTTEST.name]
    labels = [sample.labels for sample in family.samples]
    assert labels == [{"table": "t1", "ids": "1"}, {"table": "t1", "ids": "10"}]
    shard.drop_table(1)
    shard.create_table(ENTRIES[0])
    assert shard.statistics().tables[-1].sampled_ids == 0


def test_the_reply_has_so_many_ids_as_are_asked_for_and_the_sample_only_if_it_is():
    tables = HotTables(key=2)
    tables.see(1, np.arange(CALL) % 4)
    reply = tables.message(pb.HottestIdsRequest(table=1, limit=3))
    assert (len(reply.ids), len(reply.counts), reply.recent) == (24, 3, b"")
    reply = tables.message(pb.HottestIdsRequest(table=1, limit=2**32 - 1, recent=True))
    assert (len(reply.ids), len(reply.recent)) == (32, 8 * reply.sampled_ids)
    assert tables.message(pb.HottestIdsRequest(table=2, limit=3, recent=True)) == pb.HottestIdsReply()


def test_a_shard_answered_nobody_while_its_counts_were_compiled():
    """On a new machine, for seconds: a call that counted waited for the compiler, and held the shard's lock."""
    hot, ids = HotIds(key=5), np.arange(64 * EVERY)
    with hot_ids.compiled_after():
        for _ in range(100):
            hot.see(ids)
        assert hot.hottest(10).looked_at == 0
        assert len(hot._picked) == 64
    assert hot.hottest(10).looked_at == 64
