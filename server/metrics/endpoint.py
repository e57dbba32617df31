"""Pages for whoever watches a process: its metrics, as Prometheus reads them, and what else it offers."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

from ...proto.errors import Unavailable
from ..access.gate import Gate
from .page_server import Page, PageServer

if TYPE_CHECKING:
    from prometheus_client import Metric

STOP_S = 0.2  # until it notices that it is to end, at most
WILDCARDS = ("0.0.0.0", "::", "")
MAY = "see the names of tables, and how much they are used"  # who reads metrics

Collect = Callable[[], "Iterable[Metric]"]


class MetricsEndpoint:
    """A listening port with `/metrics` and other pages. It only reads.

    Args:
        place: host and port; port 0 picks a free one.
        collect: makes the metrics of the moment; those of the process itself are added.
        named: what others call this machine, where `host` is all of its interfaces.
        pages: by path, others.
        gate: what it asks of whoever connects, as the other ports do; None: nothing.

    Raises:
        Unavailable: nobody can listen there.
    """

    def __init__(
        self,
        place: tuple[str, int],
        collect: Collect,
        named: str,
        pages: Mapping[str, Callable[[], Page]] | None = None,
        gate: Gate | None = None,
    ) -> None:
        host, port = place
        all_pages = {"/metrics": _exposition(collect), **(pages or {})}
        try:
            self._server = PageServer((host, port), all_pages, gate)
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
