"""Rows in Parquet: a column of ids or words, and the columns of the rows."""

# pyarrow has no types.
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ...proto.errors import InvalidRequest
from ..vocabulary import Vocabulary
from .contract import Part, choose_tensor, damaged, signed_ids, words_in_order

_ID_NAMES = ("id", "ids", "index", "key")
_WORD_NAMES = ("word", "token", "key")
_SHAPE_KEY = b"rowloom.row_shape"


def open_parquet(path: Path, tensor: str | None, row_shape: tuple[int, ...] | None) -> ParquetSource:
    """The rows of a Parquet file: a list column, or all columns of numbers; `id` or `word` name the rows.

    Args:
        path: the file.
        tensor: the list column, where there are several.
        row_shape: what a row should be, if known.

    Raises:
        InvalidRequest: damaged, or columns that cannot be rows.
    """
    return ParquetSource(path, tensor, row_shape)


class ParquetSource:
    """A Parquet file, read batch by batch."""

    def __init__(self, path: Path, tensor: str | None, row_shape: tuple[int, ...] | None) -> None:
        import pyarrow as pa  # pyright: ignore[reportMissingImports]
        import pyarrow.parquet as pq  # pyright: ignore[reportMissingImports]

        self._path = path
        try:
            self._file = pq.ParquetFile(path)
            schema = self._file.schema_arrow
        except (pa.ArrowInvalid, OSError) as e:
            damaged(path, e)
        kinds = pa.types
        self.rows: int | None = self._file.metadata.num_rows
        integers = [f.name for f in schema if kinds.is_integer(f.type) and f.name in _ID_NAMES]
        texts = [
            f.name
            for f in schema
            if (kinds.is_string(f.type) or kinds.is_large_string(f.type)) and f.name in _WORD_NAMES
        ]
        self._key = (integers or texts or [None])[0]
        self.has_ids, self.words = bool(integers), bool(texts) and not integers
        lists = [f.name for f in schema if _is_list(f.type)]
        self._columns = self._row_columns(schema, lists, tensor)
        self.row_shape = self._shape(schema, row_shape)

    def _row_columns(self, schema: Any, lists: list[str], tensor: str | None) -> list[str]:
        import pyarrow as pa  # pyright: ignore[reportMissingImports]

        if lists or tensor is not None:
            return [choose_tensor(schema.names, tensor, lists, what=str(self._path))]
        numbers = [
            f.name
            for f in schema
            if f.name != self._key and (pa.types.is_floating(f.type) or pa.types.is_integer(f.type))
        ]
        if not numbers:
            raise InvalidRequest(f"{self._path} has no column of lists or of numbers; it has: {schema.names}")
        return numbers

    def _shape(self, schema: Any, row_shape: tuple[int, ...] | None) -> tuple[int, ...]:
        kind = schema.field(self._columns[0]).type
        if not _is_list(kind):
            width = len(self._columns)
        elif hasattr(kind, "list_size"):
            width = kind.list_size
        else:
            width = self._width_of_the_first()
        stored = (schema.metadata or {}).get(_SHAPE_KEY)
        shape = tuple(int(d) for d in stored.split(b",") if d) if stored is not None else (width,)
        if row_shape is not None and math.prod(row_shape) == width:
            shape = row_shape  # Parquet has no matrices; a list as long as the row is the row, laid flat
        return shape if math.prod(shape) == width else (width,)

    def _width_of_the_first(self) -> int:
        for batch in self._file.iter_batches(1, columns=self._columns):
            first = batch.column(0)[0]
            return len(first) if first.is_valid else 0
        return 0

    def blocks(self, size: int) -> Iterator[tuple[np.ndarray | list[str], np.ndarray]]:
        """As `RowSource.blocks`."""
        import pyarrow as pa  # pyright: ignore[reportMissingImports]

        wanted = [*self._columns, *([self._key] if self._key else [])]
        begin = 0
        try:
            for batch in self._file.iter_batches(size, columns=wanted):
                rows = self._rows_of(batch, begin)
                yield self._keys_of(batch, begin), rows
                begin += len(rows)
        except (pa.ArrowInvalid, OSError) as e:
            damaged(self._path, e)

    def _keys_of(self, batch: Any, begin: int) -> np.ndarray | list[str]:
        if self._key is None:
            return np.arange(begin, begin + batch.num_rows)
        keys = batch.column(self._key)
        if keys.null_count:
            raise InvalidRequest(f"{self._path}: column {self._key!r} has nulls near row {begin}")
        if self.words:
            return keys.to_pylist()
        return signed_ids(keys.to_numpy(zero_copy_only=False), begin, str(self._path))

    def _rows_of(self, batch: Any, begin: int) -> np.ndarray:
        columns = [batch.column(name) for name in self._columns]
        if any(c.null_count for c in columns):
            raise InvalidRequest(f"{self._path}: a row near {begin} is null; every row needs its numbers")
        if not _is_list(columns[0].type):
            rows = np.stack([c.to_numpy(zero_copy_only=False) for c in columns], axis=1)
            return rows.reshape(len(rows), *self.row_shape)
        flat = columns[0].flatten()
        if flat.null_count:
            raise InvalidRequest(f"{self._path}: a row near {begin} has a null in it")
        width = math.prod(self.row_shape)
        lengths = np.diff(columns[0].offsets) if hasattr(columns[0], "offsets") else np.array([], np.int64)
        wrong = np.flatnonzero(lengths != width)
        if len(wrong):
            k = int(wrong[0])
            raise InvalidRequest(f"{self._path}: row {begin + k} has {lengths[k]} numbers, the first {width}")
        return flat.to_numpy(zero_copy_only=False).reshape(batch.num_rows, *self.row_shape)

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


