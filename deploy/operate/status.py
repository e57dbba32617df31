"""A cluster's state as plain values, and as tables for people."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

from ...proto import rowloom_pb2 as pb
from ...proto.spec import TableEntry
from ...server.access.quotas import KINDS
from ..config.memory import in_bytes
from ..config.storage_url import storage_folder
from ..config.tables import plain
from ..config.words import counted, shards_named
from ..observe.figures import at_least, sizes_of, told_by
from ..observe.quotas import quota_cells, quota_summary
from ..observe.targets import scheme_of
from ..standby.shown import IN_STEP, beside_in_words, may_have_rows, standby_in_words, standby_of
from .moves import in_progress, move_summary

if TYPE_CHECKING:
    from rich.console import RenderableType

    from ..config.config import DeployConfig
    from .planning import Plan

GOOD = ("serving", "moving")
PULLS_ONLY = "pulls only"  # its log failed
AGAIN = ("starting", "recovering")  # its process had ended: it is about to read its log, or reads it
MEMORY_ONLY = (
    "durability memory: a shard loses its rows with its process; `storage: FOLDER` in the config keeps them"
)
MEMORY_WITH_STORAGE = (
    "durability memory: a shard loses its rows with its process; `durability: process` keeps them in its log"
)
MEMORY_WITH_URL = (
    "durability memory: a shard loses its rows with its process; `durability: process` with a `storage` that is a "
    "folder keeps them in its log"
)
WITH_STANDBYS = "durability memory: rows are lost where a server and its standby end together, as with {}"
READABLE = (*GOOD, PULLS_ONLY)
WIDEST = 10_000  # no screen is wider
FOLDED = ("node", "address", "coordinator", "table", "cluster", "storage")  # columns whose words may be long


def in_memory(config: DeployConfig) -> str:
    """What ends with what, of a cluster without logs, and what the config would say to keep it."""
    if config.replicas:
        return WITH_STANDBYS.format("this machine" if config.launcher == "local" else "both their nodes")
    if not config.storage:
        return MEMORY_ONLY
    return MEMORY_WITH_URL if storage_folder(config.storage) is None else MEMORY_WITH_STORAGE


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
        "durability": status.durability,
        "snapshot": _snapshot(status.snapshot) if status.HasField("snapshot") else None,
        "earlier_snapshot": _snapshot(status.earlier_snapshot)
        if status.HasField("earlier_snapshot")
        else None,
        "version": status.version or None,
        "log_file": status.log_file or None,
        "metrics": status.metrics_address or None,
        "metrics_scheme": scheme_of(status) if status.metrics_address else None,
        "healthy": all(s["health"] in GOOD for s in shards),
        "unfinished": list(status.unfinished),
        "autoscale": status.autoscale or None,
        "drained": list(status.drained),
        "scaling": move_summary(status.scaling) if status.HasField("scaling") else None,
        "moving": in_progress(status.scaling) if status.HasField("scaling") else None,
        "shards": shards,
        "tables": [_table(TableEntry.from_message(e), status) for e in status.tables],
        "quotas": quota_summary(status),
    }


def not_serving(state: dict[str, Any], *, reads: bool = False) -> dict[int, str]:
    """Of a `summary`, the shards that do not serve: by index, in words. reads: only those that serve no pulls."""
    return {
        s["index"]: f"shard {s['index']} at {s['address']} is {health_in_words(s)}"
        for s in state["shards"]
        if s["health"] not in (READABLE if reads else GOOD)
    }


def health_in_words(shard: dict[str, Any]) -> str:
    """The health of a shard of a `summary`, and why it takes no pushes or has no rows, if that is known."""
    if shard["health"] == PULLS_ONLY:
        return f"{PULLS_ONLY}: its log failed: {shard['log_error']}"
    if shard.get("stays_dead"):
        return f"{shard['health']}: it cannot be started again yet: {shard['stays_dead']}"
    if shard.get("unread") and shard["health"] in AGAIN:
        return f"{shard['health']}: its log could not be read yet: {shard['unread']}"
    return f"lost: {shard['lost']}" if shard.get("lost") else shard["health"]


def stays_in_words(index: int, seconds: float, why: str) -> str:
    """In words, that a shard whose process ended so long ago could not be started again, and why."""
    return (
        f"shard {index} cannot be started again yet, since {seconds:.0f} s, and that is tried again and again: {why}. "
        "Its process had ended, and its rows are in its log"
    )


def is_counted(status: pb.ShardStatus) -> bool:
    """Whether a shard told of all its rows: not one that lost them, or is about to read them from its log."""
    return status.HasField("statistics") and status.health in READABLE


def living(state: dict[str, Any]) -> list[int]:
    """Of a `summary`, the indexes of the shards whose rows can be read."""
    return [s["index"] for s in state["shards"] if s["health"] in READABLE]


def lost(state: dict[str, Any]) -> list[dict[str, Any]]:
    """Of a `summary`, the shards whose rows are known to be gone."""
    return [s for s in without_server(state) if not may_have_rows(s)]


def without_server(state: dict[str, Any]) -> list[dict[str, Any]]:
    """The shards whose rows no server of theirs will have again, of which a standby may."""
    gone = ("lost",) if state["durability"] != "memory" else ("lost", "dead")  # the dead one's log has them
    return [s for s in state["shards"] if s["health"] in gone]


def _snapshot(newest: pb.NewestSnapshot) -> dict[str, Any]:
    return {
        "id": newest.id,
        "url": newest.url,
        "age_s": round(newest.age_s, 1),
        "created_s": round(newest.created_s, 3),
        "rows": newest.rows,
        "bytes": newest.bytes,
        "seconds": round(newest.seconds, 3) or None,
        "pause_s": round(newest.pause_s, 4) if newest.seconds else None,
    }


def in_time(seconds: float) -> str:
    """A time for people: 50 s, 12 min, 3 h, 5 days."""
    for size, word in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {word}"
    return f"{seconds:.0f} s"


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
        "lost": status.lost or None,
        "unread": status.unread or None,
        "stays_dead": status.stays_dead or None,
        "passed_snapshot": status.passed_snapshot or None,
        "passed_why": status.passed_why or None,
        "counted": is_counted(status),
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
        "log_bytes": now.log_bytes,
        "log_error": now.log_error or None,
        "braked_pushes": now.braked_pushes,
        "braked_s": round(now.braked_s, 3),
        "version": now.version or None,
        "log_file": now.log_file or None,
        "metrics": now.metrics_address or None,
        "standby": standby_of(status),
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
        "uncounted_shards": [s.shard.index for s in status.shards if not is_counted(s)],
        "owner": entry.owner or None,
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
    warned = [*_versions(state), state.get("storage_away"), beside_in_words(state), *_passed(state)]
    lines += [Text(said, "bold yellow") for said in warned if said]
    lines.append(Text(_durable(state)))
    lines += [Text(said) for said in _observed(state)]
    lines += [
        Text(f"shard {s['index']} is {health_in_words(s)}", "bold red")
        for s in state["shards"]
        if s["health"] == PULLS_ONLY or s.get("lost") or s.get("unread") or s.get("stays_dead")
    ]
    if state["moving"]:
        lines.append(Text(state["moving"], "bold yellow"))
    if state["autoscale"]:
        lines.append(Text(f"autoscale: {state['autoscale']}"))
    if state["drained"]:
        nodes = ", ".join(node[:8] for node in state["drained"])
        lines.append(
            Text(f"drained nodes, on which nothing is started: {nodes}; `rowloom undrain` uses one again")
        )
    lines += [Text(f"not finished yet: {one}", "bold yellow") for one in state["unfinished"]]
    parts = [_shards_table(state["shards"], narrow), render_tables(state["tables"], narrow=narrow)]
    if any(one[what]["quota"] is not None for one in state.get("quotas", ()) for what in KINDS):
        parts.append(_table_of([quota_cells(one) for one in state["quotas"]], ()))
    if any("hottest" in table for table in state["tables"]):
        parts.append(render_hottest({table["name"]: table["hottest"] for table in state["tables"]}))
    return Group(*lines, *parts)


def render_hottest(tables: dict[str, dict[str, Any]]) -> RenderableType:
    """The hottest ids of tables, as `observe/hot.py` has them for programs: an id a line, or why there are none."""
    from rich.console import Group
    from rich.text import Text

    ids = grid("table", ">hottest id", ">share", ">shard")
    notes: list[str] = []
    for name, hot in tables.items():
        for one in hot["ids"]:
            ids.add_row(name, str(one["id"]), f"{one['share']:.2%}", str(one["shard"]))
        if hot["ids"]:
            share, sampled = hot["ids"][0]["share"], hot["sampled_ids"]
            known = f"{share:.2%} is known to about {math.sqrt(share / sampled):.2%}"
            notes.append(f"{name}: {sampled:,} ids were looked at, so {known}")
        else:
            looked = f"no id stands out among the {hot['sampled_ids']:,} that were looked at"
            notes.append(f"{name}: hottest ids: {hot['unknown'] or looked}")
    return Group(*([ids] if ids.row_count else []), *map(Text, notes))


def _observed(state: dict[str, Any]) -> list[str]:
    """In words, where more is said."""
    log_file, metrics = state.get("log_file"), state.get("metrics")
    said = [f"log {log_file}; `rowloom logs` has those of all processes"] if log_file else []
    scheme = state.get("metrics_scheme") or "http"
    return said + ([f"console {scheme}://{metrics}/, metrics at /metrics"] if metrics else [])


def _versions(state: dict[str, Any]) -> list[str]:
    """In words, which servers run which version of rowloom; nothing where all that say so run the same."""
    by_version: dict[str, list[str]] = {}
    named = {"the coordinator": state, **{f"shard {s['index']}": s for s in state["shards"]}}
    for who, server in named.items():
        if server.get("version"):
            by_version.setdefault(server["version"], []).append(who)
    if len(by_version) < 2:
        return []
    each = "; ".join(f"{version}: {', '.join(who)}" for version, who in sorted(by_version.items()))
    return [f"servers run different versions of rowloom, as while they are started anew: {each}"]


def _passed(state: dict[str, Any]) -> list[str]:
    """In words, which shards could not read the newest snapshot when they were started again; nothing: none."""
    bad = [s for s in state["shards"] if s.get("passed_snapshot")]
    if not bad:
        return []
    return [
        f"{shards_named([s['index'] for s in bad])} could not read snapshot {bad[0]['passed_snapshot']} when started "
        f"again: {bad[0]['passed_why']}. No row is lost: an earlier snapshot and more of the log had all. Look at the "
        "disk, and take one that is not made upon it: `rowloom snapshot --full`"
    ]


def _durable(state: dict[str, Any]) -> str:
    """In words, what survives."""
    newest = state["snapshot"]
    mode = state["durability"] or "unknown"
    told = [s["log_bytes"] for s in state["shards"] if s.get("counted", True)]
    longest = at_least(
        in_bytes(max(told, default=0)), len(told) == len(state["shards"]), bool(told) or not state["shards"]
    )
    logs = "rows end with their shard's process" if mode == "memory" else f"longest log {longest}"
    in_step = [bool(s.get("standby")) and s["standby"]["state"] == IN_STEP for s in state["shards"]]
    if mode == "memory" and in_step and all(in_step):
        logs = "rows end with their shard's process and its standby"
    snapshot = f"{newest['id']}, {in_time(newest['age_s'])} old" if newest else "none"
    if (before := state.get("earlier_snapshot")) and not newest:
        age = in_time(before["age_s"])
        snapshot += f" of this cluster; its storage has {before['id']}, {age} old, of one before it"
    # Its files are not looked at for this: where they matter, the ways out do so.
    return f"durability {mode} ({logs})  newest snapshot taken: {snapshot}"


def _shards_table(shards: list[dict[str, Any]], narrow: bool) -> RenderableType:
    from rich.text import Text

    rows = [
        {
            "shard": str(s["index"]),
            "node": s["node"],
            "address": s["address"],
            "health": Text(s["health"], "green" if s["health"] in GOOD else "bold red"),
            **told_by(s),
            "standby": standby_in_words(s.get("standby")),
        }
        for s in shards
    ]
    if all(s.get("standby") is None for s in shards):
        rows = [{column: row[column] for column in row if column != "standby"} for row in rows]
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
    rows, size = sizes_of(table)
    return {
        "table": table["name"],
        "ids": "open" if ids is None else f"{ids:,}",
        "row": " x ".join(str(d) for d in table["row_shape"]) or "scalar",
        "partition": table["partition"],
        "optimizer": table["optimizer"],
        ">lr": str(next(iter(lr))) if isinstance(lr, dict) else f"{lr:g}",  # pyright: ignore[reportUnknownArgumentType]
        ">rows": rows,
        ">bytes": size,
        ">step": "-" if step is None or rows == "-" else f"{step:,}",
    }


def starts(config: DeployConfig) -> str:
    """In words, what `rowloom up` would start: as many shards as it goes on from, whatever the config says."""
    from .left import shards_at_start  # with fsspec, which not every command waits for

    tables = ", ".join(spec.name for spec in config.tables) or "none"
    ray = config.ray
    memory = f" and {in_bytes(ray.memory_per_shard)}" if ray.memory_per_shard else ""
    asked = (
        f", asking Ray for {ray.num_cpus_per_shard:g} CPU{memory} each" if config.launcher == "ray" else ""
    )
    return (
        f"cluster {config.name!r} is not running; `rowloom up` would start it: "
        f"{counted(shards_at_start(config), 'shard')} ({config.launcher}{asked}), tables: {tables}"
    )


def render_plan(plan: Plan, starts: str = "", unseen: Mapping[str, str] | None = None) -> RenderableType:
    """What would change, the memory that it takes, and what would be uneven.

    Args:
        plan: all that.
        starts: where no cluster runs, what `up` would start.
        unseen: by table, why it is not known how even it would be.
    """
    from rich.console import Group
    from rich.text import Text

    changes, memory = plan.changes, plan.memory
    colours = {"refused": "bold red", "keep": "dim"}
    lines = [Text(f"  {change}", colours.get(change.action, "green")) for change in changes]
    parts: list[RenderableType] = [Text(starts or "nothing to change")]
    if lines and not starts:
        parts = [Text("changes:"), *lines]
    problems = {"fault": "bold red", "warning": "bold yellow"}
    parts += [Text(one.lines(), problems.get(one.state, "")) for one in plan.told]
    # What is not there yet takes nothing now, and afterwards what is pushed.
    names = [">every id pushed"] if starts else [">now", ">after", ">every id pushed"]
    table = grid("memory per shard", ">bytes a row", *names)

    def known(*sizes: int | None) -> list[str]:
        return [in_bytes(size) for size in sizes[-len(names) :]]

    for t in memory.tables:
        table.add_row(t.name, str(t.row_bytes), *known(t.now_bytes, t.after_bytes, t.bound_bytes))
    table.add_section()
    table.add_row("all tables", "", *known(memory.now_bytes, memory.after_bytes, memory.bound_bytes))
    parts.append(table)
    if memory.peak_bytes is not None:
        parts.append(Text(f"at most while rows move: {in_bytes(memory.peak_bytes)} a shard"))
    if memory.standbys:
        parts.append(Text("the standby of a shard needs as much again, in a process of its own"))
    if memory.move is not None:
        move = memory.move
        bound = f"; max_extra_memory is {in_bytes(move.limit_bytes)}" if move.limit_bytes else ""
        parts.append(
            Text(
                f"{move.rows:,} rows move, {in_bytes(move.bytes)}. Until that is done they take up to "
                f"{in_bytes(move.extra_bytes)} more, of each shard about {in_bytes(move.extra_shard_bytes)}{bound}"
            )
        )
    if memory.limit_bytes is not None:
        parts.append(Text(f"memory_per_shard: {in_bytes(memory.limit_bytes)}"))
    if memory.warning and memory.fits:  # else it is a refusal
        parts.append(Text(memory.warning, "bold yellow"))
    parts += [Text(one.warning, "bold yellow") for one in plan.skew if one.warning]
    parts += [
        Text(f"table {name}: not known how even it would be: {why}") for name, why in (unseen or {}).items()
    ]
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
