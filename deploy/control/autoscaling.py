"""How many shards a cluster should have, by what they hold and do: a policy with neither clock, network nor thread.

    wanted = max over the targets of ceil(what all shards have together / target), within [min, max]

Why it is so. What must hold: load that goes up and down does not move rows to and fro, because a move costs more than a
shard too many. So it is the rule of the Horizontal Pod Autoscaler of Kubernetes: what lies within 10 % of a target is
on target; more shards only when they have been wanted for UP_S, and only as many as were wanted throughout; fewer only
when all of a cooldown has wanted fewer; and after each change, whoever made it, nothing for a cooldown.
Work is counted in rows, not in requests: each call of a trainer asks all shards, so requests to one shard stay the same
however many there are, and a target of requests would add shards for ever.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from ...proto import rowloom_pb2 as pb
from ..config.sections import Autoscale
from ..config.words import counted

TOLERANCE = 0.1  # of a target
UP_S = 60.0
SKEWED = 1.5  # times the mean: more shards of the same partition may not help the one that has so much


@dataclass(frozen=True)
class ShardLoad:
    """What one shard has. size: bytes of its rows, with slots and index; rows_per_s: pulled and pushed."""

    size: int
    rows_per_s: float


@dataclass(frozen=True)
class Decision:
    """What a policy says now. shards: how many there should be from now on; why: in words."""

    shards: int
    why: str


class Meter:
    """From what shards have counted to what they do a second."""

    def __init__(self) -> None:
        self._before: dict[int, tuple[float, int]] = {}  # by incarnation: seconds it was up, rows until then

    def loads(self, statuses: Sequence[pb.ShardStatus]) -> list[ShardLoad] | str:
        """The load of each shard since the last time; in words, why that is not known."""
        before, self._before = self._before, {}
        for status in statuses:
            self._before[status.shard.incarnation] = (status.statistics.uptime_s, _rows(status.statistics))
        silent = [s for s in statuses if s.health not in ("serving", "moving")]
        if silent:
            return f"nothing is decided while shard {silent[0].shard.index} is {silent[0].health}"
        if not all(s.shard.incarnation in before for s in statuses):
            return "not looked long enough yet"
        return [_load(status.statistics, *before[status.shard.incarnation]) for status in statuses]


def _rows(statistics: pb.StatisticsReply) -> int:
    return statistics.pulled_rows + statistics.pushed_rows


def _load(statistics: pb.StatisticsReply, uptime_s: float, rows: int) -> ShardLoad:
    seconds = max(statistics.uptime_s - uptime_s, 1e-3)
    return ShardLoad(sum(t.bytes for t in statistics.tables), max(0, _rows(statistics) - rows) / seconds)


class Autoscaler:
    """Looks at load after load of one cluster, and says how many shards it should have.

    Args:
        policy: of its config.

    Attributes:
        policy: the same.
    """

    def __init__(self, policy: Autoscale) -> None:
        self.policy = policy
        self._wanted: deque[tuple[float, int]] = deque()  # when, and how many shards
        self._shards: int | None = None
        self._since_s = 0.0  # there have been so many, or we have looked

    def look(self, now_s: float, loads: Sequence[ShardLoad]) -> Decision:
        """The decision of this moment.

        Args:
            now_s: of a clock that only goes forward.
            loads: of all shards.
        """
        n, policy = len(loads), self.policy
        if n != self._shards:
            self._wanted.clear()
            self._shards, self._since_s = n, now_s
        wanted, why = wanted_of(policy, loads)
        self._wanted.append((now_s, wanted))
        while self._wanted[0][0] < now_s - max(policy.cooldown, UP_S):
            self._wanted.popleft()
        if wanted == n:
            return Decision(n, why)
        rest = self._since_s + policy.cooldown - now_s
        if rest > 0:
            return Decision(
                n, f"{why}: {counted(wanted, 'shard')} wanted, not before {rest:.0f} s have gone by"
            )
        if wanted > n:
            lately = min(count for at, count in self._wanted if at >= now_s - UP_S)
            return Decision(max(n, lately), f"{why}: {counted(wanted, 'shard')} wanted")
        most = max(count for _, count in self._wanted)
        if most >= n:
            return Decision(n, f"{why}: {counted(wanted, 'shard')} would do, {most} were wanted lately")
        return Decision(most, f"{why}: {counted(wanted, 'shard')} wanted")


def wanted_of(policy: Autoscale, loads: Sequence[ShardLoad]) -> tuple[int, str]:
    """(How many shards this load wants by itself, why in words)."""
    n = len(loads)
    size, work = sum(one.size for one in loads), sum(one.rows_per_s for one in loads)
    wanted, said = policy.min, [_measured(n, policy, size, work)]
    for total, target in ((size, policy.target_bytes_per_shard), (work, policy.target_qps_per_shard)):
        if target is None:
            continue
        on_target = abs(total / (n * target) - 1) <= TOLERANCE
        wanted = max(wanted, n if on_target else math.ceil(total / target))
    if wanted > policy.max:
        said.append(f"{wanted} shards would be on target, `autoscale.max` is {policy.max}")
    if policy.min == wanted and wanted > n:
        said.append(f"`autoscale.min` is {policy.min}")
    largest = max((one.size for one in loads), default=0)
    if (
        policy.target_bytes_per_shard
        and largest > SKEWED * size / n
        and largest > policy.target_bytes_per_shard
    ):
        index = [one.size for one in loads].index(largest)
        said.append(
            f"shard {index} has {largest * n / size:.1f} times the mean: another `partition` may spread better"
        )
    return min(max(wanted, policy.min), policy.max), "; ".join(said)


def _measured(n: int, policy: Autoscale, size: int, work: float) -> str:
    parts: list[str] = []
    if policy.target_bytes_per_shard is not None:
        share = size / n / policy.target_bytes_per_shard
        parts.append(f"{share:.0%} of target_bytes_per_shard")
    if policy.target_qps_per_shard is not None:
        share = work / n / policy.target_qps_per_shard
        parts.append(f"{share:.0%} of target_qps_per_shard")
    return f"{counted(n, 'shard')} at {' and '.join(parts)}"
