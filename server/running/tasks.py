"""The threads that a host asks for: what takes longer than a call may, and is done beside the lock."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

from ...proto.errors import PushUnresolved, RowloomError, in_words
from ...proto.security.credentials import Credentials
from ..durable.extents import Owner
from ..durable.segments import LogInUse
from ..durable.shard_log import FULL, ShardLog, ShardLogs, may_recover
from ..durable.succession import Succession
from ..holder import Incoming, Recovery
from ..host import Host
from ..receiving import Receiver
from ..snapshots.writing import write_cut
from ..standby.following import Following
from ..standby.thread import StandbyThread
from ..states import Recovering
from ..taking import Taking
from .own_process import give_back
from .succeeding import succeed

log = logging.getLogger(__name__)
AGAIN_S = 0.01  # before a log is asked for again that another server has
PATIENCE_S = 5.0  # with a disk that does not read a log, until a standby goes on without it


class Tasks:
    """Starts what a host has put down to be done, and says to it how that ended.

    Args:
        host: whose.
        moved: the host's lock, and who waits for a change of its state.
        in_turn: the same lock, for those who wait in order.
        logs: where pushes are kept; None: in memory only.
        credentials: what other shards are shown.
    """

    def __init__(
        self,
        host: Host,
        moved: threading.Condition,
        in_turn: Callable[[], AbstractContextManager[None]],
        logs: ShardLogs | None,
        credentials: Credentials,
    ) -> None:
        self._host, self._moved, self._in_turn = host, moved, in_turn
        self._logs, self._credentials = logs, credentials
        self._unread = ""  # why the log could not be read, as it was said last
        self._runs: dict[type, Callable[[Any], None]] = {
            Incoming: self._receive,
            Recovery: self._recover,
            Succession: self._succeed,
            Following: self._follow,
            Taking: self._take,
        }

    def start(self) -> None:
        """Begin what the host wants done. The lock is held."""
        tasks, self._host.tasks = self._host.tasks, []
        for task in tasks:
            run = self._runs[type(task)]
            threading.Thread(target=run, args=(task,), name="rowloom-task", daemon=True).start()

    def drop_logs(self) -> None:
        """Remove the logs that the host has no use for. The lock is held; whoever still uses one is waited for."""
        assert self._logs is not None
        dropped, self._host.discarded = self._host.discarded, []
        for journal in dropped:
            threading.Thread(
                target=self._logs.drop, args=(journal,), name="rowloom-drop", daemon=True
            ).start()

    def free(self) -> None:
        """Give back the memory of shards that the host has no use for. The lock is held."""
        outlived, self._host.outlived = self._host.outlived, []
        threading.Thread(target=give_back, args=(outlived,), name="rowloom-free", daemon=True).start()

    def _recover(self, recovery: Recovery) -> None:
        """Read a shard from its log. No lock is held: nobody else has it yet."""
        assert self._logs is not None
        began = time.monotonic()
        try:
            shard, journal = self._logs.recover(recovery.owner, recovery.make, recovery.snapshots)
        except Exception as e:  # whatever it is, the operator must hear of it
            self._tell_unread(recovery.owner, e)
            with self._moved:
                self._host.not_recovered(in_words(e), again=may_recover(e))
                self._moved.notify_all()
            return
        with contextlib.suppress(OSError):  # the next one that recovers tries again
            self._logs.drop_older(recovery.owner)
        seconds = time.monotonic() - began
        log.info("%s has %d rows again after %.1f s", recovery.owner, shard.rows, seconds)
        with self._moved:
            self._host.recovered(shard, journal)
            self._moved.notify_all()

    def _tell_unread(self, owner: Owner, error: Exception) -> None:
        """Say in the log why a shard cannot be read from its own; once, where it is tried again each second."""
        if not may_recover(error):
            log.exception("%s cannot be read from its log", owner)
            return
        why, self._unread = self._unread, in_words(error)
        if why != self._unread:
            log.error("%s cannot be read from its log yet, and is tried again: %s", owner, self._unread)

    def _succeed(self, task: Succession) -> None:
        """Take the log of a shard whose server has ended. No lock is held, as in `_recover`."""
        assert self._logs is not None
        began = time.monotonic()
        while True:
            try:
                shard, journal = succeed(self._logs, task, patient=time.monotonic() < began + PATIENCE_S)
                break
            except LogInUse as e:  # until that one has ended it may serve
                if time.monotonic() > began + PATIENCE_S:
                    self._tell_waits(task.owner, e)
                time.sleep(AGAIN_S)
            except OSError as e:
                log.warning("%s cannot be read from its log yet: %s", task.owner, in_words(e))
                time.sleep(10 * AGAIN_S)
            except Exception as e:
                log.exception("%s cannot be taken over", task.owner)
                with self._moved:
                    self._host.not_recovered(in_words(e), again=True)
                    self._moved.notify_all()
                return
        with contextlib.suppress(OSError):
            self._logs.drop_older(task.owner)
        log.info("this standby has the log of %s after %.2f s", task.owner, time.monotonic() - began)
        with self._moved:
            self._host.recovered(shard, journal)
            self._moved.notify_all()

    def _tell_waits(self, owner: Owner, error: Exception) -> None:
        """Say what a standby waits for, in the log and to who asks for its health."""
        why, self._unread = self._unread, in_words(error)
        if why == self._unread:
            return
        log.error("%s is served again when its log is free: %s", owner, self._unread)
        with self._moved:
            state = self._host.state
            if isinstance(state, Recovering):  # or it was told meanwhile to become something else
                self._host.become(replace(state, why=self._unread))

    def _take(self, taking: Taking) -> None:
        """Write a shard's part of a snapshot. The lock is held while a block of rows is copied, not longer."""
        self._make_room(all=False)
        try:
            stored = write_cut(taking, self._in_turn)
            self._settle(taking)
        except Exception as e:
            if isinstance(e, OSError) and e.errno in FULL:
                self._make_room(all=True)
            if not isinstance(e, RowloomError | OSError):
                log.exception("writing a snapshot failed")
            with self._moved:
                if taking.under_way:
                    self._host.taken(taking, error=in_words(e))
            return
        with self._moved:
            if taking.under_way:
                self._host.taken(taking, stored)

    def _settle(self, taking: Taking) -> None:
        """Until a shard's log is durable up to its cut, so that it need not go on behind the snapshot.

        One that failed will: that is what the snapshot may be for.
        """
        with self._moved:
            journal = self._host.journal if taking.under_way else None
            if not isinstance(journal, ShardLog):
                return
            journal.enter()
        try:
            with contextlib.suppress(PushUnresolved):
                journal.settle(taking.end)
        finally:
            journal.leave()

    def _make_room(self, *, all: bool) -> None:
        """For a snapshot, by which logs can be cut: spare segments go. all: the last one too, as the disk is full."""
        with self._moved:
            journal = self._host.journal
            if not isinstance(journal, ShardLog):
                return
            journal.enter()
        try:
            journal.give_back(all=all)
        finally:
            journal.leave()

    def _receive(self, incoming: Incoming) -> None:
        """Drive one receive to its end."""
        Receiver(self._host, incoming, self._in_turn, self._credentials).run()
        with self._moved:
            self._moved.notify_all()
            if self._host.discarded:
                self.drop_logs()

    def _follow(self, following: Following) -> None:
        """Keep a standby like its primary, until it takes its place."""
        StandbyThread(self._host, following, self._in_turn, self._credentials).run()
