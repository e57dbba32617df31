"""The seam between the coordinator and what runs its shard servers: processes, threads, Ray actors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from ...proto.layout import ShardAddress


@dataclass(frozen=True)
class Launched:
    """A running shard server. A new `incarnation` under an old key: it came back, without its rows."""

    address: str
    incarnation: int
    node: str = ""
    pid: int = 0


def addresses(launched: Sequence[Launched]) -> tuple[ShardAddress, ...]:
    """Shards on these servers, in order."""
    return tuple(ShardAddress(i, s.address, s.incarnation) for i, s in enumerate(launched))


@dataclass(frozen=True)
class ServerProcess:
    """What a launcher knows of the process of a server, which may answer or not.

    Attributes:
        state: running; stopped: it stands still, as by SIGSTOP, and holds its rows; ended: they are gone; unknown.
        node: where it is; empty: not known.
        pid: its number there; 0: not known.
        sure: that it has ended was seen; else its node was given up, where it may live on, out of reach.
        incarnation: of the server in it; 0: not known.
    """

    state: Literal["running", "stopped", "ended", "unknown"]
    node: str = ""
    pid: int = 0
    sure: bool = True
    incarnation: int = 0

    @property
    def alive(self) -> bool:
        """Whether it surely is there."""
        return self.state in ("running", "stopped")


class Launcher(Protocol):
    """Starts and stops empty shard servers. Methods may block and are called from any thread.

    A `key` names one server for ever within a cluster; it is never used for another.

    Attributes:
        replicated: shards have standbys; of the servers that are started from now on.
    """

    replicated: bool

    def reserve(self, keys: Sequence[int], apart: Sequence[int] = (), *, patient: bool = True) -> None:
        """Set room aside for servers that will be started together. Raises Unavailable if there is none.

        To stop one of them, from another thread, ends the wait for room.

        apart: for each the key of a server whose node it keeps off, as a standby does; none: they go anywhere. Where
        there is only one node, or none at all, they are there.
        patient: room is waited for as long as a start may take; else for some seconds, as it is soon asked for again.
        """
        ...

    def check_standbys(self, keys: Sequence[int]) -> None:
        """Raise Unavailable if these servers could not have a standby each now. Sets nothing aside."""
        ...

    def start(self, key: int) -> Launched:
        """Start one more server; returns when it listens. Raises Unavailable if it does not in time."""
        ...

    def stop(self, key: int, grace_s: float) -> None:
        """End it and free what it held. No error if it is gone already."""
        ...

    def find(self, key: int) -> Launched | None:
        """Where it is now; None if it is gone."""
        ...

    def look(self, key: int) -> ServerProcess:
        """What is known of its process, from the system and not from the server. Raises nothing."""
        ...

    def close(self) -> None:
        """End everything that was started here."""
        ...
