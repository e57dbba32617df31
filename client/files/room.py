"""Whether a file of rows finds room on its disk: asked before its first byte, and told of a disk that filled up.

Why before: a table may be far larger than the disk of who exports it, and a disk says so only once it is full, which
takes minutes. The size is the least that the file can have, so that what would fit is never refused.
"""

from __future__ import annotations

import contextlib
import errno
import math
import shutil
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

from ...proto.errors import RowloomError
from ...proto.recipes import Constant, Zeros
from ...proto.spec import TableSpec
from .contract import WITHOUT_IDS

FULL = (errno.ENOSPC, errno.EDQUOT)
_NEARLY_FULL_BYTES = 1 << 20  # left by a library that gave up writing, and does not say why


def least_bytes(kind: str, spec: TableSpec, rows: int, *, named: bool) -> int:
    """The least room that an export takes.

    Args:
        kind: the format, one of `FORMATS`.
        spec: the table.
        rows: how many are written.
        named: whether their ids are written too, in formats that can leave them out.
    """
    numbers = rows * math.prod(spec.row_shape)
    if kind == "parquet":  # it is compressed; equal rows come to nearly nothing, others not below an eighth
        return 0 if isinstance(spec.initializer, Zeros | Constant) else numbers * 4 // 8
    if kind in ("word2vec", "glove"):
        return numbers * 2  # a digit and a space
    twice = 2 if kind == "torch" else 1  # its rows lie in a file of their own until it is whole
    return numbers * 4 * twice + (rows * 8 if named else 0)


@dataclass(frozen=True)
class FileRoom:
    """The file that is to be written.

    Attributes:
        path: where, on this machine.
        kind: its format.
        spec: the table.
        rows: how many rows it gets.
        named: whether these are some of the table's, so that fewer are no way out.
        staged: whether it goes to a store afterwards, from the folder for temporary files.
    """

    path: Path
    kind: str
    spec: TableSpec
    rows: int
    named: bool
    staged: bool

    @property
    def least(self) -> int:
        """The least bytes that it takes, with what lies beside it."""
        return least_bytes(self.kind, self.spec, self.rows, named=self.named)

    def check(self) -> None:
        """Raises OSError (ENOSPC) if the file surely does not fit."""
        free = free_bytes(self.path)
        if free is not None and self.least > free:
            raise OSError(
                errno.ENOSPC,
                f"nothing was written: {self._needs()}, and {self._disk()} has {in_bytes(free)} free; {self._ways()}",
                str(self.path),
            )

    @contextlib.contextmanager
    def told(self) -> Generator[None]:
        """Errors of a disk that fills up meanwhile say how large the file is. Inside, what was written is removed."""
        try:
            yield
        except OSError as e:
            if e.errno not in FULL:
                raise
            free = free_bytes(self.path)
            left = "" if free is None else f"; with that removed it has {in_bytes(free)} free"
            words = f"what was written is removed: {self._needs()}, and {self._disk()} filled up{left}; {self._ways()}"
            raise OSError(e.errno, words, str(self.path)) from e

    def quietly_full(self, error: BaseException) -> bool:
        """Whether a library that does not say so failed because the disk is full. Before its file is removed."""
        if isinstance(error, OSError | RowloomError) or not isinstance(error, Exception):
            return False
        free = free_bytes(self.path)
        return free is not None and free < _NEARLY_FULL_BYTES

    def _needs(self) -> str:
        rows = "1 row" if self.rows == 1 else f"{self.rows:,} rows"
        return f"{rows} take at least {in_bytes(self.least)}" if self.least else f"{rows} are to be written"

    def _disk(self) -> str:
        folder = self.path.absolute().parent
        if self.staged:
            return f"the folder for temporary files, {folder.parent}, where it is made whole first,"
        return f"the disk of {folder}"

    def _ways(self) -> str:
        place = "another folder (the variable TMPDIR)" if self.staged else "another place"
        if self.named:
            return f"make room there, or say {place}"
        held = ", in a file that holds ids, as .npy or .safetensors" if self.kind in WITHOUT_IDS else ""
        return (
            f"say ids=table.ids() for only those rows that were ever pushed to or assigned{held}, or {place}"
        )


def free_bytes(path: Path) -> int | None:
    """What is free where a file is to be; None: the disk does not say."""
    try:
        disk = shutil.disk_usage(path.absolute().parent)
    except OSError:
        return None
    return disk.free if disk.total else None  # some that are shared over a network say 0 of 0


def in_bytes(count: int) -> str:
    """`1.5 GiB`."""
    size, units = float(count), ["bytes", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"]
    while size >= 1024 and len(units) > 1:
        size, units = size / 1024, units[1:]
    return f"{size:,.1f} {units[0]}" if units[0] != "bytes" else f"{count} bytes"
