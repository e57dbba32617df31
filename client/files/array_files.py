"""Rows in numpy's `.npy` and in safetensors files, mapped, so that a file may be larger than memory.

Why safetensors are not read by the library of that name. For numpy it has no bfloat16 of its own ("data type 'bfloat16'
not understood", unless another package happens to have taught numpy that name), and most models come in it; it copies
what it reads, and a slice of no rows, or past the end, is an empty array, an error or a panic, by its version. And it
writes only whole arrays from memory, where an export comes block by block. The tests read what it wrote, and it what we
wrote.
"""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from ...proto.atomic_file import AtomicFile
from ...proto.errors import InvalidRequest
from ..urls import UnreadableFile
from ..vocabulary import METADATA_KEY
from .beside import ids_beside, mark_ids, read_ids
from .contract import (
    MOST_WORDS_BYTES,
    ArraySource,
    RowSink,
    StoredVocabulary,
    choose_rows,
    choose_tensor,
    mapped_array,
    reading,
    take_room,
)

# The header of a safetensors file may be this long; the format's own library has the same limit.
_HEADER_LIMIT = 100_000_000
INDEX_SUFFIX = ".safetensors.index.json"
_DTYPES: dict[str, Any] = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U64": np.uint64,
    "U32": np.uint32,
    "U16": np.uint16,
    "U8": np.uint8,
    "BOOL": np.bool_,
}


def open_npy(path: Path, tensor: str | None, row_shape: tuple[int, ...] | None) -> ArraySource:
    """The rows of a `.npy` file. Raises InvalidRequest: cut short, holds objects, or `tensor` is given."""
    if tensor is not None:
        raise InvalidRequest(f"{path} holds one array without a name; leave tensor= out, got {tensor!r}")
    return ArraySource([mapped_array(path)], what=str(path), ids=read_ids(path))


class NpySink(RowSink):
    """Writes a `.npy` file; the ids, if they are not 0 to V - 1, into `<name>.ids.npy` beside it."""

    def __init__(self, path: Path, *, rows: int, row_shape: tuple[int, ...], name_ids: bool) -> None:
        self._rows = AtomicFile(path)
        self._ids = AtomicFile(ids_beside(path))
        self._stale = None if name_ids else self._ids.target
        self._at = 0
        self._out: np.ndarray | None = None
        self._ids_out: np.ndarray | None = None
        try:
            self._out = _map_npy(self._rows.path, np.float32, (rows, *row_shape))
            self._ids_out = _map_npy(self._ids.path, np.int64, (rows,)) if name_ids else None
        except BaseException:  # room for the rows, and none for their ids; or interrupted: taking it may last
            self.abort()
            raise

    def write(self, ids: np.ndarray, rows: np.ndarray) -> None:
        """As `RowSink.write`."""
        assert self._out is not None
        self._out[self._at : self._at + len(rows)] = rows
        if self._ids_out is not None:
            self._ids_out[self._at : self._at + len(rows)] = ids
        self._at += len(rows)

    def commit(self) -> None:
        """As `RowSink.commit`."""
        named = self._ids_out is not None
        self._out = self._ids_out = None  # the mappings write themselves out when nobody holds them
        if named:
            mark_ids(self._ids.path, self._rows.path)
            self._ids.commit()
        elif self._stale is not None:
            self._stale.unlink(missing_ok=True)
        self._rows.commit()

    def abort(self) -> None:
        """As `RowSink.abort`."""
        self._out = self._ids_out = None
        self._rows.abort()
        self._ids.abort()


def _map_npy(path: Path, dtype: type[Any], shape: tuple[int, ...]) -> np.ndarray:
    if 0 in shape:  # nothing to map
        empty = np.empty(shape, dtype)
        with open(path, "wb") as f:
            np.save(f, empty, allow_pickle=False)
        return empty
    try:
        mapped = np.lib.format.open_memmap(path, "w+", dtype, shape)
        take_room(path, path.stat().st_size)
    except OSError as e:
        path.unlink(missing_ok=True)
        raise OSError(e.errno, e.strerror, str(path)) from e
    return mapped


def open_safetensors(path: Path, tensor: str | None, row_shape: tuple[int, ...] | None) -> ArraySource:
    """The rows of one tensor of a safetensors file; a tensor `ids` of integers names their ids.

    Args:
        path: the file, or the `.index.json` of a model in several files, which says which of them has the tensor.
        tensor: its name, where there are several.
        row_shape: what a row should be, if known.

    Raises:
        InvalidRequest: cut short, no such tensor, several that could be meant, or `ids` that do not fit the rows.
    """
    if path.name.endswith(INDEX_SUFFIX):
        path, tensor = _file_of(path, tensor)
    header, metadata, begin = _read_header(path)
    shapes = {name: entry["shape"] for name, entry in header.items()}
    name = choose_rows(shapes, tensor, row_shape, what=str(path), others=["ids"])
    ids = None
    if "ids" in header and name != "ids":
        if shapes["ids"] != shapes[name][:1]:
            raise InvalidRequest(
                f"{path}: tensor 'ids' has shape {shapes['ids']}, so it does not name the rows of {name!r}; "
                f"make it {shapes[name][:1]}, an integer for each, or leave it out"
            )
        ids = _map_tensor(path, header["ids"], begin)
    source = ArraySource([_map_tensor(path, header[name], begin)], what=f"{path}: {name}", ids=ids)
    source.stored = _stored_in(path, metadata)
    return source


