"""What a snapshot holds of shards, tables and files. Values that check themselves; no I/O."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .checked_json import parsed, require, take, take_all
from .checksums import digits_of
from .rows_file import ID_COLUMNS, TensorColumn, header_of, row_bytes, row_columns

MAX_FILE_BYTES = 256 << 20  # one is read whole, so this bounds a reader's memory
MAX_GENERATION = 1 << 31  # rows are marked with it in 32 bits, and more cuts of a shard may come
_NAME = re.compile(r"(?:shard-[0-9]{5}/)?[A-Za-z0-9][A-Za-z0-9._-]*")
_HEX = re.compile(r"[0-9a-f]*")


@dataclass(frozen=True)
class StoredFile:
    """A file of a snapshot.

    Attributes:
        name: within the snapshot's folder.
        bytes: its size.
        crc32c: of each 1 MiB block, as `BlockSums.text`.
        rows: in it; 0 in files that hold none.
    """

    name: str
    bytes: int
    crc32c: str
    rows: int = 0

    def __post_init__(self) -> None:
        require(_NAME.fullmatch(self.name), f"{self.name!r} is no name of a file in a snapshot")
        require(
            0 <= self.bytes <= MAX_FILE_BYTES,
            f"{self.name}: a file has at most {MAX_FILE_BYTES} bytes, got {self.bytes}",
        )
        require(self.rows >= 0, f"{self.name}: {self.rows} rows")
        good = _HEX.fullmatch(self.crc32c) and len(self.crc32c) == digits_of(self.bytes)
        require(
            good,
            f"{self.name}: {self.bytes} bytes have {digits_of(self.bytes)} hexadecimal digits of checksums",
        )


@dataclass(frozen=True)
class StoredTable:
    """A table's part on one shard.

    Attributes:
        number: of the table.
        name: of the table.
        step: the table's step on this shard.
        rows: that existed at the cut, wherever they are stored.
        width: columns of a row.
        slots: columns of each slot.
        files: rows; in an increment those that changed since the parent.
        removed: ids that were removed since the parent, and may have come back.
    """

    number: int
    name: str
    step: int
    rows: int
    width: int
    slots: tuple[int, ...]
    files: tuple[StoredFile, ...] = ()
    removed: tuple[StoredFile, ...] = ()

    def __post_init__(self) -> None:
        whole = (self.number, self.step, self.rows, *self.slots)
        require(min(whole) >= 0 and self.width >= 1, f"table {self.name!r} has a number below 0")
        for file in self.files:
            self._check(file, self.columns)
        for file in self.removed:
            self._check(file, ID_COLUMNS)

    def _check(self, file: StoredFile, columns: Sequence[TensorColumn]) -> None:
        want = len(header_of(columns, file.rows)) + file.rows * row_bytes(columns)
        require(file.bytes == want, f"{file.name}: {file.rows} rows have {want} bytes, not {file.bytes}")

    @property
    def columns(self) -> tuple[TensorColumn, ...]:
        """The tensors of its files."""
        return row_columns(self.width, self.slots)

    @property
    def stored_rows(self) -> int:
        """Rows in its files."""
        return sum(file.rows for file in self.files)


@dataclass(frozen=True)
class StoredShard:
    """What one shard adds to a snapshot.

    Attributes:
        index: which shard.
        lsn: of the last record of its log that is in it.
        generation: of its rows: what changes later has a higher one.
        whole: it has all rows of the shard, and those that its parent has on this shard do not count; else it has those
            that changed since the parent.
        tables: by number.
        ledger: pieces, each the bytes of a ReadLedgerReply; in order they are the ledger and its clients' order.
    """

    index: int
    lsn: int
    generation: int
    tables: tuple[StoredTable, ...] = ()
    ledger: tuple[StoredFile, ...] = ()
    whole: bool = True

    def __post_init__(self) -> None:
        require(0 <= self.index < 100_000, f"shard {self.index}")
        require(min(self.lsn, self.generation) >= 0, f"shard {self.index}: lsn or generation is below 0")
        require(
            self.generation < MAX_GENERATION, f"shard {self.index}: generation {self.generation} is too large"
        )
        numbers = [table.number for table in self.tables]
        require(
            numbers == sorted(set(numbers)), f"shard {self.index}: its tables are not in order: {numbers}"
        )
        for table in self.tables if self.whole else ():
            require(
                table.rows == table.stored_rows,
                f"table {table.name!r} had {table.rows} rows, {table.stored_rows} are stored",
            )
            require(not table.removed, f"table {table.name!r}: ids are removed, but from no parent")

    @property
    def files(self) -> tuple[StoredFile, ...]:
        """All of its files."""
        of_tables = [file for table in self.tables for file in (*table.files, *table.removed)]
        return (*of_tables, *self.ledger)

    def to_json(self) -> bytes:
        """For the way from the shard to whoever commits."""
        return json.dumps(plain_shard(self), separators=(",", ":")).encode()

    @classmethod
    def from_json(cls, data: bytes) -> StoredShard:
        """From `to_json`. Raises SnapshotCorrupt."""
        return shard_of(parsed(data, "a shard's part"))


# ------------------------------------------------------------------------------------------- as JSON has them


def plain_file(file: StoredFile) -> dict[str, Any]:
    """As JSON has it."""
    return {"name": file.name, "bytes": file.bytes, "crc32c": file.crc32c, "rows": file.rows}


def _plain_table(table: StoredTable) -> dict[str, Any]:
    return {
        "number": table.number,
        "name": table.name,
        "step": table.step,
        "rows": table.rows,
        "width": table.width,
        "slots": list(table.slots),
        "files": [plain_file(file) for file in table.files],
        "removed": [plain_file(file) for file in table.removed],
    }


def plain_shard(shard: StoredShard) -> dict[str, Any]:
    """As JSON has it."""
    return {
        "index": shard.index,
        "lsn": shard.lsn,
        "generation": shard.generation,
        "tables": [_plain_table(table) for table in shard.tables],
        "ledger": [plain_file(file) for file in shard.ledger],
        "whole": shard.whole,
    }


def file_of(content: Any) -> StoredFile:
    """From `plain_file`. Raises SnapshotCorrupt."""
    name, crc32c = take(content, "name", str), take(content, "crc32c", str)
    return StoredFile(name, take(content, "bytes", int), crc32c, take(content, "rows", int))


def _table(content: Any) -> StoredTable:
    return StoredTable(
        number=take(content, "number", int),
        name=take(content, "name", str),
        step=take(content, "step", int),
        rows=take(content, "rows", int),
        width=take(content, "width", int),
        slots=take_all(content, "slots", lambda columns: take({"slots": columns}, "slots", int)),
        files=take_all(content, "files", file_of),
        removed=take_all(content, "removed", file_of),
    )


def shard_of(content: Any) -> StoredShard:
    """From `plain_shard`. Raises SnapshotCorrupt."""
    return StoredShard(
        index=take(content, "index", int),
        lsn=take(content, "lsn", int),
        generation=take(content, "generation", int),
        tables=take_all(content, "tables", _table),
        ledger=take_all(content, "ledger", file_of),
        whole=take(content, "whole", bool),
    )
