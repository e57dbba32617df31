"""Pulls through a cache of rows: a cache for each table, behind one lock that is never held while shards are asked."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from ...proto.spec import TableEntry
from ..calls.routing import distinct_of
from ..inputs import as_ids
from .row_cache import HotRows, RowCache

Fetch = Callable[[Sequence[tuple[TableEntry, np.ndarray]]], list[np.ndarray]]


class CachedPulls:
    """The rows that one client keeps. Thread-safe.

    Args:
        limits: how many, and for how long.
        clock: seconds, monotonic.
    """

    def __init__(self, limits: HotRows, clock: Callable[[], float]) -> None:
        self._limits = limits
        self._clock = clock
        self._lock = threading.Lock()
        self._tables: dict[int, tuple[str, RowCache]] = {}  # by table number
        self._epoch = 0

    def pull(self, wanted: Sequence[tuple[TableEntry, Any]], epoch: int, fetch: Fetch) -> list[np.ndarray]:
        """Rows of ids of each table, kept ones and fetched ones.

        Args:
            wanted: (table, ids) of each table; a table may stand in it twice.
            epoch: of the layout that the client knows; rows of another one are dropped.
            fetch: pulls rows of distinct ids from the shards.

        Returns:
            ids.shape + row_shape float32, for each table.

        Raises:
            InvalidRequest: wrong ids; and what `fetch` raises.
        """
        arrays = [as_ids(ids, entry.spec) for entry, ids in wanted]
        distinct = [distinct_of(array.reshape(-1)) for array in arrays]
        with self._lock:
            if epoch != self._epoch:
                for _, cache in self._tables.values():
                    cache.clear()
                self._epoch = epoch
            caches = [self._cache(entry) for entry, _ in wanted]
            # Read before anything is asked: a row is at least as new as this.
            now = self._clock()
            taken = [cache.take(ids, now) for cache, (ids, _) in zip(caches, distinct, strict=True)]
        asked = [k for k, t in enumerate(taken) if len(t.missing)]
        rows = fetch([(wanted[k][0], distinct[k][0][taken[k].missing]) for k in asked]) if asked else []
        with self._lock:
            for k, some in zip(asked, rows, strict=True):
                caches[k].fill(distinct[k][0], taken[k], some.reshape(len(some), -1))
        outs: list[np.ndarray] = []
        for (entry, _), array, (_, inverse), t in zip(wanted, arrays, distinct, taken, strict=True):
            out = np.take(t.rows, inverse, axis=0, mode="clip")
            outs.append(out.reshape(array.shape + entry.spec.row_shape))
        return outs

    @contextmanager
    def changing(self, given: Iterable[tuple[TableEntry, Any]]) -> Generator[None]:
        """Around a push, an assign or a renorm of (table, ids): what it may have changed is dropped when it ends.

        Also when it fails: it may have been applied. Raises InvalidRequest before it begins: wrong ids.
        """
        touched = [(entry, as_ids(ids, entry.spec).reshape(-1)) for entry, ids in given]
        try:
            yield
        finally:
            with self._lock:
                for entry, ids in touched:
                    cache = self._cache(entry)
                    cache.pushed(ids)
                    if entry.spec.optimizer.dense:  # moves rows that the push does not name
                        cache.clear()

    def clear(self, name: str) -> None:
        """Drop the rows of a table."""
        with self._lock:
            for table, cache in self._tables.values():
                if table == name:
                    cache.clear()

    def forget(self, name: str) -> None:
        """A table was dropped: give its memory back."""
        with self._lock:
            self._tables = {n: found for n, found in self._tables.items() if found[0] != name}

    def statistics(self) -> dict[str, dict[str, Any]]:
        """By table name: hits and misses (distinct ids of each pull), hit_rate, rows, bytes."""
        with self._lock:
            return {name: _counted(cache) for name, cache in self._tables.values()}

    def _cache(self, entry: TableEntry) -> RowCache:
        found = self._tables.get(entry.number)
        if found is None:
            found = self._tables[entry.number] = (entry.spec.name, RowCache(self._limits, entry.spec.width))
        return found[1]


def _counted(cache: RowCache) -> dict[str, Any]:
    asked = cache.hits + cache.misses
    return {
        "hits": cache.hits,
        "misses": cache.misses,
        "hit_rate": cache.hits / asked if asked else 0.0,
        "rows": len(cache),
        "bytes": cache.nbytes,
    }
