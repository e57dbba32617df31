"""Pages over HTTP for whoever watches a process: its metrics, as Prometheus reads them, and what else it offers."""

from __future__ import annotations

import io
import ipaddress
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from ...proto.errors import Unavailable

if TYPE_CHECKING:
    from prometheus_client import Metric

log = logging.getLogger(__name__)
MOST_READERS = 8  # at once; who comes beyond them is closed
STOP_S = 0.2  # until it notices that it is to end, at most
READ_S = 10.0  # for a request to come, and for a little of a page to be taken
WILDCARDS = ("0.0.0.0", "::", "")

Collect = Callable[[], "Iterable[Metric]"]


class Page(NamedTuple):
    """What a browser is told. more: further headers."""

    content_type: str
    body: bytes
    more: Mapping[str, str] = {}


class MetricsEndpoint:
    """A listening port with `/metrics` and other pages. It only reads, and knows no callers.

    Args:
        place: host and port; port 0 picks a free one.
        collect: makes the metrics of the moment; those of the process itself are added.
        named: what others call this machine, where `host` is all of its interfaces.
        pages: by path, others.

    Raises:
        Unavailable: nobody can listen there.
    """

    def __init__(
        self,
        place: tuple[str, int],
        collect: Collect,
        named: str,
        pages: Mapping[str, Callable[[], Page]] | None = None,
    ) -> None:
        host, port = place
        self._pages = {"/metrics": _exposition(collect), **(pages or {})}
        try:
            self._server = _Pages((host, port), self._pages)
        except OSError as e:
            raise Unavailable(f"metrics cannot be offered on {host}:{port}: {e.strerror or e}") from e
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(STOP_S,), name="rowloom-metrics", daemon=True
        )
        self.address = f"{named if host in WILDCARDS else host}:{self._server.server_port}"

    def __repr__(self) -> str:
        return f"<MetricsEndpoint {self.address}>"

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def stop(self) -> None:
        """Close the port. No error if it never answered."""
        if self._thread.ident is not None:
            self._server.shutdown()
        self._server.server_close()


def _exposition(collect: Collect) -> Callable[[], Page]:
    """The page of metrics."""
    # Here, and not above: only those who offer metrics pay for it.
    from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
    from prometheus_client.exposition import CONTENT_TYPE_LATEST

    class Families:
        """A collector of prometheus_client."""

        def collect(self) -> Iterable[Metric]:
            return collect()

        def describe(self) -> Iterable[Metric]:  # without it, registering would collect
            return ()

    registry = CollectorRegistry()
    registry.register(Families())  # pyright: ignore[reportArgumentType]
    ProcessCollector(registry=registry)
    return lambda: Page(CONTENT_TYPE_LATEST, generate_latest(registry))


class _Pages(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False  # a reader that stalls must not keep its server from ending

    def __init__(self, place: tuple[str, int], pages: Mapping[str, Callable[[], Page]]) -> None:
        self.address_family = socket.AF_INET6 if ":" in place[0] else socket.AF_INET
        self.pages = pages
        self._readers = threading.BoundedSemaphore(MOST_READERS)
        super().__init__((place[0].strip("[]"), place[1]), _Reader)

    def server_bind(self) -> None:
        # That of HTTPServer asks for the name of the machine, which may take seconds.
        TCPServer.server_bind(self)
        self.server_name, self.server_port = self.socket.getsockname()[:2]

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._readers.acquire(blocking=False):
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._readers.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        log.debug("a reader of metrics went away", exc_info=True)


class _InTime(io.RawIOBase):
    """What a connection says, as long as it has time: a timeout of its socket would begin anew with each byte."""

    def __init__(self, end: socket.socket) -> None:
        self._end, self._until = end, time.monotonic() + READ_S

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        left = self._until - time.monotonic()
        if left <= 0:
            raise TimeoutError(f"no whole request came in {READ_S:g} s")
        self._end.settimeout(left)
        try:
            return self._end.recv_into(buffer)
        finally:
            self._end.settimeout(READ_S)


class _Reader(BaseHTTPRequestHandler):
    timeout = READ_S
    server_version, sys_version = "rowloom", ""

    def setup(self) -> None:
        super().setup()
        self.rfile = io.BufferedReader(_InTime(self.connection))

    def do_GET(self) -> None:
        if not self._meant():
            self.send_error(HTTPStatus.MISDIRECTED_REQUEST)
            return
        pages = cast(_Pages, self.server).pages
        page = pages.get(self.path.partition("?")[0])
        if page is None:
            self.send_error(HTTPStatus.NOT_FOUND, f"there are: {', '.join(sorted(pages))}")
            return
        try:
            content_type, body, more = page()
        except Exception:
            log.exception("the page %s cannot be made", self.path)
            self.send_error(HTTPStatus.INTERNAL_SERVER_ERROR)
            return
        self.send_response(HTTPStatus.OK)
        headers = {
            "Content-Type": content_type,
            "Content-Length": str(len(body)),
            "Cache-Control": "no-store",
        }
        for name, value in {**headers, "X-Content-Type-Options": "nosniff", **more}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _meant(self) -> bool:
        """Whether it is meant for this machine, where only this machine can ask.

        Else a page of a stranger in a browser here could call us by a name of its own, and read the answer.
        """
        here: tuple[str, int] = self.connection.getsockname()
        if not ipaddress.ip_address(here[0]).is_loopback:
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
