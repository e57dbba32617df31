"""A port that answers GET and HEAD with pages, over HTTP or HTTPS, to whoever may see them.

Why it is so. One thread accepts, and waits for nobody: each connection has a thread of its own for its handshake, its
request and its page, and a time for each. So who connects and says nothing is waited for by nobody else.
"""

from __future__ import annotations

import contextlib
import errno
import io
import ipaddress
import logging
import socket
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from typing import Any, NamedTuple, cast

from ...proto.errors import Unauthorized
from ...proto.security.credentials import AUTHORIZATION, BEARER
from ...proto.security.wrapping import wrapped
from ..access.gate import Gate
from ..access.http_token import CHALLENGES, token_in_header
from .readers import Readers

log = logging.getLogger(__name__)
READ_S = 10.0  # for a handshake and a request to come, and again for a page to be taken
BACK_OFF_S = 0.1  # before the system is asked again that had no descriptor for a connection
HTTP = "http"  # the carrier of whoever calls
NEEDED = b"a token is needed: as the password, with any name, or as `Authorization: Bearer TOKEN`\n"
_GONE = (errno.ECONNABORTED, errno.EAGAIN, errno.EPROTO)  # who wanted to connect has changed its mind


class Page(NamedTuple):
    """What a browser is told. more: further headers."""

    content_type: str
    body: bytes
    more: Mapping[str, str] = {}


class PageServer(ThreadingHTTPServer):
    """The listening port.

    Args:
        place: host and port.
        pages: by path.
        gate: what it asks of whoever connects; None: nothing.

    Attributes:
        readers: who is connected.

    Raises:
        OSError: nobody can listen there.
    """

    daemon_threads = True
    request_queue_size = 128  # socketserver's 5 would let some of those who come together wait for a second
    block_on_close = False  # a reader that stalls must not keep its server from ending

    def __init__(
        self, place: tuple[str, int], pages: Mapping[str, Callable[[], Page]], gate: Gate | None
    ) -> None:
        self.address_family = socket.AF_INET6 if ":" in place[0] else socket.AF_INET
        self.pages, self.gate, self.readers = pages, gate, Readers()
        self._ending = threading.Event()
        super().__init__((place[0].strip("[]"), place[1]), _Reader)

    def server_bind(self) -> None:
        """As TCPServer: that of HTTPServer asks for the name of the machine, which may take seconds."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = self.socket.getsockname()[:2]

    def get_request(self) -> tuple[socket.socket, Any]:
        """The next connection, its handshake still to be done. Raises OSError: there is none that can be had."""
        try:
            end, address = self.socket.accept()
        except OSError as e:
            if e.errno not in _GONE:  # it waits in the backlog, and we for a descriptor
                self._ending.wait(BACK_OFF_S)
            raise
        try:
            context = self.gate.socket_context() if self.gate is not None else None
            return end if context is None else wrapped(end, context, serves=True), address
        except OSError:
            raise
        except Exception as e:  # nothing else may end the thread that accepts
            log.exception("a reader of metrics could not be taken")
            end.close()
            raise OSError(str(e)) from e

    def process_request(self, request: Any, client_address: Any) -> None:
        """Give a connection its thread."""
        self.readers.come(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """End a connection, and say under TLS that this is its end."""
        self.readers.go(request)
        if isinstance(request, ssl.SSLSocket):
            with contextlib.suppress(OSError, ValueError):  # nobody waits for its answer
                request.settimeout(0.0)
                request.unwrap()
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """That a connection ended early is nobody's fault here."""
        log.debug("a reader of metrics went away", exc_info=True)

    def server_close(self) -> None:
        """Close the port, and show who has asked for nothing yet the door."""
        self._ending.set()
        super().server_close()
        self.readers.close()

    def admit(self, authorization: str) -> None:
        """Whether who shows this may see pages: whoever is known may. Raises Unauthorized."""
        if self.gate is not None:
            self.gate.caller(HTTP, [(AUTHORIZATION, BEARER + token_in_header(authorization))])


