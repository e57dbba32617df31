"""A network between clients and a cluster that resets, loses, delays and repeats what goes over it.

It stands in front of every server: of its gRPC, of its lane over TCP, and of its lane with shared memory, whose
requests it never sees but whose heads it can hold back or send twice. Clients learn its addresses in place of the real
ones, because it rewrites layouts and lanes on their way, those in refusals too: a client that was told a real address
once would go round it for good. What goes from shard to shard does not come by.
"""

import contextlib
import mmap
import random
import secrets
import socket
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import grpc

from rowloom.proto import methods
from rowloom.proto import rowloom_pb2 as pb
from rowloom.proto.channel import SERVER_OPTIONS, Channels
from rowloom.proto.errors import ERROR_KEY, RowloomError, encode_error, status_of
from rowloom.proto.lane import (
    ARENA_BYTES,
    HELLO_BYTES,
    NOWHERE,
    REFUSED,
    REPLY_BYTES,
    REQUEST_BYTES,
    Hello,
    Reply,
    Request,
    encode_reply,
)

FAULTS = ("reset", "lost", "late", "twice")


class BadNetwork:
    """Faults, each with this probability at each request. Closed at the end, with all that it opened."""

    def __init__(self, seed: int, probability: float) -> None:
        self.injected: Counter[str] = Counter()
        self._rng, self._probability = random.Random(seed), probability
        self._lock = threading.Lock()
        self._fronts: dict[str, _Front] = {}
        self.quiet = False

    def __enter__(self) -> "BadNetwork":
        return self

    def __exit__(self, *_: object) -> None:
        for front in self._fronts.values():
            front.close()

    def front(self, address: str) -> str:
        """What stands in front of a server, as an address."""
        with self._lock:
            if address not in self._fronts:
                self._fronts[address] = _Front(self, address)
            return self._fronts[address].address

    def stand_before(self, layout: pb.Layout) -> None:
        """Put what stands in front of servers in place of them."""
        for shard in layout.shards:
            shard.address = self.front(shard.address)
        if layout.coordinator:
            layout.coordinator = self.front(layout.coordinator)

    def refusal(self, message: bytes) -> bytes:
        """An error as it goes on to the client."""
        info = pb.ErrorInfo.FromString(message)
        if info.HasField("layout"):
            self.stand_before(info.layout)
        return info.SerializeToString()

    def keep(self, addresses: list[str]) -> None:
        """Close what stands in front of other servers: those have ended."""
        with self._lock:
            gone = [self._fronts.pop(address) for address in [*self._fronts] if address not in addresses]
        for front in gone:
            front.close()

    def fault(self, carrier: str) -> str:
        """What happens to a request; "" for nothing."""
        with self._lock:
            found = ""
            if not self.quiet and self._rng.random() < self._probability * len(FAULTS):
                found = self._rng.choice(FAULTS)
                self.injected[f"{carrier} {found}"] += 1
            return found

    def pause(self) -> None:
        with self._lock:
            seconds = self._rng.uniform(0, 0.02)
        time.sleep(seconds)


