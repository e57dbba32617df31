"""A snapshot and those that it was made upon, back to a whole one: which of them has the newest of each row.

Why it is so. A row's newest copy counts, and one that was removed later does not. Both are decided by id, not by shard:
so it does not matter whether rows moved between two snapshots of a chain. Blocks come oldest first, in the order in
which the rows lay; of each block those rows are left out that a later increment has or removed, or whose shard wrote
all of its rows anew later. For that the ids of the
increments are held in memory: 8 bytes for each row that changed, of one table, and of one shard at a time where all
snapshots of the chain have as many shards.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from ..errors import SnapshotCorrupt, Unavailable
from ..layout import owner
from ..spec import TableEntry, TableSpec
from .checked_json import MAX_JSON_BYTES
from .checksums import BLOCK_BYTES, check_blocks
from .folder import Scratch, SnapshotFolder
from .manifest import MANIFEST, Manifest, SnapshotName
from .rows_file import ID_COLUMNS, RowBlock, TensorColumn, header_of, tensors_of
from .stored import StoredFile, StoredTable

MAX_CHAIN = 256


def manifest_in(folder: SnapshotFolder) -> Manifest | None:
    """The manifest in a folder; None: it has none. Raises SnapshotCorrupt, Unavailable."""
    size, where = folder.size(MANIFEST), folder.file(MANIFEST)
    if size is None:
        return None
    if size > MAX_JSON_BYTES:  # said before that much of it is in memory
        raise SnapshotCorrupt(f"{where} has {size} bytes, at most {MAX_JSON_BYTES} are read")
    return Manifest.from_bytes(bytes(folder.read(MANIFEST, 0, size)), where)


def no_snapshot(folder: SnapshotFolder) -> str:
    """In words, why a folder without a manifest is no snapshot. Raises Unavailable."""
    if absent := folder.absent():
        return f"{folder.url} {absent}"
    return f"{folder.url} has no {MANIFEST}: there is no snapshot, or it was never finished"


@dataclass(frozen=True)
class Link:
    """One snapshot of a chain."""

    folder: SnapshotFolder
    manifest: Manifest

    @classmethod
    def opened(cls, folder: SnapshotFolder) -> Link:
        """The snapshot in a folder. Raises SnapshotCorrupt, also where it was never finished, Unavailable."""
        manifest = manifest_in(folder)
        if manifest is None:
            raise SnapshotCorrupt(no_snapshot(folder))
        return cls(folder, manifest)

    def data(self, file: StoredFile, end: int | None = None, scratch: Scratch | None = None) -> memoryview:
        """A file's bytes, checked, and at least up to `end`; scratch: memory that may be used for them.

        Raises:
            SnapshotCorrupt: it is missing, or not as it was written.
            Unavailable: the store does not answer.
        """
        where = self.folder.file(file.name)
        end = file.bytes if end is None else min(file.bytes, -(-end // BLOCK_BYTES) * BLOCK_BYTES)
        if end == file.bytes and self.folder.size(file.name) not in (None, file.bytes):
            raise SnapshotCorrupt(f"{where} has {self.folder.size(file.name)} bytes, not {file.bytes}")
        data = self.folder.read(file.name, 0, end, scratch)
        check_blocks(data, file.crc32c, where)
        return data

    def block(self, table: StoredTable, file: StoredFile, scratch: Scratch | None = None) -> RowBlock:
        """The rows of a file; scratch: memory that may be used for them. Raises SnapshotCorrupt, Unavailable."""
        ids, touched, values, *slots = self._tensors(file, table.columns, self.data(file, scratch=scratch))
        return RowBlock(ids, touched, values, tuple(slots))

    def ids(self, file: StoredFile, columns: Sequence[TensorColumn] = ID_COLUMNS) -> np.ndarray:
        """[N] int64: the ids of a file with these columns; little more of it is read. Raises as `block`."""
        size = len(header_of(columns, file.rows)) + file.rows * columns[0].row_bytes
        return next(self._tensors(file, columns, self.data(file, size)))

    def check_ids(self, file: StoredFile, ids: np.ndarray, spec: TableSpec, shard: int) -> None:
        """Raise SnapshotCorrupt for an id that cannot be in this file of a shard. ids: [N] int64, what it has."""
        where = self.folder.file(file.name)
        wrong = (ids < 0) | (ids.astype(np.uint64) >= np.uint64(spec.id_limit))
        if wrong.any():
            k = int(wrong.argmax())
            raise SnapshotCorrupt(
                f"{where}: row {k} has id {ids[k]}, ids of {spec.name!r} are below {spec.id_limit}"
            )
        strange = owner(spec, ids, self.manifest.layout.n) != shard
        if strange.any():
            k = int(strange.argmax())
            raise SnapshotCorrupt(f"{where}: row {k} has id {ids[k]}, which shard {shard} does not own")
        if (twice := id_twice(np.sort(ids))) is not None:
            raise SnapshotCorrupt(f"{where}: id {twice} is there twice")

    def _tensors(
        self, file: StoredFile, columns: Sequence[TensorColumn], data: memoryview
    ) -> Iterator[np.ndarray]:
        header = header_of(columns, file.rows)
        if bytes(data[: len(header)]) != header:
            names = ", ".join(column.name for column in columns)
            raise SnapshotCorrupt(
                f"{self.folder.file(file.name)} does not hold {file.rows} rows of {names}, in bytes 0 to {len(header)}"
            )
        return tensors_of(data[len(header) :], columns, file.rows)


def links_of(folder: SnapshotFolder) -> tuple[Link, ...]:
    """The chain of the snapshot in a folder, oldest first. Raises SnapshotCorrupt, Unavailable."""
    links = [Link.opened(folder)]
    while (parent := links[0].manifest.parent) is not None:
        if len(links) == MAX_CHAIN:
            raise SnapshotCorrupt(f"{folder.url} was made upon more than {MAX_CHAIN} others")
        links.insert(0, _parent(links[0], parent))
    return tuple(links)


def _parent(link: Link, wanted: SnapshotName) -> Link:
    folder = link.folder.beside(wanted.id)
    try:
        parent = Link.opened(folder)
    except Unavailable:
        raise
    except SnapshotCorrupt as e:
        raise SnapshotCorrupt(
            f"{link.folder.url} was made upon snapshot {wanted.id}, beside it: {e}"
        ) from None
    if parent.manifest.name != wanted:
        raise SnapshotCorrupt(
            f"{link.folder.url} was made upon snapshot {wanted.id} with digest {wanted.digest}, but {folder.url} is "
            f"{parent.manifest.id} with digest {parent.manifest.digest}"
        )
    return parent


@dataclass(frozen=True)
class _TablePart:
    """A table's part on a shard, in one snapshot of a chain."""

    link: Link
    depth: int  # 0: of the oldest snapshot
    shard: int
    table: StoredTable


