"""A trainer that only watches: it pushes to a table of its own all the time, and notes how long each push takes."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass

import numpy as np

from ...client import SGD, TableSpec, Zeros
from ...client.opening import open_client
from ...proto.errors import RowloomError

TABLE = "demo-probe"
ROWS, DIM = 64, 8
REST_S = 0.002


@dataclass(frozen=True)
class Watched:
    """What the probe saw.

    Attributes:
        pushes: how many returned; none may fail.
        longest_s: the one that took longest.
        exact: every row holds exactly the pushes that returned.
    """

    pushes: int
    longest_s: float
    exact: bool


class Probe:
    """Watches from `start` to `finish`.

    Args:
        address: of the cluster.
    """

    def __init__(self, address: str) -> None:
        self._client = open_client(address)
        spec = TableSpec(TABLE, num_embeddings=ROWS, dim=DIM, optimizer=SGD(lr=1.0), initializer=Zeros())
        self._table = self._client.create_table(spec)
        self._stop = threading.Event()
        self._took: list[float] = []
        self._error: RowloomError | None = None
        self._thread = threading.Thread(target=self._run, name="rowloom-probe", daemon=True)

    def start(self) -> None:
        """Begin to push."""
        self._push()
        self._took.clear()  # the first one also opens connections
        self._thread.start()

    def _push(self) -> None:
        # With SGD and a learning rate of 1, a gradient of -1 adds 1: each row counts the pushes.
        began = time.perf_counter()
        self._table.push(np.arange(ROWS), np.full((ROWS, DIM), -1, np.float32))
        self._took.append(time.perf_counter() - began)

    def _run(self) -> None:
        try:
            while not self._stop.wait(REST_S):
                self._push()
        except RowloomError as e:
            self._error = e

    def finish(self) -> Watched:
        """Stop, check, and leave no table behind. Raises what a push raised, if one did."""
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join()
        try:
            if self._error is not None:
                raise self._error
            exact = bool((self._table.pull(np.arange(ROWS)) == len(self._took) + 1).all())
            self._client.drop_table(TABLE)
        finally:
            self._client.close()
        return Watched(len(self._took), max(self._took, default=0.0), exact)
