"""The shard server process: a port, threads, and a host behind one lock.

Every carrier comes through `Server.answer`, and there a reply is held back: until the log covers what it tells of, or,
where nothing has happened yet, until the host's state has changed.
"""

from __future__ import annotations

import contextlib
import gc
import json
import logging
import os
import random
import sys
import threading
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from ..proto import methods
from ..proto import rowloom_pb2 as pb
from ..proto.allocator import give_back_freed_memory, keep_freed_memory
from ..proto.errors import PushUnresolved, RowloomError, Unavailable
from ..proto.framing import TRACE, Buffer, size_of, split_trace
from ..proto.jit import without_blas
from . import bags
from .access.gate import gate_of
from .access.settings import ServerSecurity
from .call import GRPC, Answer, Call, Caller, WaitFor
from .carriers.grpc_server import THREADS, GrpcServer
from .carriers.lane_server import LaneServer
from .durable.log import Mode
from .durable.shard_log import GRACE_S, Noted, ShardLog, ShardLogs
from .holder import Process
from .host import NOTED_ROWS, Host
from .metrics import hot_ids
from .metrics.endpoint import MAY, MetricsEndpoint
from .metrics.families import shard_families
from .metrics.log_lines import begin_log, name_process
from .metrics.spans import Spans
from .metrics.traffic import Traffic
from .running.arguments import parsed
from .running.huge_pages import use_huge_pages
from .running.own_process import resident_bytes_here, stop_at_end_of_stdin, stop_at_sigterm
from .running.tasks import Tasks
from .running.version import running_version
from .standby.waiting import CONFIRMED_S, Confirmations
from .states import name_of
from .table import compile_kernels

log = logging.getLogger(__name__)
_ROWS = frozenset(methods.ROWS)
# gRPC has few threads, and what ends a wait comes over gRPC too: were all of them held, Adopt could not get in. What
# comes beyond these is answered at once. Each connection of a lane has a thread of its own, which may be held.
MOST_HELD = THREADS // 2
SETTLED_S = 5.0  # after that a server has made what it keeps; many that are only tried out have ended