def id_twice(ordered: np.ndarray) -> int | None:
    """The smallest id that is there twice; None: there is none. ordered: [N] int64, sorted."""
    twice = ordered[1:][ordered[1:] == ordered[:-1]]
    return int(twice[0]) if len(twice) else None


class TableRows:
    """The rows of one table in a chain.

    Args:
        links: the chain, oldest first.
        entry: of the table.
        shards: only what these shards have; of use only if all snapshots of the chain have as many.

    Attributes:
        rows: how many there are, as the newest manifest says.
    """

    def __init__(self, links: Sequence[Link], entry: TableEntry, shards: Sequence[int]) -> None:
        self._spec = entry.spec
        # By depth, the shards that wrote all of their rows, and how many shards there were.
        self._anew = [
            ({s.index for s in link.manifest.shards if s.whole}, link.manifest.layout.n) for link in links
        ]
        self._where, self._last = links[-1].folder.url, len(links) - 1
        self._parts = [
            _TablePart(link, depth, shard.index, table)
            for depth, link in enumerate(links)
            for shard in link.manifest.shards
            for table in shard.tables
            if shard.index in shards and table.number == entry.number
        ]
        newest = [part.table for part in self._parts if part.depth == self._last]
        self.rows = sum(table.rows for table in newest)
        self._columns = newest[0].columns if newest else ()
        self._name = newest[0].name if newest else ""

    def blocks(self, scratch: Scratch | None = None) -> Iterator[RowBlock]:
        """All rows, a file at a time. Raises SnapshotCorrupt, also where their number is wrong, Unavailable.

        Args:
            scratch: memory that may be used for them; with it a block is valid until the next one is asked for.
        """
        return self._counted(self._newest(partial(Link.block, scratch=scratch)))

    def ids(self) -> Iterator[np.ndarray]:
        """The ids of all rows, as `blocks`; less is read."""

        def read(link: Link, table: StoredTable, file: StoredFile) -> RowBlock:
            ids = link.ids(file, table.columns)
            return RowBlock(ids, ids, ids, ())

        return (block.ids for block in self._counted(self._newest(read)))

    def _counted(self, blocks: Iterator[RowBlock]) -> Iterator[RowBlock]:
        rows = 0
        for block in blocks:
            rows += len(block.ids)
            yield block
        if rows != self.rows:
            raise SnapshotCorrupt(
                f"{self._where}: table {self._name!r} had {self.rows} rows, the chain of snapshots has {rows}"
            )

    def _newest(self, read: Callable[[Link, StoredTable, StoredFile], RowBlock]) -> Iterator[RowBlock]:
        changed = [self._changed(depth) for depth in range(1, self._last + 1)]
        for part in self._parts:
            if part.table.columns != self._columns:
                raise SnapshotCorrupt(
                    f"{self._where}: table {self._name!r} has other columns in {part.link.folder.url}"
                )
            if self._was_replaced(part):
                continue
            for file in part.table.files:
                block = read(part.link, part.table, file)
                if part.depth == self._last:  # the table may have been partitioned otherwise before
                    part.link.check_ids(file, block.ids, self._spec, part.shard)
                stale = self._replaced(block.ids, part)
                for ids in changed[part.depth :]:
                    stale |= _among(block.ids, ids)
                yield block.where(~stale) if stale.any() else block

    def _was_replaced(self, part: _TablePart) -> bool:
        """Whether none of its rows counts: the same shard wrote all of its rows later, among as many shards."""
        count = part.link.manifest.layout.n
        return any(part.shard in anew and n == count for anew, n in self._anew[part.depth + 1 :])

    def _replaced(self, ids: np.ndarray, part: _TablePart) -> np.ndarray:
        """[N] bool: which ids of a part, [N] int64, belonged to shards that wrote all of their rows later."""
        stale = np.zeros(len(ids), bool)
        count = part.link.manifest.layout.n
        for anew, n in self._anew[part.depth + 1 :]:
            if anew and n != count:
                stale |= np.isin(owner(self._spec, ids, n), list(anew))
        return stale

    def _changed(self, depth: int) -> np.ndarray:
        """[N] int64, sorted: the ids that an increment has, or that were removed before it."""
        found = [np.empty(0, np.int64)]
        for part in self._parts:
            if part.depth == depth:
                found += [part.link.ids(file, part.table.columns) for file in part.table.files]
                found += [part.link.ids(file) for file in part.table.removed]
        ids = np.concatenate(found)
        ids.sort()
        return ids


def _among(ids: np.ndarray, known: np.ndarray) -> np.ndarray:
    """[N] bool: which of ids [N] are among known [K], sorted."""
    if not len(known):
        return np.zeros(len(ids), bool)
    places = np.searchsorted(known, ids)
    return known[np.minimum(places, len(known) - 1)] == ids
