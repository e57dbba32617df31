"""One table as it was at one moment, read while pushes go on."""

from __future__ import annotations

import numpy as np

from ..proto.snapshots.rows_file import RowBlock
from ..proto.spec import TableEntry
from .optimizers.rates import Rates
from .optimizers.rule import Rule
from .rows.cut import CutBlock
from .rows.rows import Rows


class TableCut:
    """A cut of a table; begun when it is made, under the shard's lock.

    Args:
        entry: as it is now.
        step: the table's.
        rates: of its learning rate.
        rule: of its optimizer.
        rows: which track what changes.
        generation: what rows that change from now on are marked with.
        first: only rows that changed in this generation or later; 0: all rows.

    Attributes:
        entry, step: see above.
        count: rows that exist at the cut.
    """

    def __init__(
        self,
        entry: TableEntry,
        step: int,
        rates: Rates,
        rule: Rule,
        rows: Rows,
        generation: int,
        first: int = 0,
    ) -> None:
        self.entry, self.step, self.count = entry, step, rows.count
        self._rates, self._rule, self._rows = rates, rule, rows
        self._cut = rows.begin_cut(generation, first)

    @property
    def saved_bytes(self) -> int:
        """What copies of rows take that have changed since and are yet to be read. Under the shard's lock."""
        return self._cut.saved_bytes

    def read(self, count: int) -> CutBlock | None:
        """The next rows, `count` at the most; None: there are no more. Under the shard's lock."""
        return None if self._cut.done else self._rows.read_cut(count)

    def settled(self, block: CutBlock) -> RowBlock:
        """Rows that were read, every one at the table's step: what anyone who reads the weights expects.

        They are changed in place. No lock is needed.
        """
        values, *slots = block.columns
        numbers = np.arange(len(values), dtype=np.int32)
        self._rule.settle(values, slots, numbers, self._rates, self.step)
        return RowBlock(block.ids, block.touched, values, tuple(slots))

    def end(self) -> None:
        """It is needed no more. Under the shard's lock."""
        if self._rows.cut is self._cut:
            self._rows.end_cut()
