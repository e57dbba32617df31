"""The coordinator's port: metrics of the cluster, which processes have some of their own, and the console."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.resources import files

from ...proto import rowloom_pb2 as pb
from ...server.access.gate import Gate
from ...server.metrics.endpoint import MetricsEndpoint
from ...server.metrics.page_server import Page
from ..config.config import DeployConfig
from ..launch.observed import metrics_of
from .families import cluster_families
from .history import History
from .newest import Newest
from .targets import targets

ANSWER_S = 0.4  # after which Prometheus is told what was known before: it may come each second
# Nothing from elsewhere, nothing inline, nothing that is framed or sent.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {"Content-Security-Policy": POLICY, "Referrer-Policy": "no-referrer"}
CONSOLE = {
    "/": ("console.html", "text/html; charset=utf-8"),
    "/console.js": ("console.js", "text/javascript; charset=utf-8"),
    "/console.css": ("console.css", "text/css; charset=utf-8"),
}


class Observed:
    """The coordinator's endpoint, and the history that its console shows.

    Args:
        place: host and port.
        status: asks every shard.
        named: what others call this machine.
        gate: what the port asks of whoever connects; None: nothing.

    Raises:
        Unavailable: nobody can listen there.
    """

    def __init__(
        self,
        place: tuple[str, int],
        status: Callable[[], pb.StatusReply],
        named: str,
        gate: Gate | None = None,
    ) -> None:
        newest = Newest(status)
        self._history = History(newest.whole)

        def discovery() -> Page:
            return _json(targets(newest.within(ANSWER_S)[0]))

        pages = {path: _static(*what) for path, what in CONSOLE.items()}
        pages |= {"/targets": discovery, "/state": lambda: _json(self._history.state())}
        self._endpoint = MetricsEndpoint(
            place, lambda: cluster_families(*newest.within(ANSWER_S)), named, pages, gate
        )
        self.address = self._endpoint.address

    def start(self) -> None:
        """Begin to answer and to look."""
        self._history.start()
        self._endpoint.start()

    def stop(self) -> None:
        """Close the port. No error if it never answered."""
        self._history.stop()
        self._endpoint.stop()


def observed(
    config: DeployConfig, status: Callable[[], pb.StatusReply], named: str, gate: Gate | None
) -> Observed | None:
    """The endpoint, if the config asks for it; arguments and errors as of `Observed`."""
    place = metrics_of(config, coordinator=True)
    return None if place is None else Observed(place, status, named, gate)


def _json(value: object) -> Page:
    return Page("application/json", json.dumps(value).encode(), HEADERS)


def _static(name: str, content_type: str) -> Callable[[], Page]:
    return lambda: Page(content_type, (files(__package__ or "") / name).read_bytes(), HEADERS)
