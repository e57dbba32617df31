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
    from ..config.config import DeployConfig
    from ..config.memory import Memory

GOOD = ("serving", "moving")
FOLDED = ("node", "address", "coordinator", "table", "cluster")  # columns whose words may be long


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
        "unfinished": list(status.unfinished),
        "shards": shards,
        "tables": [_table(TableEntry.from_message(e), status) for e in status.tables],
    }


def not_serving(state: dict[str, Any]) -> dict[int, str]:
    """Of a `summary`, the shards that do not serve: by index, in words."""
    return {
        s["index"]: f"shard {s['index']} at {s['address']} is {s['health']}"
        for s in state["shards"]
        if s["health"] not in GOOD
    }


def living(state: dict[str, Any]) -> list[int]:
    """Of a `summary`, the indexes of the shards that serve."""
    return [s["index"] for s in state["shards"] if s["health"] in GOOD]


def ways_out(state: dict[str, Any]) -> str:
    """In words, what can be done about the shards that do not serve; empty if all do."""
    bad = [s for s in state["shards"] if s["health"] not in GOOD]
    if not bad:
        return ""
    accept = " ".join(f"--accept-loss {s['index']}" for s in bad)
    hint = " One that is unreachable may come back: try again first." if bad[0]["health"] != "lost" else ""
    return (
        f". What a lost shard held is gone.{hint} The ways out: `rowloom export TABLE FILE --partial` saves the rows "
        f"of the other shards; `rowloom recover {accept}` makes it anew, from initial values, and leaves the others "
        "as they are; `rowloom down`, then `rowloom up`, starts all anew, and all rows are lost"
    )


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
    left = [Text(f"not finished yet: {one}", "bold yellow") for one in state["unfinished"]]
    return Group(head, *left, _shards_table(state["shards"]), render_tables(state["tables"]))


def _shards_table(shards: list[dict[str, Any]]) -> RenderableType:
    from rich.text import Text

    table = grid(
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


def render_tables(tables: list[dict[str, Any]]) -> RenderableType:
    """The tables of a `summary`."""
    from rich.text import Text

    if not tables:
        return Text("no tables")
    table = grid("table", "ids", "row", "partition", "optimizer", ">lr", ">rows", ">bytes", ">step")
    for t in tables:
        ids = "open" if t["num_embeddings"] is None else f"{t['num_embeddings']:,}"
        shape = " x ".join(str(d) for d in t["row_shape"]) or "scalar"
        lr = next(iter(t["lr"])) if isinstance(t["lr"], dict) else f"{t['lr']:g}"  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
        numbers = [lr, f"{t['rows']:,}", in_bytes(t["bytes"]), f"{t['step']:,}"]  # pyright: ignore[reportUnknownVariableType]
        table.add_row(t["name"], ids, shape, t["partition"], t["optimizer"], *numbers)  # pyright: ignore[reportUnknownArgumentType]
    return table


def starts(config: DeployConfig) -> str:
    """In words, what `rowloom up` would start."""
    tables = ", ".join(spec.name for spec in config.tables) or "none"
    ray = config.ray
    memory = f" and {in_bytes(ray.memory_per_shard)}" if ray.memory_per_shard else ""
    asked = (
        f", asking Ray for {ray.num_cpus_per_shard:g} CPU{memory} each" if config.launcher == "ray" else ""
    )
    return (
        f"cluster {config.name!r} is not running; `rowloom up` would start it: {config.shards} shards "
        f"({config.launcher}{asked}), tables: {tables}"
    )


def render_plan(changes: list[Change], memory: Memory, starts: str = "") -> RenderableType:
    """What would change, and the memory that it takes. starts: where no cluster runs, what `up` would start."""
    from rich.console import Group
    from rich.text import Text

    colours = {"refused": "bold red", "keep": "dim"}
    lines = [Text(f"  {change}", colours.get(change.action, "green")) for change in changes]
    parts: list[RenderableType] = (
        [Text("changes:"), *lines] if lines else [Text(starts or "nothing to change")]
    )
    table = grid("memory per shard", ">bytes a row", ">now", ">after", ">every id pushed")
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


def grid(*columns: str):
    """A table without lines; columns that start with > are numbers."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for column in columns:
        # What does not fit is folded: half an address is none. A number stands in one piece as long as there is room.
        justify = "right" if column.startswith(">") else "left"
        whole = column not in FOLDED
        table.add_column(column.removeprefix(">"), justify=justify, overflow="fold", no_wrap=whole)
    return table
