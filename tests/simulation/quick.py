"""What made-up worlds leave out, because it takes time and decides nothing here.

Each of these has tests of its own. With them half of a history's time is files of /proc, filters of 8 MB, the same
specs read from messages again and again, and questions whether rows have moved yet.
"""

import gc
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from functools import lru_cache
from unittest.mock import patch

from rowloom.deploy.control import receiving
from rowloom.proto import rowloom_pb2 as pb
from rowloom.proto.spec import TableEntry
from rowloom.server import forgotten, host, ledger
from rowloom.server.rows import limits
from rowloom.server.snapshots.shard_writer import ShardWriter

FILTER_BYTES = 1 << 13  # of a filter of forgotten clients, of which there are some dozens
COLLECT = 50  # histories: about 100 MB
_read = TableEntry.from_message.__func__
_write = TableEntry.to_message


@lru_cache(1000)
def _entry(data: bytes) -> TableEntry:
    return _read(TableEntry, pb.TableEntry.FromString(data))


def _from_message(cls: type[TableEntry], message: pb.TableEntry) -> TableEntry:
    """Entries are values: one that was read before is the same."""
    return _entry(message.SerializeToString(deterministic=True))


def _to_message(entry: TableEntry) -> pb.TableEntry:
    """Nobody writes to such a message: it is put into others, which copy it."""
    kept = entry.__dict__.get("_message")
    if kept is None:
        kept = entry.__dict__["_message"] = _write(entry)
    return kept


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
    """To be called after each history."""
    if seed % COLLECT == 0:
        gc.collect()


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
            (TableEntry, "from_message", classmethod(_from_message)),
            (TableEntry, "to_message", _to_message),
            (ShardWriter.__init__, "__defaults__", (1 << 16,)),  # else 64 MB for each file of a snapshot
            (host, "MOVING_HOLD_S", 0.4),
            (host, "MOVING_RETRY_S", 0.1),
            (receiving, "POLL_S", (0.1, 1.0)),
        ):
            stack.enter_context(patch.object(target, name, value))
        yield
