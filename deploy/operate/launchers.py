"""What a launcher does for whole clusters, and which module does it."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, cast

from ..config.config import DeployConfig
from ..config.launchers import LAUNCHERS, check_launcher
from .directory import ClusterDirectory, Record

RESTORE_S = 7 * 86400.0  # as long as the storage takes; a coordinator ends by itself when nothing goes on
Tell = Callable[[str], None]
"""Says to whoever waits what it waits for."""


@dataclass(frozen=True)
class Restore:
    """What a cluster is to begin with.

    Attributes:
        url: a snapshot's folder.
        on_rows: called with (rows that have arrived, rows in all), by launchers that can tell.
    """

    url: str
    on_rows: Callable[[int, int], None] = lambda rows, total: None


class ClusterLauncher(Protocol):
    """The functions of a module that `LAUNCHERS` names. A cluster's name is locked while `up` and `down` run."""

    def up(
        self, config: DeployConfig, directory: ClusterDirectory, tell: Tell, restore: Restore | None = None
    ) -> tuple[Record, bool]:
        """Start a cluster, unless it runs. Ends what an `up` that was interrupted has left, before.

        Everything is recorded before it is started, so that `down` finds it whatever ends this process.
        restore: what it begins with; None: initial values, or what it has kept.

        Returns:
            Its record, and whether it ran already.

        Raises:
            RowloomError: it did not start; nothing is left running.
        """
        ...

    def down(self, record: Record, directory: ClusterDirectory, *, keep: bool = False) -> None:
        """End a cluster and all that belongs to it. No error if it is gone.

        keep: rows that are in logs stay there, for an `up` that goes on.

        Raises:
            InvalidRequest: there are no logs to keep; nothing was ended.
            Unavailable: that is not certain.
        """
        ...

    def runs(self, record: Record, directory: ClusterDirectory) -> bool:
        """Whether something of it does."""
        ...

    def find(self, name: str, directory: ClusterDirectory) -> Record | None:
        """A cluster that runs on this machine and has no record, or a damaged one. Raises Unavailable: not known."""
        ...

    def find_again(self, record: Record, directory: ClusterDirectory) -> str | None:
        """Where the coordinator of a recorded cluster is now. None: it has not moved, or is nowhere."""
        ...


def launcher_of(name: str) -> ClusterLauncher:
    """The launcher of that name, imported when it is asked for. Raises InvalidRequest if there is none."""
    module = LAUNCHERS[check_launcher(name)]
    return cast(ClusterLauncher, importlib.import_module(f"..{module}", __package__))
