"""Pretrained rows in, trained rows out: any of the usual files, a block at a time, also larger than memory.

| format            | file                          | reads | writes | ids                                  |
| ----------------- | ----------------------------- | ----- | ------ | ------------------------------------ |
| `npy`             | `.npy`                        | yes   | yes    | row number, or `<file>.ids.npy`      |
| `safetensors`     | `.safetensors`                | yes   | yes    | row number, or a tensor `ids`        |
| `torch`           | `.pt`, `.pth`, `.bin`         | yes   | yes    | row number                           |
| `tensorflow`      | checkpoint prefix, `.ckpt`    | yes   | yes    | row number                           |
| `parquet`         | `.parquet`, `.pq`             | yes   | yes    | column `id` or `word`, or row number |
| `word2vec`        | `.vec`                        | yes   | yes    | by word                              |
| `word2vec-binary` | `.bin`                        | yes   | yes    | by word                              |
| `glove`           | `.txt`                        | yes   | yes    | by word                              |

Torch, TensorFlow (to write only) and pyarrow are imported when a file needs them. Nothing is ever unpickled.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ...proto.errors import InvalidRequest, TableExists, TableNotFound
from ...proto.partition import offset
from ...proto.recipes import is_whole
from ...proto.spec import SGD, Initializer, Optimizer, TableSpec, Uniform
from ..vocabulary import Vocabulary
from .contract import BLOCK_BYTES, RowSource, RowTable, TableMaker, as_float32
from .formats import WORD_FORMATS, format_to_write, opened, sink_for
from .parquet_files import ParquetSource

Progress = Callable[[int, "int | None"], None]


@dataclass(frozen=True)
class Imported:
    """What an import did.

    Attributes:
        table: where the rows are.
        rows: how many were written.
        vocabulary: the words of the rows, where the file has words.
        skipped: words of the file that the vocabulary does not have, or that came a second time.
        missing: words of the vocabulary that the file does not have: as they were, but `pad` (zeros) and
            `unk` (the mean row).
    """

    table: RowTable
    rows: int
    vocabulary: Vocabulary | None = None
    skipped: int = 0
    missing: int = 0


def import_table(
    target: RowTable | TableMaker,
    path: str | os.PathLike[str],
    *,
    name: str | None = None,
    format: str | None = None,
    tensor: str | None = None,
    vocabulary: Vocabulary | None = None,
    first_id: int | None = None,
    mod_parts: int = 1,
    block_rows: int | None = None,
    progress: Progress | None = None,
) -> Imported:
    """Overwrite the rows of a table with those of a file. The optimizer's slots stay.

    Args:
        target: the table, or a client and `name`.
        path: the file; a TensorFlow checkpoint is named by its prefix, its `.index`, or its folder.
        name: the table's name, if target is a client.
        format: one of those above; by default what the file looks like.
        tensor: which tensor or column, where the file has several.
        vocabulary: the id of each word, for files of words only; the table's own by default.
        first_id: the id of the file's first row. By default the file must have as many rows as the table;
            with it, fewer are welcome. Not for files that name their ids or words.
        mod_parts: the file is n runs of rows laid end to end, where run i holds the ids i, i + n, i + 2n,
            ...: a variable partitioned n ways and trained with `partition_strategy="mod"`.
        block_rows: rows in one assign; by default 8 MiB of them.
        progress: called with (rows done, rows in all or None) after each block.

    Raises:
        InvalidRequest: the file is damaged, or does not fit the table, or holds numbers that are not
            finite. Rows before the place that the message names were written.
        FileNotFoundError: no such file.
    """
    table = _table_of(target, name)
    with opened(path, format, tensor, table.spec.row_shape) as source:
        _check_words(source, vocabulary, path)
        job = _Import(table, source, str(path), block_rows, progress)
        job.check_shape()
        if source.words:
            words = Vocabulary.of(table) if vocabulary is None else vocabulary
            if words is None:
                raise InvalidRequest(
                    f"{path} names rows by words; give vocabulary=, or make the table with from_pretrained"
                )
            words.check(table.spec)
            return job.by_word(words)
        return job.by_id(first_id, mod_parts)


def from_pretrained(
    client: TableMaker,
    path: Any,
    name: str,
    *,
    freeze: bool = True,
    optimizer: Optimizer | None = None,
    initializer: Initializer | None = None,
    partition: str = "mod",
    num_embeddings: int | None = None,
    unk: str | None = "<unk>",
    pad: str | None = "<pad>",
    buckets: int = 0,
    vocabulary: Vocabulary | None = None,
    format: str | None = None,
    tensor: str | None = None,
    mod_parts: int = 1,
    block_rows: int | None = None,
    progress: Progress | None = None,
) -> Imported:
    """Make a table of the rows of a file.

    The table has the file's shape. A file of words gives a vocabulary too: `pad`, `unk`, then its words
    in their order; a `pad` that the file does not have is a row of zeros, an `unk` the mean of the file's
    rows. A Parquet file that a table of words was exported to gives back the vocabulary of that table. It is in the
    table's metadata (`Vocabulary.of(table)`) if that has room for it, and in what this returns.

    Args:
        client: where.
        path: the file; or the rows themselves, an array of [N, ...].
        name: the new table's name.
        freeze: the table refuses pushes.
        optimizer: for a table that does not (default SGD).
        initializer: of rows that the file does not have (default Uniform).
        partition: "mod" or "div".
        num_embeddings: ids of the table, where the file does not say; more than the file has is fine.
        unk: the word for unknown words, or None.
        pad: the word for padding, or None.
        buckets: hash buckets behind the words.
        vocabulary: only these words, with their ids, instead of all of the file's. For files of words only.
        format: as `import_table`, like all that follows.
        tensor: which tensor or column.
        mod_parts: see `import_table`.
        block_rows: rows in one assign.
        progress: called with (rows done, rows in all or None).

    Raises:
        InvalidRequest: as `import_table`; no table is left behind.
        TableExists: there is a table of that name.
    """
    with opened(path, format, tensor, None) as source:
        named = isinstance(path, str) or hasattr(path, "__fspath__")
        what = str(path) if named else "the array"
        _check_words(source, vocabulary, what)
        size = num_embeddings
        if source.words and vocabulary is None:
            vocabulary = _vocabulary_of(source, unk=unk, pad=pad, buckets=buckets)
        elif isinstance(source, ParquetSource) and source.vocabulary is not None:
            vocabulary = source.vocabulary
            size = source.num_embeddings if size is None else size
        if size is None and not source.has_ids:
            size = len(vocabulary) if vocabulary is not None else source.rows
        spec = TableSpec(
            name,
            num_embeddings=size,
            dim=source.row_shape[0] if len(source.row_shape) == 1 else source.row_shape,
            partition=partition,  # type: ignore[arg-type]  # TableSpec checks it
            optimizer=SGD() if optimizer is None else optimizer,
            initializer=Uniform() if initializer is None else initializer,
            frozen=freeze,
        )
        if vocabulary is not None:
            vocabulary.check(spec)
            spec = vocabulary.attach(spec) if vocabulary.is_small() else spec
        if name in [table.name for table in client.tables()]:
            raise TableExists(f"table {name!r} is already there; import_table writes rows into it")
        table = client.create_table(spec)
        try:
            job = _Import(table, source, what, block_rows, progress)
            if source.words and vocabulary is not None:
                return job.by_word(vocabulary)
            done = job.by_id(0 if num_embeddings is not None else None, mod_parts)
            return replace(done, vocabulary=vocabulary)
        except BaseException:
            client.drop_table(name)
            raise


def export_table(
    target: RowTable | TableMaker,
    path: str | os.PathLike[str],
    *,
    name: str | None = None,
    format: str | None = None,
    tensor: str = "weight",
    ids: Any = None,
    vocabulary: Vocabulary | None = None,
    block_rows: int | None = None,
    progress: Progress | None = None,
) -> int:
    """Write the rows of a table to a file. The file appears when it is whole.

    Rows that were never trained are written with their initial values. Pushes that arrive meanwhile may
    be in some rows and not in others; a snapshot is the way to one moment.

    Args:
        target: the table, or a client and `name`.
        path: the file to write; one that exists is replaced.
        name: the table's name, if target is a client.
        format: one of those above; by default by the file's suffix.
        tensor: what the tensor or column is called, in files that have names.
        ids: only these, distinct; a table of open-ended ids needs them. Written in ascending order.
        vocabulary: the words of the ids, for word files and as a column in Parquet; the table's own by
            default.
        block_rows: rows in one pull; by default 8 MiB of them.
        progress: called with (rows done, rows in all) after each block.

    Returns:
        How many rows were written.

    Raises:
        InvalidRequest: a format that cannot hold this table, or no ids where they are needed.
    """
    table = _table_of(target, name)
    spec = table.spec
    chosen = _chosen(ids, spec)
    rows = len(chosen) if chosen is not None else int(spec.num_embeddings or 0)
    words = Vocabulary.of(table) if vocabulary is None else vocabulary
    if words is not None:
        words.check(spec)
    kind = format_to_write(Path(path)) if format is None else format
    if kind in WORD_FORMATS and words is not None and chosen is None:
        rows = len(words)  # ids behind the vocabulary have no word
    sink = sink_for(kind, Path(path), spec, rows=rows, named=chosen is not None, tensor=tensor, words=words)
    try:
        done = 0
        for block in _id_blocks(chosen, rows, _block_size(block_rows, spec.row_shape)):
            sink.write(block, table.pull(block, wire="float32"))
            done += len(block)
            if progress is not None:
                progress(done, rows)
        sink.commit()
    except BaseException:
        sink.abort()
        raise
    return rows


# ---------------------------------------------------------------------------------------------------- reading


class _Import:
    """One file on its way into one table."""

    def __init__(
        self,
        table: RowTable,
        source: RowSource,
        what: str,
        block_rows: int | None,
        progress: Progress | None,
    ) -> None:
        self.table, self.source, self.what = table, source, what
        self.size = _block_size(block_rows, table.spec.row_shape)
        self.progress = progress
        self.rows = self.seen = 0
        self._total = source.rows

    def check_shape(self) -> None:
        """Raises InvalidRequest if the file's rows are not the table's."""
        mine, its = self.table.spec.row_shape, self.source.row_shape
        if mine != its:
            raise InvalidRequest(f"{self.what} has rows of shape {its}, table {self.table.name!r} of {mine}")

    def by_id(self, first_id: int | None, mod_parts: int) -> Imported:
        """Rows whose ids are in the file, or are their place in it."""
        spec, rows = self.table.spec, self.source.rows
        if mod_parts < 1:
            raise InvalidRequest(f"mod_parts must be at least 1, got {mod_parts}")
        if not self.source.has_ids and rows is not None:
            self._check_count(rows, first_id)
        elif first_id:
            raise InvalidRequest(f"{self.what} names its ids; leave first_id= out, got {first_id}")
        for ids, block in self.source.blocks(self.size):
            assert isinstance(ids, np.ndarray)
            if not self.source.has_ids:
                ids = _undealt(ids, rows or 0, mod_parts) + (first_id or 0)
            if len(ids) and not 0 <= int(ids.min()) <= int(ids.max()) < spec.id_limit:
                bad = ids[(ids < 0) | (ids >= spec.id_limit)][0]
                raise InvalidRequest(f"{self.what} has id {bad}, table {spec.name!r} [0, {spec.id_limit})")
            self._write(ids, block, ids)
        return Imported(self.table, self.rows)

    def _check_count(self, rows: int, first_id: int | None) -> None:
        spec = self.table.spec
        if first_id is None and spec.num_embeddings not in (None, rows):
            raise InvalidRequest(
                f"{self.what} has {rows} rows, table {spec.name!r} {spec.num_embeddings}; "
                "say first_id= to fill a part of it"
            )
        if (first_id or 0) < 0 or (first_id or 0) + rows > spec.id_limit:
            raise InvalidRequest(
                f"{self.what} has {rows} rows; from first_id={first_id} on they end beyond the "
                f"{spec.id_limit} ids of table {spec.name!r}"
            )

    def by_word(self, vocabulary: Vocabulary) -> Imported:
        """Rows whose words are in the vocabulary; `pad` and `unk` if the file lacks them."""
        found = np.zeros(len(vocabulary), bool)
        mean, known = (
            np.zeros(self.source.row_shape, np.float64),
            {w: i for i, w in enumerate(vocabulary.words)},
        )
        for words, block in self.source.blocks(self.size):
            ids = np.fromiter((known.get(word, -1) for word in words), np.int64, len(words))
            mean += as_float32(block, words, self.what).sum(axis=0, dtype=np.float64)
            keep = np.flatnonzero(ids >= 0)
            # Of a word that comes twice the first counts, in this block and in those before.
            _, first = np.unique(ids[keep], return_index=True)
            keep = keep[np.sort(first)]
            keep = keep[~found[ids[keep]]]
            found[ids[keep]] = True
            self._write(ids[keep], block[keep], [words[k] for k in keep], seen=len(words))
        missing = len(vocabulary.words) - int(found[: len(vocabulary.words)].sum())
        imported = Imported(self.table, self.rows, vocabulary, self.seen - self.rows, missing)
        self._write_specials(vocabulary, found, mean / max(self.seen, 1))
        return imported

    def _write_specials(self, vocabulary: Vocabulary, found: np.ndarray, mean: np.ndarray) -> None:
        for special, row in ((vocabulary.pad_id, np.zeros_like(mean)), (vocabulary.unk_id, mean)):
            if special is not None and not found[special]:
                self.table.assign(np.array([special]), row[None].astype(np.float32))

    def _write(self, ids: np.ndarray, block: np.ndarray, names: Any, seen: int | None = None) -> None:
        rows = as_float32(block, names, self.what)
        if len(ids):
            self.table.assign(ids, rows)
        self.rows += len(ids)
        self.seen += len(ids) if seen is None else seen
        if self.progress is not None:
            self.progress(self.seen, self._total)


def _check_words(source: RowSource, vocabulary: Vocabulary | None, what: Any) -> None:
    """A vocabulary that is given and not used would leave it open whose rows these are. Raises InvalidRequest."""
    if vocabulary is not None and not source.words:
        named = "ids" if source.has_ids else "their place in it"
        raise InvalidRequest(f"{what} names its rows by {named}, not by words; leave vocabulary= out")


def _undealt(places: np.ndarray, rows: int, n: int) -> np.ndarray:
    """The id of each place in a file of n runs, where run i holds the ids i, i + n, i + 2n, ..."""
    if n == 1:
        return places
    begins = offset(np.arange(n), n, rows)
    run = np.searchsorted(begins, places, side="right") - 1
    return (places - begins[run]) * n + run


def _vocabulary_of(source: Any, *, unk: str | None, pad: str | None, buckets: int) -> Vocabulary:
    words = source.scan() if hasattr(source, "scan") else _words_in(source)
    return Vocabulary(dict.fromkeys(words), unk=unk, pad=pad, buckets=buckets)


def _words_in(source: RowSource) -> Iterator[str]:
    for words, _ in source.blocks(_block_rows(source.row_shape)):
        yield from words  # type: ignore[misc]  # a source of words gives words


# ---------------------------------------------------------------------------------------------------- writing


def _chosen(ids: Any, spec: TableSpec) -> np.ndarray | None:
    if ids is None:
        if spec.num_embeddings is None:
            raise InvalidRequest(f"table {spec.name!r} has open-ended ids; say which to export: ids=")
        return None
    array = np.unique(np.asarray(ids).reshape(-1))
    if array.dtype.kind not in "iu" and array.size:
        raise InvalidRequest(f"ids must be integers, got {array.dtype}")
    return array.astype(np.int64)


def _id_blocks(chosen: np.ndarray | None, rows: int, size: int) -> Iterator[np.ndarray]:
    for begin in range(0, rows, size):
        end = min(begin + size, rows)
        yield np.arange(begin, end) if chosen is None else chosen[begin:end]


def _block_size(block_rows: int | None, row_shape: tuple[int, ...]) -> int:
    """How many rows go at once. Raises InvalidRequest."""
    if block_rows is None:
        return _block_rows(row_shape)
    if not is_whole(block_rows) or block_rows < 1:
        raise InvalidRequest(f"block_rows must be at least 1, got {block_rows!r}")
    return int(block_rows)


def _block_rows(row_shape: tuple[int, ...]) -> int:
    return max(1, BLOCK_BYTES // (4 * int(np.prod(row_shape, dtype=np.int64))))


def _table_of(target: RowTable | TableMaker, name: str | None) -> RowTable:
    if hasattr(target, "spec"):
        return target  # type: ignore[return-value]  # only tables have a spec
    if name is None:
        raise InvalidRequest("which table? say name=, or pass the table instead of the client")
    try:
        return target.table(name)  # type: ignore[union-attr]
    except TableNotFound as e:
        raise TableNotFound(f"{e}; from_pretrained makes a table of a file") from e
