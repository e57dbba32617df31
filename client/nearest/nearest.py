"""Which of a shard's servers answers a pull: its own, or its standby. No I/O, no threads.

Why it is so. What must hold: rows lack nothing that was acknowledged more than `max_staleness_s` ago, and nothing at
all that this client has pushed itself. The first is the standby's to show, which refuses otherwise: see the other half,
`server/standby/reading.py`. For the second a standby is asked for rows that lack nothing at all, as long as a push of
this client to the same tables is not `max_staleness_s` old: with `standby.mode: sync` it can show that, with `async` it
refuses, and the shard is asked. Whatever a standby refuses, or does not answer soon, the shard's own server is asked
for: no call fails because of a standby.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from .servers import Servers

LOOK_S = 5.0  # between two questions which standbys there are
SOON_S = 1.0  # the same, after a server has failed
FIRST_S = 1.0  # what a server gets to answer at first, where there is another one to ask
MOST_TABLES = 10_000  # that were written to lately


@dataclass(slots=True)
class Choice:
    """Where a pull is sent.

    Attributes:
        address: of the server.
        max_staleness_s: as in the header of requests; None: it is the shard's own server.
        has_other: there is another one to ask.
    """

    address: str
    max_staleness_s: float | None = None
    has_other: bool = False

    @property
    def key(self) -> tuple[str, bool]:
        """What is known of the server: one that can show little may refuse some pulls only."""
        return self.address, self.max_staleness_s == 0.0


class Nearest:
    """Where the pulls of one client go. Thread-safe.

    Args:
        max_staleness_s: how old rows may be; 0: they lack nothing that was acknowledged.
        rng: who is asked of servers that are alike.
        lock: held around each change.
        is_here: whether a host is this machine.
    """

    def __init__(
        self,
        max_staleness_s: float,
        rng: random.Random,
        lock: AbstractContextManager[Any],
        is_here: Callable[[str], bool] = lambda host: False,
    ) -> None:
        self.max_staleness_s = max_staleness_s
        self._rng, self._lock = rng, lock
        self._servers = Servers(rng, is_here)
        self._standbys: Mapping[int, str] = {}  # by shard
        self._look_at = 0.0
        self._written: dict[
            int, float
        ] = {}  # by table number, when a push of this client was acknowledged last

    def is_due(self, now: float) -> bool:
        """Whether the coordinator is to be asked which standbys there are. Says so once."""
        with self._lock:
            if now < self._look_at:
                return False
            self._look_at = now + LOOK_S * self._rng.uniform(0.8, 1.2)
            return True

    def heard(self, standbys: Mapping[int, str]) -> None:
        """The coordinator has said which there are: addresses by shard."""
        self._standbys = standbys  # whoever calls holds the lock

    def wrote(self, tables: Iterable[int], now: float) -> None:
        """A change of these tables was acknowledged to this client."""
        with self._lock:
            if len(self._written) > MOST_TABLES:
                self._written = {
                    number: at for number, at in self._written.items() if self._is_recent(at, now)
                }
            for number in tables:
                self._written[number] = now

    def _is_recent(self, at: float, now: float) -> bool:
        return now - at <= 1.01 * self.max_staleness_s + 0.01  # clocks of machines are not equally fast

    def place(self, shard: int, own: str, tables: Sequence[int], avoid: str, now: float) -> Choice:
        """Where a pull goes now; `answered`, `failed` or `given_up` must follow.

        Args:
            shard: whose rows are wanted.
            own: address of the shard's server.
            tables: numbers of those that rows are wanted of.
            avoid: who has failed to answer it just now.
            now: the time.
        """
        with self._lock:
            place = self._place(shard, own, tables, avoid, now)
            self._servers.asked(place.key, now)
        return place

    def _place(self, shard: int, own: str, tables: Sequence[int], avoid: str, now: float) -> Choice:
        standby = self._standbys.get(shard, own)
        if standby == own or avoid == standby:
            return Choice(own)
        recent = any(self._is_recent(self._written[t], now) for t in tables if t in self._written)
        mine, other = Choice(own), Choice(standby, 0.0 if recent else self.max_staleness_s)
        if self._servers.is_out(other.key, now):
            return mine
        mine.has_other = other.has_other = True
        if avoid == own or self._servers.is_out(mine.key, now):
            return other
        return mine if self._servers.pick(mine.key, other.key, now) == mine.key else other

    def answered(self, place: Choice, seconds: float, size: int, now: float) -> None:
        """A pull of so many bytes, reply included, was answered."""
        with self._lock:
            self._servers.answered(place.key, seconds, size, now)

    def failed(self, place: Choice, now: float) -> None:
        """It was not, or refused."""
        with self._lock:
            self._servers.failed(place.key, now)
            self._look_at = min(self._look_at, now + SOON_S)  # there may be another standby by now

    def given_up(self, place: Choice) -> None:
        """Its call has ended before."""
        with self._lock:
            self._servers.given_up(place.key)
