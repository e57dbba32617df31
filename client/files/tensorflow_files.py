"""Rows in a TensorFlow checkpoint: read from its files, mapped, without TensorFlow; written with it.

A checkpoint is an index (a LevelDB table: tensor name -> type, shape, file, offset) and files of raw
little-endian numbers. TensorFlow's own reader loads a whole tensor to give a part of it; the mapping
gives any part of a file larger than memory. A partitioned variable is one name with several slices along
the rows, or, from older savers, `name/part_0`, `name/part_1`, ...
"""

from __future__ import annotations

import os
import re
import shutil
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from ...proto.errors import InvalidRequest
from ..urls import UnreadableFile
from .contract import ArraySource, RowSink, choose_rows, needs, reading

_MAGIC = 0xDB4775248B80FB57
_OBJECT_SUFFIX = "/.ATTRIBUTES/VARIABLE_VALUE"
_DTYPES: dict[int, Any] = {
    1: np.float32,
    2: np.float64,
    3: np.int32,
    4: np.uint8,
    5: np.int16,
    6: np.int8,
    9: np.int64,
    10: np.bool_,
    14: ml_dtypes.bfloat16,
    17: np.uint16,
    19: np.float16,
    22: np.uint32,
    23: np.uint64,
}
# One file of the checkpoint holds this much; TensorFlow makes a file of each write.
_PART_BYTES = 256 << 20


@dataclass
class _Entry:
    """One tensor, or a slice of one, in the index. `slices`: (start, length) of each dimension."""

    dtype: int = 0
    shape: tuple[int, ...] = ()
    shard: int = 0
    offset: int = 0
    size: int = 0
    slices: list[list[tuple[int, int]]] = field(default_factory=list[list[tuple[int, int]]])


def checkpoint_prefix(path: Path) -> Path | None:
    """The prefix of the checkpoint that a path means: a prefix, its `.index`, or a folder; else None."""
    if path.name != ".index" and path.name.endswith(".index") and path.is_file():
        return path.with_name(path.name.removesuffix(".index"))
    if path.name and path.with_name(path.name + ".index").is_file():  # "." and "/" have no name
        return path
    latest = path / "checkpoint"
    if latest.is_file():
        found = re.search(r'^model_checkpoint_path: "(.+)"', latest.read_text(), re.MULTILINE)
        if found:
            return path / found[1]
    return None


def open_tensorflow(path: Path, tensor: str | None, row_shape: tuple[int, ...] | None) -> ArraySource:
    """The rows of one variable of a checkpoint; partitioned variables whole, in the order of their parts.

    Args:
        path: the prefix, the `.index` file, or the folder (its latest checkpoint).
        tensor: the variable's name, with or without `/.ATTRIBUTES/VARIABLE_VALUE`.
        row_shape: what a row should be, if known.

    Raises:
        InvalidRequest: no checkpoint, damaged, no such name, or several that could be meant.
    """
    prefix = checkpoint_prefix(path)
    if prefix is None:
        raise UnreadableFile(f"{path} is no checkpoint: there is no {path}.index")
    index = prefix.with_name(prefix.name + ".index")
    with reading(index):
        raw, shards = _read_index(index.read_bytes())
    variables = _variables(raw)
    wanted = tensor.removesuffix(_OBJECT_SUFFIX) if tensor is not None else None
    shapes = {name: parts[0][1].shape for name, parts in variables.items()}
    name = choose_rows(shapes, wanted, row_shape, what=str(prefix))
    pieces = [piece for key, entry in variables[name] for piece in _pieces(prefix, shards, raw, key, entry)]
    return ArraySource(pieces, what=f"{prefix}: {name}")


def _variables(raw: dict[bytes, _Entry]) -> dict[str, list[tuple[bytes, _Entry]]]:
    """Variables by their plain names; `x/part_0`, `x/part_1`, ... together are `x` as well."""
    found: dict[str, list[tuple[bytes, _Entry]]] = {}
    parts: dict[str, dict[int, tuple[bytes, _Entry]]] = {}
    for key, entry in raw.items():
        if not key or key[0] == 0 or entry.dtype not in _DTYPES:
            continue  # the header, slices, and strings
        name = key.decode().removesuffix(_OBJECT_SUFFIX)
        part = re.fullmatch(r"(.+)/part_(\d+)", name)
        if part:
            parts.setdefault(part[1], {})[int(part[2])] = (key, entry)
        else:
            found[name] = [(key, entry)]
    for name, numbered in parts.items():
        if sorted(numbered) == list(range(len(numbered))) and name not in found:
            found[name] = [numbered[k] for k in range(len(numbered))]
        else:
            found |= {f"{name}/part_{k}": [v] for k, v in numbered.items()}
    return found


