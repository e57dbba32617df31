"""The hottest ids of a table, put together from what its shards say."""

import numpy as np
import pytest

from rowloom.client.hottest import merged
from rowloom.proto import rowloom_pb2 as pb


def reply(counts: dict[int, int], seen: int, taken: int = 0, sampled: int = 0) -> pb.HottestIdsReply:
    ids = np.array(list(counts), "<i8").tobytes()
    return pb.HottestIdsReply(
        ids=ids, counts=list(counts.values()), seen=seen, taken=taken, sampled_ids=sampled or seen
    )


def test_a_shard_that_is_asked_for_more_counts_more():
    found = merged([reply({0: 50, 2: 10}, 100), reply({1: 90, 3: 60}, 900)], 3)
    assert found.ids.tolist() == [1, 3, 0]
    assert found.shards.tolist() == [1, 1, 0]
    np.testing.assert_allclose(found.shares, [0.09, 0.06, 0.05])
    assert found.sampled == 1000
    assert found.words(2) == "1 (9.0 %), 3 (6.0 %)"


def test_a_shard_whose_counts_were_halved_counts_no_less():
    found = merged([reply({0: 50}, 100, sampled=1600), reply({1: 50}, 100, sampled=400)], 2)
    np.testing.assert_allclose(found.shares, [0.4, 0.1])


def test_what_the_counts_may_be_wrong_by_is_told_as_a_share_of_all():
    replies = [reply({5: 50}, 100, 10), reply({6: 80}, 300)]
    assert merged(replies, 1).error == pytest.approx(10 / 400)


def test_nothing_seen_is_nothing():
    for nobody in ([], [reply({}, 0), reply({}, 0)]):
        found = merged(nobody, 10)
        assert (found.ids.shape, found.shares.shape, found.sampled, found.words()) == ((0,), (0,), 0, "")
