"""A CRC32C for each block of a file: which block is bad, not only that one is."""

from __future__ import annotations

from crc32c import crc32c

from ..errors import SnapshotCorrupt
from ..framing import Buffer

BLOCK_BYTES = 1 << 20
_DIGITS = 8  # of one checksum, hexadecimal


class BlockSums:
    """The checksums of a file whose bytes come piece by piece.

    Attributes:
        bytes: how many there were.
    """

    def __init__(self) -> None:
        self.bytes = 0
        self._sums: list[str] = []
        self._crc = 0

    def add(self, buffer: Buffer) -> None:
        """The next bytes of the file."""
        view = memoryview(buffer).cast("B")
        while len(view):
            piece = view[: BLOCK_BYTES - self.bytes % BLOCK_BYTES]
            self._crc = crc32c(piece, self._crc)
            self.bytes += len(piece)
            if self.bytes % BLOCK_BYTES == 0:
                self._end_block()
            view = view[len(piece) :]

    def _end_block(self) -> None:
        self._sums.append(_hexadecimal(self._crc))
        self._crc = 0

    def text(self) -> str:
        """The checksums of all blocks, eight hexadecimal digits each, one after the other."""
        return "".join(self._sums) + (_hexadecimal(self._crc) if self.bytes % BLOCK_BYTES else "")


def _hexadecimal(crc: int) -> str:
    return f"{crc:0{_DIGITS}x}"


def digits_of(size: int) -> int:
    """How long the checksums of a file of so many bytes are, as text."""
    return -(-size // BLOCK_BYTES) * _DIGITS


def check_blocks(data: memoryview, sums: str, where: str, begin: int = 0) -> None:
    """Raise SnapshotCorrupt for the first block that is not what was written.

    Args:
        data: bytes of a file from a block's beginning to a block's end or the file's.
        sums: the checksums of the whole file.
        where: the file, for the message.
        begin: where data begins in the file.
    """
    for place in range(0, len(data), BLOCK_BYTES):
        block = (begin + place) // BLOCK_BYTES
        got = _hexadecimal(crc32c(data[place : place + BLOCK_BYTES]))
        if got != sums[block * _DIGITS : (block + 1) * _DIGITS]:
            end = begin + min(place + BLOCK_BYTES, len(data))
            raise SnapshotCorrupt(
                f"{where} is damaged: block {block}, bytes {begin + place} to {end}, has checksum {got} instead of "
                f"{sums[block * _DIGITS : (block + 1) * _DIGITS]}"
            )