def _pieces(
    prefix: Path, shards: int, raw: dict[bytes, _Entry], key: bytes, entry: _Entry
) -> list[np.ndarray]:
    if not entry.slices:
        return [_map(prefix, shards, key, entry, entry.shape)]
    placed: list[tuple[int, list[int], _Entry]] = []
    for routed in entry.slices:
        sizes = [d if length < 0 else length for (_, length), d in zip(routed, entry.shape, strict=True)]
        if sizes[1:] != list(entry.shape[1:]):
            raise InvalidRequest(
                f"{prefix}: {key.decode()} is cut across its columns; only cuts between rows are read"
            )
        stored = raw.get(_slice_key(key, routed))
        if stored is None:
            raise UnreadableFile(f"{prefix}.index is damaged: a slice of {key.decode()} is missing")
        placed.append((routed[0][0], sizes, stored))
    placed.sort(key=lambda one: one[0])
    begins = [begin for begin, _, _ in placed]
    if begins != [0, *np.cumsum([sizes[0] for _, sizes, _ in placed])[:-1].tolist()]:
        raise UnreadableFile(f"{prefix}.index is damaged: the slices of {key.decode()} leave rows out")
    return [_map(prefix, shards, key, stored, tuple(sizes)) for _, sizes, stored in placed]


def _map(prefix: Path, shards: int, key: bytes, entry: _Entry, shape: tuple[int, ...]) -> np.ndarray:
    path = prefix.with_name(f"{prefix.name}.data-{entry.shard:05d}-of-{shards:05d}")
    dtype = np.dtype(_DTYPES[entry.dtype])
    if not path.is_file():
        raise UnreadableFile(f"{prefix}: the file {path.name} is missing")
    if entry.size != int(np.prod(shape, dtype=object)) * dtype.itemsize:
        raise UnreadableFile(
            f"{prefix}: {key.decode()} has {entry.size} bytes, its shape {shape} needs others"
        )
    if entry.offset + entry.size > path.stat().st_size:
        raise UnreadableFile(
            f"{path} is cut short: {key.decode()} ends at byte {entry.offset + entry.size}, the file at "
            f"{path.stat().st_size}"
        )
    if 0 in shape:
        return np.empty(shape, dtype)
    return np.memmap(path, dtype=dtype, mode="r", offset=entry.offset, shape=shape)


# -------------------------------------------------------------------------------------------------- the index


def _read_index(data: bytes) -> tuple[dict[bytes, _Entry], int]:
    """The entries by key, and the number of data files."""
    if len(data) < 48 or struct.unpack_from("<Q", data, len(data) - 8)[0] != _MAGIC:
        raise ValueError("no table at its end")
    footer = len(data) - 48
    _, footer = _varint(data, footer)
    _, footer = _varint(data, footer)
    entries: dict[bytes, _Entry] = {}
    shards = 1
    for _, handle in _block(data, *_handle(data, footer)):
        for key, value in _block(data, *_handle(handle, 0)):
            if key:
                entries[key] = _entry(value)
                continue
            header = dict(_fields(value))
            shards = header.get(1, 1)
            if header.get(2, 0) != 0:
                raise ValueError("its numbers are big-endian")
    return entries, shards


def _handle(data: bytes, at: int) -> tuple[int, int]:
    offset, at = _varint(data, at)
    return offset, _varint(data, at)[0]


def _block(data: bytes, offset: int, size: int) -> Iterator[tuple[bytes, bytes]]:
    """The (key, value) pairs of a block; a key shares its first bytes with the one before."""
    block = data[offset : offset + size]
    if len(block) != size or data[offset + size] != 0:
        raise ValueError("a block is cut short or compressed")
    end = size - 4 - 4 * struct.unpack_from("<I", block, size - 4)[0]
    at, key = 0, b""
    while at < end:
        shared, at = _varint(block, at)
        own, at = _varint(block, at)
        length, at = _varint(block, at)
        key = key[:shared] + block[at : at + own]
        at += own
        yield key, block[at : at + length]
        at += length


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7


