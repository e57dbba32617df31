"""The memory that each shard needs: before a change, after it, and while rows move."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from pydantic import ByteSize

from ...proto import rowloom_pb2 as pb
from ...proto.spec import TableSpec
from .changes import running_config
from .config import DeployConfig

MARK_BYTES = 4  # of a row that is moved, on the shard that has it: when it changed last
LEAST_TABLE_BYTES = 4096  # that a table takes on a shard, however few rows it has there
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
class Move:
    """What rows that go to other owners take. All of them travel, also to the server that they are on.

    Attributes:
        rows: that move; bytes: of these with their ids and slots, on the way, each once.
        extra_bytes: of memory, beside the rows that serve, of all shards together, at the most.
        extra_shard_bytes: about, of each shard: it is less or more where ids are not spread evenly.
        limit_bytes: `limits.max_extra_memory`.
    """

    rows: int
    bytes: int
    extra_bytes: int
    extra_shard_bytes: int
    limit_bytes: int | None

    @property
    def refusal(self) -> str:
        """In words, why it is refused, and what helps; empty: it is not."""
        return too_much(self.extra_bytes, self.limit_bytes)


@dataclass(frozen=True)
class Memory:
    """What a shard needs.

    Attributes:
        bound_bytes: all tables with every id pushed; None if a table is open-ended.
        now_bytes, after_bytes: for the rows that exist; None when no cluster was asked.
        peak_bytes: while rows move, a shard that stays holds its old and its new rows.
        limit_bytes: `ray.memory_per_shard`.
        move: what moves, if rows do.
        standbys: of each shard; each needs as much again.
    """

    tables: tuple[TableMemory, ...]
    bound_bytes: int | None
    now_bytes: int | None
    after_bytes: int | None
    peak_bytes: int | None
    limit_bytes: int | None
    move: Move | None = None
    standbys: int = 0

    @property
    def fits(self) -> bool:
        """Whether rows that exist stay within the limits, at the peak too."""
        if self.move is not None and self.move.refusal:
            return False
        return self.limit_bytes is None or (self.peak_bytes or 0) <= self.limit_bytes

    @property
    def warning(self) -> str:
        """What may go wrong; empty if nothing does."""
        if self.move is not None and self.move.refusal:
            return self.move.refusal
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


def memory(config: DeployConfig, status: pb.StatusReply | None = None, *, moves: bool = False) -> Memory:
    """What each shard of `config` needs; with the rows that exist, if a running cluster is given.

    moves: rows go to other owners, also if there are as many shards.
    """
    specs = {spec.name: spec for spec in (running_config(status).tables if status else ())}
    specs |= {spec.name: spec for spec in config.tables}
    moves = status is not None and (moves or config.shards != len(status.layout.shards))
    tables = tuple(_table_memory(spec, config.shards, status, moves) for spec in specs.values())
    bounds = [t.bound_bytes for t in tables]
    now, after, peak, move = None, None, None, None
    if status is not None:
        now = sum(t.now_bytes or 0 for t in tables)
        after = sum(t.after_bytes or 0 for t in tables)
        peak = now + after if moves else now
        move = _move(config, specs, status) if moves else None
    known = [b for b in bounds if b is not None]
    bound = sum(known) if len(known) == len(bounds) else None
    return Memory(tables, bound, now, after, peak, config.ray.memory_per_shard, move, config.replicas)


def _move(config: DeployConfig, specs: Mapping[str, TableSpec], status: pb.StatusReply) -> Move:
    counts = [(t.name, t.rows) for s in status.shards for t in s.statistics.tables]
    held = [(specs[name], rows) for name, rows in counts if name in specs]
    extra = extra_bytes(held, len(specs), config.shards)
    travel = sum(rows * (row_bytes(spec) - ROW_OVERHEAD_BYTES + 8) for spec, rows in held)
    total = sum(rows for _, rows in held)
    return Move(total, travel, extra, -(-extra // config.shards), config.limits.max_extra_memory)


def extra_bytes(held: Iterable[tuple[TableSpec, int]], tables: int, shards: int) -> int:
    """Memory that a move takes of all shards together, at the most: each row stands there twice until it is done.

    Args:
        held: (spec, rows that exist) of tables, on any of their shards.
        tables: how many there are.
        shards: how many there will be.
    """
    rows = sum(count * (row_bytes(spec) + MARK_BYTES) for spec, count in held)
    return rows + tables * shards * LEAST_TABLE_BYTES


def too_much(needed: int, limit: int | None, *, so_far: bool = False) -> str:
    """In words, that a move takes more than it may, and what helps; empty: it does not. so_far: it is under way."""
    if not limit or needed <= limit:
        return ""
    what = "rows that have come take" if so_far else "rows that move would take up to"
    return (
        f"{what} {in_bytes(needed)} ({needed} bytes) of all shards together, beside the rows that serve, and "
        f"limits.max_extra_memory is {in_bytes(limit)}: allow that much, or drop a table; or go by `rowloom snapshot`, "
        "`rowloom down` and `rowloom restore` with the new config, which takes no extra memory, and trainers wait"
    )


def _table_memory(spec: TableSpec, shards: int, status: pb.StatusReply | None, moves: bool) -> TableMemory:
    row = row_bytes(spec)
    v = spec.num_embeddings
    bound = None if v is None else -(-v // shards) * row
    if status is None:
        return TableMemory(spec.name, row, bound)
    held = [t for s in status.shards for t in s.statistics.tables if t.name == spec.name]
    now = max((t.bytes for t in held), default=0)
    if not moves:
        return TableMemory(spec.name, row, bound, now, now)
    rows = sum(t.rows for t in held)
    return TableMemory(spec.name, row, bound, now, -(-rows // shards) * row)


def row_bytes(spec: TableSpec) -> int:
    """Bytes of one row on its shard: columns, slots, id and index."""
    return 4 * (spec.width + sum(spec.optimizer.slot_widths(spec.width))) + ROW_OVERHEAD_BYTES


def in_bytes(count: int | None) -> str:
    """`1.5 MiB`; `unknown` for None."""
    return "unknown" if count is None else ByteSize(count).human_readable(separator=" ")