class _Front(grpc.GenericRpcHandler):
    def __init__(self, network: BadNetwork, real: str) -> None:
        self._network, self._real = network, real
        self._channels = Channels()
        self._lanes: dict[bytes, list[_LaneFront]] = {}
        self._server = grpc.server(ThreadPoolExecutor(8), handlers=[self], options=SERVER_OPTIONS)
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._server.start()

    def close(self) -> None:
        self._server.stop(0).wait()
        self._channels.close()
        for lanes in self._lanes.values():
            for lane in lanes:
                lane.close()

    def service(self, handler_call_details):
        method = handler_call_details.method
        return grpc.unary_unary_rpc_method_handler(lambda data, context: self._answer(method, data, context))

    def _answer(self, method: str, data: bytes, context: grpc.ServicerContext) -> bytes:
        fault = self._network.fault("grpc") if method in methods.ROWS else ""
        if fault == "reset":
            context.abort(grpc.StatusCode.UNAVAILABLE, "reset")
        if fault == "late":
            self._network.pause()
        try:
            reply = self._channels.call(self._real, method, data, 20.0)
            if fault == "twice":
                self._network.pause()
                with contextlib.suppress(RowloomError):
                    self._channels.call(self._real, method, data, 20.0)
        except RowloomError as e:
            context.set_trailing_metadata(((ERROR_KEY, self._network.refusal(encode_error(e))),))
            context.abort(grpc.StatusCode[status_of(e)], str(e))
        if fault == "lost":
            context.abort(grpc.StatusCode.UNAVAILABLE, "the answer is lost")
        if method == methods.DESCRIBE_LAYOUT:
            described = pb.DescribeLayoutReply.FromString(reply)
            self._network.stand_before(described.layout)
            return described.SerializeToString()
        if method == methods.DESCRIBE_LANE:
            return self._lane(pb.LaneReply.FromString(reply))
        return reply

    def _lane(self, reply: pb.LaneReply) -> bytes:
        if reply.key not in self._lanes:
            host = self._real.rpartition(":")[0]
            tcp = _LaneFront(self._network, (host, reply.port))
            unix = _LaneFront(self._network, "\0" + reply.unix_address)
            self._lanes[reply.key] = [tcp, unix]
        tcp, unix = self._lanes[reply.key]
        return pb.LaneReply(key=reply.key, port=tcp.port, unix_address=unix.name).SerializeToString()


class _LaneFront:
    """Heads and what follows them, from one socket to another."""

    def __init__(self, network: BadNetwork, real: tuple[str, int] | str) -> None:
        self._network, self._real = network, real
        self.name, self.port = secrets.token_hex(16), 0
        if isinstance(real, str):
            self._listener = socket.socket(socket.AF_UNIX)
            self._listener.bind("\0" + self.name)
            self._listener.listen(64)
        else:
            self._listener = socket.create_server(("127.0.0.1", 0))
            self.port = self._listener.getsockname()[1]
        self._open: set[socket.socket] = set()
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for end in list(self._open):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        while True:
            try:
                end, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(end,), daemon=True).start()

    def _serve(self, near: socket.socket) -> None:
        far = socket.socket(near.family)
        self._open |= {near, far}
        arena = b""
        try:
            far.connect(self._real)
            if near.family == socket.AF_UNIX:
                hello, descriptors, _, _ = socket.recv_fds(near, HELLO_BYTES, 1)
                socket.send_fds(far, [hello], descriptors)
                arena = mmap.mmap(descriptors[0], Hello.decode(hello).arena_bytes)
                for descriptor in descriptors:
                    socket.close(descriptor)
            else:
                for end in (near, far):
                    end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                far.sendall(_read(near, HELLO_BYTES))
            near.sendall(_read(far, 1))
            while self._relay(near, far, arena):
                pass
        except OSError:
            pass
        finally:
            near.close()
            far.close()
            self._open -= {near, far}

    def _relay(self, near: socket.socket, far: socket.socket, arena: bytes | mmap.mmap) -> bool:
        """One request and its answer; False to close both ends."""
        message = _read(near, REQUEST_BYTES)
        head = Request.decode(message, ARENA_BYTES)
        if head.offset == NOWHERE:
            message += _read(near, head.length)
        fault = self._network.fault("tcp" if self.port else "shared memory")
        if fault == "reset":
            far.sendall(message[: len(message) // 2])  # torn
            return False
        if fault == "late":
            self._network.pause()
        reply = self._ask(far, message, arena)
        if fault == "twice":
            self._network.pause()
            reply = self._ask(far, message, arena)  # its client hears that of the second
        if fault == "lost":
            return False
        near.sendall(reply)
        return True

    def _ask(self, far: socket.socket, message: bytes, arena: bytes | mmap.mmap) -> bytes:
        far.sendall(message)
        reply = _read(far, REPLY_BYTES)
        head = Reply.decode(reply, len(arena))
        body = _read(far, head.length) if head.offset == NOWHERE else b""
        if head.status == REFUSED:
            said = body or arena[head.offset : head.offset + head.length]
            body = self._network.refusal(said)
            reply = encode_reply(REFUSED, len(body))
        return reply + body


def _read(end: socket.socket, size: int) -> bytes:
    out = bytearray()
    while len(out) < size:
        data = end.recv(min(size - len(out), 1 << 20))
        if not data:
            raise ConnectionResetError("closed")
        out += data
    return bytes(out)
