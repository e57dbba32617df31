"""A socket that speaks TLS, with the few calls that the row lane makes of a plain one.

Why it is so. A lane sends and receives with flags (without blocking, or until all is there) and with patience (the
system's SO_RCVTIMEO), which Python's SSLSocket takes neither of. So the socket below never blocks, and what must wait
waits by poll. OpenSSL hands out one record at a time, 16 KiB at most, and keeps nothing back when it says that there is
nothing to read: a lane that polls after that misses nothing.
"""

from __future__ import annotations

import math
import select
import socket
import ssl
import struct
import time
from collections.abc import Iterable
from typing import Any

_TOGETHER_BYTES = 1 << 16  # buffers that are shorter than this together go as one


class LaneSocket(ssl.SSLSocket):
    """Of one connection; made by a context whose `sslsocket_class` this is. Used by one thread at a time.

    Attributes:
        patience_s: how long a call without MSG_DONTWAIT waits; it raises BlockingIOError then. None: for ever.
    """

    patience_s: float | None = None

    def recv_into(self, buffer: Any, nbytes: int | None = 0, flags: int = 0) -> int:
        """As `socket.recv_into`, of MSG_DONTWAIT and MSG_WAITALL."""
        view, got = memoryview(buffer), 0
        until = self._until()
        while True:
            try:
                n = self.read(len(view) - got, view[got:])  # type: ignore[arg-type]
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError) as e:
                if not flags & socket.MSG_DONTWAIT and self._wait(e, until):
                    continue
                if got:
                    return got
                raise BlockingIOError("nothing to read yet") from None
            except BrokenPipeError:  # OpenSSL had something to say, too, to a peer that is gone
                return got
            got += int(n)
            if not n or got == len(view) or not flags & socket.MSG_WAITALL:
                return got

    def send(self, data: Any, flags: int = 0) -> int:
        """As `socket.send`, of MSG_DONTWAIT; without it all of the data is sent."""
        view, sent = memoryview(data).cast("B"), 0
        until = self._until()
        while sent < len(view):
            try:
                sent += super().send(view[sent:])
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError) as e:
                if not flags & socket.MSG_DONTWAIT and self._wait(e, until):
                    continue
                if sent and flags & socket.MSG_DONTWAIT:
                    return sent
                raise BlockingIOError("no room to send") from None
        return sent

    def sendall(self, data: Any, flags: int = 0) -> None:
        """As `socket.sendall`."""
        self.send(data, flags)

    def sendmsg(self, buffers: Iterable[Any], *_: Any) -> int:  # type: ignore[override]
        """As `socket.sendmsg`, of buffers only; all of them are sent."""
        some = [memoryview(buffer).cast("B") for buffer in buffers]
        size = sum(map(len, some))
        for buffer in [b"".join(some)] if size <= _TOGETHER_BYTES else some:
            self.send(buffer)
        return size

    def shutdown(self, how: int) -> None:
        """As `socket.shutdown`, from any thread: of the connection below, because this must not touch what reads."""
        socket.socket.shutdown(self, how)

    def _until(self) -> float:
        return math.inf if self.patience_s is None else time.monotonic() + self.patience_s

    def _wait(self, why: ssl.SSLError, until: float) -> bool:
        """Until the connection is ready; whether it is."""
        poll = select.poll()
        poll.register(
            self.fileno(), select.POLLIN if isinstance(why, ssl.SSLWantReadError) else select.POLLOUT
        )
        left = None if until == math.inf else max(0, math.ceil((until - time.monotonic()) * 1000))
        return bool(poll.poll(left))


def be_patient(end: socket.socket, receive_s: float, send_s: float | None = None) -> None:
    """From now on calls block, for so long at the most, and raise BlockingIOError then. send_s: None: for ever."""
    if isinstance(end, LaneSocket):
        end.setblocking(False)
        end.patience_s = receive_s
        return
    end.setblocking(True)
    # What Python does by itself for a timeout asks the system twice.
    options = {socket.SO_RCVTIMEO: receive_s, socket.SO_SNDTIMEO: send_s}
    for option, seconds in options.items():
        if seconds is not None:
            value = struct.pack("ll", int(seconds), int(seconds % 1 * 1e6))
            end.setsockopt(socket.SOL_SOCKET, option, value)
