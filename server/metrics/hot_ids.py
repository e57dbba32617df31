"""Which ids a shard is asked for most, table by table: a sample of the ids of pulls and pushes, and counts of it.

Why it is so. What must hold: nothing of this may be felt by a call. So one id in `EVERY` is picked, on average and by
chance, since what is in order (every second call, every eighth id) would else be seen always or never. Between two of
them a call costs a lookup and a subtraction. What was picked is counted when there is enough of it, or somebody asks:
one call of compiled code takes 10 us where nothing of it is in the processor's caches, and 64 take no more.
The counts are those of "A High-Performance Algorithm for Identifying Frequent Items in Data Streams" (Anderson, Bevin,
Lang, Liberty, Rhodes, Thaler; 2017): when there is no room for another id, the median of all counts is taken from each,
and half of them are gone. So a count is too low by what was taken, and never too high: with MOST counters at most
2 / MOST of what was looked at, 0.2 %. An id that has more than was taken has been there all along, or nearly: what
was taken is added again, and its share is as exact as the sample.
Rejected: the package `datasketches`, which has the same algorithm. It takes Python's ints one at a time, with the GIL
(150 us for 1,024; this takes 20), and has no wheel for Python 3.14. Take that up again when it takes arrays.
"""

# Kernels: numba types them.
# pyright: reportMissingParameterType=false, reportUnknownParameterType=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import random
import threading
from collections.abc import Generator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np

from ...proto import rowloom_pb2 as pb
from ...proto.jit import kernel
from .counters import MOST_TABLES

EVERY = 1024  # one id in so many is looked at
_GAP_BITS = 11  # from 0 to 2 * EVERY - 1 ids are passed between two
_MOST_PICKED = 64  # not counted yet
MOST = 1024  # counters of a table
RECENT = 4096  # the last ids that were looked at
FADES_AT = 1 << 20  # ids looked at: then all counts are halved, so that what was hot long ago is not any more
_SIZE, _SEEN, _TAKEN, _ALL = range(4)


class Hot(NamedTuple):
    """What is known of one table on one shard.

    Attributes:
        ids: [K] int64, the hottest first.
        counts: [K] int64, how often each was seen, most likely.
        seen: ids that were looked at, of which these are the counts.
        taken: how much too low a count may be.
        looked_at: ids that were looked at since the shard was given its rows; `seen` fades.
    """

    ids: np.ndarray
    counts: np.ndarray
    seen: int
    taken: int
    looked_at: int

    @property
    def shares(self) -> np.ndarray:
        """Of the ids that were looked at, how many are each of these: [K] float64, in [0, 1]."""
        return self.counts / max(self.seen, 1)


class HotIds:
    """The sample and the counts of one table. Callers hold the shard's lock.

    Args:
        key: of the hash, as of `rows.index`; chance begins there too.
    """

    def __init__(self, key: int) -> None:
        self._key = key
        self._bits = random.Random(key).getrandbits
        self._left = int(key % EVERY)  # ids to pass before the next one that is picked
        self._picked: list[int] = []
        self._state = np.zeros(4, np.int64)
        # Made when the first ids are counted: many tables are hardly used.
        self._ids = self._counts = self._recent = np.empty(0, np.int64)

    def see(self, ids: np.ndarray) -> None:
        """Take notice of ids that were pulled or pushed. ids: [N] int64."""
        left = self._left - len(ids)
        self._left = left if left >= 0 else self._pick(ids)

    def _pick(self, ids: np.ndarray) -> int:
        """Pick those that it is the turn of. Returns how many to pass next time."""
        k, count = self._left, len(ids)
        while k < count:
            self._picked.append(ids.item(k))
            k += 1 + self._bits(_GAP_BITS)
        if len(self._picked) >= _MOST_PICKED:
            self._count()
            del self._picked[_MOST_PICKED:]  # while nothing can be counted, the others are forgotten
        return k - count

    def _count(self) -> None:
        """Count what was picked; nothing is counted while another thread compiles what does it."""
        if not self._picked or _compiling.is_set():
            return
        if not len(self._recent):
            self._ids, self._counts = np.zeros((2, 2 * MOST), np.int64)
            self._recent = np.zeros(RECENT, np.int64)
        picked, self._picked = np.array(self._picked, np.int64), []
        count(picked, self._key, self._state, self._ids, self._counts, self._recent)

    def hottest(self, limit: int) -> Hot:
        """The ids that were seen most, at most so many; none that was seen only once."""
        self._count()
        places = np.flatnonzero(self._counts > 1)  # what was seen once says nothing
        _, seen, taken, looked_at = self._state.tolist()
        ids, counts = self._ids[places], self._counts[places]
        # One that has more than was taken has been there all along, most likely: it lacks all of that.
        counts = np.minimum(np.where(counts > taken, counts + taken, counts), seen)
        order = np.lexsort((ids, -counts))[:limit]  # ids, so that the order of equals is the same everywhere
        return Hot(ids[order], counts[order], seen, taken, looked_at)

    def recent(self) -> np.ndarray:
        """The last ids that were looked at: each id of a pull or push was as likely to be. [M] int64, in no order."""
        self._count()
        return self._recent[: int(self._state[_ALL])].copy()


