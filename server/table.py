"""One table on one shard: rows, and the optimizer that changes them."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np

from ..proto import partition
from ..proto.cpu_prefetch import AHEAD, fetch
from ..proto.errors import InvalidRequest
from ..proto.jit import kernel
from ..proto.layout import owner
from ..proto.memory import address_of
from ..proto.owners import owner_of, owners_of
from ..proto.plain import read_pull, read_push
from ..proto.spec import SGD, Adagrad, Adam, Optimizer, TableEntry, TableSpec, Uniform
from .initializers import fill_row, fill_rows, start_of
from .optimizers.rates import Rates
from .optimizers.rules import rule_of
from .rows.memory import Rows

_BLOCK_ROWS = 65536


class Table:
    """A table's part on shard `shard` of `n`. Callers hold the shard's lock.

    Ids given to `pull`, `push`, `assign`, `renorm` and `install` have been through `check_ids`.
    """

    def __init__(self, entry: TableEntry, shard: int, n: int) -> None:
        spec = entry.spec
        self.entry = entry
        self.spec = spec
        self.number = entry.number
        self.width = spec.width
        self.step = 0
        self._rates = Rates(entry.current_lr)
        self._shard, self._n = shard, n
        self._owners = owners_of(spec, n)
        self._start = start_of(spec)
        self._rule = rule_of(spec)
        self._fills = self._rule.slot_fills()
        mine = (
            partition.size_of(shard, n, spec.partition, spec.num_embeddings)
            if spec.num_embeddings is not None and not spec.hash_ids
            else spec.id_limit
        )
        self._rows = Rows([self.width, *spec.optimizer.slot_widths(self.width)], mine, spec.name)

    def __len__(self) -> int:
        return self._rows.count

    def __repr__(self) -> str:
        return (
            f"<Table {self.spec.name!r} shard={self._shard}/{self._n} rows={len(self)} bytes={self.nbytes}>"
        )

    @property
    def lr(self) -> float:
        """The learning rate of the next push."""
        return self._rates.at(self.step + 1)

    @property
    def nbytes(self) -> int:
        """Bytes of the rows that exist, with slots and index."""
        return self._rows.nbytes

    @property
    def counts_steps(self) -> bool:
        """Whether every push counts a step of the table, also one without ids on this shard."""
        return self.spec.optimizer.counts_steps

    # ------------------------------------------------------------------------------------------------------ checks

    def check_ids(self, ids: np.ndarray) -> None:
        """Raise InvalidRequest for the first id that is out of range or another shard's. ids: [N] int64."""
        if not len(ids):
            return
        k = first_stranger(ids, self._owners, self._shard)
        if k == len(ids):
            return
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
        if values.size and not _finite(_contiguous(values).reshape(-1).view(np.uint32)):
            k, column = (int(x[0]) for x in np.nonzero(~np.isfinite(values)))
            raise InvalidRequest(
                f"table {self.spec.name!r} takes finite numbers only: id {int(ids[k])} has "
                f"{values[k, column]} in column {column}"
            )

    def reserve(self, ids: np.ndarray) -> None:
        """Make room for new rows, so that nothing that follows can fail. Raises Overloaded."""
        self._rows.reserve(ids)

    # -------------------------------------------------------------------------------------------------- pull, push

    def pull(self, ids: np.ndarray, out: np.ndarray) -> None:
        """Write rows to out [N, width] float32; those that do not exist are computed, not stored."""
        numbers = self._rows.find(ids)
        s = self._start
        _gather(self._rows.values, numbers, ids, out, s.kind, s.a, s.b, s.key)
        if self._rule.drifts and len(ids):
            self._catch_up(numbers, out)

    def _catch_up(self, numbers: np.ndarray, out: np.ndarray) -> None:
        """Bring pulled rows up to the table's step: copies, so that reading writes nothing."""
        places = np.arange(len(numbers)) if self._rule.decays else np.flatnonzero(numbers >= 0)
        slots = []
        for slot, fill in zip(self._rows.slots, self._fills, strict=True):
            copy = slot[numbers[places]]
            copy[numbers[places] < 0] = fill
            slots.append(copy)
        rows, values = np.arange(len(places), dtype=np.int32), out[places]
        self._rule.settle(values, slots, rows, self._rates, self.step, weights_only=True)
        out[places] = values

    def push(self, ids: np.ndarray, grads: np.ndarray, step: int) -> None:
        """Apply the optimizer once to each distinct id, with its gradients summed in order.

        grads: [N, width] float32, finite; step: the table's step that this push is.
        """
        if len(ids):
            grads = _contiguous(grads)
            numbers = self._rows_for(ids, step - 1)
            if _repeats(numbers):
                numbers, grads = _sum_repeats(numbers, grads)
            self._rule.push(self._rows.values, self._rows.slots, numbers, grads, self._rates, step)

    def assign(self, ids: np.ndarray, rows: np.ndarray) -> None:
        """Overwrite rows; slots stay. Of duplicates the last counts. rows: [N, width] float32."""
        if len(ids):
            numbers = self._rows_for(ids, self.step)
            self._settle(numbers)
            _scatter(self._rows.values, numbers, _contiguous(rows))

    def renorm(self, ids: np.ndarray, max_norm: float, norm_type: float) -> None:
        """Scale rows whose p-norm exceeds max_norm, as torch.embedding_renorm_: w *= max_norm / (norm + 1e-7)."""
        if len(ids):
            numbers = np.unique(self._rows_for(ids, self.step))
            self._settle(numbers)
            _renorm(self._rows.values, numbers, np.float32(max_norm), np.float64(norm_type))

    def _settle(self, numbers: np.ndarray) -> None:
        """Bring rows up to the table's step."""
        if self.spec.optimizer.dense:
            self._rule.settle(self._rows.values, self._rows.slots, numbers, self._rates, self.step)

    def _rows_for(self, ids: np.ndarray, step: int) -> np.ndarray:
        """Numbers of the rows of ids, bringing those into being that do not exist, as of a step."""
        self._rows.reserve(ids)
        numbers, first = self._rows.insert(ids)
        end = self._rows.count
        if end > first:
            s = self._start
            fill_rows(s.kind, s.a, s.b, s.key, self._rows.ids[first:end], self._rows.values[first:end])
            for slot, fill in zip(self._rows.slots, self._fills, strict=True):
                if fill:
                    slot[first:end] = fill
            if (
                self.spec.optimizer.dense and not self._rule.decays
            ):  # Pushes before the first one of its own have left it as it is.
                self._rule.stamp(self._rows.slots, np.arange(first, end, dtype=np.int32), step)
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
            numbers = np.arange(len(self), dtype=np.int32)
            for begin in range(0, len(numbers), _BLOCK_ROWS):
                self._settle(numbers[begin : begin + _BLOCK_ROWS])
            self.entry = dataclasses.replace(self.entry, lr=lr, lr_version=version)
            self._rates = Rates(lr)

    # ------------------------------------------------------------------------------------------- to another shard

    def read(
        self, cursor: int, limit_bytes: int, new_n: int = 0, new_index: int = 0
    ) -> tuple[np.ndarray, np.ndarray, list[np.ndarray], int]:
        """A block of the rows that exist, in the order in which they came into being.

        Args:
            cursor: 0, then what the call before returned.
            limit_bytes: about how much to return.
            new_n: only rows that shard new_index of new_n would own; 0: all rows.
            new_index: see new_n.

        Returns:
            (ids [M] int64, values [M, width], slots, next cursor; 0 at the end), float32.
        """
        rows = self._rows
        wanted = max(1, limit_bytes // (8 + 4 * sum(a.shape[1] for a in (rows.values, *rows.slots))))
        # Look at no more than this many rows per call, so that a call is short also when few of them are wanted.
        end = min(rows.count, cursor + wanted * max(1, min(new_n, 64)))
        numbers = np.arange(cursor, end)
        if new_n:
            numbers = numbers[owner(self.spec, rows.ids[cursor:end], new_n) == new_index]
        if len(numbers) > wanted:
            end = int(numbers[wanted])
            numbers = numbers[:wanted]
        after = end if end < rows.count else 0
        return rows.ids[numbers], rows.values[numbers], [slot[numbers] for slot in rows.slots], after

    def install(self, ids: np.ndarray, values: np.ndarray, slots: list[np.ndarray]) -> None:
        """Put rows with their slots, exactly as they were read. Raises InvalidRequest, Overloaded."""
        if len(slots) != len(self._rows.slots):
            raise InvalidRequest(
                f"table {self.spec.name!r} has {len(self._rows.slots)} slots a row, got {len(slots)}"
            )
        if not len(ids):
            return
        self._rows.reserve(ids)
        numbers, _ = self._rows.insert(ids)
        for mine, theirs in zip((self._rows.values, *self._rows.slots), (values, *slots), strict=True):
            _scatter(mine, numbers, _contiguous(theirs))


def _contiguous(array: np.ndarray) -> np.ndarray:
    """As kernels want it. What came off the wire may start at any byte: numba compiles for that too."""
    return np.ascontiguousarray(array, np.float32)


@kernel
def first_stranger(ids, owners, shard):
    """Number of the first id that is none of the table's, or another shard's; len(ids) if there is none."""
    for k in range(len(ids)):
        if ids[k] < 0 or ids[k] > owners[0] or owner_of(ids[k], owners) != shard:
            return k
    return len(ids)


@kernel
def _gather(values, numbers, ids, out, kind, a, b, key):
    width = values.shape[1]
    for k in range(len(numbers)):
        if k + AHEAD < len(numbers) and numbers[k + AHEAD] >= 0:
            fetch(values, numbers[k + AHEAD])
        row = numbers[k]
        if row >= 0:
            for j in range(width):
                out[k, j] = values[row, j]
        else:
            fill_row(kind, a, b, key, ids[k], out[k])


@kernel
def _scatter(values, numbers, rows):
    width = values.shape[1]
    for k in range(len(numbers)):
        if k + AHEAD < len(numbers):
            fetch(values, numbers[k + AHEAD])
        for j in range(width):
            values[numbers[k], j] = rows[k, j]


@kernel
def _finite(bits):
    # As whole vectors only when written like this; without the sign, infinity and NaN are the largest there are.
    worst = np.uint32(0)
    for k in range(len(bits)):
        unsigned = np.uint32(bits[k] << np.uint32(1))
        if unsigned > worst:
            worst = unsigned
    return worst < np.uint32(0xFF000000)


@kernel
def _repeats(numbers):
    """Whether a number stands twice. A small hash, which stays in the cache."""
    bits = 4
    while (1 << bits) < 2 * len(numbers):
        bits += 1
    mask = (1 << bits) - 1
    seen = np.full(1 << bits, -1, np.int32)
    for x in numbers:
        at = (np.int64(x) * 0x9E3779B1 >> 7) & mask
        while seen[at] >= 0:
            if seen[at] == x:
                return True
            at = (at + 1) & mask
        seen[at] = x
    return False


def _sum_repeats(numbers: np.ndarray, grads: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each number once, in the order of first appearance, with its gradients summed in order."""
    _, first, inverse = np.unique(numbers, return_index=True, return_inverse=True)
    place = np.empty(len(first), np.int64)
    order = np.argsort(first)
    place[order] = np.arange(len(first))
    out = np.zeros((len(first), grads.shape[1]), np.float32)
    _add_in_order(grads, place[inverse], out, np.zeros(len(first), np.bool_))
    return numbers[first[order]], out


@kernel
def _add_in_order(grads, place, out, seen):
    for k in range(len(grads)):
        u = place[k]
        if seen[u]:
            for j in range(grads.shape[1]):
                out[u, j] += grads[k, j]
        else:
            seen[u] = True
            for j in range(grads.shape[1]):
                out[u, j] = grads[k, j]


@kernel
def _renorm(values, numbers, max_norm, p):
    width = values.shape[1]
    for row in numbers:
        w = values[row]
        total = 0.0
        for j in range(width):
            size = abs(np.float64(w[j]))
            if p == 2.0:
                total += size * size
            elif p == 1.0:
                total += size
            elif np.isinf(p):
                total = max(total, size)
            else:
                total += size**p
        norm = np.sqrt(total) if p == 2.0 else total if p == 1.0 or np.isinf(p) else total ** (1.0 / p)
        if norm > max_norm:
            scale = np.float32(max_norm / (norm + 1e-7))
            for j in range(width):
                w[j] *= scale


def compile_kernels() -> None:
    """Run what most tables need once on a tiny one, so that no request waits for a compiler.

    Other optimizers are compiled when the first table that has one is made. Either takes long only once on a machine:
    numba keeps what it compiled beside the sources, or in the user's cache directory where those are read-only.
    """
    nothing = np.frombuffer(bytes(8), np.uint8)  # that is not to be written to, as off the wire
    address_of(nothing)
    address_of(np.empty(8, np.uint8))
    read_push(nothing, 0)
    read_pull(nothing, 0, nothing)
    optimizers: list[Optimizer] = [SGD(), SGD(momentum=0.5), Adagrad(), Adam()]
    for optimizer, skip in itertools.product(optimizers, (0, 1)):
        # As off the wire: not to be written to, and at any byte of a message.
        ids = np.frombuffer(bytes(skip) + np.array([1, 2, 2]).tobytes(), np.int64, offset=skip)
        grads = np.frombuffer(bytes(skip) + bytes(24), np.float32, offset=skip).reshape(3, 2)
        spec = TableSpec("warm-up", 8, dim=2, optimizer=optimizer, initializer=Uniform())
        table = Table(TableEntry(1, spec), 0, 1)
        table.check_push(ids, grads)
        table.push(ids, grads, 1)
        table.push(ids[:2], grads[:2], 1)
        for at in (0, 1):
            table.pull(ids, np.frombuffer(bytearray(25), np.float32, 6, at).reshape(3, 2))
        table.renorm(ids, 1.0, 2.0)
        table.install(*table.read(0, 1 << 20)[:3])
        for _ in range(2):  # makes the index grow
            table.reserve(np.arange(8))
