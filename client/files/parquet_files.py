"""Rows in Parquet: a column of ids or words, and the columns of the rows."""

# pyarrow has no types.
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ...proto.atomic_file import AtomicFile
from ...proto.errors import InvalidRequest
from ...proto.spec import TableSpec
from .contract import (
    MOST_WORDS_BYTES,
    RowSink,
    RowSource,
    StoredVocabulary,
    choose_tensor,
    needs,
    reading,
    signed_ids,
    words_in_order,
)

_ID_NAMES = ("id", "ids", "index", "key")
_WORD_NAMES = ("word", "token", "key")
_SHAPE_KEY = b"rowloom.row_shape"
_VOCABULARY_KEY = b"rowloom.vocabulary"


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


class ParquetSource(RowSource):
    """A Parquet file, read batch by batch."""

    def __init__(self, path: Path, tensor: str | None, row_shape: tuple[int, ...] | None) -> None:
        needs("pyarrow", "a Parquet file needs", "'rowloom[parquet]'")
        import pyarrow as pa  # pyright: ignore[reportMissingImports]
        import pyarrow.parquet as pq  # pyright: ignore[reportMissingImports]

        self._path = path
        self._file = pq.ParquetFile(path)
        schema = self._file.schema_arrow
        kinds = pa.types
        self.rows = self._file.metadata.num_rows
        integers = [f.name for f in schema if kinds.is_integer(_plain(f.type)) and f.name in _ID_NAMES]
        texts = [f.name for f in schema if _is_text(_plain(f.type)) and f.name in _WORD_NAMES]
        self._key = (integers or texts or [None])[0]
        if len(integers) > 1 or (len(texts) > 1 and not integers):
            raise InvalidRequest(
                f"{path} has columns {', '.join(map(repr, integers or texts))}, each of which could name the rows; "
                "give all but one of them another name"
            )
        index = _index_of_pandas(schema)
        self._range = None if self._key is not None else _range_of_pandas(schema)
        if self._range is not None and len(self._range) != self.rows:
            raise InvalidRequest(f"{path} has {self.rows} rows, its index of pandas {len(self._range)}")
        self.has_ids, self.words = bool(integers) or self._range is not None, bool(texts) and not integers
        self._check_named(schema, index)
        self.stored = self._stored_in(schema)
        lists = [f.name for f in schema if _is_list(f.type)]
        self._columns = self._row_columns(schema, lists, tensor, index)
        self._check_columns(schema)
        self.row_shape = self._shape(schema, row_shape)

    def _stored_in(self, schema: Any) -> StoredVocabulary | None:
        """The vocabulary of the table that `ParquetSink` wrote."""
        metadata = schema.metadata or {}
        if _VOCABULARY_KEY not in metadata:
            return None
        return StoredVocabulary.parsed(metadata[_VOCABULARY_KEY], self._path)[0]

    def _check_named(self, schema: Any, index: list[str]) -> None:
        """Rows must not be taken by their place in the file where a column says whose they are, and cannot be read."""
        if self._key is not None or self._range is not None:
            return
        for field in schema:
            if field.name in _ID_NAMES or field.name in _WORD_NAMES:
                raise InvalidRequest(
                    f"{self._path}: column {field.name!r} has type {field.type}; ids must be integers and words text. "
                    "Convert it, or give it another name if it does not name the rows"
                )
        if index:
            raise InvalidRequest(
                f"{self._path} has an index of pandas, {', '.join(map(repr, index))}: call it 'id' if it names "
                "the rows (df.rename_axis('id')), or write the file without it (index=False)"
            )

    def _row_columns(self, schema: Any, lists: list[str], tensor: str | None, index: list[str]) -> list[str]:
        import pyarrow as pa  # pyright: ignore[reportMissingImports]

        if lists or tensor is not None:
            return [choose_tensor(schema.names, tensor, lists, what=str(self._path))]
        others = [f for f in schema if f.name not in (self._key, *index)]
        numbers = [f.name for f in others if pa.types.is_floating(f.type) or pa.types.is_integer(f.type)]
        if not numbers:
            raise InvalidRequest(f"{self._path} has no column of lists or of numbers; it has: {schema.names}")
        return numbers

    def _check_columns(self, schema: Any) -> None:
        """Raises InvalidRequest for columns that hold no numbers, or cannot be told from others by their name."""
        import pyarrow as pa  # pyright: ignore[reportMissingImports]

        kinds = pa.types
        numbers = (kinds.is_floating, kinds.is_integer, kinds.is_decimal, kinds.is_boolean, kinds.is_null)
        twice = [name for name in (*self._columns, self._key) if schema.names.count(name) > 1]
        if twice:
            raise InvalidRequest(
                f"{self._path} has {schema.names.count(twice[0])} columns {twice[0]!r}; give each a name of its own"
            )
        for field in map(schema.field, self._columns):
            kind = field.type.value_type if _is_list(field.type) else _plain(field.type)
            if not any(is_one(kind) for is_one in numbers):
                raise InvalidRequest(
                    f"{self._path}: column {field.name!r} has type {field.type}; rows are numbers, or lists of them"
                )

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
        wanted = [*self._columns, *([self._key] if self._key else [])]
        begin = 0
        with reading(self._path):
            for batch in self._file.iter_batches(size, columns=wanted):
                rows = self._rows_of(batch, begin)
                yield self._keys_of(batch, begin), rows
                begin += len(rows)

    def names(self, size: int) -> Iterator[np.ndarray | list[str]]:
        """As `RowSource.names`."""
        begin = 0
        with reading(self._path):
            for batch in self._file.iter_batches(
                size, columns=[self._key] if self._key else self._columns[:1]
            ):
                yield self._keys_of(batch, begin)
                begin += batch.num_rows

    def _keys_of(self, batch: Any, begin: int) -> np.ndarray | list[str]:
        if self._key is None:
            places = np.arange(begin, begin + batch.num_rows)
            return places if self._range is None else self._range.start + places * self._range.step
        keys = batch.column(self._key)
        if hasattr(keys, "dictionary_decode"):
            keys = keys.dictionary_decode()
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


