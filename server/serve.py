"""The shard server process: a port, threads, and a host behind one lock.

Every carrier comes through `Server.answer`, and there a reply is held back: until the log covers what it tells of, or,
where nothing has happened yet, until the host's state has changed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import random
import sys
import threading
import time
from collections.abc import Callable, Generator, Sequence
from typing import Any

from ..proto import methods
from ..proto.allocator import give_back_freed_memory, keep_freed_memory
from ..proto.channel import Channels
from ..proto.errors import PushUnresolved, Rerouted, RowloomError, Unavailable, in_words
from ..proto.framing import Buffer
from . import bags
from .call import GRPC, Answer, Call, WaitFor
from .carriers.grpc_server import THREADS, GrpcServer
from .carriers.lane_server import LaneServer
from .durable.log import Mode
from .durable.records import Kind
from .durable.segments import LogInUse
from .durable.shard_log import ShardLog, ShardLogs
from .durable.writer import INTERVAL_S
from .holder import Incoming, Process, Recovery
from .host import Host
from .journal import Journal
from .moving.receive import PEER_ATTEMPTS, PeerCall, peer_pause_s
from .snapshots.writing import write_cut
from .table import compile_kernels
from .taking import Taking

log = logging.getLogger(__name__)
PEER_TIMEOUT_S = 30.0
# gRPC has few threads, and what ends a wait comes over gRPC too: were all of them held, Adopt could not get in. What
# comes beyond these is answered at once. Each connection of a lane has a thread of its own, which may be held.
MOST_HELD = THREADS // 2


class Server:
    """One shard server. Empty until a coordinator adopts it.

    Args:
        host: interface to listen on.
        port: 0 picks a free one.
        advertise: what others call this machine; the interface by default.
        carrier: "auto" offers the row lane beside gRPC, "grpc" does not.
        logs: where pushes are kept; None: in memory only.
        snapshots: folder or URL where snapshots are kept; none: this server writes none.
    """

    def __init__(
        self,
        host: str = "127.0.0.1",
        port: int = 0,
        advertise: str | None = None,
        carrier: str = "auto",
        logs: ShardLogs | None = None,
        snapshots: str = "",
    ) -> None:
        self._logs = logs
        self._runs: dict[type, Callable[[Any], None]] = {
            Incoming: self._receive,
            Recovery: self._recover,
            Taking: self._take,
        }
        self.incarnation = random.SystemRandom().getrandbits(63) | 1
        self._host = Host(
            Process(
                incarnation=self.incarnation,
                hash_key=random.SystemRandom().getrandbits(63),
                started_s=time.monotonic(),
                now=time.monotonic,
                resident_bytes=_resident_bytes,
                cpu_s=time.process_time,
                stop=self._stop_soon,
                journals=logs,
                snapshots=snapshots,
                durability=logs.mode.value if logs is not None else Mode.MEMORY.value,
            )
        )
        self._lock = threading.Lock()
        # Whoever holds this is the next to get the lock: a snapshot's writer once waited for minutes, because a thread
        # that gives the lock back is the first to take it again.
        self._turnstile = threading.Lock()
        # Of the lock: notified when the host's state or the end of its log has moved.
        self._moved = threading.Condition(self._lock)
        self._held = 0  # calls of gRPC that wait for it
        self._stopping = False
        self._stopped = threading.Event()
        self._grpc = GrpcServer(self._host.handles, self.answer, host=host, port=port)
        self._lane = LaneServer(self.answer, host) if carrier == "auto" else None
        if self._lane is not None:
            self._host.process.lane = self._lane.describe
        self.address = f"{advertise or host}:{self._grpc.port}"

    def __repr__(self) -> str:
        return f"<Server {self.address} {self._host.state.word}>"

    def start(self) -> None:
        """Compile the kernels, then open the port."""
        compile_kernels()
        bags.compile_kernels()
        if self._lane is not None:
            self._lane.start()
        self._grpc.start()

    def answer(self, call: Call) -> Sequence[Buffer]:
        """One request; every carrier comes through here. Returns when the reply may go. Raises RowloomError."""
        try:
            return self._answer(call)
        except PushUnresolved as e:
            raise unsafe(call.method, e) from e

    def _answer(self, call: Call) -> Sequence[Buffer]:
        with self._turnstile:
            pass
        with self._lock:
            answer = self._handle(call)
            if answer.wait_for is not None:
                answer = self._handle_later(call, answer.wait_for)
            journal = self._enter(answer.journal) if answer.after else None
        if journal is not None:
            try:
                journal.wait(answer.after)
            except PushUnresolved:
                # If the next layout is committed, that has all that this log had, in logs that are safe.
                if journal is self._host.journal:
                    raise
            finally:
                journal.leave()
        return answer.buffers

    def _enter(self, journal: Journal | None) -> ShardLog | None:
        """A log, if it is one, entered."""
        if not isinstance(journal, ShardLog):
            return None
        journal.enter()
        return journal

    def _handle(self, call: Call) -> Answer:
        changes = self._host.changes
        try:
            return self._noting(call) if self._logs is not None else self._host.handle(call)
        except PushUnresolved:
            log.exception("a push failed half-way")
            raise
        finally:
            if self._host.changes != changes:
                self._moved.notify_all()
            if self._host.tasks:
                self._start_tasks()

    def _noting(self, call: Call) -> Answer:
        """Handle a call, and write what it noted in the log: beside the lock, which is free meanwhile."""
        answer: Answer | None = None
        try:
            answer = self._host.handle(call)
            return answer
        finally:
            journal = self._enter(self._host.journal)
            if answer is not None:
                answer.journal = journal  # while it is written, another one may take its place
            if journal is not None:
                self._write(journal)
            if self._host.discarded:
                self._drop_logs()

    def _write(self, journal: ShardLog) -> None:
        """Write what was noted, and leave. Called with the lock, which is free meanwhile."""
        noted = journal.take()
        try:
            if noted:
                self._lock.release()
                try:
                    journal.write(noted)
                finally:
                    self._lock.acquire()
        finally:
            journal.leave()

    def _drop_logs(self) -> None:
        """In a thread: whoever still uses one is waited for."""
        assert self._logs is not None
        dropped, self._host.discarded = self._host.discarded, []
        for journal in dropped:
            threading.Thread(
                target=self._logs.drop, args=(journal,), name="rowloom-drop", daemon=True
            ).start()

    def _handle_later(self, call: Call, wait: WaitFor) -> Answer:
        """Handle a call again at each change of the host's state. Raises what it says when its time is up."""
        over_grpc = call.caller.carrier == GRPC
        until = time.monotonic() + wait.limit_s
        if over_grpc and self._held >= MOST_HELD:
            until = 0.0
        self._held += over_grpc
        try:
            while True:
                seen = self._host.changes
                self._moved.wait_for(
                    lambda seen=seen: self._host.changes != seen or self._stopping,
                    max(0.0, until - time.monotonic()),
                )
                if self._host.changes == seen:
                    self._host.refused += 1
                    raise wait.otherwise
                answer = self._handle(call)
                if answer.wait_for is None:
                    return answer
                wait = answer.wait_for
        finally:
            self._held -= over_grpc

    def _start_tasks(self) -> None:
        tasks, self._host.tasks = self._host.tasks, []
        for task in tasks:
            run = self._runs[type(task)]
            threading.Thread(target=run, args=(task,), name="rowloom-task", daemon=True).start()

    def _recover(self, recovery: Recovery) -> None:
        """Read a shard from its log. No lock is held: nobody else has it yet."""
        assert self._logs is not None
        began = time.monotonic()
        try:
            shard, journal = self._logs.recover(recovery.owner, recovery.make, recovery.snapshots)
        except Exception as e:  # whatever it is, the operator must hear of it
            log.exception("%s cannot be read from its log", recovery.owner)
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

    @contextlib.contextmanager
    def _in_turn(self) -> Generator[None]:
        """Hold the lock, after those only that wait for it already."""
        with self._turnstile:
            self._lock.acquire()
        try:
            yield
        finally:
            self._lock.release()

    def _take(self, taking: Taking) -> None:
        """Write a shard's part of a snapshot. The lock is held while a block of rows is copied, not longer."""
        try:
            stored = write_cut(taking, self._in_turn)
        except Exception as e:
            if not isinstance(e, RowloomError | OSError):
                log.exception("writing a snapshot failed")
            with self._lock:
                if taking.under_way:
                    self._host.taken(taking, error=in_words(e))
            return
        with self._lock:
            if taking.under_way:
                self._host.taken(taking, stored)

    def _receive(self, incoming: Incoming) -> None:
        """Drive one receive to its end. The lock is held while rows are put in, not while they travel."""
        run = incoming.receive.run()
        peers = Channels()
        error = ""
        try:
            with self._lock:
                call = next(run)
            while self._host.incoming is incoming:
                reply = _call_peer(peers, call)
                with self._lock:
                    call = self._received(incoming, run, reply)
                if call is None:
                    break
        except Exception as e:  # whatever it is, pushes wait until the coordinator hears of it
            if not isinstance(e, RowloomError):
                log.exception("receiving rows failed")
            error = in_words(e)
        finally:
            peers.close()
            with self._lock:
                self._host.ended(incoming, error)
                if self._host.discarded:
                    self._drop_logs()

    def _received(
        self, incoming: Incoming, run: Generator[PeerCall, bytes, None], reply: bytes
    ) -> PeerCall | None:
        """Put rows in and into the log; called with the lock. Returns what to ask next; None: it is all there, safe."""
        call: PeerCall | None = None
        with contextlib.suppress(StopIteration):
            call = run.send(reply)
        journal = incoming.journal
        if isinstance(journal, ShardLog):
            end = journal.note(Kind.RECEIVED, reply)
            journal.enter()
            self._write(journal)
            if call is None:
                self._lock.release()
                try:
                    journal.wait(end)
                finally:
                    self._lock.acquire()
        return call

    def stop(self, grace_s: float = 5.0) -> None:
        """Answer what is under way, then close the port."""
        with self._moved:
            self._stopping = True
            self._moved.notify_all()
        if self._lane is not None:
            self._lane.stop()
        self._grpc.stop(grace_s)
        with self._lock:
            incoming = self._host.incoming
            journals = [self._host.journal, incoming and incoming.journal]
        for journal in journals:
            if isinstance(journal, ShardLog):
                journal.close()
        self._stopped.set()

    def _stop_soon(self) -> None:
        threading.Thread(target=self.stop, args=(1.0,), daemon=True).start()

    def wait(self, timeout_s: float | None = None) -> bool:
        """Until the server has stopped."""
        return self._stopped.wait(timeout_s)


