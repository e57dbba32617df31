"""A cut of a shard, written to its part of a snapshot while pushes go on."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

from ...proto.errors import Unavailable
from ..taking import Taking
from .shard_writer import ShardWriter
from .target import target_of

BLOCK_ROWS = 4096  # that are copied at a time, under the shard's lock


def write_cut(taking: Taking, locked: Callable[[], AbstractContextManager[None]]) -> bytes:
    """Write all of it; `rows` and `bytes` say how far it is.

    Args:
        taking: what is written, and where.
        locked: holds the shard's lock, which others get in between; while a block is copied.

    Returns:
        What was written, as StoredShard's JSON. It is durable.

    Raises:
        Unavailable: the snapshot was given up meanwhile.
        OSError: the disk or the store failed.
    """
    writer = ShardWriter(target_of(taking.url), taking.index)
    for table in taking.cut.tables:
        out = writer.table(table.entry)
        while True:
            with locked():
                if not taking.under_way:
                    raise Unavailable(taking.error)
                block = table.read(BLOCK_ROWS)
            if block is None:
                break
            rows = table.settled(block)
            out.write(rows.ids, rows.touched, rows.values, rows.slots)
            taking.rows += len(rows.ids)
            taking.bytes += sum(array.nbytes for array in (rows.ids, rows.touched, rows.values, *rows.slots))
        out.finish(rows=table.count, step=table.step)
    for piece in taking.cut.ledger:
        writer.ledger(piece)
    cut = taking.cut
    return writer.finish(lsn=taking.lsn, generation=cut.generation - 1, whole=cut.since is None).to_json()
