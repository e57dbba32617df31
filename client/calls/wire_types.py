"""How rows travel: which wire type a call uses, and what such a type cannot hold. Pure."""

# What callers give is checked, although it has a type.
# pyright: reportUnnecessaryIsInstance=false

from __future__ import annotations

import numpy as np

from ...proto import codec
from ...proto.errors import InvalidRequest
from ...proto.spec import TableEntry
from ..inputs import largest

# The largest float32 that arrives finite, by its bits. Above it bfloat16 and float16 round to infinity, and so does
# int8's scale when it is multiplied by 127.
LARGEST = {
    wire: float(np.uint32(bits).view(np.float32))
    for wire, bits in {
        codec.FLOAT32: 0x7F7FFFFF,
        codec.BFLOAT16: 0x7F7F7FFF,
        codec.FLOAT16: 0x477FEFFF,
        codec.INT8: 0x7F7FFFFE,
    }.items()
}
_NAME = {number: name for name, number in codec.WIRE_NUMBER.items()}


def wire_of(entry: TableEntry, wire: str | None) -> int:
    """The number of the wire type that a call asks for, or of the table's own. Raises InvalidRequest."""
    name = entry.spec.wire if wire is None else wire
    number = codec.WIRE_NUMBER.get(name) if isinstance(name, str) else None
    if number is None:
        raise InvalidRequest(f"wire must be one of {', '.join(codec.WIRE_NUMBER)}, got {wire!r}")
    return number


def refuse_overflow(entry: TableEntry, ids: np.ndarray, grads: np.ndarray, wire: int) -> None:
    """Refuse gradients that would not arrive finite.

    Args:
        entry: the table.
        ids: [U] int64.
        grads: [U, width] float32, contiguous; summed.
        wire: the wire type that they will travel as.

    Raises:
        InvalidRequest: names the first.
    """
    _refuse_above(LARGEST[wire], entry, ids, grads, "the summed gradient", wire)


def refuse_overflown(entry: TableEntry, ids: np.ndarray, rows: np.ndarray, wire: int) -> None:
    """Refuse rows that did not arrive finite. Arguments and errors as `refuse_overflow`.

    In FLOAT32 rows are what they are.
    """
    if wire != codec.FLOAT32:
        _refuse_above(LARGEST[codec.FLOAT32], entry, ids, rows, "the row", wire)


def _refuse_above(
    limit: float, entry: TableEntry, ids: np.ndarray, rows: np.ndarray, what: str, wire: int
) -> None:
    if largest(rows) <= limit:
        return
    k, column = (int(x[0]) for x in np.nonzero(~(np.abs(rows) <= limit)))
    hint = "" if wire == codec.FLOAT32 else ': use wire="float32"'
    raise InvalidRequest(
        f"{what} of id {int(ids[k])} is {rows[k, column]:g} in column {column}, which {_NAME[wire]} cannot carry "
        f"(table {entry.spec.name!r}){hint}"
    )
