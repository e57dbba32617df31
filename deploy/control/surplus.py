"""Servers that are no shard and are meant to be there: nobody is told that there is one too many while that lasts."""

from __future__ import annotations

import contextlib
from collections.abc import Generator

from .coordinator import Coordinator


@contextlib.contextmanager
def expected_surplus(coordinator: Coordinator) -> Generator[None]:
    """For the time that a program starts servers, or ends those that it has replaced. What it leaves behind is said."""
    coordinator.expects_surplus += 1
    try:
        yield
    finally:
        coordinator.expects_surplus -= 1
