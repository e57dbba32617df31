"""Holding pushes back at a moment when each is on all its shards, or on none.

    freeze + report ─▶ all whole? ─▶ held
          ▲                └── admit those that are not, report again, for HOLD_S at the most
          └── thaw, wait for them while trainers go on ◀──┘

Why it is so. A push goes to its shards one by one, so at any moment some are on the way: on one shard and not yet on
another. A push that has begun is let in everywhere, all others wait at the shards; that takes as long as messages take
that are under way already. Every shard keeps how much it has of each client's latest push (`server/ledger.py`), and
every part says which share of the push it is: what adds up to 1 is whole. A client makes one push after the other under
one identity, so of its pushes only the latest can be in doubt.
A client that has died, or has given up, never sends the rest. Nobody can tell it from one that is slow; so pushes go on
while it is waited for, and after GONE_S without a word to shards that all take pushes it is taken for gone: its push
stays as it is, which its caller has been told or never will be. Its parts are in the ledger: should it come back, it
sends what is missing, once.
Rejected: a table of the pushes under way on each shard; it is work for each push, and what is whole elsewhere cannot be
known there. Rejected: asking clients, which need not answer.
"""

from __future__ import annotations

from collections.abc import Sequence

from ...proto import rowloom_pb2 as pb
from ...proto.errors import Unavailable
from ...server.push_shares import PushShares, from_messages, is_whole, most_of
from .coordinator import Coordinator
from .effects import Program, Sleep

FREEZE_LIMIT_S = 10.0  # for shards to hear of it
HOLD_S = (1.0, 1.0, 4.0)  # how long other pushes wait for those that have begun, the first time and later
GONE_S = 15.0  # an attempt of a client that has lost its request takes 10 s
PAUSE_S = (0.002, 0.05)  # first and longest, between two reports in a hold
LOOK_S = 0.5  # between two reports while pushes go on

# The number of a push, and how much of it there is.
Part = tuple[int, PushShares]


class Hold:
    """One hold.

    Args:
        coordinator: of the cluster. Whoever runs this ends the hold, by `Coordinator.adopt`.

    Attributes:
        since_s: when pushes began to wait, the last time.
        longest_s: how long they waited in vain, at the most.
    """

    def __init__(self, coordinator: Coordinator) -> None:
        self._coordinator = coordinator
        self.since_s = 0.0
        self.longest_s = 0.0

    def freeze(self) -> Program:
        """When it returns, pushes wait, whole or not. Raises RowloomError: some may be frozen."""
        self.since_s = self._coordinator.clock()
        yield from self._coordinator.freeze(FREEZE_LIMIT_S)

    def run(self) -> Program:
        """When it returns, pushes wait, and each is on all its shards or on none, but those of clients that are gone.

        Raises:
            RowloomError: not every shard has heard of it, or pushes are too slow; some may be frozen.
        """
        coordinator = self._coordinator
        left: dict[int, Part] = {}
        yield from coordinator.report(
            FREEZE_LIMIT_S
        )  # a shard that takes no pushes is found out while others go on
        for limit_s in HOLD_S:
            self.since_s = coordinator.clock()
            left = yield from self._held(limit_s)
            if not left:
                return
            yield from coordinator.adopt(0.0)  # those that do not answer are thawed by `converge`
            self.longest_s = max(self.longest_s, coordinator.clock() - self.since_s)
            yield from self._wait_for(left)
        raise Unavailable(
            f"pushes of {len(left)} clients take so long that no moment was found at which each is on all its shards, "
            f"in {len(HOLD_S)} tries: try again when they push less, or over a better network"
        )

    def _held(self, limit_s: float) -> Program:
        """Freeze, and let in what has begun. Returns what is still not whole when time is up."""
        coordinator = self._coordinator
        until, (pause, longest) = coordinator.clock() + limit_s, PAUSE_S
        left = self._unfinished((yield from coordinator.freeze(FREEZE_LIMIT_S, report=True)))
        while left and coordinator.clock() < until:
            admitted = [pb.LatestPush(client_id=client, push=push) for client, (push, _) in left.items()]
            replies = yield from coordinator.freeze(FREEZE_LIMIT_S, report=True, admitted=admitted)
            left = self._unfinished(replies)
            if left:
                yield Sleep(pause)
                pause = min(longest, 2 * pause)
        return left

    def _wait_for(self, left: dict[int, Part]) -> Program:
        """While pushes go on, until some client has gone on with each; those that have not are taken for gone."""
        coordinator = self._coordinator
        until = coordinator.clock() + GONE_S
        while left and coordinator.clock() < until:
            yield Sleep(LOOK_S)
            now = self._unfinished((yield from coordinator.report(FREEZE_LIMIT_S)))
            left = {client: part for client, part in left.items() if now.get(client) == part}
        coordinator.unfinished_pushes.update({client: push for client, (push, _) in left.items()})

    def _unfinished(self, replies: Sequence[bytes]) -> dict[int, Part]:
        """What is not whole and may yet be. Forgets what it knew of clients that have gone on."""
        coordinator = self._coordinator
        found = unfinished([pb.FreezeReply.FromString(reply).latest for reply in replies])
        known = coordinator.unfinished_pushes
        coordinator.unfinished_pushes = {c: p for c, p in known.items() if c in found and found[c][0] == p}
        return {c: part for c, part in found.items() if c not in coordinator.unfinished_pushes}


def unfinished(reports: Sequence[Sequence[pb.LatestPush]]) -> dict[int, Part]:
    """By client, its latest push, if that is not whole and no shard has forgotten the client.

    reports: of each shard.
    """
    found: dict[int, Part] = {}
    forgotten: set[int] = set()
    for one in (one for report in reports for one in report):
        if one.forgotten:
            forgotten.add(one.client_id)
            continue
        push, shares = found.get(one.client_id, (0, {}))
        if one.push > push:
            push, shares = one.push, {}
        if one.push == push:
            found[one.client_id] = push, most_of(shares, from_messages(one.shares))
    return {c: part for c, part in found.items() if c not in forgotten and not is_whole(part[1])}
