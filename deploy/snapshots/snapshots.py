"""Snapshots of the running cluster: those that somebody asks for, and those that keep logs short."""

from __future__ import annotations

import dataclasses
import logging
import random
import threading
import time
from collections.abc import Callable
from typing import NamedTuple

from ...proto import rowloom_pb2 as pb
from ...proto.errors import InvalidRequest, RetryLater, RowloomError, in_words
from ...proto.snapshots.chain import links_of
from ...proto.snapshots.folder import SnapshotFolder
from ...proto.snapshots.manifest import SnapshotName
from ...server.durable.segments import SEGMENT_BYTES
from ..config.memory import in_bytes
from ..config.sections import SnapshotSchedule
from ..control.coordinator import Coordinator
from ..control.lineage import disposable, lineage, listed, parent_of_next
from ..control.snapshotting import Snapshotting
from ..control.state import KnownSnapshot
from ..performer import Performer
from .begun import BegunSnapshots
from .earlier import EarlierSnapshots, earlier_in
from .kept import remove_snapshots
from .room import little_room, to_go_on
from .shown import earlier_of, newest_of

log = logging.getLogger(__name__)
# A log of so many bytes is read in about two seconds when its shard starts again.
LONG_LOG_BYTES = 4 << 30
LISTING_S = 1.0  # for what a storage has to be known before the cluster is up
AGAIN_S = 60.0  # after a snapshot that failed
MEND_AGAIN_S = (2.0, 60.0)  # the same, for logs that failed: first and longest pause
_MENDS = "a log that failed goes on behind a snapshot"
_CUTS = "logs that had failed are as long as they were until a second snapshot has what is in them"
_DUE, _LONG = "a snapshot is due", "logs are long, and a snapshot makes them short"
_TIGHT = "the disk has little room, and a snapshot makes logs short"


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
        schedule: of those that nobody has to ask for.
        clock: seconds since 1970.
        check_there: raises NotStored if the storage is not where it was.
    """

    def __init__(
        self,
        coordinator: Callable[[], Coordinator],
        performer: Performer,
        storage: str | None,
        schedule: SnapshotSchedule | None = None,
        clock: Callable[[], float] = time.time,
        check_there: Callable[[], object] = lambda: None,
    ) -> None:
        self._schedule = schedule or SnapshotSchedule()
        self._check_there, self._clock = check_there, clock
        self._since = clock()  # of which the first one is due a while later
        self._coordinator = coordinator
        self._performer = performer
        self._storage = storage
        self._not_before = 0.0  # on the monotonic clock
        self._pause_s = MEND_AGAIN_S[0]
        self._mending: Snapshotting | None = None  # the last one by which logs that failed go on
        self._failed_logs = False  # at the last look
        self._first: KnownSnapshot | None = None  # they do so when a second one beside this is there
        self._uncut = False  # a log that had failed is as long as it was, on a disk that was full
        self._waits = self._why = ""  # what waits for a snapshot, and why none could be taken
        self._tried = 0.0  # when that was so, on the monotonic clock
        self.took = (
            "",
            0.0,
            0.0,
        )  # the last one: its id, seconds until it was whole, and for how many pushes waited
        self._begun = BegunSnapshots(storage) if storage is not None else None
        self._earlier: EarlierSnapshots | None = None

    def take(
        self,
        extra: bytes = b"",
        *,
        full: bool = False,
        keep: int = 0,
        automatic: bool = False,
        mends: bool = False,
    ) -> TakenSnapshot:
        """Take one; returns when it is whole.

        Args:
            extra: what is kept with it, as `encode_extra`.
            full: it is made upon no other one.
            keep: of those that were taken with a number here, so many are kept; 0: this one is never removed.
            automatic: it only keeps logs short, and goes when no log needs it any more.
            mends: it is for logs that failed.

        Raises:
            InvalidRequest: there is no storage.
            RetryLater: something else changes the cluster.
            RowloomError: it failed, and pushes go on.
        """
        if self._begun is None:
            raise InvalidRequest(
                "a snapshot needs `storage:` in the deploy config, a folder or URL that all shards reach, and this "
                "cluster was started without; `rowloom export TABLE FILE` keeps the rows of a table"
            )
        now, began = self._clock(), time.monotonic()
        day = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now))
        id = f"{day}-{random.SystemRandom().getrandbits(32):08x}"
        with self._performer.alone("taking a snapshot", 0.0 if automatic else 2.0):
            self._check_there()  # or all of it would be made anew at the path, logs that go on behind it too
            coordinator = self._coordinator()
            state = coordinator.state
            parent = None if full else parent_of_next(state.snapshots, coordinator.layout.epoch)
            if parent is not None and not _is_there(parent):
                parent = None
            url = self._begun.begin(coordinator.layout.cluster_id, id)
            taking = Snapshotting(
                coordinator,
                id,
                url,
                now,
                extra,
                parent=parent,
                automatic=automatic,
                scheduled=keep > 0,
                mends=mends,
            )
            try:
                known: KnownSnapshot = self._performer.run(taking.run())
            except BaseException:
                self._clear(again=True)
                raise
            self._clear()
            self._mending = taking if mends and self._may_go_on(known) else None
            if self._mending is not None:
                self._performer.run(taking.tell_logs())
            self._tidy(coordinator, keep)
        self.took = id, time.monotonic() - began, taking.pause_s
        log.info("snapshot %s: %d rows, pushes waited for %.0f ms", url, known.rows, 1e3 * taking.pause_s)
        return TakenSnapshot(known, taking.pause_s)

    def _may_go_on(self, known: KnownSnapshot) -> bool:
        """Whether logs that failed go on behind a snapshot, or a second one is taken before: see `snapshotting.py`."""
        second = self._first is not None or self._mending is not None
        holds = not second and little_room(self._storage, known.bytes, self._coordinator().layout.n)
        self._first, self._uncut = known if holds else None, not second
        return not holds

    def _tidy(self, coordinator: Coordinator, keep: int) -> None:
        """Remove those that nobody needs any more."""
        known = coordinator.state.snapshots
        unwanted = disposable(known, keep)
        gone = remove_snapshots(self._storage, unwanted) if unwanted and self._storage is not None else []
        left = [one for one in known if one not in gone]
        if gone:
            try:
                self._performer.run(
                    coordinator.commit(dataclasses.replace(coordinator.state, snapshots=listed(left)))
                )
            except RowloomError as e:  # the next one does it
                log.warning("snapshots were removed, and the cluster's state still lists them: %s", e)

    def find_earlier(self) -> None:
        """Look once which snapshots the storage has of clusters before this one; a slow store answers later."""
        if self._coordinator().state.snapshots:
            return
        looking = threading.Thread(target=self._find_earlier, name="rowloom-earlier", daemon=True)
        looking.start()
        looking.join(LISTING_S)

    def _find_earlier(self) -> None:
        try:
            self._earlier = earlier_in(self._storage, self._coordinator().layout.cluster_id)
        except (RowloomError, OSError) as e:
            log.warning("not known which snapshots %s has of clusters before: %s", self._storage, in_words(e))

    def show(self, reply: pb.StatusReply) -> None:
        """Say in a status which is the newest: of this cluster or, if it has none yet, of clusters before it."""
        known = self._coordinator().state.snapshots
        needed = {one.id for one in lineage(known, known[-1])} if known else set[str]()
        for shard in reply.shards:  # the newest one may be another by now, which needs nothing of that
            if shard.passed_snapshot.rpartition("/")[2] not in needed:
                shard.passed_snapshot = shard.passed_why = ""
        own = newest_of(known, self.took)
        if own is not None:
            reply.snapshot.CopyFrom(own)
        elif self._earlier is not None:
            reply.earlier_snapshot.CopyFrom(earlier_of(self._earlier))

    def look(self, log_bytes: int, failed: bool) -> None:
        """Take one if there is a reason to. Called from time to time.

        Args:
            log_bytes: of the longest log of a shard; one that is long is made shorter.
            failed: whether a log takes no more; it goes on behind a snapshot.
        """
        if failed:
            if not self._failed_logs:  # what was tried in vain before is another story
                self.soon()
            self._failed_logs = True
            self._mend()
            return
        self._failed_logs = False
        self._mending = self._first = None
        self._uncut &= log_bytes > SEGMENT_BYTES
        due, tight = self._is_due(), self._is_tight(log_bytes)
        soon = self._uncut or tight  # pushes fill the disk meanwhile
        if not soon:
            self._pause_s = MEND_AGAIN_S[0]
        long = log_bytes >= LONG_LOG_BYTES or soon
        waits = _DUE if due else _CUTS if self._uncut else _TIGHT if tight else _LONG if long else ""
        if waits != self._waits:
            self._waits, self._why = waits, ""
        if not waits or time.monotonic() < self._not_before:
            return
        try:
            if due:
                self.take(keep=self._schedule.keep)
            else:
                self.take(full=True, automatic=True)  # it and the one before have no file in common
                self._uncut = False
        except RetryLater:
            return
        except RowloomError as e:
            self._not_before = time.monotonic() + (self._next_pause_s() if soon else AGAIN_S)
            self._failed(e)
        else:
            self._why = ""

    def _is_tight(self, log_bytes: int) -> bool:
        """Whether logs may fill the disk before one is long, and a snapshot writes no more than they did."""
        state = self._coordinator().state
        newest, shards = state.snapshots[-1].bytes if state.snapshots else 0, self._coordinator().layout.n
        grown = log_bytes > SEGMENT_BYTES and log_bytes * shards > newest
        return grown and little_room(self._storage, newest, shards)

    def _failed(self, error: RowloomError) -> None:
        self._why, self._tried = in_words(error), time.monotonic()
        log.warning("%s, and none could be taken: %s", self._waits, self._why)

    def waiting(self) -> list[str]:
        """What waits for a snapshot that cannot be taken, in words; empty: nothing does, or it is not known yet."""
        if not self._why:
            second = self._first is not None or self._waits == _CUTS
            return [f"{self._waits}; it is being taken"] if second else []
        now = time.monotonic()
        ago, later = now - self._tried, max(0.0, self._not_before - now)
        return [
            f"{self._waits}, and none can be taken: {self._why} (tried {ago:.0f} s ago, and again in {later:.0f} s)"
        ]

    def soon(self) -> None:
        """What stood in the way of a snapshot may be gone: the next look tries again."""
        self._not_before, self._pause_s = 0.0, MEND_AGAIN_S[0]

    def _mend(self) -> None:
        """Let logs that failed go on behind a snapshot, as soon as one can be taken."""
        if self._waits != (waits := self._mends_in_words()):
            self._waits, self._why = waits, ""
        try:
            if self._mending is not None:
                with self._performer.alone("going on with logs that failed", 0.0):
                    self._check_there()
                    self._performer.run(self._mending.tell_logs())
            if time.monotonic() < self._not_before:
                return
            with self._performer.alone("making room for a snapshot", 0.0):
                self._check_there()
                self._clear()  # a disk that is full needs it
            self.take(full=True, automatic=True, mends=True)
        except RetryLater:
            return
        except RowloomError as e:
            self._failed(e)
        else:
            self._why = ""
            if self._first is not None:  # the second one is taken at the next look
                return
        self._not_before = time.monotonic() + self._next_pause_s()

    def _next_pause_s(self) -> float:
        """Until it is tried again for logs that failed: longer each time."""
        pause_s, self._pause_s = self._pause_s, min(2 * self._pause_s, MEND_AGAIN_S[1])
        return pause_s

    def _mends_in_words(self) -> str:
        """What a log that failed waits for."""
        if self._first is None:
            return _MENDS
        more = to_go_on(self._first.bytes, self._coordinator().layout.n)
        return (
            f"a log that failed goes on when a second snapshot beside {self._first.id} has all rows, as its disk has "
            f"little room ({in_bytes(more)} more would do)"
        )

    def _clear(self, *, again: bool = False) -> None:
        """Remove what is left of snapshots that failed. again: once more the next time, as shards may yet write."""
        if self._begun is not None:
            self._begun.clear({one.id for one in self._coordinator().state.snapshots}, again=again)

    def _is_due(self) -> bool:
        if self._schedule.every is None:
            return False
        scheduled = [one.created_s for one in self._coordinator().state.snapshots if one.scheduled]
        return self._clock() - max(scheduled, default=self._since) >= self._schedule.every


def _is_there(parent: KnownSnapshot) -> bool:
    """Whether a snapshot, and all that it was made upon, are where they were; their files are not looked at."""
    try:
        newest = links_of(SnapshotFolder(parent.url))[-1].manifest
    except RowloomError as e:
        log.warning("no snapshot can be made upon the one before, so this one is whole: %s", e)
        return False
    return newest.name == SnapshotName(parent.id, parent.digest)
