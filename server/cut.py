"""One shard as it was at one moment: every table with its rows and steps, and the ledger. Read while pushes go on."""

from __future__ import annotations

from collections.abc import Iterable

from .ledger import PIECE_BYTES, Ledger
from .table import ShardTable
from .table_cut import TableCut


class ShardCut:
    """A cut of a shard; begun when it is made. Under the shard's lock.

    Args:
        tables: the shard's.
        ledger: the shard's.
        generation: what rows that change after it are marked with.
        since: only rows that changed after this generation; None: all rows.

    Attributes:
        tables: by number.
        generation, since: see above.
        ledger: its pieces, each the bytes of a ReadLedgerReply, in order.
    """

    def __init__(
        self, tables: Iterable[ShardTable], ledger: Ledger, generation: int, since: int | None = None
    ) -> None:
        self.generation, self.since = generation, since
        self.ledger = _pieces(ledger)
        self.tables: list[TableCut] = []
        try:
            for table in sorted(tables, key=lambda table: table.number):
                self.tables.append(table.begin_cut(generation, since))
        except BaseException:  # no memory, at worst
            self.end()
            raise

    @property
    def saved_bytes(self) -> int:
        """What copies of rows take that have changed since and are yet to be read."""
        return sum(table.saved_bytes for table in self.tables)

    def end(self) -> None:
        """It is needed no more."""
        for table in self.tables:
            table.end()


def _pieces(ledger: Ledger) -> list[bytes]:
    pieces: list[bytes] = []
    cursor = 0
    while True:
        piece = ledger.read(cursor, PIECE_BYTES)
        pieces.append(piece.SerializeToString())
        cursor = piece.next
        if not cursor:
            return pieces
