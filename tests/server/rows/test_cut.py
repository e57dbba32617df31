"""A cut of rows against a copy of everything at that moment, while rows come, change and go."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rowloom.server.rows.rows import Rows

WIDTHS = [2, 3]


class Life:
    """Rows that change at random, with a dict that says what they are."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.rows = Rows(WIDTHS, 10**6, "t")
        self.rows.track()
        self.known: dict[int, list[list[float]]] = {}

    def change(self) -> None:
        """Some rows are written, some are removed; new ones take their places."""
        ids = self.rng.integers(0, 60, self.rng.integers(0, 12))
        if self.rng.random() < 0.3:
            self.rows.remove(ids)
            for i in ids.tolist():
                self.known.pop(i, None)
            return
        self.rows.reserve(ids)
        numbers, _ = self.rows.insert(ids)
        self.rows.touch(numbers)
        for column in self.rows.columns:
            column[numbers] = self.rng.integers(0, 1000, (len(ids), column.shape[1]))
        for i, number in zip(ids.tolist(), numbers, strict=True):
            self.known[i] = [column[number].tolist() for column in self.rows.columns]


@given(st.integers(0, 2**32 - 1), st.integers(1, 20))
def test_a_cut_is_what_was_there_whatever_changes_while_it_is_read(seed: int, block: int) -> None:
    life = Life(seed)
    for _ in range(3):
        for _ in range(5):
            life.change()
        then, cut, found = dict(life.known), life.rows.begin_cut(), {}
        marks = dict(zip(life.rows.ids_of(life.rows.numbers()).tolist(), range(10**6), strict=False))
        while not cut.done:
            life.change()
            ids, touched, columns = life.rows.read_cut(block)
            assert (touched < cut.generation).all()
            assert not found.keys() & set(ids.tolist())
            for k, i in enumerate(ids.tolist()):
                found[i] = [column[k].tolist() for column in columns]
            life.change()
        assert found == then
        assert found.keys() == marks.keys()
        assert cut.saved_bytes == 0
        life.rows.end_cut()


def test_what_changed_before_and_after_a_cut_is_told_apart() -> None:
    rows = Rows([1], 100, "t")
    rows.track()
    rows.reserve(np.arange(6))
    rows.insert(np.arange(6))
    first = rows.begin_cut()
    rows.touch(np.array([2, 2, 4], np.int32))
    assert first.saved_bytes == 2 * 20
    _, touched, _ = rows.read_cut(10)
    assert touched.tolist() == [1] * 6  # as they were marked at the cut
    rows.end_cut()
    assert rows.changed_since(first.generation).tolist() == [2, 4]
    second = rows.begin_cut()
    rows.touch(np.array([4, 5], np.int32))
    assert rows.read_cut(10).touched.tolist() == [1, 1, first.generation, 1, first.generation, 1]
    rows.end_cut()
    assert rows.changed_since(second.generation).tolist() == [4, 5]


def test_copies_of_rows_that_were_read_are_let_go() -> None:
    rows = Rows([8], 10**5, "t")
    rows.track()
    rows.reserve(np.arange(1000))
    numbers, _ = rows.insert(np.arange(1000))
    cut = rows.begin_cut()
    rows.touch(numbers)
    assert cut.saved_bytes == 1000 * (16 + 32)
    rows.read_cut(400)
    assert cut.saved_bytes == 600 * (16 + 32)
    rows.touch(numbers)
    assert cut.saved_bytes == 600 * (16 + 32)


@pytest.mark.parametrize("count", [0, 1])
def test_a_cut_of_few_rows(count: int) -> None:
    rows = Rows([1], 10, "t")
    rows.track()
    rows.reserve(np.arange(count))
    rows.insert(np.arange(count))
    cut = rows.begin_cut()
    assert cut.done == (count == 0)
    assert rows.read_cut(5).ids.tolist() == list(range(count))
    assert cut.done


def test_a_row_that_changes_while_a_cut_is_read_has_the_mark_of_now_also_after_later_generations() -> None:
    # A cut marked rows with its own generation: a pass of a move that had begun since would not have seen them.
    rows = Rows([1], 100, "t")
    rows.track()
    ids = np.arange(6)
    rows.reserve(ids)
    numbers, _ = rows.insert(ids)
    rows.begin_cut()
    later = rows.next_generation()
    rows.touch(numbers[2:4])
    assert rows.changed_since(later).tolist() == [2, 3]
    rows.columns[0][2:4] = 7.0
    assert rows.read_cut(10).columns[0].reshape(-1).tolist() == [0.0] * 6
