"""Calls of gRPC whose message never comes whole, spoken in plain HTTP/2: what no client library would send."""

import select
import socket
import struct
import time

from waiting import PATIENCE_S

DATA, HEADERS, SETTINGS, PING, WINDOW_UPDATE = 0, 1, 4, 6, 8
FRAME_BYTES = 16384
FIRST_WINDOW = 65535


class HalfCalls:
    """One connection, and calls on it that stop in the middle of their messages.

    Args:
        address: host:port.
        method: such as methods.HEALTH.
    """

    def __init__(self, address: str, method: str) -> None:
        host, _, port = address.rpartition(":")
        self._end = socket.create_connection((host, int(port)), PATIENCE_S)
        self._method = method
        self._initial = FIRST_WINDOW
        self._room = FIRST_WINDOW
        self._streams: dict[int, int] = {}  # stream -> room left
        self.sent: dict[int, int] = {}  # stream -> bytes of its message
        self._next = 1
        self._in = b""
        self._end.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + _frame(SETTINGS, 0, 0, b""))

    def __enter__(self) -> "HalfCalls":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def start(self, announced: int) -> int:
        """Begin a call and announce a message of so many bytes; returns its stream."""
        stream = self._next
        self._next += 2
        fields = {
            ":method": "POST",
            ":scheme": "http",
            ":path": self._method,
            ":authority": "half",
            "te": "trailers",
            "content-type": "application/grpc",
        }
        block = b"".join(
            b"\0" + bytes([len(k)]) + k.encode() + bytes([len(v)]) + v.encode() for k, v in fields.items()
        )
        self._end.sendall(_frame(HEADERS, 4, stream, block))
        self._streams[stream] = self._initial
        self.sent[stream] = 0
        if announced:
            self._data(stream, b"\0" + struct.pack(">I", announced))
        return stream

    def send(self, most: int, seconds: float, *, full: int = 0) -> None:
        """Send zeros on every stream, up to so many bytes of each, as far as the server lets us in that time.

        full: the time begins when so many streams have had all of it, however long that takes.
        """
        end, left = time.monotonic() + PATIENCE_S, seconds
        while left > 0 and time.monotonic() < end and any(n < most for n in self.sent.values()):
            began = time.monotonic()
            self._hear(0.01)
            for stream, sent in self.sent.items():
                while sent < most and min(self._room, self._streams[stream]) > 0:
                    size = min(FRAME_BYTES, self._room, self._streams[stream], most - sent)
                    self._data(stream, bytes(size))
                    sent = self.sent[stream] = sent + size
            if sum(n == most for n in self.sent.values()) >= full:
                left -= time.monotonic() - began

    def close(self) -> None:
        """Break the connection."""
        self._end.close()

    def _data(self, stream: int, data: bytes) -> None:
        self._end.sendall(_frame(DATA, 0, stream, data))
        self._room -= len(data)
        self._streams[stream] -= len(data)

    def _hear(self, seconds: float) -> None:
        while select.select([self._end], [], [], seconds)[0]:
            data = self._end.recv(1 << 16)
            if not data:
                return
            self._in += data
            seconds = 0.0
            while len(self._in) >= 9:
                size = int.from_bytes(self._in[:3], "big")
                if len(self._in) < 9 + size:
                    break
                kind, flags = self._in[3], self._in[4]
                stream = int.from_bytes(self._in[5:9], "big")
                body, self._in = self._in[9 : 9 + size], self._in[9 + size :]
                self._take(kind, flags, stream, body)

    def _take(self, kind: int, flags: int, stream: int, body: bytes) -> None:
        if kind == WINDOW_UPDATE:
            more = int.from_bytes(body, "big")
            if stream == 0:
                self._room += more
            elif stream in self._streams:
                self._streams[stream] += more
        elif kind == SETTINGS and not flags & 1:
            for key, value in struct.iter_unpack(">HI", body):
                if key == 4:
                    for known in self._streams:
                        self._streams[known] += value - self._initial
                    self._initial = value
            self._end.sendall(_frame(SETTINGS, 1, 0, b""))
        elif kind == PING and not flags & 1:
            self._end.sendall(_frame(PING, 1, 0, body))


def _frame(kind: int, flags: int, stream: int, body: bytes) -> bytes:
    return len(body).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + body