class Server:
    """One shard server. Empty until a coordinator adopts it.

    Args:
        host: interface to listen on.
        port: 0 picks a free one.
        advertise: what others call this machine; the interface by default.
        carrier: "auto" offers the row lane beside gRPC, "grpc" does not.
        logs: where pushes are kept; None: in memory only.
        snapshots: folder or URL where snapshots are kept; none: this server writes none.
        security: what protects it; nothing by default, and then it listens on this machine only.
        metrics: host and port where they are offered over HTTP, or HTTPS; port 0 picks a free one. None: nowhere.
        on_name: told, as "shard-1", each time that this server becomes a shard, or the standby of one.
        log_file: where this process says what happens to it, for those who ask.
        tracing: URL that spans of traced calls go to, over OTLP; none: there are none.
        replicated: shards of the cluster have standbys.

    Raises:
        InvalidRequest: a file of `security` cannot be used, or `host` is for others and nothing protects it.
    """

    def __init__(
        self,
        host: str = "127.0.0.1",
        port: int = 0,
        advertise: str | None = None,
        carrier: str = "auto",
        logs: ShardLogs | None = None,
        snapshots: str = "",
        security: ServerSecurity | None = None,
        *,
        metrics: tuple[str, int] | None = None,
        on_name: Callable[[str], object] = lambda name: None,
        log_file: str = "",
        tracing: str = "",
        replicated: bool = False,
    ) -> None:
        security = security or ServerSecurity()
        if metrics is not None:
            security.check_listening(metrics[0], MAY)
        gate = gate_of(security, host)
        self._logs = logs
        self.incarnation = _number()
        self._host = Host(
            Process(
                incarnation=self.incarnation,
                hash_key=random.SystemRandom().getrandbits(63),
                started_s=time.monotonic(),
                now=time.monotonic,
                wall_s=time.time,
                resident_bytes=resident_bytes_here,
                cpu_s=time.process_time,
                number=_number,
                stop=self._stop_soon,
                journals=logs,
                snapshots=snapshots,
                replicated=replicated,
                durability=logs.mode.value if logs is not None else Mode.MEMORY.value,
            )
        )
        self._traffic = Traffic()
        self._spans = Spans(tracing) if tracing else None
        self._host.process.observe = self._observe
        self._lock = threading.Lock()
        # Whoever holds this is the next to get the lock: a snapshot's writer once waited for minutes, because a thread
        # that gives the lock back is the first to take it again.
        self._turnstile = threading.Lock()
        # Of the lock: notified when the host's state or the end of its log has moved.
        self._moved = threading.Condition(self._lock)
        self._tasks = Tasks(self._host, self._moved, self._in_turn, logs, security.credentials())
        self._held = 0  # calls of gRPC that wait for it
        self._confirmations = Confirmations()
        self._stopping = False
        self._stopped = threading.Event()
        in_flight = self._host.process.in_flight
        self._grpc = GrpcServer(
            self._host.handles, self.answer, host=host, port=port, gate=gate, in_flight=in_flight
        )
        copied = NOTED_ROWS if logs is not None else ()
        answer = self.answer if gate is None else in_flight.counted(self.answer)
        self._lane = LaneServer(answer, host, copied=copied, gate=gate) if carrier == "auto" else None
        if self._lane is not None:
            self._host.process.lane = self._lane.describe
        self.address = f"{advertise or host}:{self._grpc.port}"
        self._name, self._on_name = "", on_name
        self._log_file, self._version = log_file, running_version()
        self._metrics: MetricsEndpoint | None = None
        if metrics is not None:
            self._metrics = MetricsEndpoint(
                metrics, lambda: shard_families(self._statistics()), advertise or host, gate=gate
            )

    def __repr__(self) -> str:
        return f"<Server {self.address} {self._host.state.word}>"

    def start(self) -> None:
        """Compile the kernels, then open the port."""
        compile_kernels()
        bags.compile_kernels()
        if self._lane is not None:
            self._lane.start()
        if self._metrics is not None:
            self._metrics.start()
        self._grpc.start()

    def answer(self, call: Call) -> Sequence[Buffer]:
        """One request; every carrier comes through here. Returns when the reply may go. Raises RowloomError."""
        began = time.perf_counter()
        received = len(call.data)
        traced = received and call.data[0] == TRACE[0]
        buffers = self._answered_traced(call) if traced else self._answered(call)
        seconds = time.perf_counter() - began
        self._traffic.add(call.method, call.table, seconds, received, call.placed or size_of(buffers))
        return buffers

    def _answered_traced(self, call: Call) -> Sequence[Buffer]:
        trace, call.data = split_trace(call.data)
        return (
            self._answered(call) if self._spans is None else self._spans.around(call, trace, self._answered)
        )

    def _answered(self, call: Call) -> Sequence[Buffer]:
        try:
            if self._logs is not None:
                answer = self._answer_logged(call)
            else:
                with self._entered(call.method):
                    answer = self._handle(call)
                    if answer.wait_for is not None:
                        answer = self._handle_later(call, answer.wait_for)
            if answer.fed is not None:
                held = call.caller.carrier == GRPC
                limit_s = 0.0 if held and self._all_held >= MOST_HELD else CONFIRMED_S
                self._confirmations.wait(answer.fed, held=held, limit_s=limit_s)
            return answer.buffers
        except PushUnresolved as e:
            raise unsafe(call.method, e) from e

    def _entered(self, method: str) -> AbstractContextManager[Any]:
        """The lock. Calls with rows get it some time; others in turn: they are few, and pushes may wait for them."""
        if method not in _ROWS:
            return self._in_turn()
        with self._turnstile:
            pass
        return self._lock

    def _statistics(self) -> pb.StatisticsReply:
        with self._in_turn():
            (reply,) = self._host.handle(Call(methods.STATISTICS, b"", Caller("metrics"))).buffers
        return pb.StatisticsReply.FromString(bytes(reply))

    def _observe(self, reply: pb.StatisticsReply, names: Mapping[int, str]) -> None:
        """What the host cannot know. The lock is held."""
        reply.traffic.extend(self._traffic.messages(names))
        reply.lane_connections = self._lane.connections if self._lane is not None else 0
        reply.waiting_calls, reply.held_pushes = self._grpc.waiting, self._all_held
        reply.log_file, reply.version = self._log_file, self._version
        reply.metrics_address = self._metrics.address if self._metrics is not None else ""

    @property
    def _all_held(self) -> int:
        """Calls of gRPC that wait for the host, or for the standby."""
        return self._held + self._confirmations.held

    def _answer_logged(self, call: Call) -> Answer:
        """Answer a call, and write what it noted in the log: beside the lock. Returns when that is safe.

        What was noted is also written when the call failed half-way: others wait for what is behind it.
        """
        journal, after = None, 0
        noted: Sequence[Noted] = ()
        try:
            try:
                with self._entered(call.method):
                    try:
                        answer = self._handle(call)
                        if answer.wait_for is not None:
                            answer = self._handle_later(call, answer.wait_for)
                        after = answer.after
                    finally:
                        journal, noted = self._take_noted(after)
            finally:
                if journal is not None and noted:
                    journal.write(noted)
            if journal is not None and after:
                self._wait(journal, after)
            return answer
        finally:
            if journal is not None:
                journal.leave()

    def _take_noted(self, after: int) -> tuple[ShardLog | None, Sequence[Noted]]:
        """The log, entered, and what was noted in it; None: nothing was, and nobody waits for it."""
        journal = self._host.journal  # while it is written, another one may take its place
        if not isinstance(journal, ShardLog):
            return None, ()
        noted = journal.take()
        if not noted and not after:
            return None, ()
        journal.enter()
        return journal, noted

    def _wait(self, journal: ShardLog, position: int) -> None:
        """Until a log is safe up to a position. Raises PushUnresolved: it never will be."""
        try:
            journal.wait(position)
        except PushUnresolved:
            # If the next layout is committed, that has all that this log had, in logs that are safe.
            if journal is self._host.journal:
                raise

    def _handle(self, call: Call) -> Answer:
        host = self._host
        changes, feed = host.changes, host.feed
        moves = host.moves if feed is not None else 0
        try:
            return host.handle(call)
        except PushUnresolved:
            log.exception("a push failed half-way")
            raise
        finally:
            if host.changes != changes:
                self._tell_state()
            if host.changes != changes or (feed is not None and host.moves != moves):
                self._moved.notify_all()
                self._confirmations.tell()
            if host.tasks:
                self._tasks.start()
            if host.discarded:
                self._tasks.drop_logs()
            if host.outlived:
                self._tasks.free()

    def _tell_state(self) -> None:
        """Say in the log what this server is now; under the name of its shard, which operators know."""
        state = self._host.state
        name = name_of(state)
        if name and name != self._name:
            self._name = name
            self._on_name(name)
        what = f": {state.shard!r}" if state.shard is not None else ""
        log.info("%s is %s%s", self._name.replace("-", " ") or "this server", state.word, what)

    def _handle_later(self, call: Call, wait: WaitFor) -> Answer:
        """Handle a call again at each change of the host's state. Raises what it says when its time is up."""
        over_grpc = call.caller.carrier == GRPC
        until = time.monotonic() + wait.limit_s
        if over_grpc and self._all_held >= MOST_HELD:
            until = 0.0
        self._held += over_grpc
        try:
            while True:
                seen = self._host.moves
                self._moved.wait_for(
                    lambda seen=seen: self._host.moves != seen or self._stopping,
                    max(0.0, until - time.monotonic()),
                )
                in_time = self._host.moves != seen
                if not in_time and (self._stopping or not until or not wait.again):
                    self._host.refused += 1
                    raise wait.otherwise
                answer = self._handle(call)
                if answer.wait_for is None:
                    return answer
                if until and wait.again:  # what was braked may wait for something else now
                    until = time.monotonic() + answer.wait_for.limit_s
                wait = answer.wait_for
        finally:
            self._held -= over_grpc

    @contextlib.contextmanager
    def _in_turn(self) -> Generator[None]:
        """Hold the lock, after those only that wait for it already."""
        with self._turnstile:
            self._lock.acquire()
        try:
            yield
        finally:
            self._lock.release()

    def stop(self, grace_s: float = 5.0) -> None:
        """Answer what is under way, then close the port."""
        until = time.monotonic() + grace_s
        with self._moved:
            self._stopping = True
            self._moved.notify_all()
            if self._host.following is not None:
                self._host.following.stop()
        self._confirmations.stop()
        if self._lane is not None:
            self._lane.stop()
        self._grpc.stop(grace_s)
        if self._metrics is not None:
            self._metrics.stop()
        with self._lock:
            incoming = self._host.incoming
            journals = [self._host.journal, incoming and incoming.journal]
            for journal in journals:
                if isinstance(journal, ShardLog):  # a lane or a late call may still bring a push
                    journal.refuse()
        for journal in journals:
            if isinstance(journal, ShardLog):
                journal.close(grace_s=max(GRACE_S, until - time.monotonic()))
        if self._spans is not None:
            self._spans.close()
        self._stopped.set()

    def _stop_soon(self) -> None:
        threading.Thread(target=self.stop, args=(1.0,), daemon=True).start()

    def wait(self, timeout_s: float | None = None) -> bool:
        """Until the server has stopped."""
        return self._stopped.wait(timeout_s)


