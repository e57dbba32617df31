"""What an operation says to whatever drives it: requests to send, and how they ended.

An operation is a generator. It yields a `Turn` - requests to send, and when it wants to be woken at the latest - and is
sent one `Event` at a time: a reply, an error, or None when that moment has come. Whatever drives it owns the clock and
the network: `carriers.transport.drive` for real ones, the simulator for made-up ones.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from ...proto.errors import RowloomError

Reply = bytes | memoryview | np.ndarray  # bytes, however they lie


class Writable(Protocol):
    """A message that writes itself where it is sent from.

    Attributes:
        reply_bytes: how long the reply can be, where that is known; else 0.
    """

    @property
    def size(self) -> int:
        """Bytes that `write` needs, at the most."""
        ...

    @property
    def reply_bytes(self) -> int:
        """See above."""
        ...

    def write(self, buffer: np.ndarray, at: int) -> tuple[int, int]:
        """Write the message to a buffer of bytes, from `at` on or a little later; returns where it begins and ends.

        The buffer begins at an address divisible by 4. The same bytes each time, until the message is sent anew.
        """
        ...


@dataclass(frozen=True)
class Message:
    """A message that is bytes already."""

    data: bytes
    reply_bytes: int = 0

    @property
    def size(self) -> int:
        """As `Writable.size`."""
        return len(self.data)

    def write(self, buffer: np.ndarray, at: int) -> tuple[int, int]:
        """As `Writable.write`."""
        end = at + len(self.data)
        buffer[at:end] = np.frombuffer(self.data, np.uint8)
        return at, end


def as_array(reply: Reply) -> np.ndarray:
    """A reply's bytes as an array, [N] uint8, without copying them."""
    return reply if isinstance(reply, np.ndarray) else np.frombuffer(reply, np.uint8)


def as_bytes(message: Writable) -> bytes:
    """A message as bytes of its own: for carriers that take nothing else."""
    if isinstance(message, Message):
        return message.data
    buffer = np.empty(message.size, np.uint8)
    begin, end = message.write(buffer, 0)
    return buffer[begin:end].tobytes()


@dataclass(slots=True)
class Send:
    """A request to put on the wire; whoever does calls `message.write` before the operation goes on, or once it may.

    until: when its attempt ends without an answer, on the driver's clock.
    """

    tag: int
    address: str
    method: str
    message: Writable
    until: float


@dataclass(slots=True)
class Turn:
    """What an operation wants done before its next event. `wake_at`: on the driver's clock."""

    sends: list[Send]
    wake_at: float


@dataclass(slots=True)
class Event:
    """The end of one request: `data`, or `error`. The data stays as it is until the operation has ended."""

    tag: int
    data: Reply = b""
    error: RowloomError | None = None


Operation = Generator[Turn, Event | None, Any]
