"""One file on its way into one table, a block at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...proto.errors import InvalidRequest
from ...proto.partition import offset
from ...proto.recipes import is_whole
from ..vocabulary import Vocabulary
from .beside import IDS_SUFFIX
from .contract import BLOCK_BYTES, RowSource, RowTable, as_float32, check_ids

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


class Filling:
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
        self.size = block_size(block_rows, table.spec.row_shape)
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
        self._check_places(first_id, mod_parts)
        if self.source.has_ids:
            check_ids(self.source.names(self.size), spec, self.what)
        elif rows is not None:
            self._check_count(rows, first_id)
        for ids, block in self.source.blocks(self.size):
            assert isinstance(ids, np.ndarray)
            if not self.source.has_ids:
                ids = _undealt(ids, rows or 0, mod_parts) + (first_id or 0)
            self._write(ids, block, ids)
        if not self.rows and spec.num_embeddings != 0:
            raise InvalidRequest(f"{self.what} has no rows: nothing was written into table {spec.name!r}")
        return Imported(self.table, self.rows)

    def _check_places(self, first_id: int | None, mod_parts: int) -> None:
        """Raises InvalidRequest if it is said where rows go that say it themselves."""
        if not is_whole(mod_parts) or mod_parts < 1:
            raise InvalidRequest(f"mod_parts must be at least 1, got {mod_parts}")
        named = "ids" if self.source.has_ids else "words" if self.source.words else ""
        if named and first_id:
            raise InvalidRequest(f"{self.what} names its {named}; leave first_id= out, got {first_id}")
        if named and mod_parts > 1:
            raise InvalidRequest(f"{self.what} names its {named}; leave mod_parts= out, got {mod_parts}")

    def _check_count(self, rows: int, first_id: int | None) -> None:
        spec = self.table.spec
        if first_id is None and spec.num_embeddings not in (None, rows):
            raise InvalidRequest(
                f"{self.what} has {rows} rows, table {spec.name!r} {spec.num_embeddings}; "
                f"say first_id= to fill a part of it{self._without_ids()}"
            )
        if (first_id or 0) < 0 or (first_id or 0) + rows > spec.id_limit:
            raise InvalidRequest(
                f"{self.what} has {rows} rows; from first_id={first_id} on they end beyond the "
                f"{spec.id_limit} ids of table {spec.name!r}{self._without_ids()}"
            )

    def _without_ids(self) -> str:
        """In words, that a `.npy` file whose ids are chosen has them in a file beside it, which is not there."""
        if not self.what.endswith(".npy"):
            return ""
        return (
            f". That counts its rows on from one id, in order. If they have other ids, these belong into {self.what}"
            f"{IDS_SUFFIX}, which is not there: an export of chosen ids makes both files, and they stay together"
        )

    def by_word(self, vocabulary: Vocabulary, first_id: int | None = None, mod_parts: int = 1) -> Imported:
        """Rows whose words are in the vocabulary; `pad` and `unk` if the file lacks them."""
        self._check_places(first_id, mod_parts)
        found = np.zeros(len(vocabulary), bool)
        mean, known = np.zeros(self.source.row_shape, np.float64), vocabulary.names()
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
        if not self.rows:
            raise InvalidRequest(self._nothing_of(vocabulary))
        imported = Imported(self.table, self.rows, vocabulary, self.seen - self.rows, missing)
        self._write_specials(vocabulary, found, mean / max(self.seen, 1))
        return imported

    def _nothing_of(self, vocabulary: Vocabulary) -> str:
        if not self.seen:
            return f"{self.what} has no rows: nothing was written into table {self.table.name!r}"
        its = next(self.source.names(3))
        return (
            f"none of the {self.seen} words of {self.what}, such as {list(its)}, is among those of the vocabulary, "
            f"such as {list(vocabulary.words[-3:])}: nothing was written into table {self.table.name!r}"
        )

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


def _undealt(places: np.ndarray, rows: int, n: int) -> np.ndarray:
    """The id of each place in a file of n runs, where run i holds the ids i, i + n, i + 2n, ..."""
    if n == 1:
        return places
    begins = offset(np.arange(n), n, rows)
    run = np.searchsorted(begins, places, side="right") - 1
    return (places - begins[run]) * n + run


def block_size(block_rows: int | None, row_shape: tuple[int, ...]) -> int:
    """How many rows go at once. Raises InvalidRequest."""
    if block_rows is None:
        return block_rows_of(row_shape)
    if not is_whole(block_rows) or block_rows < 1:
        raise InvalidRequest(f"block_rows must be at least 1, got {block_rows!r}")
    return int(block_rows)


def block_rows_of(row_shape: tuple[int, ...]) -> int:
    """How many rows are about `BLOCK_BYTES`."""
    return max(1, BLOCK_BYTES // max(1, 4 * int(np.prod(row_shape, dtype=np.int64))))
