"""A scaling that failed after its commit, brought to its end. There is no way back from a commit, only forward."""

from __future__ import annotations

from collections.abc import Sequence

from .coordinator import Coordinator
from .effects import Program, Stop
from .reshard import ADOPT_LIMIT_S


def finish(coordinator: Coordinator, retired: Sequence[int]) -> Program:
    """Every server becomes its shard of the committed layout, and servers that are no shard any more end.

    Args:
        coordinator: of the cluster; its layout is the committed one.
        retired: launcher keys of servers that the old layout had and this one has not.

    Raises:
        RowloomError: a server still does not, or has lost its rows. It may be tried again.
    """
    yield from coordinator.adopt(coordinator.layout, ADOPT_LIMIT_S)
    if retired:
        yield Stop(list(retired))
