"""What a host needs of its log. The host decides what is noted; whoever drives it writes that, beside the lock."""

from __future__ import annotations

from typing import Protocol

from ..proto.framing import Buffer
from .durable.extents import Owner
from .durable.records import Kind


class Journal(Protocol):
    """The log of one shard, as its host sees it. Callers hold the host's lock.

    Attributes:
        passed: URL of the newest snapshot, and why it could not be read when the log was; empty: it could.
    """

    passed: tuple[str, str]

    @property
    def end(self) -> int:
        """Where the next record will begin: what lies before it has been noted, if not yet written."""
        ...

    @property
    def safe(self) -> int:
        """What lies before it may be acknowledged."""
        ...

    @property
    def lsn(self) -> int:
        """Of the last record that was noted."""
        ...

    @property
    def bytes(self) -> int:
        """Of records that a restart would read."""
        ...

    @property
    def error(self) -> str:
        """Why it takes no more; empty while it does."""
        ...

    def trim(self, lsn: int) -> None:
        """Records up to that one are needed no more: what they did is in snapshots. Done some time later."""
        ...

    @property
    def mending(self) -> bool:
        """Whether `renew` was asked for and is not done yet."""
        ...

    def renew(self) -> None:
        """It failed, and a snapshot has all that was noted: go on behind that. Done some time later, or it stays so."""
        ...

    def check(self) -> None:
        """Raise Unavailable if it takes no more; to be asked before anything is applied."""
        ...

    def note(self, kind: Kind, payload: Buffer, rows_after: int = 0, fold: int = 0) -> int:
        """Note a change that was applied.

        Args:
            kind: of the record.
            payload: does not change until it is written.
            rows_after: as in `Head`.
            fold: as in `Head`.

        Returns:
            The position up to which the log must be safe before the change may be acknowledged.

        Raises:
            PushUnresolved: the log has failed since `check`.
        """
        ...


class Journals(Protocol):
    """Where the logs of a process's shards are."""

    def has(self, owner: Owner) -> bool:
        """Whether there is a log of that shard."""
        ...

    def begin(self, owner: Owner) -> Journal:
        """An empty log of a shard that begins. What there was of one is put aside. Raises Unavailable."""
        ...

    def drop(self, journal: Journal) -> None:
        """A log is needed no more, and nobody writes it any more: it goes."""
        ...
