"""A snapshot that is read: tables, rows, the ledger, what the user kept with it. No cluster is needed.

Whoever has only numpy and safetensors reads one that is whole by itself like this:

    from pathlib import Path
    import numpy as np
    from safetensors.numpy import load_file
    files = [load_file(file) for file in sorted(Path("snapshot").glob("shard-*/users.rows-*.safetensors"))]
    ids, values = (np.concatenate([file[name] for file in files]) for name in ("ids", "values"))
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError

from .. import rowloom_pb2 as pb
from ..errors import InvalidRequest, SnapshotCorrupt, TableNotFound
from ..layout import Layout, owner
from ..spec import TableEntry
from .chain import Link, TableRows, links_of
from .extra import decode_extra
from .folder import Scratch, SnapshotFolder
from .manifest import Manifest, SnapshotName
from .rows_file import RowBlock
from .tables_file import parse_tables


def open_snapshot(url: str | os.PathLike[str]) -> StoredSnapshot:
    """A snapshot, and those that it was made upon, which lie beside it.

    Only the manifests and tables.json are read; what is read later is checked then. `verify` checks all at once.

    Args:
        url: its folder: a path, or a URL of any protocol that fsspec knows.

    Raises:
        SnapshotCorrupt: it is not there, was never finished, is damaged, or of a newer format.
        InvalidRequest: nothing here can read such a URL.
        Unavailable: the store does not answer.
    """
    return StoredSnapshot(links_of(SnapshotFolder(url)))


class StoredSnapshot:
    """A snapshot in storage. Everything that is read of it is checked.

    Args:
        links: it and those that it was made upon, oldest first.

    Attributes:
        manifest: what it consists of.
        tables: by name.
        steps: of each table, by name: that of the shard which is furthest.
    """

    def __init__(self, links: tuple[Link, ...]) -> None:
        self.links = links
        self.manifest: Manifest = links[-1].manifest
        stored = parse_tables(
            bytes(links[-1].data(self.manifest.tables)), links[-1].folder.file(self.manifest.tables.name)
        )
        self._check_tables(stored)
        self.tables: Mapping[str, TableEntry] = {entry.spec.name: entry for entry in stored}
        self.steps: Mapping[str, int] = {
            name: max((shard.tables[k].step for shard in self.manifest.shards), default=0)
            for k, name in enumerate(self.tables)
        }

    def _check_tables(self, stored: tuple[TableEntry, ...]) -> None:
        for shard in self.manifest.shards:
            here = [(table.number, table.name, table.width, table.slots) for table in shard.tables]
            wanted = [
                (e.number, e.spec.name, e.spec.width, tuple(e.spec.optimizer.slot_widths(e.spec.width)))
                for e in stored
            ]
            if here != wanted:
                raise SnapshotCorrupt(
                    f"{self.url}: shard {shard.index} has tables {here}, tables.json {wanted}"
                )

    def __repr__(self) -> str:
        parent = f" upon {self.manifest.parent.id}" if self.manifest.parent else ""
        return (
            f"<StoredSnapshot {self.manifest.id} tables={len(self.tables)} rows={self.manifest.rows}{parent}>"
        )

    @property
    def url(self) -> str:
        """Where it is."""
        return self.links[-1].folder.url

    @property
    def id(self) -> str:
        """Its name."""
        return self.manifest.id

    @property
    def layout(self) -> Layout:
        """Which shards there were."""
        return self.manifest.layout

    @property
    def lineage(self) -> tuple[SnapshotName, ...]:
        """It and those that it was made upon, oldest first."""
        return tuple(link.manifest.name for link in self.links)

    def table(self, name: str) -> TableEntry:
        """A table. Raises TableNotFound."""
        if name not in self.tables:
            known = ", ".join(repr(known) for known in list(self.tables)[:20]) or "none"
            raise TableNotFound(f"{self.url} has no table {name!r}; its tables: {known}")
        return self.tables[name]

    def rows(self, name: str) -> int:
        """How many rows of a table existed. Raises TableNotFound."""
        number = self.table(name).number
        return sum(t.rows for shard in self.manifest.shards for t in shard.tables if t.number == number)

    def read(
        self,
        name: str,
        *,
        shard: int | None = None,
        shards: int | None = None,
        scratch: Scratch | None = None,
    ) -> Iterator[RowBlock]:
        """The rows of a table, a block at a time; a block is what one file holds, at most 256 MiB.

        Args:
            name: of the table.
            shard: only rows that this shard owns; None: all.
            shards: of how many; None: as many as there were.
            scratch: memory that may be used for the blocks. It is faster, but then a block is valid only until the
                next one is asked for.

        Raises:
            TableNotFound: there is no such table.
            InvalidRequest: there is no such shard.
            SnapshotCorrupt: a file is missing or damaged; the message names the file, the block and its place. The
                number of rows is only known to be right at the end.
            Unavailable: the store does not answer.
        """
        entry, count = self.table(name), self.layout.n if shards is None else shards
        if shard is not None and not 0 <= shard < count:
            raise InvalidRequest(f"there is no shard {shard} of {count}")
        return self._read(entry, shard, count, scratch)

    def _read(
        self, entry: TableEntry, shard: int | None, count: int, scratch: Scratch | None
    ) -> Iterator[RowBlock]:
        groups = self.groups()
        # Where there were as many shards all along, a shard's files hold the rows that it owns and no others.
        own = groups[shard] if shard is not None and len(groups) == count else None
        for group in groups if own is None else [own]:
            for block in TableRows(self.links, entry, group).blocks(scratch):
                if shard is None or own is not None:
                    yield block
                else:
                    yield block.where(owner(entry.spec, block.ids, count) == shard)

    def groups(self) -> list[range]:
        """Shards whose files can be read without those of others: one each, or all if their number has changed."""
        counts = [link.manifest.layout.n for link in self.links]
        if len(set(counts)) == 1:
            return [range(shard, shard + 1) for shard in range(counts[0])]
        return [range(max(counts))]

    def ids(self, name: str) -> Iterator[np.ndarray]:
        """The ids of a table's rows, [N] int64 each; less is read than by `read`. Raises as `read`."""
        entry = self.table(name)
        for group in self.groups():
            yield from TableRows(self.links, entry, group).ids()

    def ledger(self, shard: int) -> Iterator[pb.ReadLedgerReply]:
        """What a shard knew of its clients, piece by piece, in its order. Raises InvalidRequest, SnapshotCorrupt."""
        if not 0 <= shard < self.layout.n:
            raise InvalidRequest(f"there is no shard {shard} of {self.layout.n}")
        link = self.links[-1]
        for file in self.manifest.shards[shard].ledger:
            try:
                yield pb.ReadLedgerReply.FromString(bytes(link.data(file)))
            except DecodeError:
                raise SnapshotCorrupt(f"{link.folder.file(file.name)} holds no ReadLedgerReply") from None

    @property
    def extra(self) -> dict[str, Any]:
        """What the user kept with it; empty if there is nothing. Raises SnapshotCorrupt, Unavailable."""
        if self.manifest.extra is None:
            return {}
        file = self.links[-1].folder.file(self.manifest.extra.name)
        data = bytes(self.links[-1].data(self.manifest.extra))
        if hashlib.sha256(data).hexdigest() != self.manifest.extra_sha256:
            raise SnapshotCorrupt(f"{file} does not have the digest that the manifest says")
        return decode_extra(data, file)
