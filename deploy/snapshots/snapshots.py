"""Snapshots of the running cluster: those that somebody asks for, and those that keep logs short."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from typing import NamedTuple

from ...proto.errors import InvalidRequest, RetryLater, RowloomError, in_words
from ..control.coordinator import Coordinator
from ..control.snapshotting import Snapshotting
from ..control.state import KnownSnapshot
from ..launch.keeping import snapshots_of
from ..performer import Performer
from .kept import remove_automatic

log = logging.getLogger(__name__)
# A log of so many bytes is read in about two seconds when its shard starts again.
LONG_LOG_BYTES = 4 << 30
AGAIN_S = 60.0  # after a snapshot that failed


class TakenSnapshot(NamedTuple):
    """A snapshot, and for how many seconds pushes waited for it."""

    snapshot: KnownSnapshot
    pause_s: float


class Snapshots:
    """Takes them, one at a time.

    Args:
        coordinator: of the moment; another one after a restart.
        performer: runs them.
        storage: the cluster's; none: there is no place for snapshots.
    """

    def __init__(
        self, coordinator: Callable[[], Coordinator], performer: Performer, storage: str | None
    ) -> None:
        self._coordinator = coordinator
        self._performer = performer
        self._storage = storage
        self._not_before = 0.0  # on the monotonic clock

    def take(self, extra: bytes = b"", *, automatic: bool = False) -> TakenSnapshot:
        """Take one; returns when it is whole.

        Args:
            extra: bytes that are kept with it.
            automatic: it only keeps logs short, and goes when no log needs it any more.

        Raises:
            InvalidRequest: there is no storage.
            RetryLater: something else changes the cluster.
            RowloomError: it failed, and pushes go on.
        """
        if self._storage is None:
            raise InvalidRequest("a snapshot needs `storage:` in the deploy config, which all shards have")
        now = time.time()
        day = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now))
        id = f"{day}-{random.SystemRandom().getrandbits(32):08x}"
        url = f"{snapshots_of(self._storage)}/{id}"
        with self._performer.alone("taking a snapshot", 0.0 if automatic else 2.0):
            coordinator = self._coordinator()
            before = coordinator.state.snapshots
            taking = Snapshotting(coordinator, id, url, now, extra, automatic=automatic)
            known: KnownSnapshot = self._performer.run(taking.run())
            remove_automatic([one for one in before if one not in coordinator.state.snapshots])
        log.info("snapshot %s: %d rows, pushes waited for %.0f ms", url, known.rows, 1e3 * taking.pause_s)
        return TakenSnapshot(known, taking.pause_s)

    def keep_short(self, log_bytes: int) -> None:
        """Take one if the longest log of a shard is long."""
        if log_bytes < LONG_LOG_BYTES or time.monotonic() < self._not_before:
            return
        try:
            self.take(automatic=True)
        except RetryLater:
            return
        except RowloomError as e:
            self._not_before = time.monotonic() + AGAIN_S
            log.warning("logs are long and could not be made shorter by a snapshot: %s", in_words(e))