class _InTime(io.RawIOBase):
    """What a connection says and is told, as long as it has time: a socket's own timeout begins anew with each byte."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end
        self.begin()

    def begin(self) -> None:
        """It has all of its time again."""
        self._until = time.monotonic() + READ_S

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        self._wait()
        return self._end.recv_into(buffer)

    def write(self, data: Any, /) -> int:
        view = memoryview(data).cast("B")
        sent = 0
        while sent < len(view):
            self._wait()
            sent += self._end.send(view[sent:])
        return sent

    def shake_hands(self) -> None:
        """With TLS. Raises OSError."""
        if isinstance(self._end, ssl.SSLSocket):
            self._wait()
            self._end.do_handshake()

    def _wait(self) -> None:
        left = self._until - time.monotonic()
        if left <= 0:
            raise TimeoutError(f"it took more than {READ_S:g} s")
        self._end.settimeout(left)


class _Reader(BaseHTTPRequestHandler):
    server_version, sys_version = "rowloom", ""

    def setup(self) -> None:
        self.connection = self.request
        self._stream = _InTime(self.connection)
        self._stream.shake_hands()
        self.rfile = io.BufferedReader(self._stream)
        self.wfile = cast(io.BufferedIOBase, self._stream)

    def do_GET(self) -> None:
        self._stream.begin()
        port = cast(PageServer, self.server)
        if not self._meant():
            self.send_error(HTTPStatus.MISDIRECTED_REQUEST)
            return
        try:
            port.admit(self.headers.get("Authorization", ""))
        except Unauthorized:
            self._challenge()
            return
        page = port.pages.get(self.path.partition("?")[0])
        if page is None:
            self.send_error(HTTPStatus.NOT_FOUND, f"there are: {', '.join(sorted(port.pages))}")
        elif not port.readers.ask(self.connection):
            self.send_error(HTTPStatus.SERVICE_UNAVAILABLE)
        else:
            self._answer(page)

    def _answer(self, page: Callable[[], Page]) -> None:
        try:
            content_type, body, more = page()
        except Exception:
            log.exception("the page %s cannot be made", self.path)
            self.send_error(HTTPStatus.INTERNAL_SERVER_ERROR)
            return
        self._stream.begin()
        self._tell(HTTPStatus.OK, [*{"Content-Type": content_type, **more}.items()], body)

    def _challenge(self) -> None:
        """The same for no token and for a wrong one."""
        headers = [("WWW-Authenticate", challenge) for challenge in CHALLENGES]
        self._tell(HTTPStatus.UNAUTHORIZED, [*headers, ("Content-Type", "text/plain")], NEEDED)

    def _tell(self, status: HTTPStatus, headers: list[tuple[str, str]], body: bytes) -> None:
        self.send_response(status)
        always = [
            ("Content-Length", str(len(body))),
            ("Cache-Control", "no-store"),
            ("X-Content-Type-Options", "nosniff"),
        ]
        for name, value in [*headers, *always]:
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _meant(self) -> bool:
        """Whether it is meant for this machine, where only this machine can ask.

        Else a page of a stranger in a browser here could call us by a name of its own, and read the answer. Under TLS
        the browser has looked whether that is our name.
        """
        here: tuple[str, int] = self.connection.getsockname()
        if isinstance(self.connection, ssl.SSLSocket) or not ipaddress.ip_address(here[0]).is_loopback:
            return True
        said = self.headers.get("Host", "")
        bracketed = said.rpartition("]")[0]  # an address of IPv6
        host = (bracketed or said.partition(":")[0]).strip("[").lower()
        if host in ("", "localhost"):
            return True
        try:
            ipaddress.ip_address(host)
        except ValueError:
            return False
        return True

    do_HEAD = do_GET  # noqa: N815  # as BaseHTTPRequestHandler calls it

    def log_message(self, format: str, *args: Any) -> None:
        log.debug("metrics: %s", format % args)
