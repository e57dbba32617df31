"""The threads that fetch the rows of a shard which is being received: one for each old shard.

What they fill is nobody else's until it is adopted, so it has a lock of its own: calls of trainers, which this server
may serve meanwhile, never wait for rows to be put in, nor for an index that grows.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager
from functools import partial

from ..proto.channel import Channels
from ..proto.errors import Rerouted, RowloomError, Unavailable, in_words
from ..proto.framing import Buffer
from ..proto.layout import ShardAddress
from ..proto.security.credentials import Credentials
from ..proto.snapshots.snapshot import open_snapshot
from .carriers.peer import Peer
from .durable.shard_log import ShardLog
from .holder import Incoming
from .host import Host
from .moving.pace import Pace
from .moving.receive import PEER_ATTEMPTS, Ask, Pause, PeerCall, Stream, kind_of, peer_pause_s
from .snapshots.source import SnapshotSource

log = logging.getLogger(__name__)
PEER_TIMEOUT_S = 10.0


class Receiver:
    """Drives one receive to its end.

    Args:
        host: whose.
        incoming: the shard that is received.
        in_turn: the host's lock, for those who wait in order. Held to say how it ended.
        credentials: what other shards are shown.
    """

    def __init__(
        self,
        host: Host,
        incoming: Incoming,
        in_turn: Callable[[], AbstractContextManager[None]],
        credentials: Credentials,
    ) -> None:
        self._credentials = credentials
        self._host, self._incoming, self._in_turn = host, incoming, in_turn
        self._lock = threading.Lock()  # of the shard that is filled, and its log
        self._end = 0  # of what was noted in that
        self._bulk = threading.Lock()  # of whoever fetches many rows
        layout = incoming.shard.layout
        here = _host_of(layout.shards[incoming.shard.index])
        self._pace = Pace(_cores(), sum(_host_of(shard) == here for shard in layout.shards))

    def run(self) -> None:
        """Return when all is here and safe, or never will be, which the host is told."""
        incoming, streams = self._incoming, self._incoming.receive.streams
        peers = Channels(self._credentials)
        try:
            if incoming.snapshot:  # its files are read one after the other
                ask = SnapshotSource(open_snapshot(incoming.snapshot), incoming.shard).answer
                for stream in streams:
                    self._drive(stream, ask)
            else:
                threads = [
                    threading.Thread(
                        target=self._drive_peer, args=(s, peers), name="rowloom-receive", daemon=True
                    )
                    for s in streams
                ]
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join()
            if incoming.receive.done and isinstance(incoming.journal, ShardLog):
                self._settle(incoming.journal)
        except Exception as e:  # whatever it is, the coordinator must hear of it
            self._fail(e)
        finally:
            peers.close()
            with self._in_turn():
                self._host.ended(incoming, incoming.error, incoming.error_kind)

    def _settle(self, journal: ShardLog) -> None:
        journal.enter()
        try:
            journal.wait(self._end)
        finally:
            journal.leave()

    def _fail(self, error: Exception) -> None:
        if not isinstance(error, RowloomError):
            log.error("receiving rows failed", exc_info=error)
        with self._in_turn():
            if not self._incoming.error:
                self._incoming.error = in_words(error) or type(error).__name__
                self._incoming.error_kind = getattr(error, "kind", 0)

    @property
    def _goes_on(self) -> bool:
        return self._host.incoming is self._incoming and not self._incoming.error

    def _drive_peer(self, stream: Stream, peers: Channels) -> None:
        peer = Peer(peers, stream.old.address, PEER_TIMEOUT_S)
        try:
            self._drive(stream, partial(self._call_peer, peer))
        finally:
            peer.close()

    def _drive(self, stream: Stream, ask: Callable[[PeerCall], Buffer]) -> None:
        """Ask what one stream wants to be asked, until it has all."""
        try:
            run = stream.run()
            wants: Ask | None = next(run)
            while wants is not None and self._goes_on:
                if isinstance(wants, Pause):
                    time.sleep(wants.seconds)
                    wants = next(run)
                elif stream.in_bulk:
                    wants = self._in_bulk(
                        stream, lambda run=run, asks=wants: self._came(run, asks, ask(asks))
                    )
                else:
                    wants = self._came(run, wants, ask(wants))
        except Exception as e:
            self._fail(e)

    def _in_bulk(self, stream: Stream, fetch: Callable[[], Ask | None]) -> Ask | None:
        """Fetch a block when it is this stream's turn, and let trainers have theirs."""
        began = time.monotonic()
        with self._bulk:
            turn = time.monotonic()
            wants = fetch()
            now = time.monotonic()
            pause_s = self._pace.pause_s(now, stream.old.index, stream.calls, now - turn)
            if stream.stuck:
                pause_s = 0.0
            time.sleep(pause_s)
            stream.waited_s += turn - began + pause_s
        return wants

    def _came(self, run: Generator[Ask, Buffer, None], call: PeerCall, reply: Buffer) -> Ask | None:
        """Put rows in and into the log. Returns what the stream wants next; None: it has all."""
        wants: Ask | None = None
        journal = self._incoming.journal
        with self._lock:
            with contextlib.suppress(StopIteration):
                wants = run.send(reply)
            if not isinstance(journal, ShardLog):
                return wants
            self._end = journal.note(kind_of(call), reply)
            noted = journal.take()
            journal.enter()
        try:
            journal.write(noted)
        finally:
            journal.leave()
        return wants

    def _call_peer(self, peer: Peer, call: PeerCall) -> Buffer:
        """One request to another shard, again if it was busy or did not answer. Raises RowloomError."""
        for attempt in range(PEER_ATTEMPTS):
            try:
                return peer.call(call.method, call.data)
            except (Unavailable, Rerouted):
                if attempt == PEER_ATTEMPTS - 1 or not self._goes_on:
                    raise
                time.sleep(peer_pause_s(attempt))
        raise AssertionError("the loop returns or raises")


def _host_of(shard: ShardAddress) -> str:
    return shard.address.rpartition(":")[0]


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
