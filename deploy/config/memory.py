"""The memory that each shard needs: before a change, after it, and while rows move."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import ByteSize

from ...proto import rowloom_pb2 as pb
from ...proto.spec import TableSpec
from .changes import running_config
from .config import DeployConfig

# Beside its columns a row has its id (8 bytes) and, at worst, 11.4 bytes of index: 4-byte slots, at least 35 % full.
ROW_OVERHEAD_BYTES = 20


@dataclass(frozen=True)
class TableMemory:
    """What a table needs on the fullest shard, in bytes.

    Attributes:
        bound_bytes: with every id pushed; None for open-ended ids, whose number nobody knows.
        now_bytes, after_bytes: for the rows that exist; None when no cluster was asked.
    """

    name: str
    row_bytes: int
    bound_bytes: int | None
    now_bytes: int | None = None
    after_bytes: int | None = None


@dataclass(frozen=True)
class Memory:
    """What a shard needs.

    Attributes:
        bound_bytes: all tables with every id pushed; None if a table is open-ended.
        now_bytes, after_bytes: for the rows that exist; None when no cluster was asked.
        peak_bytes: while rows move, a shard that stays holds its old and its new rows.
        limit_bytes: `ray.memory_per_shard`.
    """

    tables: tuple[TableMemory, ...]
    bound_bytes: int | None
    now_bytes: int | None
    after_bytes: int | None
    peak_bytes: int | None
    limit_bytes: int | None

    @property
    def fits(self) -> bool:
        """Whether rows that exist stay within the limit, at the peak too."""
        return self.limit_bytes is None or (self.peak_bytes or 0) <= self.limit_bytes

    @property
    def warning(self) -> str:
        """What may go wrong; empty if nothing does."""
        if not self.fits:
            return (
                f"rows that exist need {in_bytes(self.peak_bytes)} a shard, memory_per_shard is "
                f"{in_bytes(self.limit_bytes)}"
            )
        if (
            self.limit_bytes is not None
            and self.bound_bytes is not None
            and self.bound_bytes > self.limit_bytes
        ):
            return (
                f"with every id pushed a shard needs {in_bytes(self.bound_bytes)}, memory_per_shard is "
                f"{in_bytes(self.limit_bytes)}: add shards before it comes to that"
            )
        return ""


def memory(config: DeployConfig, status: pb.StatusReply | None = None) -> Memory:
    """What each shard of `config` needs; with the rows that exist, if a running cluster is given."""
    specs = {spec.name: spec for spec in (running_config(status).tables if status else ())}
    specs |= {spec.name: spec for spec in config.tables}
    tables = tuple(_table_memory(spec, config.shards, status) for spec in specs.values())
    bounds = [t.bound_bytes for t in tables]
    now, after, peak = None, None, None
    if status is not None:
        now = sum(t.now_bytes or 0 for t in tables)
        after = sum(t.after_bytes or 0 for t in tables)
        peak = now + after if config.shards != len(status.layout.shards) else now
    known = [b for b in bounds if b is not None]
    bound = sum(known) if len(known) == len(bounds) else None
    return Memory(tables, bound, now, after, peak, config.ray.memory_per_shard)


def _table_memory(spec: TableSpec, shards: int, status: pb.StatusReply | None) -> TableMemory:
    row = row_bytes(spec)
    v = spec.num_embeddings
    bound = None if v is None else -(-v // shards) * row
    if status is None:
        return TableMemory(spec.name, row, bound)
    held = [t for s in status.shards for t in s.statistics.tables if t.name == spec.name]
    now = max((t.bytes for t in held), default=0)
    if shards == len(status.layout.shards):
        return TableMemory(spec.name, row, bound, now, now)
    rows = sum(t.rows for t in held)
    return TableMemory(spec.name, row, bound, now, -(-rows // shards) * row)


def row_bytes(spec: TableSpec) -> int:
    """Bytes of one row on its shard: columns, slots, id and index."""
    return 4 * (spec.width + sum(spec.optimizer.slot_widths(spec.width))) + ROW_OVERHEAD_BYTES


def in_bytes(count: int | None) -> str:
    """`1.5 MiB`; `unknown` for None."""
    return "unknown" if count is None else ByteSize(count).human_readable(separator=" ")
