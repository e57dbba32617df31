"""What made-up worlds leave out, because it takes time and decides nothing here.

Each of these has tests of its own. With them most of a history's time is files of /proc, filters of 8 MB, mappings of
1 MB for tables of 40 rows, the same specs and layouts read from messages again and again, and (`patient`) questions
whether rows have moved yet.
"""

import gc
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from functools import lru_cache
from typing import Any
from unittest.mock import patch

from rowloom.deploy.control import receiving, reshard
from rowloom.proto import rowloom_pb2 as pb
from rowloom.proto.layout import Layout
from rowloom.proto.spec import TableEntry
from rowloom.server import forgotten, host, ledger
from rowloom.server.moving import receive
from rowloom.server.rows import limits, memory
from rowloom.server.snapshots.shard_writer import ShardWriter

FILTER_BYTES = 1 << 13  # of a filter of forgotten clients, of which there are some dozens
COLLECT = 200  # histories: then what older ones have left is looked for too
COLUMN_BYTES = 1 << 13  # of rows, of which a made-up table has 40


def _remembered(cls: Any, message: Any) -> list[tuple[type, str, object]]:
    """What makes values of a class remember what they were read from, and what they were written as."""
    read, write = cls.from_message.__func__, cls.to_message

    @lru_cache(1000)
    def value(data: bytes) -> Any:
        return read(cls, message.FromString(data))

    def from_message(_: type, message: Any) -> Any:
        """They are values: one that was read before is the same."""
        return value(message.SerializeToString(deterministic=True))

    def to_message(self: Any) -> Any:
        """Nobody writes to such a message: it is put into others, which copy it."""
        kept = self.__dict__.get("_message")
        if kept is None:
            kept = self.__dict__["_message"] = write(self)
        return kept

    return [(cls, "from_message", classmethod(from_message)), (cls, "to_message", to_message)]


class _Region(bytearray):
    """A column's memory, in place of a mapping, which the kernel makes and takes apart page by page."""

    def resize(self, size: int) -> None:
        """As on systems that move no mappings: it is copied."""
        raise SystemError(f"no {size} bytes here")

    def madvise(self, option: int, start: int, length: int) -> None:
        """It is given back as a whole."""


@contextmanager
def _uncollected() -> Generator[None]:
    """Garbage that refers to itself stays, until `collect`: looking for it takes a sixth of a history's time."""
    if not gc.isenabled():  # within another one
        yield
        return
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.unfreeze()


def collect(seed: int) -> None:
    """To be called after each history, which nobody holds any more.

    While all that it left is new, and in the processor's caches, this takes a third of the time.
    """
    gc.collect(0 if seed % COLLECT else 2)


@contextmanager
def quick() -> Generator[None]:
    """Worlds are quicker while it lasts. What is left out is the same for all of them, so no seed is another."""
    room = limits.Limit(1 << 50, "a made-up machine's memory")
    with ExitStack() as stack:
        stack.enter_context(_uncollected())
        for target, name, value in (
            (limits, "available", lambda: room),
            (forgotten, "BYTES", FILTER_BYTES),
            (forgotten, "_BITS", 8 * FILTER_BYTES),
            (ledger, "BYTES", FILTER_BYTES),
            *_remembered(TableEntry, pb.TableEntry),
            *_remembered(Layout, pb.Layout),
            (memory, "_reserve", _Region),
            (memory, "_FIRST", COLUMN_BYTES),
            (ShardWriter.__init__, "__defaults__", (1 << 16,)),  # else 64 MB for each file of a snapshot
        ):
            stack.enter_context(patch.object(target, name, value))
        yield


@contextmanager
def patient() -> Generator[None]:
    """Whether rows have moved is asked more rarely while it lasts: time is made up, and asking is most of the work."""
    with ExitStack() as stack:
        for target, name, value in (
            (host, "MOVING_HOLD_S", 0.4),
            (host, "MOVING_RETRY_S", 0.1),
            (receive, "PASS_PAUSE_S", 0.1),
            (receive, "MOST_PAUSE_S", 1.0),
            (reshard, "COPY_POLL_S", (0.1, 0.5)),
            (reshard, "LAST_POLL_S", (0.05, 0.5)),
            (receiving.all_received, "__kwdefaults__", {"check": None, "pauses_s": (0.1, 1.0)}),
        ):
            stack.enter_context(patch.object(target, name, value))
        yield