def _stored_in(path: Path, metadata: dict[str, str]) -> StoredVocabulary | None:
    """The vocabulary that `SafetensorsSink` wrote; others may use the name for something else."""
    text = metadata.get(METADATA_KEY, "")
    if not text.startswith('{"format": "rowloom-vocabulary"'):
        return None
    return StoredVocabulary.parsed(text, path)[0]


def _file_of(index: Path, tensor: str | None) -> tuple[Path, str]:
    """Which file has a tensor, and its name."""
    files = {
        name: index.with_name(file)
        for name, file in dict(json.loads(index.read_text())["weight_map"]).items()
    }
    name = choose_tensor(files, tensor, files, what=str(index))
    if files[name].is_dir():
        raise UnreadableFile(f"{index}: {name!r} is said to be in {files[name].name!r}, which is a folder")
    return files[name], name


def _read_header(path: Path) -> tuple[dict[str, Any], dict[str, str], int]:
    """The entries by name, checked against the file's size; the metadata; and where the data begin."""
    size = path.stat().st_size
    with open(path, "rb") as f:
        length = int.from_bytes(f.read(8), "little")
        if size < 8 or length > min(_HEADER_LIMIT, size - 8):
            raise UnreadableFile(f"{path} is cut short or no safetensors file: {size} bytes")
        with reading(path):  # it may be one of several
            header = dict(json.loads(f.read(length)))
            metadata = {str(k): str(v) for k, v in dict(header.pop("__metadata__", {})).items()}
            for name, entry in header.items():
                _check_entry(path, name, entry, size - 8 - length)
    return header, metadata, 8 + length


def _check_entry(path: Path, name: str, entry: dict[str, Any], data_bytes: int) -> None:
    begin, end = entry["data_offsets"]
    if any(type(number) is not int for number in (begin, end, *entry["shape"])):
        raise UnreadableFile(
            f"{path}: tensor {name!r} has shape {entry['shape']} at bytes {begin} to {end}, which are no integers"
        )
    dtype = _DTYPES.get(entry["dtype"])
    if dtype is None:
        return  # a type that numpy lacks is refused only when that tensor is asked for
    if any(d < 0 for d in entry["shape"]) or not 0 <= begin <= end:
        raise UnreadableFile(f"{path}: tensor {name!r} has shape {entry['shape']} at bytes {begin} to {end}")
    want = int(np.prod(entry["shape"], dtype=object)) * np.dtype(dtype).itemsize
    if end - begin != want:
        raise UnreadableFile(f"{path}: tensor {name!r} has {end - begin} bytes, its shape needs {want}")
    if end > data_bytes:
        raise UnreadableFile(f"{path} is cut short: tensor {name!r} ends at {end}, the data at {data_bytes}")


def _map_tensor(path: Path, entry: dict[str, Any], begin: int) -> np.ndarray:
    dtype = _DTYPES.get(entry["dtype"])
    if dtype is None:
        raise InvalidRequest(f"{path}: type {entry['dtype']} is not supported; known: {', '.join(_DTYPES)}")
    shape = tuple(entry["shape"])
    if 0 in shape:
        return np.empty(shape, dtype)
    return np.memmap(path, dtype=dtype, mode="r", offset=begin + entry["data_offsets"][0], shape=shape)


class SafetensorsSink(RowSink):
    """Writes one tensor, and `ids` behind it where the ids are not 0 to V - 1."""

    def __init__(
        self,
        path: Path,
        *,
        rows: int,
        row_shape: tuple[int, ...],
        name_ids: bool,
        tensor: str,
        metadata: dict[str, str],
        stored: StoredVocabulary | None = None,
    ) -> None:
        self._part = AtomicFile(path)
        text = json.dumps(stored.to_json(), ensure_ascii=False) if stored is not None else ""
        self.holds_words = 0 < len(text.encode()) <= MOST_WORDS_BYTES
        if self.holds_words:
            metadata = {**metadata, METADATA_KEY: text}
        row_bytes = rows * int(np.prod(row_shape, dtype=np.int64)) * 4
        entries: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
        entries[tensor] = {"dtype": "F32", "shape": [rows, *row_shape], "data_offsets": [0, row_bytes]}
        if name_ids:
            offsets = [row_bytes, row_bytes + rows * 8]
            entries["ids"] = {"dtype": "I64", "shape": [rows], "data_offsets": offsets}
        header = json.dumps(entries).encode()
        header += b" " * (-len(header) % 8)
        self._file = open(self._part.path, "wb")  # noqa: SIM115  # commit or abort closes it
        self._file.write(len(header).to_bytes(8, "little") + header)
        self._ids: list[np.ndarray] | None = [] if name_ids else None

    def write(self, ids: np.ndarray, rows: np.ndarray) -> None:
        """As `RowSink.write`."""
        self._file.write(np.ascontiguousarray(rows, "<f4").data)
        if self._ids is not None:
            self._ids.append(ids.astype("<i8"))

    def commit(self) -> None:
        """As `RowSink.commit`."""
        for ids in self._ids or ():
            self._file.write(ids.data)
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self._part.commit()

    def abort(self) -> None:
        """As `RowSink.abort`."""
        self._part.abort()  # first: closing writes what is left, and a full disk takes none of it
        with contextlib.suppress(OSError):
            self._file.close()