def _plain(kind: Any) -> Any:
    """The type of a column's values; pandas writes categories as a dictionary of them."""
    import pyarrow as pa  # pyright: ignore[reportMissingImports]

    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _is_text(kind: Any) -> bool:
    import pyarrow as pa  # pyright: ignore[reportMissingImports]

    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _index_of_pandas(schema: Any) -> list[str]:
    """What holds a data frame's index beside its own columns: columns, and ranges that stand in the metadata alone."""
    columns = [one for one in _indexes(schema) if isinstance(one, str) and one in schema.names]
    ranges = [one for one in _indexes(schema) if isinstance(one, dict)]
    return columns + [
        f"{one.get('start')} to {one.get('stop')} by {one.get('step')}"
        for one in ranges
        if (one.get("start"), one.get("step")) != (0, 1)
    ]


def _range_of_pandas(schema: Any) -> range | None:
    """The ids of the rows, if they are an index that is a range."""
    for one in _indexes(schema):
        if isinstance(one, dict) and one.get("kind") == "range" and one.get("name") in _ID_NAMES:
            with contextlib.suppress(KeyError, TypeError, ValueError):
                return range(one["start"], one["stop"], one["step"])
    return None


def _indexes(schema: Any) -> list[Any]:
    try:
        return list((schema.pandas_metadata or {}).get("index_columns", []))
    except (ValueError, TypeError, AttributeError):  # damaged
        return []


def _is_list(kind: Any) -> bool:
    import pyarrow as pa  # pyright: ignore[reportMissingImports]

    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)


class ParquetSink(RowSink):
    """Writes `id`, `word` if there is a vocabulary, and `row` as lists of float32.

    A vocabulary stands in the file's metadata too, as it stands in a table's: the columns do not say what `unk`, `pad`
    and the buckets are.
    """

    def __init__(self, path: Path, spec: TableSpec, *, tensor: str, stored: StoredVocabulary | None) -> None:
        needs("pyarrow", "a Parquet file needs", "'rowloom[parquet]'")
        import pyarrow as pa  # pyright: ignore[reportMissingImports]
        import pyarrow.parquet as pq  # pyright: ignore[reportMissingImports]

        self._part = AtomicFile(path)
        self._width = math.prod(spec.row_shape)
        self._vocabulary = None if stored is None else stored.words
        fields = [pa.field("id", pa.int64()), pa.field(tensor, pa.list_(pa.float32(), self._width))]
        if stored is not None:
            fields.insert(1, pa.field("word", pa.string()))
        metadata = {_SHAPE_KEY: ",".join(map(str, spec.row_shape)).encode()}
        words = json.dumps(stored.to_json(), ensure_ascii=False).encode() if stored is not None else b""
        self.holds_words = 0 < len(words) <= MOST_WORDS_BYTES
        if self.holds_words:
            metadata[_VOCABULARY_KEY] = words
        self._schema = pa.schema(fields, metadata=metadata)
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
