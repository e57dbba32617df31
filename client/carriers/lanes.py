"""The row lanes of one process that are free, by address, and which addresses have none."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from ...proto import rowloom_pb2 as pb
from ...proto.errors import RowloomError
from .lane import Lane, open_lane

CONNECT_TIMEOUT_S = 2.0
RETRY_S = 5.0  # how long an address goes without a lane after one could not be had


class Lanes:
    """Free lanes by address, and which addresses have none.

    Args:
        ask: asks an address for its LaneReply over gRPC, within seconds; raises RowloomError.
        shared: use shared memory where it can be had.
    """

    def __init__(self, ask: Callable[[str, float], pb.LaneReply], *, shared: bool) -> None:
        self._ask = ask
        self._shared = shared
        self._lock = threading.Lock()
        self._free: dict[str, list[Lane]] = {}
        self._known: dict[str, pb.LaneReply] = {}
        self._without: dict[str, float] = {}  # address -> until when

    def take(self, address: str, until: float) -> Lane | None:
        """A lane to an address for the caller alone, or None if it has none for now.

        until: as `Send.until`; it takes no longer than that, and CONNECT_TIMEOUT_S at the most.
        """
        with self._lock:
            free = self._free.get(address)
            if free:
                return free.pop()
            now = time.monotonic()
            if self._without.get(address, 0.0) > now:
                return None
            known = self._known.get(address)
        until = min(until, now + CONNECT_TIMEOUT_S)
        try:
            known = known or self._ask(address, until - now)
            if not known.key:
                raise ConnectionRefusedError(f"{address} has no lane")
            lane = open_lane(known, address.rpartition(":")[0], shared=self._shared, until=until)
        except (RowloomError, OSError):
            self.lost(address)
            with self._lock:
                self._without[address] = time.monotonic() + RETRY_S
            return None
        with self._lock:
            self._known[address] = known
            self._without.pop(address, None)
        return lane

    def give_back(self, lanes: dict[str, Lane]) -> None:
        """The caller is done with them; those on which replies are still to come are of no use to anybody."""
        with self._lock:
            for address, lane in lanes.items():
                if lane.start_anew():
                    self._free.setdefault(address, []).append(lane)
                else:
                    lane.close()

    def lost(self, address: str) -> None:
        """A lane to an address broke: the others probably did too, and it must be asked anew."""
        with self._lock:
            self._known.pop(address, None)
            broken = self._free.pop(address, [])
        for lane in broken:
            lane.close()

    def close(self) -> None:
        """Close all that are free."""
        with self._lock:
            lanes = [lane for free in self._free.values() for lane in free]
            self._free.clear()
        for lane in lanes:
            lane.close()
