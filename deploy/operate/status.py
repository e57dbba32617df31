"""A cluster's state as plain values, and as tables for people."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from ...proto import rowloom_pb2 as pb
from ...proto.spec import TableEntry
from ..config.memory import in_bytes
from ..config.tables import plain
from ..config.words import counted

if TYPE_CHECKING:
    from rich.console import RenderableType

    from ..config.changes import Change
    from ..config.config import DeployConfig
    from ..config.memory import Memory

GOOD = ("serving", "moving")
WIDEST = 10_000  # no screen is wider
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


def ways_out(state: dict[str, Any], options: str = "") -> str:
    """In words, what can be done about the shards that do not serve; empty if all do.

    Args:
        state: a `summary`.
        options: of commands that mean this cluster, such as " --name ads".
    """
    bad = [s for s in state["shards"] if s["health"] not in GOOD]
    still = [s for s in bad if s["health"] == "stopped"]
    lost = [s for s in bad if s["health"] != "stopped"]
    said = "".join(
        f". The process of shard {s['index']} stands still (as by SIGSTOP) and holds its rows: `kill -CONT {s['pid']}` "
        f"on {s['node']} lets it go on"
        for s in still
    )
    if not lost:
        return said
    accept = " ".join(f"--accept-loss {s['index']}" for s in lost)
    unsure = any(s["health"] not in ("lost", "dead") for s in lost)
    hint = " One that is unreachable may come back: try again first." if unsure else ""
    return (
        f"{said}. What a lost or dead shard held is gone.{hint} The ways out: "
        f"`rowloom export TABLE FILE --partial{options}` saves the rows of the other shards; "
        f"`rowloom recover {accept}{options}` makes it anew, from initial values, "
        f"and leaves the others as they are; `rowloom down{options}`, then `rowloom up`, starts all anew, and all rows "
        "are lost"
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
        "pid": status.pid,
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
        "step": max((t.step for t in held), default=0) if spec.optimizer.counts_steps else None,
    }


# ----------------------------------------------------------------------------------------------------------- for people


def render_status(state: dict[str, Any], width: int | None = None) -> RenderableType:
    """`summary` as two tables.

    Args:
        state: the summary.
        width: of the screen, in columns; what is wider leaves out what matters less. None: everything is shown.
    """
    from rich.console import Console

    whole = _render(state, narrow=False)
    if width is None:
        return whole
    screen = Console(width=WIDEST)
    return whole if screen.measure(whole).maximum <= width else _render(state, narrow=True)


def _render(state: dict[str, Any], *, narrow: bool) -> RenderableType:
    from rich.console import Group
    from rich.text import Text

    health = {True: ("healthy", "green"), False: ("NOT HEALTHY", "bold red")}[state["healthy"]]
    place = f"coordinator {state['coordinator']}  config {state['config_hash']}"
    size = f"  {counted(len(state['shards']), 'shard')} ({state['launcher']})  epoch {state['epoch']}  "
    lines = [Text.assemble((state["name"], "bold"), size, "" if narrow else f"{place}  ", health)]
    if narrow:
        lines.append(Text(place))
    lines += [Text(f"not finished yet: {one}", "bold yellow") for one in state["unfinished"]]
    return Group(
        *lines, _shards_table(state["shards"], narrow), render_tables(state["tables"], narrow=narrow)
    )


def _shards_table(shards: list[dict[str, Any]], narrow: bool) -> RenderableType:
    from rich.text import Text

    rows = [
        {
            "shard": str(s["index"]),
            "node": s["node"],
            "address": s["address"],
            "health": Text(s["health"], "green" if s["health"] in GOOD else "bold red"),
            "epoch": str(s["epoch"]),
            ">rows": f"{s['rows']:,}",
            ">bytes": in_bytes(s["bytes"]),
            ">process": in_bytes(s["resident_bytes"]),
            ">pull/s": f"{s['pulled_rows_per_s']:,.0f}",
            ">push/s": f"{s['pushed_rows_per_s']:,.0f}",
        }
        for s in shards
    ]
    return _table_of(rows, ("node", "epoch", ">bytes", ">process") if narrow else ())


def _table_of(rows: list[dict[str, Any]], left_out: Collection[str]) -> RenderableType:
    """Rows of cells by column, without the columns that are left out. Narrow if there are any such."""
    columns = [column for column in rows[0] if column not in left_out] if rows else []
    table = grid(*columns, gap=1 if left_out else 2)
    for row in rows:
        table.add_row(*(row[column] for column in columns))
    return table


def render_tables(tables: list[dict[str, Any]], *, narrow: bool = False) -> RenderableType:
    """The tables of a `summary`. narrow: without what matters less."""
    from rich.text import Text

    if not tables:
        return Text("no tables")
    return _table_of([_cells(t) for t in tables], ("partition", ">bytes") if narrow else ())


def _cells(table: dict[str, Any]) -> dict[str, str]:
    ids, lr, step = table["num_embeddings"], table["lr"], table["step"]
    return {
        "table": table["name"],
        "ids": "open" if ids is None else f"{ids:,}",
        "row": " x ".join(str(d) for d in table["row_shape"]) or "scalar",
        "partition": table["partition"],
        "optimizer": table["optimizer"],
        ">lr": str(next(iter(lr))) if isinstance(lr, dict) else f"{lr:g}",  # pyright: ignore[reportUnknownArgumentType]
        ">rows": f"{table['rows']:,}",
        ">bytes": in_bytes(table["bytes"]),
        ">step": "-" if step is None else f"{step:,}",
    }


def starts(config: DeployConfig) -> str:
    """In words, what `rowloom up` would start."""
    tables = ", ".join(spec.name for spec in config.tables) or "none"
    ray = config.ray
    memory = f" and {in_bytes(ray.memory_per_shard)}" if ray.memory_per_shard else ""
    asked = (
        f", asking Ray for {ray.num_cpus_per_shard:g} CPU{memory} each" if config.launcher == "ray" else ""
    )
    return (
        f"cluster {config.name!r} is not running; `rowloom up` would start it: {counted(config.shards, 'shard')} "
        f"({config.launcher}{asked}), tables: {tables}"
    )


def render_plan(changes: list[Change], memory: Memory, starts: str = "") -> RenderableType:
    """What would change, and the memory that it takes. starts: where no cluster runs, what `up` would start."""
    from rich.console import Group
    from rich.text import Text

    colours = {"refused": "bold red", "keep": "dim"}
    lines = [Text(f"  {change}", colours.get(change.action, "green")) for change in changes]
    parts: list[RenderableType] = [Text(starts or "nothing to change")]
    if lines and not starts:
        parts = [Text("changes:"), *lines]
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


def grid(*columns: str, gap: int = 2):
    """A table without lines; columns that start with > are numbers. gap: between columns."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, gap, 0, 0))
    for column in columns:
        # What does not fit is folded: half an address is none. A number stands in one piece as long as there is room.
        justify = "right" if column.startswith(">") else "left"
        whole = column not in FOLDED
        table.add_column(column.removeprefix(">"), justify=justify, overflow="fold", no_wrap=whole)
    return table
