"""What the coordinator asks of the world. Its programs are generators that yield these and are sent the outcome.

The runner performs them with gRPC, a launcher and a disk; the simulator with made-up ones. An effect that fails raises
its RowloomError inside the program.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any

from ...proto.errors import Rerouted, RowloomError, Unavailable
from ...proto.layout import Layout
from ...proto.spec import TableEntry
from ..launch.launcher import ServerProcess
from .state import ClusterState, KnownSnapshot


@dataclass(frozen=True)
class ServerCall:
    """One request to a server."""

    address: str
    method: str
    data: bytes


@dataclass(frozen=True)
class Calls:
    """Requests made side by side. Outcome: for each, reply bytes or a RowloomError, in order."""

    calls: Sequence[ServerCall]
    timeout_s: float = 10.0


@dataclass(frozen=True)
class Launch:
    """Start servers under these keys. Outcome: a list of Launched; None: not yet, it is to be yielded again.

    One that is not waited for to its end is given up, and its servers end.

    apart: as `Launcher.reserve` takes it.
    patient: as it does, too.
    """

    keys: Sequence[int]
    apart: Sequence[int] = ()
    patient: bool = True


@dataclass(frozen=True)
class Stop:
    """End servers. Outcome: None."""

    keys: Sequence[int]


@dataclass(frozen=True)
class Commit:
    """Write this state to storage, whole or not at all; when it returns, it is durable. Outcome: None.

    When it fails, the state may be stored all the same (the disk failed after the rename, the answer of an object
    store was lost), unless it fails with NotStored. Only `Coordinator.commit` yields it, because only that finds out.
    What is shown to others is the coordinator's own state, which stays the old one until then.
    """

    state: ClusterState


class NotStored(Unavailable):
    """A commit failed, and it is certain that storage holds what it held before."""


@dataclass(frozen=True)
class Stored:
    """Read the state back. Outcome: ClusterState, or None where there is none.

    It must be what the next coordinator would find: read from the same place as at a start, not from a cache. It fails
    while the storage cannot be read.
    """


@dataclass(frozen=True)
class Look:
    """What the launcher knows of the processes under these keys. Outcome: a list of ServerProcess."""

    keys: Sequence[int]


@dataclass(frozen=True)
class Sleep:
    """Wait. Outcome: None."""

    seconds: float


@dataclass(frozen=True)
class WriteManifest:
    """Make one snapshot of what the shards have written. Outcome: a KnownSnapshot; when it returns, it is durable.

    stored: of each shard, in order, its StoredShard as JSON.
    parent: what it is made upon, unless every shard wrote all of its rows.
    """

    id: str
    url: str
    created_s: float
    cluster_name: str
    layout: Layout
    stored: Sequence[bytes]
    tables: Sequence[TableEntry]
    extra: bytes = b""
    parent: KnownSnapshot | None = None


Effect = Calls | Launch | Stop | Commit | Stored | Look | Sleep | WriteManifest
Program = Generator[Effect, Any, Any]


def call_all(
    calls: Sequence[ServerCall],
    clock: Callable[[], float],
    limit_s: float = 30.0,
    timeout_s: float = 10.0,
    *,
    check: Callable[[], Program] | None = None,
) -> Program:
    """Make calls until each has an answer that is not "later". Returns the replies in order.

    Every call must be one that may be repeated.

    Args:
        calls: what is asked, of whom.
        clock: in seconds.
        limit_s: no attempt begins after it.
        timeout_s: of one attempt; a lost request costs this much.
        check: raises Unavailable when it is no use to wait; after each attempt that left some without an answer.

    Raises:
        RowloomError: the first answer that is an error; Unavailable when `limit_s` is over; what `check` raises.
    """
    replies: dict[int, bytes] = {}
    until, pause = clock() + limit_s, 0.02
    while len(replies) < len(calls):
        left = [i for i in range(len(calls)) if i not in replies]
        outcomes = yield Calls([calls[i] for i in left], timeout_s)
        last: RowloomError | None = None
        for i, outcome in zip(left, outcomes, strict=True):
            if not isinstance(outcome, RowloomError):
                replies[i] = outcome
            elif isinstance(outcome, Rerouted | Unavailable):
                last = outcome
            else:
                raise outcome
        if last is not None:
            if check is not None:
                yield from check()
            if clock() >= until:
                raise last if isinstance(last, Unavailable) else Unavailable(str(last))
            yield Sleep(pause)
            pause = min(1.0, pause * 2)
    return [replies[i] for i in range(len(calls))]


def check_running(keys: Sequence[int]) -> Program:
    """Nobody waits for a process that has ended: it is started again, but not before the program that waits has ended.

    keys: of the servers that are started again; none: nothing is looked at.

    Raises:
        Unavailable: one of them has ended.
    """
    if keys:
        processes: list[ServerProcess] = yield Look(keys)
        ended = sum(process.state == "ended" for process in processes)
        if ended:
            raise Unavailable(
                f"the processes of {ended} of {len(keys)} shard servers have ended; they are started again: try then"
            )
