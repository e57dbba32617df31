"""What one shard writes of a snapshot: tables one after the other, then the ledger.

Why it is so. Rows come in blocks, a few thousand at a time, but in a file of safetensors each column lies by itself and
the number of rows stands at the beginning. So the columns of one file are collected in memory, at most FILE_BYTES of
them, and a full file is written from beginning to end: sequential, its checksums made on the way, and the same for a
disk and for an object store. Rejected: a file of 256 MiB whose columns are written at places kept free for them: the
last file of each table, which is the only one of most, would have to be written twice, and checksums of blocks that two
columns share would need both.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...proto.errors import InvalidRequest
from ...proto.framing import Buffer
from ...proto.snapshots.checksums import BlockSums
from ...proto.snapshots.rows_file import ID_COLUMNS, TensorColumn, header_of, row_bytes
from ...proto.snapshots.stored import MAX_FILE_BYTES, StoredFile, StoredShard, StoredTable
from ...proto.spec import TableEntry
from .target import SnapshotTarget

FILE_BYTES = 64 << 20  # of rows, in one file: it is in memory while it is filled
_HEADER_ROOM = 4096


class ShardWriter:
    """One shard's part of a snapshot. One thread uses it.

    Args:
        target: the snapshot's folder.
        index: of the shard.
        file_bytes: a file of rows has at most so many, as far as a single row has less.
    """

    def __init__(self, target: SnapshotTarget, index: int, file_bytes: int = FILE_BYTES) -> None:
        if not _HEADER_ROOM < file_bytes <= MAX_FILE_BYTES:
            raise InvalidRequest(
                f"file_bytes must be above {_HEADER_ROOM} and at most {MAX_FILE_BYTES}, got {file_bytes}"
            )
        self._target, self._index, self._file_bytes = target, index, file_bytes
        self._buffer = np.empty(0, np.uint8)  # used again for each file
        self._tables: list[StoredTable] = []
        self._ledger: list[StoredFile] = []

    def table(self, entry: TableEntry) -> TableWriter:
        """Begin a table. It is finished before the next one is begun; tables come by number."""
        if self._tables and self._tables[-1].number >= entry.number:
            raise InvalidRequest(f"table {entry.number} comes after table {self._tables[-1].number}")
        return TableWriter(self, entry)

    def ledger(self, piece: bytes) -> None:
        """The next piece of the ledger: the bytes of a ReadLedgerReply."""
        self._ledger.append(self.put(f"ledger-{len(self._ledger):05d}.bin", [piece]))

    def finish(self, *, lsn: int, generation: int, whole: bool = True) -> StoredShard:
        """Everything is durable. lsn, generation and whole: as in StoredShard."""
        self._target.settle()
        return StoredShard(
            self._index, lsn, generation, tuple(self._tables), tuple(self._ledger), whole=whole
        )

    # ----------------------------------------------------------------------------------------- for the tables' writers

    def put(self, name: str, buffers: Sequence[Buffer], rows: int = 0) -> StoredFile:
        """A file of this shard with these bytes."""
        sums = BlockSums()
        for buffer in buffers:
            sums.add(buffer)
        file = StoredFile(f"shard-{self._index:05d}/{name}", sums.bytes, sums.text(), rows)
        self._target.put(file.name, buffers)
        return file

    def columns(self, columns: Sequence[TensorColumn]) -> list[np.ndarray]:
        """Room for the rows of one file, in memory that the file before it had."""
        rows = max(1, (self._file_bytes - _HEADER_ROOM) // row_bytes(columns))
        size = rows * row_bytes(columns)
        if len(self._buffer) < size:
            self._buffer = np.empty(max(size, self._file_bytes), np.uint8)
        out: list[np.ndarray] = []
        begin = 0
        for column in columns:
            end = begin + rows * column.row_bytes
            out.append(self._buffer[begin:end].view(column.numpy).reshape(column.shape(rows)))
            begin = end
        return out

    def add(self, table: StoredTable) -> None:
        """A table is finished."""
        self._tables.append(table)


class TableWriter:
    """A table's part on a shard; made by `ShardWriter.table`."""

    def __init__(self, shard: ShardWriter, entry: TableEntry) -> None:
        spec = entry.spec
        self._shard, self._entry = shard, entry
        self._kind = StoredTable(
            entry.number, spec.name, 0, 0, spec.width, tuple(spec.optimizer.slot_widths(spec.width))
        )
        self._rows = _Files(shard, f"{spec.name}.rows", self._kind.columns)
        self._removed: _Files | None = None

    def write(
        self, ids: np.ndarray, touched: np.ndarray, values: np.ndarray, slots: Sequence[np.ndarray]
    ) -> None:
        """The next rows, in the order of their numbers. They are copied.

        Args:
            ids: [N] int64.
            touched: [N] uint32.
            values: [N, width] float32.
            slots: for each slot [N, its columns] float32.
        """
        if self._removed is not None:
            raise InvalidRequest("rows come before the ids that were removed")
        self._rows.add([ids, touched, values, *slots])

    def remove(self, ids: np.ndarray) -> None:
        """Ids, [N] int64, that were removed since the parent. They may be among the rows: then they came back."""
        if self._removed is None:
            self._rows.end()  # both use the same memory
            self._removed = _Files(self._shard, f"{self._kind.name}.removed", ID_COLUMNS)
        self._removed.add([ids])

    def finish(self, *, rows: int, step: int) -> StoredTable:
        """The table is complete. rows: that existed at the cut; step: the table's step on this shard."""
        (self._removed or self._rows).end()
        removed = tuple(self._removed.files) if self._removed else ()
        kind = self._kind
        table = StoredTable(
            kind.number, kind.name, step, rows, kind.width, kind.slots, tuple(self._rows.files), removed
        )
        self._shard.add(table)
        return table


class _Files:
    """Rows that become files, one after the other."""

    def __init__(self, shard: ShardWriter, name: str, columns: Sequence[TensorColumn]) -> None:
        self.files: list[StoredFile] = []
        self._shard, self._name, self._kinds = shard, name, columns
        self._columns: list[np.ndarray] = []
        self._rows = 0

    def add(self, arrays: Sequence[np.ndarray]) -> None:
        """The next rows, an array for each column."""
        shapes = [column.shape(len(arrays[0])) for column in self._kinds]
        if (got := [array.shape for array in arrays]) != shapes:
            raise InvalidRequest(f"a block of {self._name} has shapes {got}, they must be {shapes}")
        done = 0
        while done < len(arrays[0]):
            if not self._columns:
                self._columns = self._shard.columns(self._kinds)
            take = min(len(arrays[0]) - done, len(self._columns[0]) - self._rows)
            for column, array in zip(self._columns, arrays, strict=True):
                column[self._rows : self._rows + take] = array[done : done + take]
            self._rows, done = self._rows + take, done + take
            if self._rows == len(self._columns[0]):
                self.end()

    def end(self) -> None:
        """Write what was collected, if there is any."""
        if self._rows:
            tensors = [column[: self._rows].data.cast("B") for column in self._columns]
            name = f"{self._name}-{len(self.files):05d}.safetensors"
            buffers = [header_of(self._kinds, self._rows), *tensors]
            self.files.append(self._shard.put(name, buffers, self._rows))
        self._columns, self._rows = [], 0
