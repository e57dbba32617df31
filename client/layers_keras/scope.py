"""What loading a Keras model cannot say itself: which client has its tables, and that rows are to stay as they are."""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Generator
from typing import TYPE_CHECKING, NamedTuple

from ...proto.errors import InvalidRequest

if TYPE_CHECKING:
    from ..client import Client


class Scope(NamedTuple):
    """What holds inside of `tables_of`."""

    client: Client | None = None
    as_they_are: bool = False


_scope: contextvars.ContextVar[Scope | None] = contextvars.ContextVar("rowloom_scope", default=None)


@contextlib.contextmanager
def tables_of(client: Client, *, as_they_are: bool = False) -> Generator[None]:
    """Inside, saved models and cloned layers find their tables by name in this client.

    Args:
        client: that has the tables.
        as_they_are: weights are got, set, saved and loaded without rows, and without a look at whether rows have
            changed since: you say that they fit. Layers with `rows_in_weights` leave theirs alone, too.

    Example:
        >>> with tables_of(client):
        ...     model = keras.models.load_model("model.keras")
    """
    token = _scope.set(Scope(client, as_they_are))
    try:
        yield
    finally:
        _scope.reset(token)


def scope() -> Scope:
    """What holds here."""
    return _scope.get() or Scope()


def client_of(table: str) -> Client:
    """The client of `tables_of`. Raises InvalidRequest outside of it, and says which table is looked for."""
    client = scope().client
    if client is None:
        raise InvalidRequest(f"table {table!r} is on a cluster: load inside `with tables_of(client):`")
    return client
