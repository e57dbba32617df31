"""Shards that go over to other servers, whole: a node is drained, or servers are started anew with another version.

Two ways, as rows are kept:

- In memory: the move protocol of `reshard.py`, from each old server to one new one. Pushes to these shards wait for
  the last pass; all other shards do not notice.
- With logs: the new servers are started first, then the old ones end and close their logs, which the new ones read.
  Calls to these shards wait for as long as that takes.

Why it is so. The layout keeps its epoch: the same shards with the same rows, and the others would have to receive
their own rows once more for a new one. Who serves is decided by the commit alone: the old server is frozen before,
and nobody but a coordinator that has found the old layout stored thaws it. With logs the lock on the log's folder
says the same once more. Rejected: to move rows also where there are logs; two servers would need logs of one shard and
epoch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from ...proto import methods
from ...proto import rowloom_pb2 as pb
from ...proto.errors import InvalidRequest, StateLost, Unavailable, in_words
from ...proto.layout import Layout, ShardAddress
from .coordinator import ATTEMPT_S, Coordinator
from .effects import Program, ServerCall, Stop, call_all
from .reshard import Cancelled, Progress, Reshard
from .starting import launch, put_in_place
from .surplus import expected_surplus

LOOK_LIMIT_S = 5.0  # for the shards to say that they serve, before one of them is stopped


class Handover(Reshard):
    """Shards in memory go over to new servers, all at the same time.

    Args:
        coordinator: of the cluster.
        indexes: of the shards.
    """

    HANDOVER = True

    def __init__(self, coordinator: Coordinator, indexes: Sequence[int]) -> None:
        super().__init__(coordinator, coordinator.layout.n)
        self.indexes = checked(coordinator.layout, indexes)
        self._givers = tuple(self._old.shards[index] for index in self.indexes)

    def _servers(self) -> Program:
        fresh, launched = yield from launch(self._coordinator, len(self.indexes), check=self._check_wanted)
        keys, shards = list(self._coordinator.state.keys), list(self._old.shards)
        for index, key, server in zip(self.indexes, fresh, launched, strict=True):
            keys[index], shards[index] = key, ShardAddress(index, server.address, server.incarnation)
        return dataclasses.replace(self._old, shards=tuple(shards)), keys

    def _receivers(self, target: Layout) -> Layout:
        return dataclasses.replace(target, shards=tuple(target.shards[index] for index in self.indexes))

    def _leavers(self, target: Layout) -> Sequence[ShardAddress]:
        return self._givers


class Restart:
    """Shards with logs go over to new servers, some at a time.

    Args:
        coordinator: of the cluster.
        indexes: of the shards.
        at_once: so many of them; the others serve meanwhile.
        limit_s: for a server to read its log.
    """

    def __init__(
        self, coordinator: Coordinator, indexes: Sequence[int], *, at_once: int, limit_s: float
    ) -> None:
        self.indexes = checked(coordinator.layout, indexes)
        self._coordinator, self._at_once, self._limit_s = coordinator, at_once, limit_s
        self._cancelled = False
        self.progress = Progress(coordinator.layout.n, started_s=coordinator.clock(), left=len(self.indexes))

    def cancel(self) -> bool:
        """Give up those that have not begun. Returns whether there may be any."""
        self._cancelled = self.progress.state in ("starting", "moving")
        return self._cancelled

    def run(self) -> Program:
        """As `Reshard.run`.

        Raises:
            Unavailable: a server did not start, or a shard does not serve; those before it have gone over.
            Cancelled: the same.
        """
        coordinator, progress = self._coordinator, self.progress
        try:
            yield from coordinator.converge()
            for first in range(0, len(self.indexes), self._at_once):
                if self._cancelled:
                    raise Cancelled("it was cancelled")
                progress.state = "moving"
                yield from self._take(self.indexes[first : first + self._at_once])
                progress.left = max(0, progress.left - self._at_once)
        except Exception as e:
            progress.state, progress.error = "failed", in_words(e)
            progress.ended_s = coordinator.clock()
            raise
        progress.state, progress.ended_s = "done", coordinator.clock()

    def _take(self, indexes: Sequence[int]) -> Program:
        coordinator = self._coordinator
        yield from check_serving(coordinator)
        with expected_surplus(coordinator):
            began = yield from self._replace(indexes)
        outcomes = yield from coordinator.adopt(self._limit_s)
        self.progress.pause_s = max(self.progress.pause_s, coordinator.clock() - began)
        for index in indexes:
            if isinstance(outcomes[index], Exception):
                raise outcomes[index]

    def _replace(self, indexes: Sequence[int]) -> Program:
        """Other servers for these shards, which the commit says. Returns when the old ones were ended."""
        coordinator = self._coordinator
        fresh, launched = yield from launch(coordinator, len(indexes))
        began, old = coordinator.clock(), [coordinator.state.keys[index] for index in indexes]
        yield Stop(old)  # whoever comes now starts them again, from their logs
        yield from put_in_place(coordinator, indexes, fresh, launched)
        return began


def check_serving(coordinator: Coordinator) -> Program:
    """That every shard has its rows and takes pushes. Raises StateLost, Unavailable: one does not; nothing changed."""
    layout = coordinator.layout
    ask = pb.HealthRequest().SerializeToString()
    calls = [ServerCall(shard.address, methods.HEALTH, ask) for shard in layout.shards]
    replies = yield from call_all(
        calls, coordinator.clock, LOOK_LIMIT_S, ATTEMPT_S, check=coordinator.check_there
    )
    for shard, reply in zip(layout.shards, replies, strict=True):
        health = pb.HealthReply.FromString(reply)
        if health.incarnation != shard.incarnation or health.state == "lost":
            raise StateLost(
                f"shard {shard.index} at {shard.address} has lost its rows, so nothing goes over now"
            )
        if health.state != "serving" or health.log_error:
            said = health.log_error or health.state
            raise Unavailable(
                f"shard {shard.index} at {shard.address} does not serve ({said}): try again then"
            )


def checked(layout: Layout, indexes: Sequence[int]) -> list[int]:
    """Indexes of shards, each once, in order. Raises InvalidRequest."""
    wanted = sorted(set(indexes))
    if not wanted or wanted[0] < 0 or wanted[-1] >= layout.n:
        raise InvalidRequest(f"shards {list(indexes)} cannot go over: they are 0 to {layout.n - 1}")
    return wanted


class InTurn:
    """Handovers one after the other, so that only one shard more than there are needs room.

    Args:
        coordinator: of the cluster.
        indexes: of the shards.
    """

    def __init__(self, coordinator: Coordinator, indexes: Sequence[int]) -> None:
        self.indexes = checked(coordinator.layout, indexes)
        self._coordinator = coordinator
        self._now: Handover | None = None
        self._cancelled = False
        self.progress = Progress(coordinator.layout.n, started_s=coordinator.clock(), left=len(self.indexes))

    def cancel(self) -> bool:
        """Give up those that have not gone over. Returns whether there may be any."""
        self._cancelled = not self.progress.ended
        if self._now is not None:
            self._now.cancel()
        return self._cancelled

    def run(self) -> Program:
        """As `Restart.run`."""
        progress = self.progress
        try:
            for index in self.indexes:
                if self._cancelled:
                    raise Cancelled("it was cancelled")
                progress.state = "moving"
                self._now = Handover(self._coordinator, [index])
                yield from self._now.run()
                one = self._now.progress
                progress.pause_s = max(progress.pause_s, one.pause_s)
                progress.rows, progress.moved = progress.rows + one.rows, progress.moved + one.moved
                progress.left -= 1
        except Exception as e:
            progress.state, progress.error = "failed", in_words(e)
            progress.ended_s = self._coordinator.clock()
            raise
        progress.state, progress.ended_s = "done", self._coordinator.clock()


def every_shard(coordinator: Coordinator, limit_s: float) -> InTurn | Restart:
    """All shards go over to new servers, one after the other. limit_s: for a server to read its log."""
    indexes = range(coordinator.layout.n)
    if coordinator.revives:
        return Restart(coordinator, indexes, at_once=1, limit_s=limit_s)
    return InTurn(coordinator, indexes)


def these_shards(coordinator: Coordinator, indexes: Sequence[int], limit_s: float) -> Handover | Restart:
    """Some shards go over to new servers, all at the same time. limit_s: for them to read their logs."""
    if coordinator.revives:
        return Restart(coordinator, indexes, at_once=len(indexes), limit_s=limit_s)
    return Handover(coordinator, indexes)
