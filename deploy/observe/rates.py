"""What a cluster does now: rates, times and skew, from two looks at its counters. Plain values."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from ...proto import rowloom_pb2 as pb
from ...server.metrics.traffic import BOUNDS_S, SEVERAL
from ..operate.status import is_counted, summary

ROWS = ("pulled_rows", "pushed_rows")
SENT = ("sent_bytes", "received_bytes")


class ShardLook:
    """What one shard did between two looks, and in how many seconds; since it started, if there is no earlier one."""

    def __init__(self, now: pb.StatisticsReply, before: pb.StatisticsReply | None) -> None:
        self.seconds = now.uptime_s - (before.uptime_s if before is not None else 0.0)
        counted = {c.table: c for c in before.counts} if before is not None else {}
        timed = {(t.call, t.table): t for t in before.traffic} if before is not None else {}
        none = pb.TableCounts(), pb.CallTraffic()
        self.counts = {
            c.table: {name: getattr(c, name) - getattr(counted.get(c.table, none[0]), name) for name in ROWS}
            for c in now.counts
        }
        self.bytes = dict.fromkeys(SENT, 0)
        self.times: dict[tuple[str, str], list[int]] = {}
        for t in now.traffic:
            old = timed.get((t.call, t.table), none[1])
            for name in SENT:
                self.bytes[name] += getattr(t, name) - getattr(old, name)
            earlier = old.counts or [0] * len(t.counts)
            self.times[t.call, t.table] = [a - b for a, b in zip(t.counts, earlier, strict=True)]

    def per_s(self, count: float) -> float:
        """A count as a rate."""
        return max(0.0, count / self.seconds) if self.seconds > 0 else 0.0


def looks_of(now: pb.StatusReply, earlier: pb.StatusReply | None) -> dict[int, ShardLook]:
    """By index, the shards that told of all their rows, and what they did since a moment ago, or their start."""
    before = {s.shard.incarnation: s.statistics for s in earlier.shards} if earlier is not None else {}
    return {
        s.shard.index: ShardLook(s.statistics, before.get(s.shard.incarnation))
        for s in now.shards
        if is_counted(s)
    }


def quantile_s(counts: Sequence[int], share: float) -> float | None:
    """The time within which this share of calls was answered, in seconds, as exact as the bounds; None: of no calls.

    counts: of calls by time, as in CallTraffic. What took longer than the last bound counts as that.
    """
    wanted, below, lower = share * sum(counts), 0, 0.0
    if not wanted:
        return None
    for count, upper in zip(counts, (*BOUNDS_S, BOUNDS_S[-1]), strict=True):
        if below + count >= wanted:
            return lower + (upper - lower) * (wanted - below) / count
        below, lower = below + count, upper
    return lower


def activity(now: pb.StatusReply, earlier: pb.StatusReply | None = None) -> dict[str, Any]:
    """What `rowloom top --json` prints: a `summary`, and what each shard and table does.

    Args:
        now: as the coordinator gives it.
        earlier: the same a moment ago. None: since each shard started.
    """
    by_shard = looks_of(now, earlier)
    looks = list(by_shard.values())
    state = summary(now, earlier)
    for shard, status in zip(state["shards"], now.shards, strict=True):
        if (look := by_shard.get(status.shard.index)) is not None:
            shard |= _shard(status.statistics, look)
    names = [table["name"] for table in state["tables"]]
    for table in state["tables"]:
        table |= _table(table["name"], looks)
        table["hottest_share"] = _hottest_share(table["name"], now)
    others = {name for look in looks for name in look.counts} - set(names)
    state["other_tables"] = [{"name": name, **_table(name, looks)} for name in sorted(others)]
    state["several_tables"] = _latencies(looks, SEVERAL)
    state["move"] = _move(now.scaling) if now.HasField("scaling") else None
    return state


def _shard(said: pb.StatisticsReply, look: ShardLook) -> dict[str, Any]:
    calls = [counts for (call, _), counts in look.times.items() if call != "control"]
    return {
        "sent_bytes_per_s": round(look.per_s(look.bytes["sent_bytes"])),
        "received_bytes_per_s": round(look.per_s(look.bytes["received_bytes"])),
        "calls_per_s": round(look.per_s(sum(map(sum, calls))), 1),
        **_quantiles(calls),
        "lane_connections": said.lane_connections,
        "clients": said.clients,
        "log_behind_bytes": said.log_end - said.log_safe,
        "snapshot_writing_rows": said.snapshot_rows,
    }


def _table(name: str, looks: Sequence[ShardLook]) -> dict[str, Any]:
    rates = [[look.per_s(look.counts.get(name, {}).get(rows, 0)) for rows in ROWS] for look in looks]
    busy = [pulled + pushed for pulled, pushed in rates]
    mean = sum(busy) / len(busy) if busy else 0.0
    return {
        "pulled_rows_per_s": round(sum(pulled for pulled, _ in rates), 1),
        "pushed_rows_per_s": round(sum(pushed for _, pushed in rates), 1),
        "skew": round(max(busy) / mean, 2) if mean else None,
        **_latencies(looks, name),
    }


def _hottest_share(name: str, now: pb.StatusReply) -> float | None:
    """How much of what a table is asked for is its hottest id; None: nothing was looked at."""
    held = [t for s in now.shards for t in s.statistics.tables if t.name == name]
    sampled = sum(t.sampled_ids for t in held)
    return round(max(t.hottest_share * t.sampled_ids for t in held) / sampled, 4) if sampled else None


def _latencies(looks: Iterable[ShardLook], table: str) -> dict[str, Any]:
    """Of the calls that named this table only, over all shards."""
    looks = list(looks)
    return {
        call: _quantiles([look.times[call, table] for look in looks if (call, table) in look.times])
        for call in ("pull", "push", "step")
    }


def _quantiles(some: Sequence[Sequence[int]]) -> dict[str, float | None]:
    counts = [sum(column) for column in zip(*some, strict=True)]
    found = {"p50_ms": quantile_s(counts, 0.5), "p99_ms": quantile_s(counts, 0.99)}
    return {name: None if s is None else round(1e3 * s, 3) for name, s in found.items()}


def _move(reply: pb.ScaleReply) -> dict[str, Any]:
    """How far rows that move are; eta_s: until few are left, at the pace of now; None: not known."""
    counted = reply.state == "moving"
    eta = reply.left / reply.rows_per_s if counted and reply.rows_per_s > 0 else None
    return {
        "state": reply.state,
        "rows": reply.rows,
        "rows_left": max(0, reply.rows_total - reply.rows),
        "seconds": round(reply.seconds, 1),
        "shards_before": reply.shards_before,
        "shards": reply.shards,
        "handed_over": list(reply.handed_over),
        "pass": reply.passes + 1 if counted else None,
        "pass_left": reply.left if counted else None,
        "rows_per_s": round(reply.rows_per_s, 1) if counted else None,
        "eta_s": None if eta is None else round(eta, 1),
        "braked": reply.brake_row_s > 0,
        "held_bytes": reply.held_bytes,
        "arrivals": [{"shard": one.shard, "rows": one.rows} for one in reply.arrivals],
    }
