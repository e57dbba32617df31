"""One table on one shard: rows, and the optimizer that changes them."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NoReturn

import numpy as np
from crc32c import crc32c

from ..proto import partition
from ..proto.errors import InvalidRequest
from ..proto.layout import owner
from ..proto.memory import address_of
from ..proto.owners import first_stranger, owners_of
from ..proto.plain import block_bytes, put_block, read_pull, read_push, read_push_head
from ..proto.spec import SGD, Adagrad, Adam, Optimizer, TableEntry, TableSpec, Uniform
from .initializers import start_of
from .optimizers.rates import Rates
from .optimizers.rules import rule_of
from .received import contiguous, is_finite, summed
from .rows import kernels
from .rows.index import FIRST_PLACES
from .rows.rows import Rows
from .table_cut import TableCut

_BLOCK_ROWS = 65536
_POOLED_BYTES = 1 << 18  # copies of rows that are made before they are added: what stays in the cache

# The writes of a change of which everything that can fail is done; what is left needs no memory to speak of.
Write = Callable[[], None]


class ShardTable:
    """A table's part on shard `shard` of `n`. Callers hold the shard's lock.

    Ids given to `push`, `assign`, `renorm` and `install` have been through `check_ids`.

    Args:
        entry: the table as the cluster knows it.
        shard: which shard this is,
        n: of how many.
        key: keys the hash of ids; see `rows.index`.
    """

    def __init__(self, entry: TableEntry, shard: int, n: int, key: int = 0) -> None:
        spec = entry.spec
        self.entry = entry
        self.spec = spec
        self.number = entry.number
        self.width = spec.width
        self.step = 0
        self.counts_steps = spec.optimizer.counts_steps  # at every push, also one without ids on this shard
        self._rates = Rates(entry.current_lr)
        self._shard, self._n = shard, n
        self._mine = owners_of(spec, n), shard
        self._start = start_of(spec)
        self._rule = rule_of(spec)
        self._fills = self._rule.slot_fills()
        self._marked_since: int | None = None  # rows that changed after this generation are marked
        mine = (
            partition.size_of(shard, n, spec.partition, spec.num_embeddings)
            if spec.num_embeddings is not None and not spec.hash_ids
            else spec.id_limit
        )
        self._rows = Rows([self.width, *spec.optimizer.slot_widths(self.width)], mine, spec.name, key)

    def __len__(self) -> int:
        return self._rows.count

    def __repr__(self) -> str:
        return f"<ShardTable {self.spec.name!r} shard={self._shard}/{self._n} rows={len(self)} bytes={self.nbytes}>"

    @property
    def lr(self) -> float:
        """The learning rate of the next push."""
        return self._rates.at(self.step + 1)

    @property
    def nbytes(self) -> int:
        """Bytes of the rows that exist, with slots and index."""
        return self._rows.nbytes

    @property
    def row_bytes(self) -> int:
        """Bytes of one row: weights, slots and id."""
        return self._rows.row_bytes

    def count_new(self, ids: np.ndarray) -> int:
        """How many distinct ones of these ids have no row yet. ids: [N] int64."""
        return len(np.unique(ids[self._rows.find(ids) < 0]))

    # ------------------------------------------------------------------------------------------------------ checks

    def check_ids(self, ids: np.ndarray) -> None:
        """Raise InvalidRequest for the first id that is out of range or another shard's. ids: [N] int64."""
        k = first_stranger(ids, *self._mine)
        if k < len(ids):
            self._refuse(ids, k)

    def _refuse(self, ids: np.ndarray, k: int) -> NoReturn:
        if not 0 <= ids[k] < self.spec.id_limit:
            raise InvalidRequest(
                f"id {int(ids[k])} (number {k} of the request): table {self.spec.name!r} has ids in "
                f"[0, {self.spec.id_limit})"
            )
        raise InvalidRequest(
            f"id {int(ids[k])} (number {k} of the request) of table {self.spec.name!r} belongs to "
            f"another shard than {self._shard} of {self._n}"
        )

    def check_push(self, ids: np.ndarray, values: np.ndarray) -> None:
        """Raise InvalidRequest if the table is frozen or a value is not finite. values: [N, width] float32."""
        if self.spec.frozen:
            raise InvalidRequest(f"table {self.spec.name!r} is frozen: it takes no gradients (assign works)")
        self.check_assign(ids, values)

    def check_assign(self, ids: np.ndarray, values: np.ndarray) -> None:
        """Raise InvalidRequest if a value is not finite. values: [N, width] float32."""
        if values.size and not is_finite(values):
            wrong = np.argwhere(~np.isfinite(values))
            if not len(wrong):  # the client changes its message while we read it
                raise InvalidRequest(f"table {self.spec.name!r}: the values changed while they were checked")
            k, column = wrong[0].tolist()
            raise InvalidRequest(
                f"table {self.spec.name!r} takes finite numbers only: id {int(ids[k])} has "
                f"{values[k, column]} in column {column}"
            )

    def reserve(self, ids: np.ndarray) -> None:
        """Make room for new rows. Raises Overloaded."""
        self._rows.reserve(ids)

    # ------------------------------------------------------------------------------------------------------- reads

    def pull(self, ids: np.ndarray, out: np.ndarray) -> None:
        """Write rows to out [N, width] float32; those that do not exist are computed, not stored.

        Raises InvalidRequest as `check_ids`, and then out is as it was.
        """
        k, numbers = self._rows.gather(ids, out, self._start, self._mine)
        if k < len(ids):
            self._refuse(ids, k)
        if self._rule.drifts and len(ids):
            self._catch_up(numbers, out)

    def pool(self, ids: np.ndarray, bags: np.ndarray, factors: np.ndarray, out: np.ndarray) -> None:
        """Add factor * row of each entry to its bag, out[bags[k]], in the order of the entries.

        Args:
            ids: [N] int64.
            bags: [N] int32 in [0, K).
            factors: [N] float32.
            out: [K, width] float32.

        Raises InvalidRequest as `check_ids`, and then out is as it was.
        """
        if not self._rule.drifts:
            k = self._rows.pool(ids, bags, factors, out, self._start, self._mine)
            if k < len(ids):
                self._refuse(ids, k)
            return
        self.check_ids(ids)
        s, step = self._start, max(1, _POOLED_BYTES // (4 * self.width))
        for begin in range(0, len(ids), step):  # copies, brought up to date
            some = slice(begin, begin + step)
            rows = np.empty((len(ids[some]), self.width), np.float32)
            self.pull(ids[some], rows)
            numbers = np.arange(len(rows), dtype=np.int32)
            given = bags[some], factors[some], out
            kernels.add_to_bags(rows, numbers, ids[some], *given, s.kind, s.a, s.b, s.key)

    def checksum(self, row_id: int) -> int:
        """CRC-32C of a row's weights as they lie, behind if the optimizer is lazy; 0 if it does not exist."""
        (number,) = self._rows.find(np.array([row_id]))
        return crc32c(self._rows.columns[0][number].data) if number >= 0 else 0

    def _catch_up(self, numbers: np.ndarray, out: np.ndarray) -> None:
        """Bring pulled rows up to the table's step: copies, so that reading writes nothing."""
        places = np.arange(len(numbers)) if self._rule.decays else np.flatnonzero(numbers >= 0)
        slots: list[np.ndarray] = []
        for slot, fill in zip(self._rows.columns[1:], self._fills, strict=True):
            copy = slot[numbers[places]]
            copy[numbers[places] < 0] = fill
            slots.append(copy)
        rows, values = np.arange(len(places), dtype=np.int32), out[places]
        self._rule.settle(values, slots, rows, self._rates, self.step, weights_only=True)
        out[places] = values

    # ------------------------------------------------------------------------------------------------------ changes

    def _open(self, numbers: np.ndarray) -> tuple[np.ndarray, Sequence[np.ndarray]]:
        """Weights and slots, to be written to at these rows: the one way to them, so that no change goes unseen."""
        self._rows.touch(numbers)
        columns = self._rows.columns
        return columns[0], columns[1:]

    def to_push(self, ids: np.ndarray, grads: np.ndarray, step: int) -> Write:
        """Make ready to apply the optimizer once to each distinct id, with its gradients summed in order.

        Call `reserve` first, as before all of these. Until the write no row changes that exists; those that do not come
        into being with their first values.
        grads: [N, width] float32, finite; step: the table's step that this push is.
        """
        if not len(ids):
            return _nothing
        numbers, grads = summed(self._rows_for(ids, step - 1), contiguous(grads))
        values, slots = self._open(numbers)
        grads = self._rule.ready(values, slots, numbers, grads, self._rates, step)
        return partial(self._rule.apply, values, slots, numbers, grads, self._rates, step)

    def to_assign(self, ids: np.ndarray, rows: np.ndarray) -> Write:
        """Make ready to overwrite rows; slots stay. Of duplicates the last counts. rows: [N, width] float32."""
        if not len(ids):
            return _nothing
        numbers = self._rows_for(ids, self.step)
        self._settle(numbers)
        return partial(kernels.scatter, self._open(numbers)[0], numbers, contiguous(rows))

    def to_renorm(self, ids: np.ndarray, max_norm: float, norm_type: float) -> Write:
        """Make ready to scale rows whose p-norm exceeds max_norm: w *= max_norm / (norm + 1e-7), as torch does."""
        if not len(ids):
            return _nothing
        numbers = np.unique(self._rows_for(ids, self.step))
        self._settle(numbers)
        values, _ = self._open(numbers)
        return partial(kernels.renorm, values, numbers, np.float32(max_norm), np.float64(norm_type))

    def push(self, ids: np.ndarray, grads: np.ndarray, step: int) -> None:
        """`reserve`, `to_push` and its write."""
        self.reserve(ids)
        self.to_push(ids, grads, step)()

    def assign(self, ids: np.ndarray, rows: np.ndarray) -> None:
        """`reserve`, `to_assign` and its write."""
        self.reserve(ids)
        self.to_assign(ids, rows)()

    def renorm(self, ids: np.ndarray, max_norm: float, norm_type: float) -> None:
        """`reserve`, `to_renorm` and its write."""
        self.reserve(ids)
        self.to_renorm(ids, max_norm, norm_type)()

    def _settle(self, numbers: np.ndarray) -> None:
        """Bring rows up to the table's step: what they say of themselves, so nothing changes that a pull could see."""
        if self.spec.optimizer.dense:
            values, slots = self._open(numbers)
            self._rule.settle(values, slots, numbers, self._rates, self.step)

    def _rows_for(self, ids: np.ndarray, step: int) -> np.ndarray:
        """Numbers of the rows of ids, bringing those into being that do not exist, as of a step."""
        numbers, new = self._rows.insert(ids)
        if len(new):
            s, (values, slots) = self._start, self._open(new)
            kernels.begin(values, new, self._rows.ids_of(new), s.kind, s.a, s.b, s.key)
            for slot, fill in zip(slots, self._fills, strict=True):
                if fill:
                    kernels.fill(slot, new, np.float32(fill))
            # Pushes before the first one of its own have left a row as it is.
            if self.spec.optimizer.dense and not self._rule.decays:
                self._rule.stamp(slots, new, step)
        return numbers

    def next_step(self) -> int:
        """Count a step; returns it."""
        self.step += 1
        return self.step

    def set_lr(self, lr: float, version: int) -> None:
        """Change the learning rate, unless a later change has been seen.

        Steps before it keep the rate that they had for every row that exists: those of a dense optimizer catch up now.
        """
        if version > self.entry.lr_version:
            numbers = self._rows.numbers()
            for begin in range(0, len(numbers), _BLOCK_ROWS):
                self._settle(numbers[begin : begin + _BLOCK_ROWS])
            self.entry = dataclasses.replace(self.entry, lr=lr, lr_version=version)
            self._rates = Rates(lr)

    # ------------------------------------------------------------------------------------------------ to a snapshot

    def begin_cut(self, generation: int, since: int | None = None) -> TableCut:
        """The table as it is now, to be read while it changes. From now on each row says when it changed last.

        Args:
            generation: what rows that change from now on are marked with; higher than at the cut before.
            since: only rows that changed after this generation. All of them, where it is not known which did, or where
                every row changes at every step; None: all of them.
        """
        known = since is not None and self._marked_since is not None and self._marked_since <= since
        self.track(generation - 1)
        first = since + 1 if since is not None and known and not self._rule.drifts else 0
        return TableCut(self.entry, self.step, self._rates, self._rule, self._rows, generation, first)

    def track(self, generation: int) -> None:
        """Each row says from now on when it changed last, if that is after this generation."""
        self._rows.track()
        if self._marked_since is None:
            self._marked_since = generation

    def begin_generation(self, generation: int) -> None:
        """What rows that change from now on are marked with, once they are."""
        self._rows.generation = generation

    # ------------------------------------------------------------------------------------------- to another shard

    def release(self) -> Iterator[None]:
        """Give the memory of all rows back in pieces; nobody uses the table any more. No lock is needed."""
        return self._rows.release()

    @property
    def tracks(self) -> bool:
        """Whether rows say when they changed last."""
        return self._rows.tracks

    @property
    def widths(self) -> list[int]:
        """Columns of the weights, then of each slot."""
        return [column.shape[1] for column in self._rows.columns]

    def find_owned(
        self, cursor: int, limit_bytes: int, since: int, owners: np.ndarray, new_index: int, end: int = 0
    ) -> tuple[np.ndarray, int]:
        """Some of the rows that a shard of another layout would own. A call looks at a bounded number of rows.

        Args:
            cursor: 0, then what the call before returned.
            limit_bytes: about how much they may be.
            since: only rows that changed in this generation or later; 0: all rows.
            owners: of the other layout, as `owners_of`.
            new_index: the shard of it.
            end: only rows before this cursor, if there are others behind; 0: all rows.

        Returns:
            (their numbers, [M] int32; next cursor; 0 at the end of the table).

        Raises:
            InvalidRequest: no call returned that cursor.
        """
        rows = self._rows
        self._check_cursor(cursor)
        wanted = max(1, limit_bytes // (8 + 4 * sum(self.widths)))
        numbers, after = rows.owned(cursor, wanted, since, owners, new_index, end or rows.end)
        return numbers, after if after < rows.end else 0

    def copy_out(self, numbers: np.ndarray, out: np.ndarray, places: Sequence[int]) -> None:
        """Copy rows that exist into bytes: their ids, weights and slots, each from its own place on.

        numbers: [N] int32.
        """
        for column, at in zip((self._rows.ids, *self._rows.columns), places, strict=True):
            kernels.copy_rows(column, numbers, out, at)

    def read(
        self,
        cursor: int,
        limit_bytes: int,
        new_n: int = 0,
        new_index: int = 0,
        *,
        ids_only: bool = False,
    ) -> tuple[np.ndarray, np.ndarray, list[np.ndarray], int]:
        """A block of the rows that exist, by number: in the order in which they came into being, as long as none went.

        Args:
            cursor: 0, then what the call before returned.
            limit_bytes: about how much to return.
            new_n: only rows that shard new_index of new_n would own; 0: all rows.
            new_index: see new_n.
            ids_only: no columns; values have a width of 0, and there are no slots.

        Returns:
            (ids [M] int64, values [M, width], slots, next cursor; 0 at the end), float32.

        Raises:
            InvalidRequest: no call returned that cursor, or no shard has that index.
        """
        rows = self._rows
        self._check_cursor(cursor)
        if new_n and new_index >= new_n:
            raise InvalidRequest(f"new_index must be below new_n={new_n}, got {new_index}")
        columns = () if ids_only else rows.columns
        wanted = max(1, limit_bytes // (8 + 4 * sum(column.shape[1] for column in columns)))
        # Look at no more than this many rows per call, so that a call is short also when few of them are wanted.
        end = min(rows.end, cursor + wanted * max(1, min(new_n, 64)))
        numbers = rows.numbers(cursor, end)
        if new_n:
            numbers = numbers[owner(self.spec, rows.ids_of(numbers), new_n) == new_index]
        if len(numbers) > wanted:
            end = int(numbers[wanted])
            numbers = numbers[:wanted]
        after = end if end < rows.end else 0
        if ids_only:
            return rows.ids_of(numbers), np.empty((len(numbers), 0), np.float32), [], after
        values, *slots = (column[numbers] for column in columns)
        return rows.ids_of(numbers), values, slots, after

    def _check_cursor(self, cursor: int) -> None:
        end = self._rows.end
        if cursor > end:
            raise InvalidRequest(
                f"cursor {cursor} is beyond the {end} rows of table {self.spec.name!r} on this shard"
            )

    def install(
        self,
        ids: np.ndarray,
        values: np.ndarray,
        slots: list[np.ndarray],
        touched: np.ndarray | None = None,
    ) -> None:
        """Put rows with their slots, exactly as they were read. Raises InvalidRequest, Overloaded.

        touched: the generations in which they changed last, [N] uint32, after `track`; None: in that of now.
        """
        if len(slots) != len(self._fills):
            raise InvalidRequest(
                f"table {self.spec.name!r} has {len(self._fills)} slots a row, got {len(slots)}"
            )
        if not len(ids):
            return
        self._rows.reserve(ids)
        numbers, _ = self._rows.insert(ids)
        mine, my_slots = self._open(numbers)
        for column, theirs in zip((mine, *my_slots), (values, *slots), strict=True):
            kernels.scatter(column, numbers, contiguous(theirs))
        if touched is not None:
            self._rows.set_marks(numbers, touched)


def _nothing() -> None:
    """What a change without ids writes."""


def compile_kernels() -> None:
    """Run what most tables need once on a tiny one, so that no request waits for a compiler.

    Other optimizers are compiled when the first table that has one is made. Either takes long only once on a machine:
    numba keeps what it compiled beside the sources, or in the user's cache directory where those are read-only.
    """
    nothing = np.frombuffer(bytes(8), np.uint8)  # that is not to be written to, as off the wire
    address_of(nothing)
    address_of(np.empty(8, np.uint8))
    read_push(nothing, 0)
    read_push_head(nothing, 0)
    read_pull(nothing, 0)
    put_block(np.empty(16, np.uint8), 0, block_bytes(8))
    optimizers: list[Optimizer] = [SGD(), SGD(momentum=0.5), Adagrad(), Adam()]
    ids, many = np.array([1, 2, 2]), 2 * FIRST_PLACES
    for optimizer, skip in itertools.product(optimizers, (0, 1)):
        # As off the wire: not to be written to, and at any byte of a message.
        grads = np.frombuffer(bytes(skip) + bytes(24), np.float32, offset=skip).reshape(3, 2)
        spec = TableSpec("warm-up", many, dim=2, optimizer=optimizer, initializer=Uniform())
        table = ShardTable(TableEntry(1, spec), 0, 1)
        table.check_ids(ids)
        table.check_push(ids, grads)
        table.push(ids, grads, 1)
        table.push(ids[:2], grads[:2], 1)
        table.assign(ids, grads)
        for at in (0, 1):
            table.pull(ids, np.frombuffer(bytearray(25), np.float32, 6, at).reshape(3, 2))
        table.renorm(ids, 1.0, 2.0)
        table.install(*table.read(0, 1 << 20)[:3])
        table.track(1)
        for since in (0, 1):
            numbers, _ = table.find_owned(0, 1 << 20, since, owners_of(spec, 1), 0)
            table.copy_out(numbers, np.empty(1 << 10, np.uint8), [0] * (1 + len(table.widths)))
        table.reserve(np.arange(many))  # more than the first index has places for
