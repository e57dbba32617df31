"""Rows by id against a dict: numbers given and given again, columns that are zeros at first, and what changed."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rowloom.proto.errors import Overloaded
from rowloom.server.rows import memory
from rowloom.server.rows.rows import Rows

IDS = st.lists(st.integers(0, 2**63 - 1) | st.integers(0, 40), max_size=60)


def inserted(rows: Rows, ids) -> np.ndarray:
    ids = np.array(ids, np.int64)
    rows.reserve(ids)
    return rows.insert(ids)[0]


@given(st.lists(st.tuples(st.booleans(), IDS), max_size=12), st.integers(0, 2**63 - 1))
def test_rows_come_and_go_like_the_entries_of_a_dict(batches: list[tuple[bool, list[int]]], key: int) -> None:
    rows, numbers, freed = Rows([1], 10**6, "dict", key), {}, []
    for comes, batch in batches:
        ids = np.array(batch, np.int64)
        if comes:
            end = len(numbers) + len(freed)
            for i in batch:
                if i not in numbers:
                    numbers[i] = freed.pop() if freed else end
                    end = max(end, numbers[i] + 1)
            assert inserted(rows, ids).tolist() == [numbers[i] for i in batch]
        else:
            gone = [numbers.pop(i) for i in dict.fromkeys(batch) if i in numbers]
            freed += gone
            assert rows.remove(ids).tolist() == gone
        assert rows.find(ids).tolist() == [numbers.get(i, -1) for i in batch]
        assert (rows.count, rows.end) == (len(numbers), len(numbers) + len(freed))
        assert rows.numbers().tolist() == sorted(numbers.values())
        of = {number: i for i, number in numbers.items()}
        assert rows.ids_of(rows.numbers()).tolist() == [of[number] for number in sorted(of)]


@pytest.mark.parametrize("key", [0, 12345678901234567])
def test_numbers_do_not_depend_on_the_key_of_the_hash(key: int) -> None:
    rng, rows = np.random.default_rng(0), Rows([1], 10**6, "t", key)
    first = inserted(rows, rng.integers(0, 1000, 500))
    rows.remove(rng.integers(0, 1000, 300))
    again = inserted(rows, rng.integers(0, 1000, 500))
    other, rng = Rows([1], 10**6, "t", 99), np.random.default_rng(0)
    np.testing.assert_array_equal(inserted(other, rng.integers(0, 1000, 500)), first)
    other.remove(rng.integers(0, 1000, 300))
    np.testing.assert_array_equal(inserted(other, rng.integers(0, 1000, 500)), again)


def test_after_many_removals_everything_is_still_found_and_the_index_is_as_quick() -> None:
    rows, rng = Rows([1], 10**6, "churn"), np.random.default_rng(1)
    there = np.zeros(50_000, bool)
    for _ in range(40):
        ids = rng.integers(0, 50_000, 3000)
        inserted(rows, ids)
        there[ids] = True
        gone = rng.integers(0, 50_000, 3000)
        rows.remove(gone)
        there[gone] = False
    np.testing.assert_array_equal(rows.find(np.arange(50_000)) >= 0, there)
    np.testing.assert_array_equal(np.sort(rows.ids_of(rows.numbers())), np.flatnonzero(there))
    assert rows.count == there.sum()
    assert rows.end <= 50_000


def test_the_index_grows_also_when_rows_have_gone() -> None:
    rows = Rows([1], 10**6, "t")
    inserted(rows, np.arange(700))
    rows.remove(np.arange(0, 700, 2))
    inserted(rows, np.arange(1000, 3000))
    assert (rows.find(np.arange(0, 700, 2)) == -1).all()
    np.testing.assert_array_equal(rows.ids_of(rows.find(np.arange(1, 700, 2))), np.arange(1, 700, 2))
    np.testing.assert_array_equal(rows.ids_of(rows.find(np.arange(1000, 3000))), np.arange(1000, 3000))


def test_rows_that_take_the_place_of_removed_ones_are_zeros() -> None:
    rows = Rows([3, 2], 100, "t")
    numbers = inserted(rows, [5, 6, 7])
    for column in rows.columns:
        column[numbers] = 1
    rows.remove(np.array([6, 6, 99]))
    new = inserted(rows, [60, 5])
    assert new.tolist() == [1, 0]
    assert rows.columns[0][:3].tolist() == [[1, 1, 1], [0, 0, 0], [1, 1, 1]]
    assert rows.columns[1][1].tolist() == [0, 0]


def test_a_full_table_takes_rows_again_when_some_have_gone(monkeypatch) -> None:
    monkeypatch.setattr(memory, "memory_bytes", lambda: 100 * (2 * 4 + 8))
    rows = Rows([2], 10**6, "small")
    inserted(rows, np.arange(100))
    with pytest.raises(Overloaded, match="cannot hold 1 more"):
        rows.reserve(np.array([100]))
    rows.remove(np.arange(10))
    assert sorted(inserted(rows, np.arange(100, 110)).tolist()) == list(range(10))
    with pytest.raises(Overloaded, match="100 rows on this shard"):
        rows.reserve(np.array([110]))


def test_ids_chosen_to_collide_are_looked_up_as_quickly_as_any() -> None:
    """60,000 of them once made a call take seconds: the hash was the same in every process."""
    inverse = pow(0x9E3779B97F4A7C15, -1, 1 << 64)
    rng = np.random.default_rng(0)
    low = rng.integers(0, 1 << 45, 200_000).astype(np.uint64)
    ids = np.unique((low * np.uint64(inverse)).astype(np.int64))
    ids = ids[ids >= 0][:60_000]
    assert len(ids) == 60_000
    for key in rng.integers(0, 2**63, 10).tolist():
        rows = Rows([1], 10**7, "t", key)
        inserted(rows, ids)
        assert steps(rows, ids) < 3 * len(ids)
    unkeyed = Rows([1], 10**7, "t", 0)
    inserted(unkeyed, ids[:2000])
    assert steps(unkeyed, ids[:2000]) > 500 * 2000  # what the test is about


def test_ids_in_order_are_spread_well_whatever_the_key_is() -> None:
    rng = np.random.default_rng(0)
    for key in rng.integers(0, 1 << 62, 30).tolist():
        rows, ids = Rows([1], 10**6, "t", key), np.arange(7000)
        inserted(rows, ids)
        assert steps(rows, ids) < 3 * len(ids)


def steps(rows: Rows, ids: np.ndarray) -> int:
    """Places that are looked at to find ids."""
    hash_, bits, key = rows._index.where
    mask, total = len(hash_) - 1, 0
    mixed = (ids.astype(np.uint64) ^ np.uint64(key)) * np.uint64(0x9E3779B97F4A7C15)
    at = (mixed >> np.uint64(64 - bits)).astype(np.int64)
    left = np.arange(len(ids))
    while len(left):
        total += len(left)
        left = left[rows._ids[hash_[at[left]]] != ids[left]]
        at[left] = (at[left] + 1) & mask
    return total


def test_what_changed_since_a_generation_is_what_was_touched_in_it_or_later() -> None:
    rows = Rows([1], 100, "t")
    inserted(rows, [1, 2, 3, 4])
    rows.track()
    assert rows.changed_since(0).tolist() == [0, 1, 2, 3]
    assert rows.changed_since(1).tolist() == []
    rows.touch(np.array([2], np.int32))
    assert rows.changed_since(1).tolist() == [2]
    second = rows.next_generation()
    inserted(rows, [4, 5])
    rows.touch(np.array([0], np.int32))
    assert rows.changed_since(second).tolist() == [0, 4]
    assert rows.changed_since(1).tolist() == [0, 2, 4]
    rows.remove(np.array([1]))
    assert rows.changed_since(second).tolist() == [4]
    inserted(rows, [77])  # takes the number of 1
    assert rows.changed_since(rows.next_generation()).tolist() == []
    assert rows.changed_since(second).tolist() == [0, 4]


def test_marks_of_change_cost_nothing_until_they_are_asked_for() -> None:
    rows = Rows([1], 10**6, "t")
    inserted(rows, np.arange(5000))
    before = rows.nbytes
    rows.track()
    rows.track()
    assert rows.nbytes == before + 4 * 5000
