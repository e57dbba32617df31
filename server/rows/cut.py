"""The rows of one table as they were at one moment, read block by block while they go on changing.

Why it is so. What must hold: every row is read as it was at the cut, and a push waits for no more than one block. So a
row that is about to change for the first time since the cut, and has not been read yet, is copied aside before; which
ones these are, the marks of change say. Reading a block takes the rows as they lie and puts those copies over them.
Rejected: a fork of the process (the first push after it took 100 ms, and huge pages were lost), and a copy of
everything at the cut (a second time the memory).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ...proto.jit import kernel

_FIRST_ROOM = 1024
_STRIDE = 16  # numbers looked at for one row, where few are wanted


class CutBlock(NamedTuple):
    """Rows of a cut, in the order of their numbers. ids [N] int64, touched [N] uint32, columns [N, width] float32."""

    ids: np.ndarray
    touched: np.ndarray
    columns: tuple[np.ndarray, ...]


class Cut:
    """A cut of one table. Callers hold the shard's lock.

    Args:
        end: all numbers are below, at the cut.
        generation: what rows that change after it are marked with.
        widths: of the columns.
        first: only rows that were marked with this or more before the cut; 0: all rows.

    Attributes:
        generation: see above.
        saved_bytes: what the copies take.
    """

    def __init__(self, end: int, generation: int, widths: Sequence[int], first: int = 0) -> None:
        self.generation = generation
        self._first = first
        self._end = end
        self._cursor = 0
        self._count = 0  # copies
        self._numbers = np.empty(0, np.int32)
        self._ids = np.empty(0, np.int64)
        self._touched = np.empty(0, np.uint32)
        self._columns = [np.empty((0, width), np.float32) for width in widths]
        self._row_bytes = 16 + 4 * sum(widths)

    @property
    def saved_bytes(self) -> int:
        """What the copies take."""
        return self._count * self._row_bytes

    @property
    def done(self) -> bool:
        """Whether all of it has been read."""
        return self._cursor >= self._end

    def save(
        self,
        numbers: np.ndarray,
        ids: np.ndarray,
        touched: np.ndarray,
        columns: Sequence[np.ndarray],
        mark: int,
    ) -> None:
        """Mark rows that are about to change, and copy those aside that have not changed since the cut.

        Args:
            numbers: [M] int32, may repeat.
            ids: of all rows by number; below zero where there is none.
            touched: their marks, which are set.
            columns: theirs.
            mark: what they are marked with: the generation of now, which is the cut's or a later one.
        """
        first, before = np.empty(len(numbers), np.int32), np.empty(len(numbers), np.uint32)
        marks = np.uint32(self._first), np.uint32(self.generation), np.uint32(mark)
        bounds = self._cursor, self._end, *marks
        count = _first_changes(numbers, *bounds, touched, first, before)
        if not count:
            return
        first, at, to = first[:count], self._count, self._count + count
        self._make_room(to)
        self._numbers[at:to] = first
        self._ids[at:to] = ids[first]
        self._touched[at:to] = before[:count]
        for mine, column in zip(self._columns, columns, strict=True):
            mine[at:to] = column[first]
        self._count = to

    def _make_room(self, count: int) -> None:
        if count <= len(self._numbers):
            return
        room = max(count, 2 * len(self._numbers), _FIRST_ROOM)
        self._numbers, self._ids, self._touched, *columns = (
            _longer(array, room, self._count)
            for array in (self._numbers, self._ids, self._touched, *self._columns)
        )
        self._columns = columns

    def read(
        self, count: int, ids: np.ndarray, touched: np.ndarray, columns: Sequence[np.ndarray]
    ) -> CutBlock:
        """The next rows as they were at the cut: those of `count` numbers, or the wanted ones of some more.

        Arguments as of `save`.
        """
        begin, end = self._cursor, min(self._cursor + count * (_STRIDE if self._first else 1), self._end)
        some_ids, marks = np.array(ids[begin:end]), np.array(touched[begin:end])  # copies
        saved = self._numbers[: self._count]
        here = np.flatnonzero(saved < end)  # none is below `begin`
        place = saved[here] - begin
        # What has a later mark and was not copied came into being since, or is not wanted.
        wanted = np.logical_and(marks >= np.uint32(self._first), marks < np.uint32(self.generation))
        some_ids[place], marks[place], wanted[place] = self._ids[here], self._touched[here], True
        picked = np.flatnonzero(wanted & (some_ids >= 0))
        if len(picked) > count:
            end, picked = begin + int(picked[count]), picked[:count]
        copies = np.full(len(wanted), -1)  # where the copy of a row is, by its place
        copies[place] = here
        copies = copies[picked]
        at = np.flatnonzero(copies >= 0)
        out: list[np.ndarray] = []
        for column, kept in zip(columns, self._columns, strict=True):
            whole = len(picked) == end - begin
            rows = np.array(column[begin:end]) if whole else column.take(picked + begin, 0)
            rows[at] = kept[copies[at]]
            out.append(rows)
        self._cursor = end
        self._forget(np.flatnonzero(saved >= end))
        return CutBlock(some_ids[picked], marks[picked], tuple(out))

    def _forget(self, kept: np.ndarray) -> None:
        """Copies of rows that have been read."""
        if len(kept) < self._count:
            for array in (self._numbers, self._ids, self._touched, *self._columns):
                array[: len(kept)] = array[kept]
            self._count = len(kept)


def _longer(array: np.ndarray, room: int, count: int) -> np.ndarray:
    out = np.empty((room, *array.shape[1:]), array.dtype)
    out[:count] = array[:count]
    return out


@kernel
def _first_changes(
    numbers: np.ndarray,
    begin: int,
    end: int,
    least: np.uint32,
    generation: np.uint32,
    mark: np.uint32,
    touched: np.ndarray,
    first: np.ndarray,
    before: np.ndarray,
) -> int:
    """Mark rows; which of them were not marked since the cut, are wanted, and with what before. Returns how many."""
    count = 0
    for number in numbers:
        before_it = touched[number]
        if least <= before_it < generation and begin <= number < end:
            first[count] = number
            before[count] = before_it
            count += 1
        touched[number] = mark
    return count