def _number() -> int:
    """A random one, not 0."""
    return random.SystemRandom().getrandbits(63) | 1


def unsafe(method: str, error: PushUnresolved) -> RowloomError:
    """What a call is answered with whose change may not survive this server.

    A step of the coordinator is repeated until it holds. Other errors than Unavailable it takes for a refusal.
    """
    if method in (methods.PUSH, methods.STEP):
        return error
    return Unavailable(f"{method} is not safe yet: {error}")


def main(argv: list[str] | None = None) -> None:
    """`python -m rowloom.server.serve`: one shard server until it is told to stop."""
    args = parsed(argv)
    keep_freed_memory()
    without_blas()
    log_file = ""
    if args.log_file:
        name = Path(args.log_file).stem.replace("shard", "server")  # by its key, until it is a shard
        log_file = begin_log(name, level=args.log_level, format=args.log_format, file=args.log_file)
    mode = Mode(args.durability)
    logs = None if mode is Mode.MEMORY else ShardLogs(args.log_folder, mode, interval_s=args.sync_interval_s)
    metrics = None if args.metrics_port is None else (args.metrics_host, args.metrics_port)
    server = Server(
        *(args.host, args.port, args.advertise, args.carrier, logs, args.snapshots),
        ServerSecurity.from_json(args.security),
        metrics=metrics,
        on_name=name_process,
        log_file=log_file,
        tracing=args.tracing,
        replicated=args.replicated,
    )
    server.start()
    ready = {"address": server.address, "incarnation": server.incarnation, "pid": os.getpid()}
    with hot_ids.compiled_after():  # no first call needs them
        sys.stdout.write(json.dumps(ready) + "\n")
        sys.stdout.flush()
        stop_at_sigterm(server.stop, args.stop_grace_s)
        if args.until_stdin_closes:
            stop_at_end_of_stdin(server.stop, args.stop_grace_s)
    with contextlib.suppress(KeyboardInterrupt):
        if not server.wait(SETTLED_S):
            log.debug("%d bytes of this process lie in huge pages", use_huge_pages())
        give_back_freed_memory(server.wait)
    gc.freeze()  # or the interpreter looks through all of it once more, for a third of a second, before it ends


if __name__ == "__main__":
    main()
