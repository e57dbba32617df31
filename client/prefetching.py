"""Rows pulled ahead of the batches that need them."""

# What callers give is checked, although it has a type.
# pyright: reportUnnecessaryIsInstance=false

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, wait
from typing import Any

import numpy as np

from ..proto.errors import InvalidRequest
from ..proto.recipes import is_whole
from .untraced import untraced

Started = tuple[Any, Future[Any]]  # what is given with the rows, and the rows to come


class Prefetch(Iterator[tuple[Any, Any]]):
    """Batches of a source, in order, each with its rows; made by `Table.prefetch` and `Client.prefetch`.

    Nothing happens before the first `next`. From then on, whenever a batch is handed over, the pulls of up to `depth`
    batches after it are under way, and no more than these have been taken from the source. The source is read in the
    caller's thread: it need not be thread-safe, and may be a `DataLoader`. Not for several threads.

    An error, of the source or of a pull, is raised in the place of the batch that it belongs to, after all batches
    before it; then the iterator is closed. `close`, or leaving `with`, cancels the pulls that have not begun and waits
    for the others, and is only needed when a loop ends early.

    Args:
        source: batches.
        start: begins the pull of a batch.
        depth: at least 1.
    """

    def __init__(self, source: Iterable[Any], start: Callable[[Any], Started], depth: int) -> None:
        if not is_whole(depth) or depth < 1:
            raise InvalidRequest(f"depth must be a whole number of at least 1, got {depth!r}")
        if not isinstance(source, Iterable):
            raise InvalidRequest(f"prefetch takes an iterable of batches, got {type(source).__name__}")
        self._source: Iterable[Any] | None = source
        self._batches: Iterator[Any] | None = None
        self._start = start
        self._depth = int(depth)
        self._ahead: deque[Started] = deque()

    @untraced
    def __next__(self) -> tuple[Any, Any]:
        self._top_up()
        if not self._ahead:
            raise StopIteration
        given, pending = self._ahead.popleft()
        try:
            rows = pending.result()
        except BaseException:
            pending.cancel()  # interrupted while it waited
            self.close()
            raise
        self._top_up()
        return given, rows

    def _top_up(self) -> None:
        while self._source is not None and len(self._ahead) < self._depth:
            try:
                if self._batches is None:
                    self._batches = iter(self._source)
                started = self._start(next(self._batches))
            except StopIteration:
                self._forget_source()
            except Exception as error:
                self._forget_source()
                failed: Future[Any] = Future()
                failed.set_exception(error)
                self._ahead.append((None, failed))
            else:
                self._ahead.append(started)

    def _forget_source(self) -> None:
        self._source = self._batches = None  # a DataLoader's workers end with its iterator

    def close(self) -> None:
        """Give up what was pulled ahead; returns when no pull is under way any more. The iterator is at its end."""
        self._forget_source()
        running = [future for _, future in self._ahead if not future.cancel()]
        self._ahead.clear()
        wait(running)

    def __enter__(self) -> Prefetch:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def copied(value: Any) -> Any:
    """A batch's ids in memory of their own, of the type that they have: the source may use its buffers again."""
    if type(value) in (list, tuple):
        numbers = set(map(type, value)) <= {int, float, bool, str}
        return type(value)(value if numbers else map(copied, value))
    if hasattr(value, "clone"):  # torch's
        return value.clone()
    if isinstance(value, memoryview):
        return np.array(value)
    try:
        return copy.deepcopy(value)
    except (TypeError, RuntimeError, copy.Error):  # nothing is refused for that
        return value
