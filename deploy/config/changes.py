"""What a new config would do to a running cluster, and the memory that each shard needs before, after and meanwhile."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ...proto import rowloom_pb2 as pb
from ...proto.errors import InvalidRequest
from ...proto.spec import Schedule, TableEntry, TableSpec
from .config import DeployConfig, from_json
from .tables import plain, table_to_mapping

# Beside its columns a row has its id (8 bytes) and, at worst, 11.4 bytes of index: 4-byte slots, at least 35 % full.
ROW_OVERHEAD_BYTES = 20


@dataclass(frozen=True)
class Change:
    """One difference between the cluster and a config.

    Attributes:
        path: where in the config.
        action: scale, create, set_lr; keep: nothing is done; refused: the config cannot be applied, `reason` says why.
    """

    path: str
    old: Any
    new: Any
    action: Literal["scale", "create", "set_lr", "keep", "refused"]
    reason: str = ""

    def __str__(self) -> str:
        line = f"{self.path}: {self.old!r} -> {self.new!r}"
        return f"{line} ({self.action}{': ' + self.reason if self.reason else ''})"


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
            return f"rows that exist need {self.peak_bytes} bytes a shard, memory_per_shard is {self.limit_bytes}"
        if (
            self.limit_bytes is not None
            and self.bound_bytes is not None
            and self.bound_bytes > self.limit_bytes
        ):
            return (
                f"with every id pushed a shard needs {self.bound_bytes} bytes, memory_per_shard is "
                f"{self.limit_bytes}: add shards before it comes to that"
            )
        return ""


# -------------------------------------------------------------------------------------------------------- difference


def running_config(status: pb.StatusReply) -> DeployConfig:
    """The config that a cluster amounts to now: scalings, tables and learning rates since its start included."""
    config = from_json(status.config)
    tables = tuple(_as_it_runs(TableEntry.from_message(entry)) for entry in status.tables)
    return config.model_copy(update={"shards": len(status.layout.shards), "tables": tables})


def _as_it_runs(entry: TableEntry) -> TableSpec:
    optimizer = dataclasses.replace(entry.spec.optimizer, lr=entry.current_lr)
    return dataclasses.replace(entry.spec, optimizer=optimizer)


def diff(old: DeployConfig, new: DeployConfig) -> list[Change]:
    """What differs, and what `apply` would do about each."""
    changes = [
        change
        for path in DeployConfig.model_fields
        if path != "tables"
        for change in _plain_changes(path, getattr(old, path), getattr(new, path))
    ]
    mine, theirs = {s.name: s for s in old.tables}, {s.name: s for s in new.tables}
    for name, spec in theirs.items():
        if name not in mine:
            changes.append(Change(f"tables.{name}", None, table_to_mapping(spec), "create"))
        else:
            changes += _table_changes(mine[name], spec)
    gone = "it stays as it is; client.drop_table removes it"
    changes += [Change(f"tables.{n}", "present", None, "keep", gone) for n in mine if n not in theirs]
    return changes


def _plain_changes(path: str, old: Any, new: Any) -> list[Change]:
    if old == new:
        return []
    if hasattr(type(old), "model_fields"):
        parts = [(f"{path}.{key}", getattr(old, key), getattr(new, key)) for key in type(old).model_fields]
        return [change for part in parts for change in _plain_changes(*part)]
    if path == "shards":
        return [Change(path, old, new, "scale")]
    if path == "name":
        return [
            Change(
                path, old, new, "refused", "that is another cluster: `rowloom up` starts it beside this one"
            )
        ]
    return [
        Change(path, old, new, "refused", "fixed while the cluster runs: `rowloom down`, then `rowloom up`")
    ]


def _table_changes(old: TableSpec, new: TableSpec) -> list[Change]:
    path, changes = f"tables.{new.name}", []
    if type(old.optimizer) is type(new.optimizer) and old.optimizer.lr != new.optimizer.lr:
        values = plain(old.optimizer.lr), plain(new.optimizer.lr)
        if isinstance(new.optimizer.lr, Schedule):
            reason = "a schedule is taken when a table is made; give a number, or another table"
            changes.append(Change(f"{path}.optimizer.lr", *values, "refused", reason))
        else:
            changes.append(Change(f"{path}.optimizer.lr", *values, "set_lr"))
        new = dataclasses.replace(new, optimizer=dataclasses.replace(new.optimizer, lr=old.optimizer.lr))
    mine, theirs = table_to_mapping(old), table_to_mapping(new)
    reason = "fixed while the table exists: take another name, or drop the table first"
    changes += [
        Change(f"{path}.{k}", mine[k], theirs[k], "refused", reason) for k in mine if mine[k] != theirs[k]
    ]
    return changes


def refuse(changes: Sequence[Change]) -> None:
    """Raise InvalidRequest if any of the changes cannot be made."""
    bad = [f"{c.path}: {c.old!r} -> {c.new!r}: {c.reason}" for c in changes if c.action == "refused"]
    if bad:
        raise InvalidRequest("this config cannot be applied, nothing was changed:\n  " + "\n  ".join(bad))


# ------------------------------------------------------------------------------------------------------------ memory


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
