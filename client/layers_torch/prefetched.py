"""Rows of several tables pulled in one call, before the layers ask for them."""

# The framework's types are unknown where it is not installed, and mostly so where it is.
# pyright: reportUnknownParameterType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import contextlib
import contextvars
import threading
import weakref
from collections.abc import Generator, Iterable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from ..calls.routing import distinct_of
from ..inputs import as_ids
from ..layers.together import Key, key_of
from ..untraced import untraced

if TYPE_CHECKING:
    from ..client import Client
    from ..table import Table


class Ahead:
    """The rows of one table's ids of a batch.

    Args:
        ids: [N] int64. Kept, not copied.

    Attributes:
        rows: a row for each id, [N] + row_shape float32, when they are there.
    """

    def __init__(self, ids: np.ndarray) -> None:
        self.ids = ids
        self.rows = np.empty(0, np.float32)
        self._order: np.ndarray | None = None

    @cached_property
    def once(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Ids each once [U], where each stands [N], and their rows [U] + row_shape. Not all layers ask for it."""
        distinct, inverse = distinct_of(self.ids)
        rows = np.empty((len(distinct), *self.rows.shape[1:]), np.float32)
        rows[inverse] = self.rows
        return distinct, inverse, rows

    def copied(self, shape: tuple[int, ...]) -> np.ndarray:
        """A row for each id, in memory of its own: shape + row_shape. shape: of the ids."""
        return self.rows.reshape(*shape, *self.rows.shape[1:]).copy()

    def row_of_each(self, ids: np.ndarray) -> np.ndarray | None:
        """A row for each of these ids in memory of its own; None if some of them are not here. ids: [N] int64."""
        if self._is_of(ids):
            return self.rows.copy()
        _, inverse, rows = self.of(ids)
        return None if rows is None else rows.take(inverse, axis=0)

    def of(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """Ids each once, where each stands, and their rows; None if some of them are not here. ids: [N] int64."""
        mine, _, rows = self.once
        if self._is_of(ids):
            return self.once
        distinct, inverse = distinct_of(ids)
        if self._order is None:
            self._order = np.argsort(mine)
        at = np.searchsorted(mine, distinct, sorter=self._order)
        if not len(mine) or (at == len(mine)).any():
            return distinct, inverse, None
        places = self._order[at]
        here = bool((mine[places] == distinct).all())
        return distinct, inverse, rows[places] if here else None

    def _is_of(self, ids: np.ndarray) -> bool:
        """Whether these are its ids, in their order."""
        return len(ids) == len(self.ids) and bool((ids == self.ids).all())


# The lock covers what all batches hold: gradients are pushed by the threads of PyTorch's engine.
_lock = threading.Lock()


class Batch:
    """The rows of a batch: of each table its `Ahead`, until it is pushed to."""

    def __init__(self, tables: Mapping[Key, Ahead]) -> None:
        self._tables = dict(tables)

    def table(self, table: Table) -> Ahead | None:
        """What is here of a table."""
        return self._tables.get(key_of(table))

    def keys(self) -> Iterable[Key]:
        """Of its tables."""
        return self._tables.keys()

    def drop(self, keys: Iterable[Key]) -> None:
        """Their rows have changed."""
        for key in keys:
            self._tables.pop(key, None)

    def __len__(self) -> int:
        return len(self._tables)


# Newest first. Blocks need not end in the order in which they began: loops over two loaders take turns.
_current: contextvars.ContextVar[tuple[Batch, ...]] = contextvars.ContextVar("rowloom_prefetched", default=())
_batches: weakref.WeakSet[Batch] = weakref.WeakSet()


@contextlib.contextmanager
def prefetched(client: Client, ids: Mapping[str, Any], *, wire: str | None = None) -> Generator[None]:
    """Pull the rows of many layers with one call; inside, layers over these tables find theirs there.

    So a model of plain `Embedding` and `EmbeddingBag` layers pulls once for a batch, as it pushes once at the end of
    a backward pass. Results are those without it: a layer whose ids are not all there pulls by itself, as does one with
    `max_norm`, and rows that these layers push to are forgotten. What other trainers, or `Table.push`, change in the
    meantime is not seen.

    Args:
        client: of the tables.
        ids: table name -> ids, integers of any shape; those of all layers over the table.
        wire: as for `Table.pull`.

    Raises:
        as `Client.pull`.

    Example:
        >>> users, items = Embedding(client.table("users")), EmbeddingBag(client.table("items"))
        >>> with prefetched(client, {"users": batch["user"], "items": batch["seen"]}):
        ...     loss = score(users(batch["user"]), items(batch["seen"])).mean()
        >>> loss.backward()
    """
    with offered(client, pull_ahead(client, ids, wire)):
        yield


@untraced
def pull_ahead(client: Client, ids: Mapping[str, Any], wire: str | None = None) -> dict[str, Ahead]:
    """The rows of table name -> ids, by table name, pulled with one call. ids are copied. Raises as `Client.pull`."""
    entries = [client.table(name).entry for name in ids]
    ahead = [
        Ahead(np.array(as_ids(some, entry.spec)).reshape(-1))
        for entry, some in zip(entries, ids.values(), strict=True)
    ]
    wanted = [(entry, one.ids) for entry, one in zip(entries, ahead, strict=True)]
    for one, rows in zip(ahead, client.pull_entries(wanted, wire), strict=True):
        one.rows = rows
    return dict(zip(ids, ahead, strict=True))


@contextlib.contextmanager
def offered(client: Client, ahead: Mapping[str, Ahead]) -> Generator[None]:
    """Inside, layers of this thread over these tables take their rows from there. ahead: by table name."""
    batch = Batch({(id(client), name): one for name, one in ahead.items()})
    with _lock:
        _batches.add(batch)
    _current.set((batch, *filter(len, _current.get())))
    try:
        yield
    finally:
        # Emptied, because a generator may be closed in another context than it was opened in.
        with _lock:
            batch.drop(list(batch.keys()))
        _current.set(tuple(filter(len, _current.get())))


def ahead_of(table: Table) -> Ahead | None:
    """What was pulled ahead of a table and still holds."""
    return next((found for batch in _current.get() if (found := batch.table(table)) is not None), None)


def row_of_each_ahead(table: Table, ids: np.ndarray) -> np.ndarray | None:
    """A row for each id in memory of its own, [N] + row_shape; None if not all were pulled ahead. ids: [N] int64."""
    ahead = ahead_of(table)
    return None if ahead is None else ahead.row_of_each(ids)


def forget(tables: Iterable[Table]) -> None:
    """These tables are pushed to: what was pulled ahead of them does not hold any more."""
    with _lock:
        if batches := list(_batches):
            keys = {key_of(table) for table in tables}
            for batch in batches:
                batch.drop(keys)
