"""The bytes of a file of rows: safetensors, one tensor a column, in the order of the rows.

    header | ids int64 [N] | touched uint32 [N] | values float32 [N, width] | slot0 float32 [N, columns of slot 0] | ...

Why it is so. What must hold: anyone who has numpy reads it with a library that exists. The header follows from the
number of rows and the widths, and both are in the manifest; so a reader of ours makes the header anew and compares,
and no parser of foreign bytes is needed. ids come first: who needs only them reads only the beginning.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

_DTYPES = {"I64": np.dtype("<i8"), "U32": np.dtype("<u4"), "F32": np.dtype("<f4")}


class RowBlock(NamedTuple):
    """Some rows of a table.

    Attributes:
        ids: [N] int64.
        touched: [N] uint32: the generation of the shard in which each was changed last.
        values: [N, width] float32.
        slots: for each slot of the optimizer [N, its columns] float32.
    """

    ids: np.ndarray
    touched: np.ndarray
    values: np.ndarray
    slots: tuple[np.ndarray, ...]

    def where(self, mask: np.ndarray) -> RowBlock:
        """The rows at which mask, [N] bool, is true."""
        return RowBlock(
            self.ids[mask], self.touched[mask], self.values[mask], tuple(slot[mask] for slot in self.slots)
        )


class TensorColumn(NamedTuple):
    """One tensor of a file: its name, type, and how many numbers a row has of it; None: one, and no dimension."""

    name: str
    dtype: str
    width: int | None = None

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return self.numpy.itemsize * (1 if self.width is None else self.width)

    def shape(self, rows: int) -> tuple[int, ...]:
        """The shape of so many rows."""
        return (rows,) if self.width is None else (rows, self.width)

    @property
    def numpy(self) -> np.dtype:
        """Its type, little-endian."""
        return _DTYPES[self.dtype]


ID_COLUMNS = (TensorColumn("ids", "I64"),)  # of a file of ids that were removed


def row_columns(width: int, slots: Sequence[int]) -> tuple[TensorColumn, ...]:
    """The columns of a file of rows; slots: how many numbers a row has of each slot."""
    return (
        *ID_COLUMNS,
        TensorColumn("touched", "U32"),
        TensorColumn("values", "F32", width),
        *(TensorColumn(f"slot{k}", "F32", columns) for k, columns in enumerate(slots)),
    )


def row_bytes(columns: Sequence[TensorColumn]) -> int:
    """Bytes of one row in all columns."""
    return sum(column.row_bytes for column in columns)


def header_of(columns: Sequence[TensorColumn], rows: int) -> bytes:
    """What stands before the tensors of so many rows."""
    entries: dict[str, Any] = {}
    begin = 0
    for column in columns:
        end = begin + rows * column.row_bytes
        entries[column.name] = {
            "dtype": column.dtype,
            "shape": column.shape(rows),
            "data_offsets": (begin, end),
        }
        begin = end
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # so that the tensors are aligned
    return len(text).to_bytes(8, "little") + text


def tensors_of(data: memoryview, columns: Sequence[TensorColumn], rows: int) -> Iterator[np.ndarray]:
    """The columns that lie in the bytes behind a header, as views."""
    begin = 0
    for column in columns:
        end = begin + rows * column.row_bytes
        yield np.frombuffer(data[begin:end], column.numpy).reshape(column.shape(rows))
        begin = end
