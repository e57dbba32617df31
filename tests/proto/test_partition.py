"""The partition formulas against plain Python loops, the golden vectors, and themselves."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rowloom.proto import partition

LARGEST = 2**63 - 1
STRATEGIES = ["mod", "div"]


def loop(v: int, n: int, strategy: str) -> list[list[int]]:
    """Which ids each shard owns, in their order there: dealt out like cards, or cut into runs."""
    shards: list[list[int]] = [[] for _ in range(n)]
    if strategy == "mod":
        for i in range(v):
            shards[i % n].append(i)
        return shards
    i = 0
    for shard in range(n):
        for _ in range(v // n + (1 if shard < v % n else 0)):
            shards[shard].append(i)
            i += 1
    return shards


def owned(v: int, n: int, strategy: str) -> list[list[int]]:
    """The same through `shard_of` and `local_of`."""
    ids = np.arange(v, dtype=np.int64)
    shards = partition.shard_of(ids, n, strategy, v)
    locals_ = partition.local_of(ids, n, strategy, v)
    out: list[list[int]] = []
    for shard in range(n):
        mine = ids[shards == shard]
        places = locals_[shards == shard]
        assert sorted(places.tolist()) == list(range(len(mine))), "places are 0, 1, 2 … without holes"
        out.append(mine[np.argsort(places)].tolist())
    return out


def test_thirteen_ids_over_five_shards_are_split_as_tensorflow_documents_it():
    assert owned(13, 5, "mod") == [[0, 5, 10], [1, 6, 11], [2, 7, 12], [3, 8], [4, 9]]
    assert owned(13, 5, "div") == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9, 10], [11, 12]]


def test_ten_ids_over_four_shards_give_three_three_two_two():
    assert owned(10, 4, "div") == [[0, 1, 2], [3, 4, 5], [6, 7], [8, 9]]
    assert [partition.size_of(i, 4, "div", 10) for i in range(4)] == [3, 3, 2, 2]
    assert [partition.size_of(i, 4, "mod", 10) for i in range(4)] == [3, 3, 2, 2]


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("n", range(1, 40))
def test_every_split_of_up_to_two_hundred_ids_equals_a_plain_loop(strategy, n):
    for v in range(200):
        expected = loop(v, n, strategy)
        assert owned(v, n, strategy) == expected, (v, n)
        assert [partition.size_of(i, n, strategy, v) for i in range(n)] == [len(s) for s in expected], (v, n)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("n", range(1, 40))
def test_the_way_back_gives_every_id_exactly_once(strategy, n):
    for v in range(0, 200, 7):
        back = [
            partition.id_of(shard, np.arange(partition.size_of(shard, n, strategy, v)), n, strategy, v)
            for shard in range(n)
        ]
        assert [b.tolist() for b in back] == loop(v, n, strategy), (v, n)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_fewer_ids_than_shards_leave_the_last_shards_empty(strategy):
    assert owned(3, 5, strategy) == [[0], [1], [2], [], []]
    assert partition.size_of(3, 5, strategy, 3) == 0


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_one_shard_owns_every_id_at_its_own_place(strategy):
    ids = np.array([5, 0, LARGEST - 1, 5])
    assert partition.shard_of(ids, 1, strategy, LARGEST).tolist() == [0, 0, 0, 0]
    assert partition.local_of(ids, 1, strategy, LARGEST).tolist() == ids.tolist()


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_no_ids_give_no_shards(strategy):
    none = np.empty(0, np.int64)
    assert partition.shard_of(none, 3, strategy, 10).shape == (0,)
    assert partition.local_of(none, 3, strategy, 10).shape == (0,)


@settings(deadline=None, max_examples=300)
@given(data=st.data(), n=st.integers(1, 5000), strategy=st.sampled_from(STRATEGIES))
def test_the_largest_tables_are_split_as_exact_integers_say(data, n, strategy):
    v = data.draw(st.one_of(st.integers(1, LARGEST), st.integers(LARGEST - 2 * n, LARGEST)))
    ids = data.draw(st.lists(st.one_of(st.integers(0, v - 1), st.integers(max(0, v - 3), v - 1)), min_size=1))
    array = np.array(ids, np.int64)
    shards = partition.shard_of(array, n, strategy, v)
    locals_ = partition.local_of(array, n, strategy, v)
    assert shards.dtype == locals_.dtype == np.int64
    assert ((shards >= 0) & (shards < n)).all()
    q, r = divmod(v, n)
    for i, shard, local in zip(ids, shards.tolist(), locals_.tolist(), strict=True):
        first = shard * q + min(shard, r)
        assert i == (local * n + shard if strategy == "mod" else first + local)
        assert 0 <= local < partition.size_of(shard, n, strategy, v)
        assert partition.id_of(shard, np.array([local]), n, strategy, v).tolist() == [i]


def test_the_largest_id_of_an_open_ended_table_is_split_by_mod():
    ids = np.array([LARGEST, LARGEST - 1], np.int64)
    assert partition.shard_of(ids, 7, "mod").tolist() == [LARGEST % 7, (LARGEST - 1) % 7]
    assert partition.id_of(LARGEST % 7, np.array([LARGEST // 7]), 7, "mod").tolist() == [LARGEST]


def test_div_refuses_a_table_of_open_ended_ids():
    with pytest.raises(ValueError, match="div needs num_embeddings: a table of open-ended ids"):
        partition.shard_of(np.array([1]), 2, "div", None)


def test_arguments_are_not_modified():
    ids = np.array([9, 4, 4, 0])
    for strategy in STRATEGIES:
        partition.shard_of(ids, 3, strategy, 10)
        partition.local_of(ids, 3, strategy, 10)
    partition.mix(ids)
    assert ids.tolist() == [9, 4, 4, 0]


def splitmix_finalizer(x: int) -> int:
    mask = 2**64 - 1
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 & mask
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB & mask
    return (x ^ (x >> 31)) >> 1


@given(st.lists(st.integers(0, LARGEST), min_size=1))
def test_the_hash_equals_exact_integers_and_is_never_negative(ids):
    assert partition.mix(np.array(ids, np.int64)).tolist() == [splitmix_finalizer(i) for i in ids]


def test_the_hash_spreads_ids_that_share_a_factor_with_the_shard_count():
    ids = np.arange(0, 64_000, 64)
    plain = np.bincount(partition.shard_of(ids, 8, "mod"), minlength=8)
    hashed = np.bincount(partition.shard_of(partition.mix(ids), 8, "mod"), minlength=8)
    assert plain.tolist() == [1000, 0, 0, 0, 0, 0, 0, 0]
    assert hashed.min() > 80
    assert hashed.max() < 180


def test_the_hash_keeps_its_values_for_ever():
    # Tables with hash_ids would lose their rows if these changed.
    golden = [0, 3119036373970289394, 7919892530791287365, 6974302454251943275, 3257252066719100766]
    assert partition.mix(np.array([0, 1, 2, 1000, LARGEST])).tolist() == golden