def _is_list(kind: Any) -> bool:
    import pyarrow as pa  # pyright: ignore[reportMissingImports]

    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)


class ParquetSink:
    """Writes `id`, `word` if there is a vocabulary, and `row` as lists of float32."""

    def __init__(
        self, path: Path, *, row_shape: tuple[int, ...], tensor: str, vocabulary: Vocabulary | None
    ) -> None:
        import pyarrow as pa  # pyright: ignore[reportMissingImports]
        import pyarrow.parquet as pq  # pyright: ignore[reportMissingImports]

        self._part = Part(path)
        self._width = math.prod(row_shape)
        self._vocabulary = vocabulary
        fields = [pa.field("id", pa.int64()), pa.field(tensor, pa.list_(pa.float32(), self._width))]
        if vocabulary is not None:
            fields.insert(1, pa.field("word", pa.string()))
        shape = ",".join(map(str, row_shape)).encode()
        self._schema = pa.schema(fields, metadata={_SHAPE_KEY: shape})
        try:
            self._writer: Any = pq.ParquetWriter(self._part.path, self._schema)
        except BaseException:  # it has opened the file before it fails, or is interrupted
            self._part.abort()
            raise

    def write(self, ids: np.ndarray, rows: np.ndarray) -> None:
        """As `RowSink.write`."""
        import pyarrow as pa  # pyright: ignore[reportMissingImports]

        flat = pa.array(np.ascontiguousarray(rows).reshape(-1))
        columns = [pa.array(ids), pa.FixedSizeListArray.from_arrays(flat, self._width)]
        if self._vocabulary is not None:
            columns.insert(1, pa.array(words_in_order(self._vocabulary, ids)))
        self._writer.write_table(pa.Table.from_arrays(columns, schema=self._schema))

    def commit(self) -> None:
        """As `RowSink.commit`."""
        self._writer.close()
        self._part.commit()

    def abort(self) -> None:
        """As `RowSink.abort`."""
        self._part.abort()  # first: closing writes what is left, and a full disk takes none of it
        with contextlib.suppress(OSError):
            self._writer.close()
