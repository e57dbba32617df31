"""Rows back into the caller's order; gradients of the same id summed. Pure."""

# Kernels: numba types them.
# pyright: reportMissingParameterType=false, reportUnknownParameterType=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from typing import Any

import numpy as np
from numba.core import cgutils, types
from numba.extending import intrinsic

from ...proto.jit import kernel
from ...proto.memory import address_of
from ...proto.plain import rows_in
from ..cores import SMALL_BYTES, in_pieces


class Arrived:
    """Rows that came in from several shards, each wherever its reply lies in memory: nothing is copied twice.

    Args:
        count: U, how many will come.
        width: columns of each, float32.

    Attributes:
        kept: rows that were not exact on their way: (rows [M, width], their places).
    """

    def __init__(self, count: int, width: int) -> None:
        self._row_bytes = 4 * width
        self._missing = count
        self._where = np.zeros(count, np.int64)  # addresses
        self._replies: list[np.ndarray] = []  # that the addresses are in
        self.kept: list[tuple[np.ndarray, slice | np.ndarray]] = []

    def __len__(self) -> int:
        return len(self._where)

    def take(
        self, reply: np.ndarray, at: int, places: slice | np.ndarray, count: int, inside: bool, last: bool
    ) -> int:
        """Find rows where they lie in a reply.

        Args:
            reply: bytes; kept.
            at: where to look: 0, or where the table before this one ended.
            places: of the M rows among the U.
            count: M.
            inside: the reply is a StepReply and this its first table.
            last: no table follows.

        Returns:
            Where they end; -1 if the reply is not as our own shards write it.
        """
        if isinstance(places, slice):
            end = _take_run(reply, at, inside, last, self._where, places.start, count, self._row_bytes)
        else:
            end = _take_at(reply, at, inside, last, self._where, places, count, self._row_bytes)
        if end >= 0:
            self._replies.append(reply)
            self._missing -= count
        return end

    def put(self, rows: np.ndarray, places: slice | np.ndarray) -> None:
        """Rows [M, width] float32, contiguous, are those at M places of the U."""
        self._where[places] = address_of(rows) + self._row_bytes * np.arange(len(rows))
        self._missing -= len(rows)
        self.kept.append((rows, places))

    def spread(self, inverse: np.ndarray) -> np.ndarray:
        """[N, width] float32: the row at place inverse[k] for each k. All rows have been put or taken."""
        assert self._missing == 0, f"{self._missing} rows never came"
        out = np.empty((len(inverse), self._row_bytes // 4), np.float32)
        if out.nbytes < SMALL_BYTES:
            copy_rows(self._where, inverse, out)
        else:
            in_pieces(lambda b, e: copy_rows(self._where, inverse[b:e], out[b:e]), len(out), out.nbytes)
        return out


@kernel
def _take_run(reply, at, inside, last, where, begin, count, row_bytes):
    found = rows_in(reply, at, len(reply), row_bytes * count, inside, last)
    if found < 0:
        return found
    address = reply.ctypes.data + found
    for u in range(count):
        where[begin + u] = address + row_bytes * u
    return found + row_bytes * count


@kernel
def _take_at(reply, at, inside, last, where, places, count, row_bytes):
    found = rows_in(reply, at, len(reply), row_bytes * count, inside, last)
    if found < 0:
        return found
    address = reply.ctypes.data + found
    for k in range(count):
        where[places[k]] = address + row_bytes * k
    return found + row_bytes * count


def _copy_row(_, address, out, k):
    """Copy out.shape[1] columns from a place in memory to out[k]."""

    def codegen(context, builder, signature, args):
        kind = signature.args[1]
        view = context.make_array(kind)(context, builder, args[1])
        target = cgutils.get_item_pointer(
            context, builder, kind, view, [args[2], args[2].type(0)], wraparound=False
        )
        source = builder.inttoptr(args[0], target.type)
        width = builder.extract_value(view.shape, 1)
        cgutils.raw_memcpy(builder, target, source, width, context.get_abi_sizeof(target.type.pointee))
        return context.get_dummy_value()

    return types.void(address, out, k), codegen


_copy: Any = intrinsic(_copy_row)


@kernel
def copy_rows(where, inverse, out):
    """Fill out [N, width] float32: row k is at address where[inverse[k]]."""
    for k in range(len(inverse)):
        _copy(where[inverse[k]], out, k)
