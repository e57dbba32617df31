"""A cluster's state as plain values, and as tables for people."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...proto import rowloom_pb2 as pb
from ...proto.spec import TableEntry
from ..config.memory import in_bytes
from ..config.tables import plain

if TYPE_CHECKING:
    from rich.console import RenderableType

    from ..config.changes import Change
    from ..config.memory import Memory

GOOD = ("serving", "moving")


def summary(status: pb.StatusReply, earlier: pb.StatusReply | None = None) -> dict[str, Any]:
    """What `rowloom status --json` prints.

    Args:
        status: as the coordinator gives it.
        earlier: the same a moment ago; rates are from then to now. None: since each shard started.
    """
    before = {s.shard.incarnation: s.statistics for s in earlier.shards} if earlier else {}
    shards = [_shard(s, before.get(s.shard.incarnation)) for s in status.shards]
    return {
        "name": status.name,
        "cluster_id": status.layout.cluster_id,
        "coordinator": status.layout.coordinator,
        "launcher": status.launcher,
        "config_hash": status.config_hash,
        "epoch": status.layout.epoch,
        "healthy": all(s["health"] in GOOD for s in shards),
        "shards": shards,
        "tables": [_table(TableEntry.from_message(e), status) for e in status.tables],
    }


def _shard(status: pb.ShardStatus, before: pb.StatisticsReply | None) -> dict[str, Any]:
    now = status.statistics
    seconds = now.uptime_s - (before.uptime_s if before else 0.0)

    def rate(field: str) -> float:
        done = getattr(now, field) - (getattr(before, field) if before else 0)
        return round(done / seconds, 1) if seconds > 0 else 0.0

    return {
        "index": status.shard.index,
        "node": status.node,
        "address": status.shard.address,
        "incarnation": f"{status.shard.incarnation:016x}",
        "health": status.health,
        "epoch": now.epoch,
        "rows": sum(t.rows for t in now.tables),
        "bytes": sum(t.bytes for t in now.tables),
        "resident_bytes": now.resident_bytes,
        "pulled_rows_per_s": rate("pulled_rows"),
        "pushed_rows_per_s": rate("pushed_rows"),
        "pulls": now.pulls,
        "pushes": now.pushes,
        "refused": now.refused,
        "uptime_s": round(now.uptime_s, 1),
        "cpu_s": round(now.cpu_s, 2),
    }


def _table(entry: TableEntry, status: pb.StatusReply) -> dict[str, Any]:
    held = [t for s in status.shards for t in s.statistics.tables if t.table == entry.number]
    spec = entry.spec
    return {
        "name": spec.name,
        "num_embeddings": spec.num_embeddings,
        "row_shape": list(spec.row_shape),
        "partition": spec.partition,
        "optimizer": type(spec.optimizer).__name__,
        "lr": plain(entry.current_lr),
        "rows": sum(t.rows for t in held),
        "bytes": sum(t.bytes for t in held),
        "step": max((t.step for t in held), default=0),
    }


# ----------------------------------------------------------------------------------------------------------- for people


def render_status(state: dict[str, Any]) -> RenderableType:
    """`summary` as two tables."""
    from rich.console import Group
    from rich.text import Text

    health = {True: ("healthy", "green"), False: ("NOT HEALTHY", "bold red")}[state["healthy"]]
    head = Text.assemble(
        (state["name"], "bold"),
        f"  {len(state['shards'])} shards ({state['launcher']})  epoch {state['epoch']}"
        f"  coordinator {state['coordinator']}  config {state['config_hash']}  ",
        health,
    )
    return Group(head, _shards_table(state["shards"]), _tables_table(state["tables"]))


def _shards_table(shards: list[dict[str, Any]]) -> RenderableType:
    from rich.text import Text

    table = _grid(
        "shard", "node", "address", "health", "epoch", ">rows", ">bytes", ">process", ">pull/s", ">push/s"
    )
    for s in shards:
        table.add_row(
            str(s["index"]),
            s["node"],
            s["address"],
            Text(s["health"], "green" if s["health"] in GOOD else "bold red"),
            str(s["epoch"]),
            f"{s['rows']:,}",
            in_bytes(s["bytes"]),
            in_bytes(s["resident_bytes"]),
            f"{s['pulled_rows_per_s']:,.0f}",
            f"{s['pushed_rows_per_s']:,.0f}",
        )
    return table


def _tables_table(tables: list[dict[str, Any]]) -> RenderableType:
    from rich.text import Text

    if not tables:
        return Text("no tables")
    table = _grid("table", "ids", "row", "partition", "optimizer", ">lr", ">rows", ">bytes", ">step")
    for t in tables:
        ids = "open" if t["num_embeddings"] is None else f"{t['num_embeddings']:,}"
        shape = " x ".join(str(d) for d in t["row_shape"]) or "scalar"
        lr = next(iter(t["lr"])) if isinstance(t["lr"], dict) else f"{t['lr']:g}"  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
        numbers = [lr, f"{t['rows']:,}", in_bytes(t["bytes"]), f"{t['step']:,}"]  # pyright: ignore[reportUnknownVariableType]
        table.add_row(t["name"], ids, shape, t["partition"], t["optimizer"], *numbers)  # pyright: ignore[reportUnknownArgumentType]
    return table


def render_plan(changes: list[Change], memory: Memory) -> RenderableType:
    """What would change, and the memory that it takes."""
    from rich.console import Group
    from rich.text import Text

    colours = {"refused": "bold red", "keep": "dim"}
    lines = [Text(f"  {change}", colours.get(change.action, "green")) for change in changes]
    parts: list[RenderableType] = [Text("changes:"), *lines] if lines else [Text("nothing to change")]
    table = _grid("memory per shard", ">bytes a row", ">now", ">after", ">every id pushed")
    for t in memory.tables:
        table.add_row(t.name, str(t.row_bytes), *map(in_bytes, (t.now_bytes, t.after_bytes, t.bound_bytes)))
    table.add_section()
    table.add_row(
        "all tables", "", *map(in_bytes, (memory.now_bytes, memory.after_bytes, memory.bound_bytes))
    )
    parts.append(table)
    if memory.peak_bytes is not None:
        parts.append(Text(f"at most while rows move: {in_bytes(memory.peak_bytes)} a shard"))
    if memory.limit_bytes is not None:
        parts.append(Text(f"memory_per_shard: {in_bytes(memory.limit_bytes)}"))
    if memory.warning:
        parts.append(Text(memory.warning, "bold yellow"))
    return Group(*parts)


def _grid(*columns: str):
    """A table without lines; columns that start with > are numbers."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for column in columns:
        table.add_column(column.removeprefix(">"), justify="right" if column.startswith(">") else "left")
    return table
