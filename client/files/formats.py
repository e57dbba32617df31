"""Which format a file has, and what reads or writes it."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...proto.errors import InvalidRequest
from ...proto.spec import TableSpec
from ..inputs import as_array
from ..urls import UnreadableFile
from . import array_files as files_arrays
from . import parquet_files as files_parquet
from . import tensorflow_files as files_tensorflow
from . import torch_files as files_torch
from . import word_files as files_words
from .beside import read_words
from .contract import WITHOUT_IDS, ArraySource, RowSink, RowSource, StoredVocabulary, reading
from .places import a_folder, fetched

WORD_FORMATS = ("word2vec", "word2vec-binary", "glove")
FORMATS = ("npy", "safetensors", "torch", "tensorflow", "parquet", *WORD_FORMATS)
_BY_SUFFIX = {
    ".npy": "npy",
    ".safetensors": "safetensors",
    ".pt": "torch",
    ".pth": "torch",
    ".ckpt": "tensorflow",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".vec": "word2vec",
    ".txt": "glove",
}
_OPENERS: dict[str, Callable[[Path, str | None, tuple[int, ...] | None], RowSource]] = {
    "npy": files_arrays.open_npy,
    "safetensors": files_arrays.open_safetensors,
    "torch": files_torch.open_torch,
    "tensorflow": files_tensorflow.open_tensorflow,
    "parquet": files_parquet.open_parquet,
}


@contextmanager
def opened(
    path: Any,
    format: str | None,
    tensor: str | None,
    row_shape: tuple[int, ...] | None,
) -> Generator[RowSource]:
    """The source for a file, closed at the end.

    Args:
        path: the file; or an array of rows itself.
        format: one of `FORMATS`, or None for what the file looks like.
        tensor: which tensor or column.
        row_shape: what a row should be, if known.

    Raises:
        InvalidRequest: an unknown format, or what the format's own source raises.
        FileNotFoundError: no such file.
    """
    if not isinstance(path, str | os.PathLike):
        if format is not None or tensor is not None:
            raise InvalidRequest("format= and tensor= are for files; these rows are an array")
        yield ArraySource([as_array(path, "rows")], what="the array")
        return
    with fetched(path) as where:  # pyright: ignore[reportUnknownArgumentType]
        with reading(where):
            source = _source(where, format, tensor, row_shape)
        try:
            if source.stored is None:
                source.stored = read_words(where)
            yield source
        finally:
            source.close()


def _source(
    where: Path, format: str | None, tensor: str | None, row_shape: tuple[int, ...] | None
) -> RowSource:
    if format is not None:
        known(format)
    kind = format_to_read(where, format)
    if where.is_file() and not where.stat().st_size:
        raise UnreadableFile(f"{where} is empty")
    if kind in WORD_FORMATS:
        return files_words.open_words(where, kind, row_shape)
    return _OPENERS[kind](where, tensor, row_shape)


def known(format: str) -> str:
    """The format. Raises InvalidRequest for an unknown one."""
    if format not in FORMATS:
        raise InvalidRequest(f"unknown format {format!r}; known: {', '.join(FORMATS)}")
    return format


def format_to_read(path: Path, format: str | None = None) -> str:
    """What a file is, by its name and its first bytes, if it is not said. Raises InvalidRequest, FileNotFoundError."""
    if format == "tensorflow" or (format is None and files_tensorflow.checkpoint_prefix(path) is not None):
        return "tensorflow"
    if path.is_dir():
        raise UnreadableFile(f"{path} is a folder without a TensorFlow checkpoint in it; name a file")
    if not path.exists():
        raise FileNotFoundError(f"no file {path}")
    if format is not None:
        return format
    if path.suffix == ".bin":
        return "word2vec-binary" if files_words.header_of(path) else "torch"
    if path.name.endswith(files_arrays.INDEX_SUFFIX):
        return "safetensors"
    if path.suffix in (".txt", ".vec"):
        return "word2vec" if files_words.header_of(path) else "glove"
    return _by_suffix(path)


def says_format(name: str) -> bool:
    """Whether a name ends as that of a file of rows does."""
    return name.endswith((*_BY_SUFFIX, ".bin"))


def format_to_write(path: Path, format: str | None = None) -> str:
    """What a file should become, by its name if it is not said; `.bin` is word2vec's.

    Raises:
        InvalidRequest: an unknown format; or nothing says it; or there is a folder, which only the prefix of a
            checkpoint may be called like.
    """
    if format is None and path.suffix == ".bin":
        format = "word2vec-binary"
    kind = _BY_SUFFIX.get(path.suffix) if format is None else known(format)
    if kind != "tensorflow" and path.is_dir():
        raise a_folder(path)
    return kind or _by_suffix(path)


def _by_suffix(path: Path) -> str:
    found = _BY_SUFFIX.get(path.suffix)
    if found is None:
        raise UnreadableFile(
            f"cannot tell the format of {path} from its name; say format=, one of: {', '.join(FORMATS)}"
        )
    return found


def check_holds(kind: str, spec: TableSpec, *, named: bool, stored: StoredVocabulary | None) -> None:
    """Raises InvalidRequest if a format cannot hold a table; the arguments are those of `sink_for`."""
    if known(kind) not in _SINKS:
        raise InvalidRequest(f"{kind} files are only read here; written are: {', '.join(_SINKS)}")
    if named and kind in WITHOUT_IDS:
        raise InvalidRequest(f"{kind} has no place for ids; export chosen ids to npy, safetensors or Parquet")
    if kind in WORD_FORMATS and stored is None:
        raise InvalidRequest(f"{kind} names rows by words; give vocabulary= (table {spec.name!r})")


def sink_for(
    kind: str,
    path: Path,
    spec: TableSpec,
    *,
    rows: int,
    named: bool,
    tensor: str,
    stored: StoredVocabulary | None,
) -> RowSink:
    """Where to write a table that `check_holds` has passed.

    Args:
        kind: the format.
        path: the file.
        spec: the table.
        rows: how many will be written.
        named: whether the ids are others than 0 to rows - 1.
        tensor: what the tensor or column is called.
        stored: the vocabulary, or None.
    """
    return _SINKS[kind](_Wanted(kind, path, spec, rows, named, tensor, stored))


@dataclass(frozen=True)
class _Wanted:
    """The arguments of `sink_for`."""

    kind: str
    path: Path
    spec: TableSpec
    rows: int
    named: bool
    tensor: str
    stored: StoredVocabulary | None


def _npy(to: _Wanted) -> RowSink:
    return files_arrays.NpySink(to.path, rows=to.rows, row_shape=to.spec.row_shape, name_ids=to.named)


def _safetensors(to: _Wanted) -> RowSink:
    return files_arrays.SafetensorsSink(
        to.path,
        rows=to.rows,
        row_shape=to.spec.row_shape,
        name_ids=to.named,
        tensor=to.tensor,
        metadata={"table": to.spec.name, **to.spec.metadata},
        stored=to.stored,
    )


def _torch(to: _Wanted) -> RowSink:
    return files_torch.TorchSink(to.path, rows=to.rows, row_shape=to.spec.row_shape, tensor=to.tensor)


def _tensorflow(to: _Wanted) -> RowSink:
    return files_tensorflow.TensorflowSink(
        to.path, rows=to.rows, row_shape=to.spec.row_shape, tensor=to.tensor
    )


def _parquet(to: _Wanted) -> RowSink:
    return files_parquet.ParquetSink(to.path, to.spec, tensor=to.tensor, stored=to.stored)


def _words(to: _Wanted) -> RowSink:
    assert to.stored is not None
    return files_words.WordsSink(
        to.path, to.kind, rows=to.rows, row_shape=to.spec.row_shape, stored=to.stored
    )


_SINKS: dict[str, Callable[[_Wanted], RowSink]] = {
    "npy": _npy,
    "safetensors": _safetensors,
    "torch": _torch,
    "tensorflow": _tensorflow,
    "parquet": _parquet,
    **dict.fromkeys(WORD_FORMATS, _words),
}
