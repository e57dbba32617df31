"""Rows that a client keeps, and for how long. Pure: the clock's reading is handed in; one caller at a time.

A set-associative cache: an id has `WAYS` places that it may take, and drives out what was used least recently there.
A pull that misses reserves a place, under its ticket, before it asks the shards, and fills it with the answer, if the
reservation still stands. A push drops rows and reservations. So a row that was read before a push can never be kept
after it, whatever the order in which answers come.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ...proto.errors import InvalidRequest
from ...proto.jit import kernel
from ...proto.recipes import is_number, is_whole

WAYS = 8
_NEVER = np.iinfo(np.int64).max


@dataclass(frozen=True)
class HotRows:
    """Which pulled rows a client may keep: `connect(address, cache=HotRows(...))`.

    A row from the cache is what the shards had when it was pulled: at most `max_age_pushes` pushes of this client to
    its table and at most `max_age_s` seconds ago. Pushes of other trainers since then are not in it. Those of this
    client always are: it drops the rows that it pushes to, assigns or renorms, and all rows of a table whose optimizer
    also moves rows that a push does not name.

    It pays for rows that are pulled again without having been pushed: evaluation, serving, frozen tables, negative
    samples that get no gradient. A trainer that pushes to every row that it pulls drops its hottest rows at each step:
    then the cache never hits, and costs its time for nothing. See docs/cache.md, and `client.cache_statistics()`.

    Args:
        capacity_rows: at most this many rows of each table; memory is this times a row's bytes, and 40 bytes a row.
        max_age_pushes: at least 0; None: no bound in pushes.
        max_age_s: above 0; None: no bound in seconds. One of the two must be given.

    Raises:
        InvalidRequest: an argument is out of range.

    Example:
        >>> HotRows(capacity_rows=100_000, max_age_s=5.0)
        HotRows(capacity_rows=100000, max_age_pushes=None, max_age_s=5.0)
    """

    capacity_rows: int
    max_age_pushes: int | None = None
    max_age_s: float | None = None

    def __post_init__(self) -> None:
        if not is_whole(self.capacity_rows) or self.capacity_rows < 1:
            raise InvalidRequest(f"capacity_rows must be at least 1, got {self.capacity_rows!r}")
        pushes, seconds = self.max_age_pushes, self.max_age_s
        if pushes is None and seconds is None:
            raise InvalidRequest(
                "give max_age_pushes or max_age_s: without either, rows would never be pulled anew"
            )
        if pushes is not None and (not is_whole(pushes) or pushes < 0):
            raise InvalidRequest(f"max_age_pushes must be None or at least 0, got {pushes!r}")
        if seconds is not None and (not is_number(seconds) or seconds <= 0):
            raise InvalidRequest(f"max_age_s must be None or above 0, got {seconds!r}")


class Taken(NamedTuple):
    """What a cache had of U distinct ids.

    Attributes:
        rows: [U, width] float32; those of `missing` are not written yet.
        missing: positions of the ids that must be pulled.
        places: [U] int64, where the missing ones may be kept; -1: nowhere.
        ticket: of this pull.
    """

    rows: np.ndarray
    missing: np.ndarray
    places: np.ndarray
    ticket: int


class RowCache:
    """Rows of one table.

    Attributes:
        hits, misses: distinct ids of each pull that were there, and that were not.
    """

    def __init__(self, limits: HotRows, width: int) -> None:
        ways = min(WAYS, limits.capacity_rows)
        places = limits.capacity_rows // ways * ways
        self._max_pushes = _NEVER if limits.max_age_pushes is None else limits.max_age_pushes
        self._max_s = np.inf if limits.max_age_s is None else float(limits.max_age_s)
        self._ids = np.full((places // ways, ways), -1, np.int64)
        self._reserved = np.zeros_like(self._ids)  # the ticket that will fill the place; 0: filled
        self._pushes_at = np.zeros_like(self._ids)
        self._s_at = np.zeros(self._ids.shape)
        self._used = np.zeros_like(self._ids)  # the ticket that used it last
        self._rows = np.empty((places, width), np.float32)
        self._pushes = 0
        self._ticket = 0
        self.hits = 0
        self.misses = 0

    def __len__(self) -> int:
        return int(np.count_nonzero((self._ids >= 0) & (self._reserved == 0)))

    @property
    def nbytes(self) -> int:
        """Bytes that it may take."""
        return self._rows.nbytes + 5 * self._ids.nbytes

    def take(self, ids: np.ndarray, now_s: float) -> Taken:
        """The rows that are fresh enough, and a reservation for the others. ids: [U] int64, distinct."""
        self._ticket += 1
        rows = np.empty((len(ids), self._rows.shape[1]), np.float32)
        places = np.empty(len(ids), np.int64)
        missing = np.empty(len(ids), np.int64)
        age = (self._pushes, now_s, self._max_pushes, self._max_s)
        places_of = (self._ids, self._reserved, self._pushes_at, self._s_at, self._used)
        count = _take(ids, *places_of, self._rows, *age, self._ticket, rows, places, missing)
        self.hits += len(ids) - count
        self.misses += count
        return Taken(rows, missing[:count], places, self._ticket)

    def fill(self, ids: np.ndarray, taken: Taken, rows: np.ndarray) -> None:
        """Complete what was taken, and keep rows whose reservation still stands.

        ids: [U] int64, as taken. rows: [M, width] float32, of ids[taken.missing].
        """
        args = (taken.missing, taken.places, taken.ticket, rows, taken.rows)
        _fill(ids, self._ids.reshape(-1), self._reserved.reshape(-1), self._rows, *args)

    def pushed(self, ids: np.ndarray) -> None:
        """A push to these rows ended, however it ended. ids: [N] int64, may repeat."""
        self._pushes += 1
        self.drop(ids)

    def drop(self, ids: np.ndarray) -> None:
        """Forget rows and reservations."""
        _drop(ids, self._ids, self._used)

    def clear(self) -> None:
        """Forget all rows and reservations."""
        self._ids.fill(-1)
        self._used.fill(0)


@kernel
def _set_of(x: int, sets: int) -> np.int64:
    mixed = (np.uint64(x) * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(32)  # pyright: ignore[reportUnknownVariableType]
    return np.int64((mixed * np.uint64(sets)) >> np.uint64(32))  # pyright: ignore[reportUnknownArgumentType]


@kernel
def _take(
    ids: np.ndarray,
    kept: np.ndarray,
    reserved: np.ndarray,
    pushes_at: np.ndarray,
    s_at: np.ndarray,
    used: np.ndarray,
    rows: np.ndarray,
    pushes: int,
    now: float,
    max_pushes: float,
    max_s: float,
    ticket: int,
    out: np.ndarray,
    places: np.ndarray,
    missing: np.ndarray,
) -> int:
    sets, ways = kept.shape
    count = 0
    for u in range(len(ids)):
        x = ids[u]
        s = _set_of(x, sets)
        at = -1
        oldest = 0
        for w in range(ways):
            if kept[s, w] == x:
                at = w
                break
            if used[s, w] < used[s, oldest]:
                oldest = w
        there = at >= 0 and reserved[s, at] == 0
        if there and pushes - pushes_at[s, at] <= max_pushes and now - s_at[s, at] <= max_s:
            used[s, at] = ticket
            out[u] = rows[s * ways + at]
            continue
        missing[count] = u
        count += 1
        places[u] = -1
        if at < 0:
            if used[s, oldest] == ticket:
                continue  # all of the set was used by this very pull
            at = oldest
        kept[s, at] = x
        reserved[s, at] = ticket
        used[s, at] = ticket
        pushes_at[s, at] = pushes
        s_at[s, at] = now
        places[u] = s * ways + at
    return count


@kernel
def _fill(
    ids: np.ndarray,
    kept: np.ndarray,
    reserved: np.ndarray,
    rows: np.ndarray,
    missing: np.ndarray,
    places: np.ndarray,
    ticket: int,
    given: np.ndarray,
    out: np.ndarray,
):
    for m in range(len(missing)):
        u = missing[m]
        out[u] = given[m]
        at = places[u]
        if at >= 0 and kept[at] == ids[u] and reserved[at] == ticket:
            rows[at] = given[m]
            reserved[at] = 0


@kernel
def _drop(ids: np.ndarray, kept: np.ndarray, used: np.ndarray):
    sets, ways = kept.shape
    for x in ids:
        s = _set_of(x, sets)
        for w in range(ways):
            if kept[s, w] == x:
                kept[s, w] = -1
                used[s, w] = 0  # the next to be taken
                break
