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

import errno
import itertools
import os
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ...proto.errors import InvalidRequest, TableExists, TableNotFound
from ...proto.spec import SGD, Initializer, Optimizer, TableSpec, Uniform
from ..inputs import as_ids
from ..vocabulary import Vocabulary
from .beside import write_words
from .contract import RowSink, RowSource, RowTable, StoredVocabulary, TableMaker
from .filling import Filling, Imported, Progress, block_rows_of, block_size
from .formats import WORD_FORMATS, check_holds, format_to_write, opened, sink_for
from .places import is_staged, placed
from .room import FileRoom


def import_table(
    target: RowTable | TableMaker,
    path: Any,
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
        path: the file, or its URL, of any protocol that fsspec knows: it is fetched first. A TensorFlow checkpoint is
            named by its prefix, its `.index`, or its folder.
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
        InvalidRequest: the file is damaged, or does not fit the table, or holds an id twice, or numbers that are not
            finite; or none of its rows is one of the table. Of numbers that are not finite, rows before the place that
            the message names were written.
        FileNotFoundError: no such file.
        Unavailable: the store that a URL leads to does not answer.
    """
    table = _table_of(target, name)
    with opened(path, format, tensor, table.spec.row_shape) as source:
        _check_words(source, vocabulary, path)
        job = Filling(table, source, _what(path), block_rows, progress)
        job.check_shape()
        own = Vocabulary.of(table)
        if source.words:
            words = own if vocabulary is None else vocabulary
            if words is None:
                raise InvalidRequest(
                    f"{path} names rows by words; give vocabulary=, or make the table with from_pretrained"
                )
            words.check(table.spec)
            return job.by_word(words, first_id, mod_parts)
        if own is not None and source.stored is not None and own != source.stored.words:
            raise InvalidRequest(
                f"{path} has rows of other words than table {table.name!r}: {source.stored.words} there, {own} here; "
                "make a table of its own of it with from_pretrained"
            )
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
    rows. A file that a table of words was exported to gives back the vocabulary and the size of that table. The
    vocabulary is in the table's metadata (`Vocabulary.of(table)`) if that has room for it, and always in what this
    returns.

    Args:
        client: where.
        path: the file, or its URL, as `import_table`; or the rows themselves, an array of [N, ...].
        name: the new table's name.
        freeze: the table refuses pushes.
        optimizer: for a table that does not (default SGD).
        initializer: of rows that the file does not have (default Uniform).
        partition: "mod" or "div".
        num_embeddings: ids of the table, where the file does not say; more than the file has is fine.
        unk: the word for unknown words, or None.
        pad: the word for padding, or None.
        buckets: hash buckets behind the words.
        vocabulary: only these words, with their ids, instead of all of the file's. For files of words only. `unk`,
            `pad` and `buckets` are for files that do not say it themselves.
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
        what = _what(path)
        if source.rows == 0:
            raise InvalidRequest(f"{what} has no rows to make a table of")
        _check_words(source, vocabulary, what)
        size = num_embeddings
        if vocabulary is None and (source.words or source.stored is not None):
            vocabulary = _vocabulary_of(source, what, unk=unk, pad=pad, buckets=buckets)
            if size is None and source.stored is not None:
                size = source.stored.num_embeddings
        if size is None and not source.words and not source.has_ids:
            size = source.rows
        if size is None and vocabulary is not None:
            size = len(vocabulary)
        try:
            spec = TableSpec(
                name,
                num_embeddings=size,
                dim=source.row_shape[0] if len(source.row_shape) == 1 else source.row_shape,
                partition=partition,  # type: ignore[arg-type]  # TableSpec checks it
                optimizer=SGD() if optimizer is None else optimizer,
                initializer=Uniform() if initializer is None else initializer,
                frozen=freeze,
            )
        except InvalidRequest as e:
            e.message = f"{what}: {e.message}"  # whose rows may be none that a table can have
            raise
        if vocabulary is not None:
            vocabulary.check(spec)
            spec = vocabulary.attach(spec) if vocabulary.is_small() else spec
        if name in [table.name for table in client.tables()]:
            raise TableExists(f"table {name!r} is already there; import_table writes rows into it")
        table = client.create_table(spec)
        try:
            job = Filling(table, source, what, block_rows, progress)
            if source.words and vocabulary is not None:
                return job.by_word(vocabulary, mod_parts=mod_parts)
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
        path: the file to write; one that exists is replaced. Or a URL, of any protocol that fsspec knows.
        name: the table's name, if target is a client.
        format: one of those above; by default by the file's suffix.
        tensor: what the tensor or column is called, in files that have names.
        ids: only these, distinct; a table of open-ended ids needs them. Written in ascending order.
        vocabulary: the words of the ids, for word files and as a column in Parquet; the table's own by
            default.
        block_rows: rows in one pull; by default 8 MiB of them.
        progress: called with (rows done, rows in all) after each block.

    A vocabulary that the file cannot hold is put beside it, into `<file>.vocabulary.json`; `from_pretrained` finds it.

    Returns:
        How many rows were written.

    Raises:
        InvalidRequest: a format that cannot hold this table, or no ids where they are needed.
        FileNotFoundError: no such folder.
        OSError: the disk has no room for the file, which is known before its first byte, or fills up meanwhile.
        Unavailable: the store that a URL leads to does not take it.
    """
    with placed(path) as local:
        staged = is_staged(path)
        table = _table_of(target, name)
        return _export(table, local, format, tensor, ids, vocabulary, block_rows, progress, staged=staged)


def _export(
    table: RowTable,
    path: Path,
    format: str | None,
    tensor: str,
    ids: Any,
    vocabulary: Vocabulary | None,
    block_rows: int | None,
    progress: Progress | None,
    *,
    staged: bool,
) -> int:
    spec = table.spec
    chosen = _chosen(ids, spec)
    rows = len(chosen) if chosen is not None else int(spec.num_embeddings or 0)
    words = Vocabulary.of(table) if vocabulary is None else vocabulary
    if words is not None:
        words.check(spec)
    stored = StoredVocabulary(words, spec.num_embeddings) if words is not None else None
    kind = format_to_write(path, format)
    if kind in WORD_FORMATS and words is not None and chosen is None:
        rows = len(words)  # ids behind the vocabulary have no word
    named = chosen is not None
    check_holds(kind, spec, named=named, stored=stored)
    room = FileRoom(path, kind, spec, rows, named=named, staged=staged)
    room.check()
    with room.told():
        sink = sink_for(kind, path, spec, rows=rows, named=named, tensor=tensor, stored=stored)
        _fill(sink, table, _id_blocks(chosen, rows, block_size(block_rows, spec.row_shape)), room, progress)
    write_words(path, None if sink.holds_words else stored)
    return rows


# ---------------------------------------------------------------------------------------------------- reading


def _check_words(source: RowSource, vocabulary: Vocabulary | None, what: Any) -> None:
    """A vocabulary that is given and not used would leave it open whose rows these are. Raises InvalidRequest."""
    if vocabulary is not None and not source.words:
        named = "ids" if source.has_ids else "their place in it"
        raise InvalidRequest(f"{what} names its rows by {named}, not by words; leave vocabulary= out")


def _what(path: Any) -> str:
    return os.fspath(path) if isinstance(path, str | os.PathLike) else "the array"


def _vocabulary_of(
    source: RowSource, what: str, *, unk: str | None, pad: str | None, buckets: int
) -> Vocabulary:
    """The vocabulary that the file was exported with, or one of the words in it."""
    if source.stored is None:
        names = source.names(block_rows_of(source.row_shape))
        words: dict[str, None] = dict.fromkeys(itertools.chain.from_iterable(names))
        return Vocabulary(words, unk=unk, pad=pad, buckets=buckets)
    words_of = source.stored.words
    if (unk, pad, buckets) not in (("<unk>", "<pad>", 0), (words_of.unk, words_of.pad, words_of.buckets)):
        raise InvalidRequest(
            f"{what} says itself what unk, pad and buckets are: {words_of}; got unk={unk!r}, pad={pad!r}, "
            f"buckets={buckets}"
        )
    return words_of


# ---------------------------------------------------------------------------------------------------- writing


def _fill(
    sink: RowSink, table: RowTable, blocks: Iterable[np.ndarray], room: FileRoom, progress: Progress | None
) -> None:
    """Write all blocks, and give the file its name; or leave nothing of it."""
    done = 0
    try:
        for block in blocks:
            sink.write(block, table.pull(block, wire="float32"))
            done += len(block)
            if progress is not None:
                progress(done, room.rows)
        sink.commit()
    except BaseException as e:
        full = room.quietly_full(e)
        sink.abort()
        if full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from e
        raise


def _chosen(ids: Any, spec: TableSpec) -> np.ndarray | None:
    if ids is None:
        if spec.num_embeddings is None:
            raise InvalidRequest(
                f"table {spec.name!r} has open-ended ids; say which to export: ids=, or ids=table.ids() for those that "
                "exist"
            )
        return None
    return np.unique(as_ids(ids, spec))


def _id_blocks(chosen: np.ndarray | None, rows: int, size: int) -> Iterator[np.ndarray]:
    for begin in range(0, rows, size):
        end = min(begin + size, rows)
        yield np.arange(begin, end) if chosen is None else chosen[begin:end]


def _table_of(target: RowTable | TableMaker, name: str | None) -> RowTable:
    if hasattr(target, "spec"):
        return target  # type: ignore[return-value]  # only tables have a spec
    if name is None:
        raise InvalidRequest("which table? say name=, or pass the table instead of the client")
    try:
        return target.table(name)  # type: ignore[union-attr]
    except TableNotFound as e:
        raise TableNotFound(f"{e}; from_pretrained makes a table of a file") from e
