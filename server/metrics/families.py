"""The metrics of a shard, from what it says of itself. docs/metrics.md explains each; a test holds it to this file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING

from ...proto import rowloom_pb2 as pb
from .counters import OTHER
from .traffic import BOUNDS_S

if TYPE_CHECKING:
    from prometheus_client import Metric

Sample = tuple[Sequence[str], float]


@dataclass(frozen=True)
class Family:
    """One metric: its name, what it says, and the labels of its samples. Counters' names end with _total."""

    name: str
    help: str
    labels: tuple[str, ...] = ()

    def of(self, samples: Iterable[Sample]) -> Metric:
        """With values: (values of the labels, value)."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        kind = CounterMetricFamily if self.name.endswith("_total") else GaugeMetricFamily
        family = kind(self.name, self.help, labels=self.labels)
        for labels, value in samples:
            family.add_metric(labels, value)
        return family

    def times(self, traffic: Iterable[pb.CallTraffic]) -> Metric:
        """As a histogram of the times of calls, by table."""
        from prometheus_client.core import HistogramMetricFamily

        family = HistogramMetricFamily(self.name, self.help, labels=self.labels)
        bounds = [*(f"{bound:g}" for bound in BOUNDS_S), "+Inf"]
        for one in traffic:
            counts = list(zip(bounds, accumulate(one.counts), strict=True))
            family.add_metric([one.table], counts, one.seconds)
        return family


TABLE = ("table",)
INFO = Family(
    "rowloom_shard_info", "1, of the shard that its labels name.", ("cluster_id", "shard", "durability")
)
EPOCH = Family("rowloom_layout_epoch", "The epoch of the layout in which the process serves.")
PULLS = Family("rowloom_pulls_total", "Requests of pulls that were answered and named the table.", TABLE)
PULLED = Family("rowloom_pull_rows_total", "Rows, and entries of bags, that pulls asked for.", TABLE)
PUSHES = Family(
    "rowloom_pushes_total",
    "Requests of pushes that named the table: applied; duplicate, because it had been applied before; rejected, "
    "with an error.",
    ("table", "outcome"),
)
PUSHED = Family("rowloom_push_rows_total", "Rows that pushes that were applied named.", TABLE)
TIMES = {
    "pull": Family(
        "rowloom_pull_seconds", "From a pull's message to its reply, the wait for others included.", TABLE
    ),
    "push": Family(
        "rowloom_push_seconds",
        "From a push's message to its reply: the wait for others and for the log included.",
        TABLE,
    ),
    "step": Family("rowloom_step_seconds", "The same for a push and a pull in one.", TABLE),
}
RECEIVED = Family("rowloom_received_bytes_total", "Bytes of messages that were answered.", ("call", "table"))
SENT = Family("rowloom_sent_bytes_total", "Bytes of replies.", ("call", "table"))
REFUSED = Family(
    "rowloom_refused_calls_total", "Calls that ended in an error, also those that are tried again."
)
ROWS = Family("rowloom_table_rows", "Rows that exist.", TABLE)
BYTES = Family("rowloom_table_bytes", "Bytes of these rows, with slots and index.", TABLE)
HOTTEST = Family(
    "rowloom_hot_share",
    "How much of the ids pulled and pushed here is the hottest one (`ids` 1) or the ten hottest (10); up to 1.",
    ("table", "ids"),
)
CLIENTS = Family("rowloom_ledger_clients", "Clients whose pushes the shard remembers.")
QUOTA = ("principal", "what")
QUOTA_USED = Family(
    "rowloom_quota_used",
    "What a principal has here: `rows` and `bytes` of the tables that it has created, `calls` under way.",
    QUOTA,
)
QUOTA_LIMIT = Family(
    "rowloom_quota_limit", "How much of that it may have here; without a bound, none.", QUOTA
)
QUOTA_REFUSED = Family(
    "rowloom_quota_refusals_total", "Requests that were refused because of a quota.", QUOTA
)
LANES = Family("rowloom_lane_connections", "Connections of the row lane.")
WAITING = Family(
    "rowloom_waiting_calls", "Calls over gRPC that wait for a thread, or for their messages to be let in."
)
HELD = Family("rowloom_held_pushes", "Calls over gRPC that wait for rows to have moved.")
LOG_END = Family("rowloom_log_end_bytes", "Where the log will go on, in bytes since it began.")
LOG_SAFE = Family("rowloom_log_safe_bytes", "Up to where the log is as safe as `durability` promises.")
LOG_BYTES = Family("rowloom_log_bytes", "Bytes of records that a restart would read.")
LOG_FAILED = Family("rowloom_log_failed", "1 if the log failed, and pushes are refused.")
RECEIVING = Family(
    "rowloom_receiving_rows", "Rows received so far of the next layout; 0: none are on their way."
)
WRITING_ROWS = Family(
    "rowloom_snapshot_writing_rows", "Rows written so far of a snapshot; 0: none is written."
)
WRITING_BYTES = Family("rowloom_snapshot_writing_bytes", "Bytes written so far of a snapshot.")
FOLLOWS = Family(
    "rowloom_standby_follows", "1 if a standby follows the shard, and has what it is not behind."
)
BEHIND = Family("rowloom_standby_behind_changes", "Changes that the standby has not said to have.")
BEHIND_BYTES = Family("rowloom_standby_behind_bytes", "Bytes of these.")
BEHIND_S = Family(
    "rowloom_standby_behind_seconds", "For how long the oldest of these has waited; 0: there are none."
)
STANDBY_PULLS = Family(
    "rowloom_standby_pulls_total",
    "Pulls that this process was asked for as a standby; `refused`: its rows may have been too old.",
    ("outcome",),
)
STANDBY_PULLED = Family(
    "rowloom_standby_pulled_rows_total", "Rows that this process was asked for as a standby, and gave."
)
FAMILIES = (
    *(
        INFO,
        EPOCH,
        PULLS,
        PULLED,
        PUSHES,
        PUSHED,
        *TIMES.values(),
        RECEIVED,
        SENT,
        REFUSED,
        ROWS,
        BYTES,
        HOTTEST,
        CLIENTS,
    ),
    *(QUOTA_USED, QUOTA_LIMIT, QUOTA_REFUSED),
    *(LANES, WAITING, HELD, LOG_END, LOG_SAFE, LOG_BYTES, LOG_FAILED, RECEIVING, WRITING_ROWS, WRITING_BYTES),
    *(FOLLOWS, BEHIND, BEHIND_BYTES, BEHIND_S, STANDBY_PULLS, STANDBY_PULLED),
)


def shard_families(said: pb.StatisticsReply) -> Iterator[Metric]:
    """The metrics of a shard. Without a shard, of its process; without a log, none of logs."""
    yield INFO.of([((said.cluster_id, str(said.index), said.durability), 1)])
    yield EPOCH.of([((), said.epoch)])
    counts = said.counts
    yield PULLS.of(((c.table,), c.pulls) for c in counts)
    yield PULLED.of(((c.table,), c.pulled_rows) for c in counts)
    yield PUSHES.of(
        ((c.table, outcome), count)
        for c in counts
        for outcome, count in (("applied", c.pushes), ("duplicate", c.duplicates), ("rejected", c.rejected))
    )
    yield PUSHED.of(((c.table,), c.pushed_rows) for c in counts)
    for call, family in TIMES.items():
        yield family.times(one for one in said.traffic if one.call == call)
    yield RECEIVED.of(((one.call, one.table), one.received_bytes) for one in said.traffic)
    yield SENT.of(((one.call, one.table), one.sent_bytes) for one in said.traffic)
    yield REFUSED.of([((), said.refused)])
    yield from _tables(said)
    yield QUOTA_USED.of(((q.principal, q.what), q.used) for q in said.quotas)
    yield QUOTA_LIMIT.of(((q.principal, q.what), q.limit) for q in said.quotas if q.HasField("limit"))
    yield QUOTA_REFUSED.of(((q.principal, q.what), q.refused) for q in said.quotas)
    yield from _process(said)


def _tables(said: pb.StatisticsReply) -> Iterator[Metric]:
    """What tables hold; those that are not counted by themselves together."""
    named = {c.table for c in said.counts}
    held: dict[str, list[int]] = {}
    for table in said.tables:
        rows_and_bytes = held.setdefault(table.name if table.name in named else OTHER, [0, 0])
        rows_and_bytes[0] += table.rows
        rows_and_bytes[1] += table.bytes
    yield ROWS.of(((name,), rows) for name, (rows, _) in held.items())
    yield BYTES.of(((name,), size) for name, (_, size) in held.items())
    yield HOTTEST.of(
        ((t.name, ids), share)
        for t in said.tables
        if t.sampled_ids and t.name in named
        for ids, share in (("1", t.hottest_share), ("10", t.hottest_10_share))
    )


def _process(said: pb.StatisticsReply) -> Iterator[Metric]:
    simple = [
        *((CLIENTS, said.clients), (LANES, said.lane_connections), (WAITING, said.waiting_calls)),
        *((HELD, said.held_pushes), (RECEIVING, said.receiving_rows)),
        *((WRITING_ROWS, said.snapshot_rows), (WRITING_BYTES, said.snapshot_bytes)),
    ]
    if said.durability != "memory":
        simple += [(LOG_END, said.log_end), (LOG_SAFE, said.log_safe), (LOG_BYTES, said.log_bytes)]
        simple += [(LOG_FAILED, bool(said.log_error))]
    if said.HasField("standby_follows"):
        simple += [(FOLLOWS, said.standby_follows), (BEHIND, said.standby_behind)]
        simple += [(BEHIND_BYTES, said.standby_behind_bytes), (BEHIND_S, said.standby_behind_s)]
    if said.standby_pulls or said.standby_refused:
        outcomes = {"answered": said.standby_pulls, "refused": said.standby_refused}
        yield STANDBY_PULLS.of(((outcome,), count) for outcome, count in outcomes.items())
        simple += [(STANDBY_PULLED, said.standby_pulled_rows)]
    for family, value in simple:
        yield family.of([((), value)])
