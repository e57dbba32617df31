"""What a snapshot consists of: `MANIFEST.json`, which is written last. Values that check themselves; no I/O.

Why it is so. What must hold: a snapshot is there wholly or not at all, and any byte of it that changed is found. So the
manifest names every file with its size and the checksum of each of its blocks, and has a digest of its own content. It
is read only if it is, byte for byte, what would be written for that content: there are no two ways to say the same, and
no byte that means nothing.
The digest also names a snapshot: an increment says which one it was made upon, and the chain cannot be mixed up.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from google.protobuf import json_format

from .. import rowloom_pb2 as pb
from ..errors import SnapshotCorrupt, version_fault
from ..layout import Layout
from ..spec import NAME
from .checked_json import digest_of, parsed, require, take, take_all
from .stored import StoredFile, StoredShard, file_of, plain_file, plain_shard, shard_of

MANIFEST = "MANIFEST.json"
TABLES = "tables.json"
EXTRA = "extra.safetensors"
VERSION = 1
FORMAT = "rowloom-snapshot"
_HEX = re.compile(r"[0-9a-f]*")


@dataclass(frozen=True)
class SnapshotName:
    """Which snapshot an increment was made upon."""

    id: str
    digest: str

    def __post_init__(self) -> None:
        require(NAME.fullmatch(self.id), f"{self.id!r} is no id of a snapshot")
        good = len(self.digest) == 64 and _HEX.fullmatch(self.digest)
        require(good, f"{self.digest!r} is no digest: 64 hexadecimal digits")


@dataclass(frozen=True)
class Manifest:
    """A snapshot's content.

    Attributes:
        id: its name: that of its folder. Of letters, digits, '.', '_' and '-'.
        cluster_id: whose it is.
        cluster_name: for people.
        created_s: when, in seconds since 1970, UTC.
        layout: which shards there were.
        shards: one for each of them, in order.
        tables: the file with their specs.
        parent: None: it is whole by itself.
        extra: the file with what the user kept with it, as `encode_extra`.
        extra_sha256: of these, hexadecimal; empty if there is nothing.
    """

    id: str
    cluster_id: str
    cluster_name: str
    created_s: float
    layout: Layout
    shards: tuple[StoredShard, ...]
    tables: StoredFile
    parent: SnapshotName | None = None
    extra: StoredFile | None = None
    extra_sha256: str = ""

    def __post_init__(self) -> None:
        require(NAME.fullmatch(self.id), f"{self.id!r} is no id of a snapshot")
        require(0 <= self.created_s < math.inf, f"created_s is {self.created_s}")
        _check_count(self.layout, self.shards)
        for k, shard in enumerate(self.shards):
            require(
                shard.index == k, f"the layout has {self.layout.n} shards, part {k} is of shard {shard.index}"
            )
        kinds = {tuple((t.number, t.name, t.width, t.slots) for t in shard.tables) for shard in self.shards}
        require(len(kinds) <= 1, f"the shards do not have the same tables: {sorted(kinds)}")
        require(
            (self.extra is None) == (self.extra_sha256 == ""),
            "extra needs a digest, and a digest needs extra",
        )
        names = [file.name for file in self.files]
        twice = next((name for name, count in _counts(names).items() if count > 1), None)
        require(twice is None, f"two files are called {twice}")
        require(MANIFEST not in names, f"a file is called {MANIFEST}")
        if self.parent is None:
            parts = [shard.index for shard in self.shards if not shard.whole]
            require(
                not parts, f"shards {parts} did not write all rows, but it is made upon no other snapshot"
            )

    @property
    def files(self) -> tuple[StoredFile, ...]:
        """All files but the manifest."""
        of_shards = [file for shard in self.shards for file in shard.files]
        return (self.tables, *([self.extra] if self.extra else []), *of_shards)

    @property
    def bytes(self) -> int:
        """Of all files but the manifest."""
        return sum(file.bytes for file in self.files)

    @property
    def rows(self) -> int:
        """Rows of all tables that existed at the cut."""
        return sum(table.rows for shard in self.shards for table in shard.tables)

    @property
    def name(self) -> SnapshotName:
        """As an increment names it."""
        return SnapshotName(self.id, self.digest)

    @property
    def digest(self) -> str:
        """SHA-256 of its content as JSON with sorted keys, without spaces and without the digest."""
        return digest_of(self._content())

    def _content(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "version": VERSION,
            "id": self.id,
            "cluster_id": self.cluster_id,
            "cluster_name": self.cluster_name,
            "created_s": self.created_s,
            "layout": json_format.MessageToDict(self.layout.to_message(), preserving_proto_field_name=True),
            "shards": [plain_shard(shard) for shard in self.shards],
            "tables": plain_file(self.tables),
            "parent": {"id": self.parent.id, "digest": self.parent.digest} if self.parent else None,
            "extra": {**plain_file(self.extra), "sha256": self.extra_sha256} if self.extra else None,
        }

    def to_bytes(self) -> bytes:
        """The bytes of MANIFEST.json."""
        content = self._content()
        return _shown({**content, "digest": digest_of(content)})

    @classmethod
    def from_bytes(cls, data: bytes, where: str = MANIFEST) -> Manifest:
        """From the bytes of MANIFEST.json.

        Args:
            data: all of them.
            where: the file, for messages.

        Raises:
            SnapshotCorrupt: it is damaged, or of a format that this version does not read.
        """
        content = parsed(data, where)
        if content.get("format") != FORMAT:
            raise SnapshotCorrupt(
                f"{where} is no manifest of a snapshot: format is {str(content.get('format'))[:50]!r}"
            )
        if fault := version_fault(where, content.get("version"), VERSION):
            raise SnapshotCorrupt(fault)
        try:
            manifest = _manifest(content)
        except SnapshotCorrupt as e:
            raise SnapshotCorrupt(f"{where} is damaged: {e}") from None
        if data != (wanted := manifest.to_bytes()):
            place = next(
                (k for k, (a, b) in enumerate(zip(data, wanted, strict=False)) if a != b), len(wanted)
            )
            raise SnapshotCorrupt(
                f"{where} is damaged: it differs from byte {place} on from what its content is written as"
            )
        return manifest


def _counts(names: Sequence[str]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for name in names:
        counts[name] = counts.get(name, 0) + 1
    return counts


def _shown(content: Mapping[str, Any]) -> bytes:
    return (json.dumps(content, sort_keys=True, indent=1) + "\n").encode()


def _check_count(layout: Layout, shards: Sequence[object]) -> None:
    require(len(shards) == layout.n, f"the layout has {layout.n} shards, there are parts of {len(shards)}")


def _manifest(content: dict[str, Any]) -> Manifest:
    parent, extra = content.get("parent"), content.get("extra")
    layout = _layout(cast(dict[str, Any], take(content, "layout", dict)))
    # Before they are read: of a million that takes half a minute.
    _check_count(layout, cast(list[object], take(content, "shards", list)))
    return Manifest(
        id=take(content, "id", str),
        cluster_id=take(content, "cluster_id", str),
        cluster_name=take(content, "cluster_name", str),
        created_s=take(content, "created_s", float),
        layout=layout,
        shards=take_all(content, "shards", shard_of),
        tables=file_of(content.get("tables")),
        parent=None if parent is None else SnapshotName(take(parent, "id", str), take(parent, "digest", str)),
        extra=None if extra is None else file_of(extra),
        extra_sha256="" if extra is None else take(extra, "sha256", str),
    )


def _layout(content: dict[str, Any]) -> Layout:
    try:
        return Layout.from_message(json_format.ParseDict(content, pb.Layout()))
    except (json_format.ParseError, ValueError, TypeError) as e:
        raise SnapshotCorrupt(f"layout: {e}") from None
