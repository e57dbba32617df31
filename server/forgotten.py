"""Clients that a ledger has forgotten, more of them than could be listed: a filter that never misses one.

Why it is so. What must hold: what was forgotten is never applied again, so a client of which the ledger knows nothing
any more must not be taken for a new one. A Bloom filter holds that in a fixed size for as many clients as there will
ever be: each sets a few bits, one that is in it always finds all of its bits set, and the union of two is an `or`. The
price is that a new client may find them set by others, and is refused too; it then takes another id. With a million
clients forgotten that happens to 1 of 40 million, with ten million to 1 of 18.
Rejected: a list of ids. It is exact, but it either grows without bound or ends one day, and then no new client could
ever push again. Rejected: to refuse those that were admitted before some number or moment. Every client would need one
that all shards agree on before its first push: a round trip more for each, or clocks that can be trusted.
"""

from __future__ import annotations

import numpy as np

from ..proto.errors import InvalidRequest

BYTES = 8 << 20
HASHES = 8
_BITS = 8 * BYTES
_WORD = (1 << 64) - 1


class Forgotten:
    """A set of client ids to which only can be added. Takes memory when the first one is."""

    def __init__(self) -> None:
        self._bits = bytearray()

    def __bool__(self) -> bool:
        return bool(self._bits)

    def __contains__(self, client_id: int) -> bool:
        bits = self._bits
        return bool(bits) and all(bits[place >> 3] & 1 << (place & 7) for place in _places(client_id))

    def add(self, client_id: int) -> None:
        """Add one. Raises MemoryError; then nothing has changed."""
        bits = self._own()
        for place in _places(client_id):
            bits[place >> 3] |= 1 << (place & 7)

    def read(self, begin: int, size: int) -> bytes:
        """Some of its bytes, to be given to `merge`."""
        return bytes(memoryview(self._bits)[begin : begin + size])

    def merge(self, data: bytes, begin: int) -> None:
        """Add those of another one, of which these are the bytes from `begin` on. Raises InvalidRequest."""
        if begin + len(data) > BYTES:
            raise InvalidRequest(
                f"{len(data)} bytes from {begin} on are beyond the {BYTES} of a filter of clients"
            )
        mine = np.frombuffer(self._own(), np.uint8)[begin : begin + len(data)]
        np.bitwise_or(mine, np.frombuffer(data, np.uint8), out=mine)

    def _own(self) -> bytearray:
        if not self._bits:
            self._bits = bytearray(BYTES)
        return self._bits


def _places(client_id: int) -> list[int]:
    """The bits of a client."""
    first = _mixed(client_id)
    step = _mixed(first) | 1
    return [(first + k * step) % _BITS for k in range(HASHES)]


def _mixed(x: int) -> int:
    """splitmix64: clients may choose ids that are alike."""
    x = (x + 0x9E3779B97F4A7C15) & _WORD
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 & _WORD
    x = (x ^ x >> 27) * 0x94D049BB133111EB & _WORD
    return x ^ x >> 31
