"""What the benchmark compares with: a plain TCP socket that moves the bytes of all rows, and does no more.

A request is a header, ids, and for a push rows; a reply is rows, or 8 bytes. Nothing is checked, retried or remembered,
there is one connection and one server process, and a push is received but not applied.
"""

from __future__ import annotations

import os
import socket
import struct
import sys
import threading
import time
from typing import Any

import numpy as np

from ...proto.allocator import keep_freed_memory
from ..launch.processes import Child, end_with_stdin, python, rss_bytes

HEADER = struct.Struct("<BxxxI")  # op, N
ACK = struct.Struct("<d")  # CPU seconds that the server has used
PULL, PUSH, CPU = 1, 2, 3
BUFFER_BYTES = 4 << 20
END_S = 3.0  # what the server gets to end, until it is killed


class Yardstick:
    """The client's end; starts the server, which ends with it.

    Args:
        rows: of the server's table, float32.
        dim: columns.
        largest: ids of the largest batch.
    """

    def __init__(self, rows: int, dim: int, largest: int) -> None:
        command = python("-m", "rowloom.deploy.bench.yardstick", str(rows), str(dim), str(largest))
        self._server = Child("the yardstick's server", command)
        port = int(self._server.first_line())
        self._socket = socket.create_connection(("127.0.0.1", port))
        _tune(self._socket)
        self._rows = np.empty((largest, dim), np.float32)
        self._ack = bytearray(ACK.size)

    def __enter__(self) -> Yardstick:
        return self

    def __exit__(self, *exc: object) -> None:
        self._socket.close()
        self._server.end(END_S)
        self._server.close()

    def pull(self, ids: np.ndarray) -> np.ndarray:
        """Rows of ids. ids: [N] int64. Returns [N, dim] float32, overwritten by the next pull."""
        send_all(self._socket, HEADER.pack(PULL, len(ids)), ids)
        rows = self._rows[: len(ids)]
        receive(self._socket, rows)
        return rows

    def push(self, ids: np.ndarray, grads: np.ndarray) -> None:
        """Bring ids [N] int64 and gradients [N, dim] float32 to the server."""
        send_all(self._socket, HEADER.pack(PUSH, len(ids)), ids, grads)
        receive(self._socket, self._ack)

    def server_cpu_s(self) -> float:
        """CPU seconds that the server has used."""
        send_all(self._socket, HEADER.pack(CPU, 0))
        receive(self._socket, self._ack)
        return ACK.unpack(self._ack)[0]

    def server_rss_bytes(self) -> int:
        """Resident memory of the server."""
        return rss_bytes(self._server.pid)


def _tune(end: socket.socket) -> None:
    end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
        end.setsockopt(socket.SOL_SOCKET, option, BUFFER_BYTES)


def send_all(end: socket.socket, *parts: Any) -> None:
    """Send buffers, C-contiguous, one after the other, without putting them together first."""
    left = [memoryview(part).cast("B") for part in parts]
    while left:
        sent = end.sendmsg(left)
        while left and sent >= len(left[0]):
            sent -= len(left.pop(0))
        if left:
            left[0] = left[0][sent:]


def receive(end: socket.socket, into: Any) -> bool:
    """Fill a buffer, C-contiguous. Returns False if the other end has closed before its first byte."""
    view = memoryview(into).cast("B")
    got = 0
    while got < len(view):
        n = end.recv_into(view[got:])
        if n == 0:
            if got:
                raise ConnectionError(f"the other end closed after {got} of {len(view)} bytes")
            return False
        got += n
    return True


def serve(end: socket.socket, table: np.ndarray, largest: int) -> None:
    """Answer one client until it closes. table: [V, dim] float32."""
    header = bytearray(HEADER.size)
    ids = np.empty(largest, np.int64)
    rows = np.empty((largest, table.shape[1]), np.float32)
    while receive(end, header):
        op, n = HEADER.unpack(header)
        if n:
            receive(end, ids[:n])
        if op == PULL:
            # clip: raise, the default, is slower and needs a buffer when there is an out.
            np.take(table, ids[:n], axis=0, out=rows[:n], mode="clip")
            send_all(end, rows[:n])
        else:
            if op == PUSH:
                receive(end, rows[:n])
            send_all(end, ACK.pack(time.process_time()))


def main() -> None:
    """`python -m rowloom.deploy.bench.yardstick ROWS DIM LARGEST`: prints its port, and ends with its client."""
    keep_freed_memory()
    rows, dim, largest = map(int, sys.argv[1:])
    table = np.ones((rows, dim), np.float32)
    threading.Thread(target=end_with_stdin, daemon=True).start()  # also when nobody ever connects
    with socket.create_server(("127.0.0.1", 0)) as listener:
        sys.stdout.write(f"{listener.getsockname()[1]}\n")
        sys.stdout.flush()
        end, _ = listener.accept()
    with end:
        _tune(end)
        serve(end, table, largest)
    # Skips freeing gigabytes page by page.
    os._exit(0)


if __name__ == "__main__":
    main()