def _fields(message: bytes) -> Iterator[tuple[int, Any]]:
    """The fields of a protobuf message: numbers as int, messages as bytes."""
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        kind = tag & 7
        if kind == 0:
            value, at = _varint(message, at)
        elif kind == 2:
            length, at = _varint(message, at)
            value, at = message[at : at + length], at + length
        elif kind in (1, 5):
            width = 8 if kind == 1 else 4
            value, at = int.from_bytes(message[at : at + width], "little"), at + width
        else:
            raise ValueError(f"field {tag >> 3} has an unknown kind {kind}")
        yield tag >> 3, value


def _entry(message: bytes) -> _Entry:
    entry = _Entry()
    for number, value in _fields(message):
        if number == 1:
            entry.dtype = value
        elif number == 2:
            sizes = (dict(_fields(dim)).get(1, 0) for n, dim in _fields(value) if n == 2)
            entry.shape = tuple(sizes)
        elif number == 3:
            entry.shard = value
        elif number == 4:
            entry.offset = value
        elif number == 5:
            entry.size = value
        elif number == 7:
            routed = [dict(_fields(routed)) for n, routed in _fields(value) if n == 1]
            entry.slices.append([(e.get(1, 0), e.get(2, -1)) for e in routed])
    return entry


def _slice_key(name: bytes, routed: list[tuple[int, int]]) -> bytes:
    """The key of a slice, in codes that sort as what they encode: 0, name, dimensions, starts and lengths."""
    # Names are UTF-8 without NUL: nothing to escape.
    key = b"\x00" + name + b"\x00\x01" + bytes([1, len(routed)])
    return key + b"".join(_ordered(start) + _ordered(length) for start, length in routed)


def _ordered(value: int) -> bytes:
    """A signed number whose bytes sort as it does: n bytes hold 7n - 1 bits and n leading ones."""
    length = 1
    while not -(1 << (7 * length - 1)) <= value < 1 << (7 * length - 1):
        length += 1
    if length > 7:
        raise ValueError(f"no tensor has {value} rows")
    ones = ((1 << length) - 1) << (7 * length)
    return ((value & ((1 << (8 * length)) - 1)) ^ ones).to_bytes(length, "big")


# ---------------------------------------------------------------------------------------------------- writing


class TensorflowSink(RowSink):
    """Writes a checkpoint of one variable; `tf.train.load_checkpoint` and savers by name read it."""

    def __init__(self, path: Path, *, rows: int, row_shape: tuple[int, ...], tensor: str) -> None:
        needs("tensorflow", "a TensorFlow checkpoint is written with", "tensorflow")
        import tensorflow as tf  # pyright: ignore[reportMissingImports]

        self._tf: Any = tf
        self._path, self._name = path, tensor
        self._shape = (rows, *row_shape)
        self._scratch = path.with_name(f"{path.name}.part-{os.getpid()}")
        # What an export left that was killed had this name if it had this process's number.
        shutil.rmtree(self._scratch, ignore_errors=True)
        self._parts: list[str] = []
        self._held: list[np.ndarray] = []
        self._written = 0

    def write(self, ids: np.ndarray, rows: np.ndarray) -> None:
        """As `RowSink.write`."""
        self._held.append(rows)
        if sum(r.nbytes for r in self._held) >= _PART_BYTES:
            self._save()

    def _save(self) -> None:
        rows = np.concatenate(self._held) if self._held else np.empty((0, *self._shape[1:]), np.float32)
        part = str(self._scratch / f"part{len(self._parts)}")
        dims = " ".join(map(str, self._shape))
        rest = "".join(":-" for _ in self._shape[1:])
        whole = len(rows) == self._shape[0]
        self._tf.raw_ops.SaveV2(
            prefix=part,
            tensor_names=[self._name],
            shape_and_slices=["" if whole else f"{dims} {self._written},{len(rows)}{rest}"],
            tensors=[self._tf.constant(rows)],
        )
        self._parts.append(part)
        self._written += len(rows)
        self._held = []

    def commit(self) -> None:
        """As `RowSink.commit`."""
        if self._held or not self._parts:
            self._save()
        self._tf.raw_ops.MergeV2Checkpoints(
            checkpoint_prefixes=self._parts, destination_prefix=str(self._path), delete_old_dirs=True
        )

    def abort(self) -> None:
        """As `RowSink.abort`."""
        shutil.rmtree(self._scratch, ignore_errors=True)
