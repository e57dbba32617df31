"""The shard server process: a port, threads, and a host behind one lock."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import sys
import threading
import time
from collections.abc import Sequence

from ..proto.allocator import keep_freed_memory
from ..proto.channel import Channels
from ..proto.codec import Buffer
from ..proto.errors import Rerouted, RowloomError, Unavailable
from ..proto.framing import joined
from . import bags
from .carriers.grpc_server import GrpcServer
from .carriers.lane_server import LaneServer
from .host import Host, Incoming, Process
from .moving.receive import Call
from .table import compile_kernels

PEER_TIMEOUT_S = 30.0
PEER_ATTEMPTS = 5


class Server:
    """One shard server. Empty until a coordinator adopts it.

    Args:
        host: interface to listen on.
        port: 0 picks a free one.
        advertise: what others call this machine; the interface by default.
        carrier: "auto" offers the row lane beside gRPC, "grpc" does not.
    """

    def __init__(
        self, host: str = "127.0.0.1", port: int = 0, advertise: str | None = None, carrier: str = "auto"
    ) -> None:
        self.incarnation = random.SystemRandom().getrandbits(63) | 1
        self._host = Host(
            Process(
                incarnation=self.incarnation,
                started_s=time.monotonic(),
                now=time.monotonic,
                resident_bytes=_resident_bytes,
                cpu_s=time.process_time,
            )
        )
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._grpc = GrpcServer(self._host.handles, self.handle, host=host, port=port)
        self._lane = LaneServer(self.answer, host) if carrier == "auto" else None
        if self._lane is not None:
            self._host.process.lane = self._lane.describe
        self.address = f"{advertise or host}:{self._grpc.port}"

    def __repr__(self) -> str:
        return f"<Server {self.address} {self._host.state}>"

    def start(self) -> None:
        """Compile the kernels, then open the port."""
        compile_kernels()
        bags.compile_kernels()
        if self._lane is not None:
            self._lane.start()
        self._grpc.start()

    def handle(self, method: str, data: bytes) -> bytes:
        """One request over gRPC."""
        return joined(self.answer(method, data))

    def answer(
        self, method: str, data: bytes | memoryview, space: memoryview | None = None
    ) -> Sequence[Buffer]:
        """One request; every carrier comes through here. Arguments as `Host.handle`."""
        with self._lock:
            buffers = self._host.handle(method, data, space)
            tasks, self._host.tasks = self._host.tasks, []
            stopping = self._host.stopping
        for task in tasks:
            threading.Thread(target=self._receive, args=(task,), name="rowloom-receive", daemon=True).start()
        if stopping:
            threading.Thread(target=self.stop, args=(1.0,), daemon=True).start()
        return buffers

    def _receive(self, incoming: Incoming) -> None:
        """Drive one receive to its end. The lock is held while rows are put in, not while they travel."""
        run = incoming.receive.run()
        peers = Channels()
        try:
            with self._lock:
                call = next(run)
            while self._host.incoming is incoming:
                reply = _call_peer(peers, call)
                with self._lock:
                    call = run.send(reply)
        except StopIteration:
            pass
        except (RowloomError, MemoryError, OSError) as e:
            incoming.error = f"{type(e).__name__}: {e}"
        finally:
            peers.close()

    def stop(self, grace_s: float = 5.0) -> None:
        """Answer what is under way, then close the port."""
        if self._lane is not None:
            self._lane.stop()
        self._grpc.stop(grace_s)
        self._stopped.set()

    def wait(self, timeout_s: float | None = None) -> bool:
        """Until the server has stopped."""
        return self._stopped.wait(timeout_s)


def _call_peer(peers: Channels, call: Call) -> bytes:
    """One request to another shard, again if it was busy or did not answer. Raises RowloomError."""
    for attempt in range(PEER_ATTEMPTS):
        try:
            return peers.call(call.address, call.method, call.data, PEER_TIMEOUT_S, wait=True)
        except (Unavailable, Rerouted):
            if attempt == PEER_ATTEMPTS - 1:
                raise
            time.sleep(0.05 * 2**attempt)
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
    parser.add_argument("--until-stdin-closes", action="store_true", help="end with the parent process")
    parser.add_argument("--stop-grace-s", type=float, default=1.0, help="what calls under way then get")
    args = parser.parse_args(argv)
    keep_freed_memory()
    server = Server(args.host, args.port, args.advertise, args.carrier)
    server.start()
    ready = {"address": server.address, "incarnation": server.incarnation, "pid": os.getpid()}
    sys.stdout.write(json.dumps(ready) + "\n")
    sys.stdout.flush()
    if args.until_stdin_closes:
        threading.Thread(target=_stop_at_end_of_stdin, args=(server, args.stop_grace_s), daemon=True).start()
    with contextlib.suppress(KeyboardInterrupt):
        server.wait()


def _stop_at_end_of_stdin(server: Server, grace_s: float) -> None:
    with contextlib.suppress(OSError, ValueError):
        while sys.stdin.buffer.read(4096):
            pass
    server.stop(grace_s)


if __name__ == "__main__":
    main()
