"""Learning rates of tables that follow one of a framework's optimizers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from ...proto.errors import InvalidRequest

if TYPE_CHECKING:
    from ..table import Table


class FollowedRate:
    """The rates of tables, in proportion to that of an optimizer.

    Args:
        tables: that follow it.
        first: the optimizer's rate at which they have their own.
        own: those; None: the ones that are in force now.

    Raises:
        InvalidRequest: first is not above 0, or a table has a schedule of its own.
    """

    def __init__(self, tables: Iterable[Table], first: float, own: Sequence[float] | None = None) -> None:
        if not first > 0:
            raise InvalidRequest(
                f"the optimizer's learning rate is {first:g}, and rates in proportion to that are none: bind "
                "before a scheduler lowers it"
            )
        self._tables = list(tables)
        in_force = [_own_rate(table) for table in self._tables]
        self._own = in_force if own is None else list(own)
        self._first = first
        self._last = first if self._own == in_force else None

    @property
    def own(self) -> list[float]:
        """The tables' own rates, in their order."""
        return list(self._own)

    def go_on(self, own: Sequence[float]) -> None:
        """The tables' own rates as they were when training began that is resumed; those in force may be parts."""
        self._own, self._last = list(own), None

    def __call__(self, rate: float) -> None:
        """The optimizer's rate now: sent to the shards if it has changed. Raises as `Table.set_lr`."""
        if rate == self._last:
            return
        for table, own in zip(self._tables, self._own, strict=True):
            now = own * (rate / self._first)
            if table.spec.optimizer.lr != now:  # another layer over this table may have been first
                table.set_lr(now)
        self._last = rate


def _own_rate(table: Table) -> float:
    rate = table.spec.optimizer.lr
    if not isinstance(rate, int | float):
        raise InvalidRequest(
            f"table {table.name!r} has a schedule of its own, {rate!r}: it cannot follow another one"
        )
    return float(rate)
