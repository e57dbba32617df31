"""Learning rates of tables that follow one of a framework's optimizers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from ...proto.errors import InvalidRequest

if TYPE_CHECKING:
    from ..table import Table


class FollowedRate:
    """The rates of tables, in proportion to that of an optimizer.

    Args:
        tables: that follow it.
        first: the optimizer's rate at which they have their own.
        begun: what `begun` said of the same tables before they were restored, by name; None: they begin now.

    Raises:
        InvalidRequest: first is not above 0, or a table has a schedule of its own.
    """

    def __init__(
        self, tables: Iterable[Table], first: float, begun: Mapping[str, Sequence[float]] | None = None
    ) -> None:
        if begun is None and not first > 0:
            raise InvalidRequest(
                f"the optimizer's learning rate is {first:g}, and rates in proportion to that are none: bind "
                "before a scheduler lowers it"
            )
        self._tables = [(table, _own_rate(table), first) for table in tables]
        self._last: float | None = first
        if begun is not None:
            self.go_on(begun)

    def go_on(self, begun: Mapping[str, Sequence[float]]) -> None:
        """The tables were restored: the rates of now are parts of those that they began with. begun: see above."""
        self._tables = [(table, *begun[table.name]) for table, _, _ in self._tables]
        self._last = None

    @property
    def begun(self) -> dict[str, list[float]]:
        """Of each table by name: its own rate, and that of the optimizer then."""
        return {table.name: [own, first] for table, own, first in self._tables}

    def __call__(self, rate: float) -> None:
        """The optimizer's rate now: sent to the shards if it has changed. Raises as `Table.set_lr`."""
        if rate == self._last:
            return
        for table, own, first in self._tables:
            now = own * (rate / first)
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
