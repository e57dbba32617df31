"""A log that nobody can read any more, of a shard whose standby has its rows: it waits for a snapshot of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ...proto.errors import PushUnresolved, Unavailable
from ...proto.framing import Buffer
from .log import Ticket
from .records import Kind
from .writer import Writer


class UnreadWriter:
    """In place of a `Writer` that has failed.

    Args:
        lsn: the number of the last record that the shard knows of.
        why: it cannot be read.
        begun: makes a log that begins behind that record, in the place of this one, which is put aside. May raise
            OSError.
    """

    end = ackable = bytes = 0

    def __init__(self, lsn: int, why: str, begun: Callable[[], Writer]) -> None:
        self.lsn = lsn
        self.error = f"it could not be read when a standby took it over: {why}"
        self._begun = begun

    def __repr__(self) -> str:
        return f"<UnreadWriter lsn={self.lsn}>"

    def check(self) -> None:
        """As of a Writer."""
        raise Unavailable(
            f"this shard takes no changes: {self.error}; nothing changed. It serves pulls; pushes go on by themselves "
            "when a snapshot has its rows"
        )

    def append(self, kind: Kind, length: int, rows_after: int = 0, fold: int = 0) -> Ticket:
        """As of a Writer."""
        raise PushUnresolved(f"the push is not in the log: {self.error}")

    def write(self, ticket: Ticket, payload: Sequence[Buffer]) -> None:
        """As of a Writer; there are no tickets."""
        raise PushUnresolved(f"the push is not in the log: {self.error}")

    def abandon(self, ticket: Ticket, cause: BaseException) -> None:
        """As of a Writer; there are no tickets."""

    def recycle(self, lsn: int) -> None:
        """As of a Writer: there is nothing."""

    def give_back(self, *, all: bool = False) -> None:
        """As of a Writer: there is nothing."""

    def wait(self, position: int) -> None:
        """As of a Writer: nothing is ever noted here that could be waited for."""

    def sync(self) -> None:
        """As of a Writer: there is nothing."""

    def renewed(self) -> Writer:
        """As of a Writer."""
        return self._begun()

    def stop(self) -> None:
        """As of a Writer: nobody waits."""

    def close(self, *, sync: bool = True) -> None:
        """As of a Writer: no file is open."""
