"""Which rows of one table exist on one shard, and their columns: weights and slots, by number.

Numbers are given in the order in which rows come into being; those of removed rows are given again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from ...proto.errors import Overloaded
from ...proto.jit import kernel
from ...proto.owners import Mine, owner_of
from ..initializers import Start
from . import limits, memory
from .cut import Cut, CutBlock
from .index import Index, gather, pool

_NONE = np.empty(0, np.int64)
_I32 = np.dtype(np.int32)
_NO_MARKS = np.empty(0, np.uint32)
_MAX_ROWS = 2**31 - 2  # numbers are int32
INDEX_BYTES = 12  # of a row, at worst
SPARE_BYTES = 64 << 20  # that rows leave free: for messages, and while the index grows
MOST_LOOKED_AT = 1 << 20  # rows in one look for those that move: 1 ms at the most
_LEAST_AHEAD, _MOST_AHEAD = 1 << 16, 16 << 20  # bytes of rows, between two looks at memory
_REMEDY = "Add shards (`rowloom scale`) on more machines, or give this one more memory"


class Rows:
    """Rows by id. Callers hold the shard's lock.

    Args:
        widths: columns of the weights, then of each slot.
        limit: how many different ids there can be.
        what: the table's name, for messages.
        key: keys the hash; see `Index`.

    Attributes:
        columns: the weights, then each slot: [room, width] float32, other arrays after each `reserve`. Whoever writes
            there calls `touch` before.
        count: rows that exist.
        end: all numbers are below.
        generation: what a row that is touched now is marked with.
        cut: what is being read of an earlier moment.
    """

    def __init__(self, widths: Sequence[int], limit: int, what: str, key: int = 0) -> None:
        self._what = what
        self.row_bytes = 4 * sum(widths) + 8
        self.capacity = max(1, min(limit, _MAX_ROWS, memory.memory_bytes() // self.row_bytes))
        self._limit = limit
        self.count = 0
        self.end = 0
        self.generation = 1
        self.cut: Cut | None = None
        self._freed = -1  # the number that was freed last; see `index` for how it leads to the others
        self._regions = memory.Regions(self.capacity)
        self._regions.add(1, np.int64)
        for width in widths:
            self._regions.add(width, np.float32)
        self._marks: int | None = None  # number of the column of marks
        self._look()
        self._index = Index(key)
        self._enough = 0  # rows that there was memory for when it was last looked at

    def _look(self) -> None:
        """Take the columns as they lie now."""
        ids, *columns = self._regions.arrays
        self._ids = ids.reshape(-1)
        self._touched = None if self._marks is None else columns.pop(self._marks - 1).reshape(-1)
        self.columns: tuple[np.ndarray, ...] = tuple(columns)

    @property
    def nbytes(self) -> int:
        """Bytes of the rows that exist or did: ids, columns, marks of change, and the index."""
        marks = 0 if self._touched is None else 4
        return self.end * (self.row_bytes + marks) + self._index.nbytes

    # ------------------------------------------------------------------------------------------- ids and numbers

    def find(self, ids: np.ndarray) -> np.ndarray:
        """Numbers of rows, -1 for those that do not exist. ids: [N] int64. Returns [N] int32."""
        return self._index.find(ids, self._ids)

    def gather(self, ids: np.ndarray, out: np.ndarray, start: Start, mine: Mine) -> tuple[int, np.ndarray]:
        """Write weights to out, [N, width] float32; of rows that do not exist what they start with.

        Returns:
            (number of the first id that is not of `mine`, before anything was written, or N; as `find`).
        """
        numbers = np.empty(len(ids), _I32)
        s, where = start, self._index.where
        first = gather(ids, *mine, *where, self._ids, numbers, self.columns[0], out, s.kind, s.a, s.b, s.key)
        return first, numbers

    def pool(
        self,
        ids: np.ndarray,
        bags: np.ndarray,
        factors: np.ndarray,
        out: np.ndarray,
        start: Start,
        mine: Mine,
    ) -> int:
        """Add factor * weights of each entry to its bag: out[bags[k]]. Returns as `gather` the number of an id.

        bags: [N] int32, numbers of rows of out [K, width] float32; factors: [N] float32.
        """
        numbers = np.empty(len(ids), _I32)
        s, where, values = start, self._index.where, self.columns[0]
        rest = (bags, factors, out, s.kind, s.a, s.b, s.key)
        return pool(ids, *mine, *where, self._ids, numbers, values, *rest)

    @property
    def ids(self) -> np.ndarray:
        """Ids by number, [room, 1] int64; below zero where no row is. Not to be written to."""
        return self._ids.reshape(-1, 1)

    def ids_of(self, numbers: np.ndarray) -> np.ndarray:
        """Ids of rows that exist. numbers: [N]. Returns [N] int64."""
        return self._ids[numbers]

    def numbers(self, begin: int = 0, end: int | None = None) -> np.ndarray:
        """Numbers in [begin, end) whose rows exist, in order: [M] int32."""
        end = self.end if end is None else end
        found = np.arange(begin, end, dtype=np.int32)
        return found if self.count == self.end else found[self._ids[begin:end] >= 0]

    def reserve(self, ids: np.ndarray) -> None:
        """Make room for these ids, so that `insert` needs no more than two arrays of numbers.

        Raises:
            Overloaded: memory cannot hold so many rows.
        """
        # Never of a table that memory can hold whole: looking rows up costs as much as inserting them.
        if self.capacity < self._limit and self.count + len(ids) > self.capacity:
            new = len(np.unique(ids[self.find(ids) < 0]))
            if self.count + new > self.capacity:
                raise Overloaded(
                    f"table {self._what!r} has {self.count} rows on this shard and cannot hold {new} more: "
                    f"{limits.total().what}, {limits.total().bytes} bytes, is good for {self.capacity}. {_REMEDY}"
                )
        need = min(self.count + len(ids), self.capacity)
        if need > self._enough:
            self._check_memory(ids, need)
        if min(self.end + len(ids), self.capacity) > self._regions.room:
            self._grow(min(self.end + len(ids), self.capacity))
        if self._index.grow(need, self._ids, self.end):
            self._regions.use_huge_pages(self.end)

    def _grow(self, count: int) -> None:
        self._ids, self._touched, self.columns = _NONE, None, ()  # what is held cannot move
        try:
            self._regions.grow(count, self.end)
        finally:
            self._look()

    def release(self) -> Iterator[None]:
        """Give the memory back in pieces; nobody uses the rows any more. No lock is needed."""
        return self._regions.release()

    def _check_memory(self, ids: np.ndarray, need: int) -> None:
        """Raise Overloaded if memory is too full for new rows among these; look ahead, not to look each time."""
        left = limits.available()
        more = (need - self.count) * (self.row_bytes + INDEX_BYTES)
        if more + SPARE_BYTES > left.bytes:
            new = len(np.unique(ids[self.find(ids) < 0]))
            if not new:
                return
            if new * (self.row_bytes + INDEX_BYTES) + SPARE_BYTES > left.bytes:
                raise Overloaded(
                    f"table {self._what!r} has {self.count} rows on this shard and cannot hold {new} more: "
                    f"{left.what}, {left.bytes} bytes, must suffice for them and {SPARE_BYTES} to work with. {_REMEDY}"
                )
        ahead = min(max(need, _LEAST_AHEAD // self.row_bytes), _MOST_AHEAD // self.row_bytes)
        self._enough = need + ahead

    def insert(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Numbers of rows, new ones for those that did not exist; call `reserve` first.

        Returns:
            (numbers [N] int32, those of new rows [M] int32): the columns of new rows are zeros.
        """
        numbers, new, self.end, self._freed = self._index.insert(ids, self._ids, self.end, self._freed)
        if len(new):
            self.count += len(new)
            self._touch_new(new)
        return numbers, new

    def remove(self, ids: np.ndarray) -> np.ndarray:
        """Remove rows; ids that have none are passed over. Their numbers will be given again.

        Their memory is kept, and is zeros from now on. ids: [N] int64, may repeat. Returns the numbers, [M] int32.
        """
        if self.cut is not None:
            found = self.find(ids)
            self.touch(found[found >= 0])
        numbers, self._freed = self._index.remove(ids, self._ids, self._freed)
        self.count -= len(numbers)
        for column in self.columns:
            _clear(column, numbers)
        return numbers

    # ------------------------------------------------------------------------------------------------ what changed

    def track(self) -> None:
        """Keep a mark of its last change with each row, from now on; those from before count as changed in 0.

        Off by default: 4 bytes a row, and 3 ns for each row of a push (59 ns without it: 16,384 distinct ids, uniform
        over 2 million rows of 64 columns, Adagrad). `changed_since` takes 0.3 ns for each row that exists.
        """
        if self._marks is None:
            self._marks = self._regions.add(1, np.uint32)
            self._look()

    def touch(self, numbers: np.ndarray) -> None:
        """These rows are about to change. numbers: [N] int32."""
        if self._touched is None:
            return
        if self.cut is not None:
            self.cut.save(numbers, self._ids, self._touched, self.columns, self.generation)
        else:
            _mark(self._touched, numbers, np.uint32(self.generation))

    def _touch_new(self, numbers: np.ndarray) -> None:
        """These rows have just come into being. At the cut there was none under those numbers."""
        if self._touched is None:
            return
        if self.cut is not None:
            self.cut.save(numbers, _nobody(len(self._ids)), self._touched, self.columns, self.generation)
        else:
            _mark(self._touched, numbers, np.uint32(self.generation))

    def set_marks(self, numbers: np.ndarray, touched: np.ndarray) -> None:
        """Rows changed last in these generations, [N] uint32. numbers: [N] int32. `track` must have been called."""
        assert self._touched is not None
        self._touched[numbers] = touched

    def begin_cut(self, generation: int | None = None, first: int = 0) -> Cut:
        """From now on the rows as they are at this moment can be read, until `end_cut`. `track` must have been called.

        Copies of what changes meanwhile take memory: see `Cut.saved_bytes`.

        Args:
            generation: what rows are marked with that change from now on, higher than before; None: the next one.
            first: only rows that changed in this generation or later; 0: all rows.
        """
        assert self._touched is not None
        self.generation = self.next_generation() if generation is None else generation
        widths = [column.shape[1] for column in self.columns]
        self.cut = Cut(self.end, self.generation, widths, first)
        return self.cut

    def read_cut(self, count: int) -> CutBlock:
        """The next rows of the cut: those of up to `count` numbers."""
        assert self.cut is not None
        assert self._touched is not None
        return self.cut.read(count, self._ids, self._touched, self.columns)

    def end_cut(self) -> None:
        """The cut is needed no more."""
        self.cut = None

    def next_generation(self) -> int:
        """Begin another generation: what is touched from now on belongs to it. Returns its number."""
        self.generation += 1
        return self.generation

    @property
    def tracks(self) -> bool:
        """Whether rows have marks."""
        return self._marks is not None

    def owned(
        self, cursor: int, most: int, since: int, owners: np.ndarray, index: int, end: int
    ) -> tuple[np.ndarray, int]:
        """Rows that belong to a shard of another layout, as far as one look goes.

        Args:
            cursor: where the look begins; 0, then what the one before returned.
            most: how many are wanted.
            since: only those that were touched in this generation or later; 0: all of them. Else `track` must have
                been called.
            owners: of the other layout, as `owners_of`.
            index: the shard of it.
            end: where the look ends at the latest.

        Returns:
            (their numbers, in order: [M] int32; where the next look begins).
        """
        out = np.empty(most, np.int32)
        touched = _NO_MARKS if self._touched is None else self._touched
        end = min(self.end, max(cursor, end), cursor + MOST_LOOKED_AT)
        how = np.uint32(since), owners, index
        count, after = _owned(touched, self._ids, cursor, end, *how, out)
        return out[:count], after

    def changed_since(self, generation: int) -> np.ndarray:
        """Numbers of rows that were touched in this generation or later and exist, in order: [M] int32.

        Rows that were removed are not among them: whoever must know keeps their ids. Marks are never cleared, only
        compared, so a reply that is lost loses nothing: ask again. `track` must have been called.
        """
        assert self._touched is not None
        out = np.empty(self.end, np.int32)
        return out[: _changed(self._touched, self._ids, self.end, np.uint32(generation), out)].copy()  # pyright: ignore[reportUnknownVariableType]


def _nobody(count: int) -> np.ndarray:
    """[count] int64, all below zero: no ids."""
    nobody: np.ndarray = np.broadcast_to(np.full(1, -1), (count,))
    return nobody


@kernel
def _clear(column: np.ndarray, numbers: np.ndarray):
    for number in numbers:
        column[number] = 0


@kernel
def _mark(touched: np.ndarray, numbers: np.ndarray, generation: np.uint32):
    for number in numbers:
        touched[number] = generation


@kernel
def _changed(touched: np.ndarray, ids: np.ndarray, end: int, generation: np.uint32, out: np.ndarray) -> int:
    found = 0
    for number in range(end):
        if touched[number] >= generation and ids[number] >= 0:
            out[found] = number
            found += 1
    return found


@kernel
def _owned(
    touched: np.ndarray,
    ids: np.ndarray,
    begin: int,
    end: int,
    since: np.uint32,
    owners: np.ndarray,
    index: int,
    out: np.ndarray,
) -> tuple[int, int]:
    found = 0
    for number in range(begin, end):
        if since > 0 and touched[number] < since:
            continue
        if ids[number] >= 0 and owner_of(ids[number], owners) == index:
            if found == len(out):
                return found, number
            out[found] = number
            found += 1
    return found, end