class HotTables:
    """Those of a shard's tables, as many of them as have counts of their own. Callers hold the shard's lock."""

    def __init__(self, key: int) -> None:
        self._key = key
        self._tables: dict[int, HotIds] = {}

    def see(self, number: int, ids: np.ndarray) -> None:
        """Take notice of ids of a table that exists. ids: [N] int64."""
        table = self._tables.get(number)
        if table is None:
            if len(self._tables) >= MOST_TABLES:
                return
            table = self._tables[number] = HotIds(self._key)
        table.see(ids)

    def of(self, number: int) -> HotIds:
        """What is known of a table; nothing, if it is one too many."""
        return self._tables.get(number) or HotIds(self._key)

    def message(self, request: pb.HottestIdsRequest) -> pb.HottestIdsReply:
        """What is known of the table that a request names, which exists."""
        table = self.of(request.table)
        hot = table.hottest(request.limit)
        return pb.HottestIdsReply(
            ids=hot.ids.astype("<i8", copy=False).tobytes(),
            counts=hot.counts.tolist(),
            seen=hot.seen,
            taken=hot.taken,
            sampled_ids=hot.looked_at,
            recent=table.recent().astype("<i8", copy=False).tobytes() if request.recent else b"",
        )

    def forget(self, number: int) -> None:
        """A table was dropped."""
        self._tables.pop(number, None)


_compiling = threading.Event()


@contextmanager
def compiled_after() -> Generator[None]:
    """Compile the kernels after what is done in here, a server's first word that it is up; until then nothing counts.

    That takes seconds on a machine that is new. A call that counted meanwhile would wait for the compiler, holding the
    shard's lock: then all calls of that shard wait, also those that ask how it does.
    """
    _compiling.set()
    try:
        yield
        ids, counts = np.zeros((2, 2 * MOST), np.int64)
        count(np.zeros(1, np.int64), 1, np.zeros(4, np.int64), ids, counts, np.zeros(RECENT, np.int64))
    finally:
        _compiling.clear()


@kernel
def count(picked, key, state, kept, counts, recent):
    """Count ids that were picked."""
    for one in picked:
        recent[state[_ALL] % len(recent)] = one
        state[_ALL] += 1
        state[_SEEN] += 1
        if not _add(one, np.int64(1), key, state, kept, counts):
            _take(_median(counts), key, state, kept, counts)
            _add(one, np.int64(1), key, state, kept, counts)
        if state[_SEEN] >= FADES_AT:
            _fade(key, state, kept, counts)


@kernel
def _add(one, more, key, state, kept, counts):
    """Add to the count of an id. Returns whether there was room for it."""
    last = np.uint64(len(kept) - 1)
    place = (np.uint64(one ^ key) * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(40) & last
    while counts[place] and kept[place] != one:
        place = (place + np.uint64(1)) & last
    if not counts[place]:
        if state[_SIZE] == MOST:
            return False
        state[_SIZE] += 1
        kept[place] = one
    counts[place] += more
    return True


@kernel
def _median(counts):
    there = np.sort(counts[counts > 0])
    return there[len(there) // 2]


@kernel
def _take(less, key, state, kept, counts):
    """Take so much from each count; those that have no more are gone."""
    state[_TAKEN] += less
    there = np.flatnonzero(counts > less)
    ids, left = kept[there], counts[there] - less
    counts[:] = 0
    state[_SIZE] = 0
    for k in range(len(ids)):
        _add(ids[k], left[k], key, state, kept, counts)


@kernel
def _fade(key, state, kept, counts):
    """Halve all counts; what is lost by rounding counts as taken."""
    there = np.flatnonzero(counts > 1)
    ids, left = kept[there], counts[there] // 2
    counts[:] = 0
    state[_SIZE] = 0
    for k in range(len(ids)):
        _add(ids[k], left[k], key, state, kept, counts)
    state[_SEEN] //= 2
    state[_TAKEN] = state[_TAKEN] // 2 + 1