def may_recover(error: Exception) -> bool:
    """Whether a shard that could not be read from its log may be at another time: nothing seems wrong with that."""
    return isinstance(error, OSError | LogInUse)


def unsafe(method: str, error: PushUnresolved) -> RowloomError:
    """What a call is answered with whose change may not survive this server.

    A step of the coordinator is repeated until it holds. Other errors than Unavailable it takes for a refusal.
    """
    if method in (methods.PUSH, methods.STEP):
        return error
    return Unavailable(f"{method} is not safe yet: {error}")


def _call_peer(peers: Channels, call: PeerCall) -> bytes:
    """One request to another shard, again if it was busy or did not answer. Raises RowloomError."""
    for attempt in range(PEER_ATTEMPTS):
        try:
            return peers.call(call.address, call.method, call.data, PEER_TIMEOUT_S, wait=True)
        except (Unavailable, Rerouted):
            if attempt == PEER_ATTEMPTS - 1:
                raise
            time.sleep(peer_pause_s(attempt))
    raise AssertionError("the loop returns or raises")


def _resident_bytes() -> int:
    try:
        with open("/proc/self/statm") as f:
            return int(f.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):  # no /proc on this system
        return 0


def main(argv: list[str] | None = None) -> None:
    """`python -m rowloom.server.serve`: one shard server until it is told to stop."""
    parser = argparse.ArgumentParser(description="One rowloom shard server.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--advertise")
    parser.add_argument("--carrier", choices=["auto", "grpc"], default="auto")
    parser.add_argument("--durability", choices=[mode.value for mode in Mode], default=Mode.MEMORY.value)
    parser.add_argument("--log-folder", help="where pushes are kept, unless durability is memory")
    parser.add_argument("--snapshots", default="", help="folder or URL where snapshots are kept")
    parser.add_argument("--sync-interval-s", type=float, default=INTERVAL_S, help="with durability interval")
    parser.add_argument("--until-stdin-closes", action="store_true", help="end with the parent process")
    parser.add_argument("--stop-grace-s", type=float, default=1.0, help="what calls under way then get")
    args = parser.parse_args(argv)
    keep_freed_memory()
    logs: ShardLogs | None = None
    if args.durability != Mode.MEMORY.value:
        if not args.log_folder:
            parser.error(f"--durability {args.durability} needs --log-folder")
        logs = ShardLogs(args.log_folder, Mode(args.durability), interval_s=args.sync_interval_s)
    server = Server(args.host, args.port, args.advertise, args.carrier, logs, args.snapshots)
    server.start()
    ready = {"address": server.address, "incarnation": server.incarnation, "pid": os.getpid()}
    sys.stdout.write(json.dumps(ready) + "\n")
    sys.stdout.flush()
    if args.until_stdin_closes:
        threading.Thread(target=_stop_at_end_of_stdin, args=(server, args.stop_grace_s), daemon=True).start()
    with contextlib.suppress(KeyboardInterrupt):
        give_back_freed_memory(server.wait)


def _stop_at_end_of_stdin(server: Server, grace_s: float) -> None:
    with contextlib.suppress(OSError, ValueError):
        while sys.stdin.buffer.read(4096):
            pass
    server.stop(grace_s)


if __name__ == "__main__":
    main()
