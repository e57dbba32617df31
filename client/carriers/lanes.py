"""The row lanes of one process that are free, by address, and which addresses have none.

As many are kept as were in use at once lately: a burst of threads, or a shard that has gone, leaves none behind. Each
costs the server a thread, and both sides the memory that its messages lay in.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass

from ...proto import rowloom_pb2 as pb
from ...proto.errors import RowloomError
from ...proto.security.credentials import NOTHING, Credentials
from .lane import Lane, open_lane

CONNECT_TIMEOUT_S = 2.0
RETRY_S = 5.0  # how long an address goes without a lane after one could not be had
WINDOW_S = 30.0  # how long nobody needs a lane before it is closed: up to twice this


@dataclass(slots=True)
class _Use:
    """How many lanes of an address are taken, and the most that were at once in this window of time and the last."""

    now: int = 0
    most: int = 0  # noted when a lane comes back: until then their number can only grow
    before: int = 0


class Lanes:
    """Free lanes by address, and which addresses have none.

    Args:
        ask: asks an address for its LaneReply over gRPC, within seconds; raises RowloomError.
        shared: use shared memory where it can be had.
        credentials: of the client, for lanes that speak TLS.
        clock: seconds, monotonic; says what is lately.
    """

    def __init__(
        self,
        ask: Callable[[str, float], pb.LaneReply],
        *,
        shared: bool,
        credentials: Credentials = NOTHING,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ask = ask
        self._shared = shared
        self._credentials = credentials
        self._clock = clock
        self._lock = threading.Lock()
        # By address; the one that was used last is the last.
        self._free: defaultdict[str, list[Lane]] = defaultdict(list)
        self._use: dict[str, _Use] = {}  # of each address that has a lane
        self._window_ends = 0.0  # on the clock
        self._known: dict[str, pb.LaneReply] = {}
        self._without: dict[str, float] = {}  # address -> until when

    def take(self, address: str, until: float, *, anew: bool = False) -> Lane | None:
        """A lane to an address for the caller alone, or None if it has none for now.

        Args:
            address: host:port.
            until: as `Send.until`; it takes no longer than that, and CONNECT_TIMEOUT_S at the most.
            anew: none that was opened before.
        """
        with self._lock:
            free = self._free.get(address)
            if free and not anew:
                self._use[address].now += 1
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
            lane = self._open(known, address, until)
        except (RowloomError, OSError):
            self._forget(address)
            with self._lock:
                self._without[address] = time.monotonic() + RETRY_S
            return None
        with self._lock:
            if not known.once:  # that key has been used
                self._known[address] = known
            self._without.pop(address, None)
            self._use.setdefault(address, _Use()).now += 1
        return lane

    def _open(self, known: pb.LaneReply, address: str, until: float) -> Lane:
        host = address.rpartition(":")[0]
        return open_lane(known, host, shared=self._shared, until=until, credentials=self._credentials)

    def give_back(self, lanes: dict[str, Lane]) -> None:
        """The caller is done with them; those on which replies are still to come are of no use to anybody."""
        with self._lock:
            for address, lane in lanes.items():
                use = self._use[address]
                if use.now > use.most:
                    use.most = use.now
                use.now -= 1
                if lane.start_anew():
                    self._free[address].append(lane)
                else:
                    lane.close()
            now = self._clock()
            if now >= self._window_ends:
                self._window_ends = now + WINDOW_S
                for address in list(self._use):
                    self._close_spare(address)

    def _close_spare(self, address: str) -> None:
        """Those that were used longest ago, beyond as many as were in use at once. A window of time ends."""
        free, use = self._free[address], self._use[address]
        needed = max(use.most, use.before)
        spare = max(0, len(free) + use.now - needed)
        for lane in free[:spare]:
            lane.close()
        del free[:spare]
        use.before, use.most = use.most, use.now
        if not needed:
            del self._free[address], self._use[address]

    def lost(self, address: str) -> None:
        """A lane that was taken broke: the others to that address probably did too, and it must be asked anew."""
        with self._lock:
            self._use[address].now -= 1
        self._forget(address)

    def _forget(self, address: str) -> None:
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
