"""What lies beside a file and belongs to it: the ids of its rows, the vocabulary of its table.

Why a mark: a file is easily replaced by another of as many rows, and what lies beside it stays. Its rows would then be
read as those of other ids or words. So what an export writes says which file it belongs to; what people put there
themselves says nothing, and is believed.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
from crc32c import crc32c

from ...proto.atomic_file import write_atomic
from ...proto.errors import InvalidRequest
from .contract import StoredVocabulary, mapped_array

IDS_SUFFIX = ".ids.npy"
WORDS_SUFFIX = ".vocabulary.json"
_EDGE_BYTES = 64 << 10  # of the beginning and the end, which is where files of one shape differ too
_MARK = re.compile(rb"\nrowloom-rows: (\d+-[0-9a-f]{8})\n\Z")


def ids_beside(path: Path) -> Path:
    """Where the ids of a `.npy` file's rows are, if they are not 0 to V - 1."""
    return path.with_name(path.name + IDS_SUFFIX)


def words_beside(path: Path) -> Path:
    """Where the vocabulary of a file's table is, if the file itself cannot hold it."""
    return path.with_name(path.name + WORDS_SUFFIX)


def mark_of(path: Path) -> str:
    """What tells a file from another under the same name: its size, and a checksum of its two ends."""
    if not path.is_file():  # a checkpoint is known by its prefix
        path = path.with_name(f"{path.name}.index")
    size = path.stat().st_size
    with open(path, "rb") as f:
        crc = crc32c(f.read(_EDGE_BYTES))
        f.seek(max(0, size - _EDGE_BYTES))
        return f"{size}-{crc32c(f.read(_EDGE_BYTES), crc):08x}"


def mark_ids(ids: Path, rows: Path) -> None:
    """Say in a file of ids which file of rows it belongs to: behind the array, where numpy does not look."""
    with open(ids, "ab") as f:
        f.write(f"\nrowloom-rows: {mark_of(rows)}\n".encode())


def read_ids(path: Path) -> np.ndarray | None:
    """The ids beside a `.npy` file, mapped; None: there are none.

    Raises:
        InvalidRequest: damaged, or written for another file than the one that is there.
    """
    beside = ids_beside(path)
    if not beside.exists():
        return None
    ids = mapped_array(beside)
    with open(beside, "rb") as f:
        f.seek(max(0, beside.stat().st_size - 100))
        found = _MARK.search(f.read())
    if found:
        _check_mark(found[1].decode(), path, beside, "ids")
    return ids


def write_words(path: Path, stored: StoredVocabulary | None) -> None:
    """Put a vocabulary beside a file that is whole; None: take away what an earlier export left there."""
    if stored is None:
        words_beside(path).unlink(missing_ok=True)
    else:
        value = {**stored.to_json(), "rows": mark_of(path)}
        write_atomic(words_beside(path), json.dumps(value, ensure_ascii=False))


def read_words(path: Path) -> StoredVocabulary | None:
    """The vocabulary beside a file; None: there is none.

    Raises:
        InvalidRequest: damaged, or written for another file than the one that is there.
    """
    beside = words_beside(path)
    if not beside.exists():
        return None
    stored, value = StoredVocabulary.parsed(beside.read_bytes(), beside)
    if "rows" in value:
        _check_mark(value["rows"], path, beside, "words")
    return stored


def _check_mark(mark: object, path: Path, beside: Path, what: str) -> None:
    if mark != mark_of(path):
        raise InvalidRequest(
            f"{beside} has the {what} of another {path.name} than the one that is there now: it was exported with a "
            "file that was replaced since. Remove it, or put the file back that it belongs to"
        )
