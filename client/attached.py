"""What is too large for a snapshot's `extra`: a file in the snapshot's folder; the `extra` says what it must be.

Why it is so. A snapshot is there or not, and what belongs to it must be too. `extra` travels through the coordinator
and is kept by it, so it is small. The file is written when the snapshot is there, because only then its folder has a
name; the note about it, with its checksum, is in the snapshot itself. A trainer that is killed between the two leaves a
snapshot whose file is missing: readers refuse it, `newest_snapshot(having=...)` passes it over, and the one before is
still there. Rejected: the file first, in a folder of its own. Nobody would know when it may go.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, cast

from fsspec.implementations.local import LocalFileSystem

from ..proto.atomic_file import write_atomic
from ..proto.errors import SnapshotCorrupt, Unavailable
from ..proto.snapshots.folder import SnapshotFolder, opened_url

_NOTE = "attached"


def note_of(data: bytes) -> dict[str, Any]:
    """What an `extra` says of the file: a dict of a name, bytes and a checksum."""
    sha256 = hashlib.sha256(data).hexdigest()
    return {_NOTE: {"name": f"checkpoint-{sha256[:16]}.safetensors", "bytes": len(data), "sha256": sha256}}


def attach(url: str, note: dict[str, Any], data: bytes) -> None:
    """Write the file into a snapshot's folder, whole and durable. Raises Unavailable."""
    name = note[_NOTE]["name"]
    try:
        fs, path = opened_url(url)
        if isinstance(fs, LocalFileSystem):
            write_atomic(Path(path, name), data)
        else:
            fs.pipe_file(f"{path}/{name}", data)
    except Exception as e:  # stores raise errors of their own
        raise Unavailable(
            f"the checkpoint is not whole: its {len(data)} bytes beside the rows are too many for the snapshot itself "
            f"and cannot be written to {url}/{name} from here: {e}"
        ) from e


def attached(url: str, kept: dict[str, Any]) -> bytes | None:
    """The file that an `extra` speaks of, checked; None: it speaks of none. Raises SnapshotCorrupt, Unavailable."""
    if _NOTE not in kept:
        return None
    note, folder = kept[_NOTE], SnapshotFolder(url)
    if folder.size(note["name"]) is None:
        raise SnapshotCorrupt(
            f"the checkpoint {url} is not whole: its trainer ended before {note['name']} was written, or the file is "
            "out of reach from here. newest_snapshot(folder, having='checkpoint') finds the newest that is whole"
        )
    data = bytes(folder.read(note["name"], 0, note["bytes"]))
    if hashlib.sha256(data).hexdigest() != note["sha256"]:
        raise SnapshotCorrupt(
            f"{folder.file(note['name'])} is damaged: its checksum is not that of the snapshot"
        )
    return data


def is_attached(url: str, kept: Any) -> bool:
    """Whether the file that an `extra` speaks of is there, or it speaks of none. Raises Unavailable."""
    if not isinstance(kept, dict) or _NOTE not in kept:
        return True
    note = cast(dict[str, Any], kept)[_NOTE]
    return SnapshotFolder(url).size(note["name"]) == note["bytes"]
