"""The screen of `rowloom top`: shards and tables, as wide as the terminal allows."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from ..config.memory import in_bytes
from ..config.words import counted
from ..operate.status import GOOD, WIDEST, grid, health_in_words, in_time
from .figures import sizes_of

if TYPE_CHECKING:
    from rich.console import RenderableType

# What is left out first where there is no room, together.
LEFT_OUT = (
    (),
    (">lanes", ">pull p50", ">push p50"),
    (">lanes", ">pull p50", ">push p50", ">in/s", ">out/s", ">p50", ">bytes"),
    (">lanes", ">pull p50", ">push p50", ">in/s", ">out/s", ">p50", ">bytes", ">memory", ">log", ">push p99"),
)


def render_top(state: dict[str, Any], width: int, note: str = "") -> RenderableType:
    """An `activity` for people.

    Args:
        state: the activity.
        width: of the screen, in columns.
        note: what is to be said beside it.
    """
    from rich.console import Group
    from rich.text import Text

    health = ("healthy", "green") if state["healthy"] else ("NOT HEALTHY", "bold red")
    shards = counted(len(state["shards"]), "shard")
    lines = [Text.assemble((state["name"], "bold"), f"  {shards}  epoch {state['epoch']}  ", health)]
    lines.append(Text(_kept(state)))
    if note:
        lines.append(Text(note, "bold red"))
    if state["move"] is not None:
        move = state["move"]
        said = f"rows move: {move['state']}"
        if move["rows"] + move["rows_left"]:  # else nobody has counted them yet
            said += f", {move['rows']:,} moved, {move['rows_left']:,} left"
        lines.append(Text(said, "bold yellow"))
    lines += [Text(f"not finished yet: {one}", "bold yellow") for one in state["unfinished"]]
    lines += [
        Text(
            f"shard {s['index']} is {health_in_words(s)}; `rowloom status` says what can be done", "bold red"
        )
        for s in state["shards"]
        if s["health"] not in GOOD
    ]
    return Group(
        *lines,
        Text(""),
        _fitting([_shard_cells(s) for s in state["shards"]], width),
        Text(""),
        _fitting([_table_cells(t) for t in [*state["tables"], *state["other_tables"]]], width),
    )


def _kept(state: dict[str, Any]) -> str:
    """In words, what survives."""
    newest = state["snapshot"]
    snapshot = f"newest snapshot {in_time(newest['age_s'])} old" if newest else "no snapshot"
    return f"durability {state['durability'] or 'unknown'}  {snapshot}"


def _fitting(rows: list[dict[str, Any]], width: int) -> RenderableType:
    """A table as wide as there is room for; of no rows, that there are none."""
    from rich.console import Console
    from rich.text import Text

    if not rows:
        return Text("no tables yet")
    screen = Console(width=WIDEST)
    for left_out in LEFT_OUT[:-1]:
        whole = _grid(rows, left_out)
        if screen.measure(whole).maximum <= width:
            return whole
    return _grid(rows, LEFT_OUT[-1])


def _grid(rows: list[dict[str, Any]], left_out: Collection[str]) -> RenderableType:
    columns = [column for column in rows[0] if column not in left_out]
    table = grid(*columns, gap=1 if left_out else 2)
    for row in rows:
        table.add_row(*(row[column] for column in columns))
    return table


def _shard_cells(shard: dict[str, Any]) -> dict[str, Any]:
    from rich.text import Text

    log = "failed" if shard["log_error"] else in_bytes(shard["log_bytes"]) if shard["log_bytes"] else "-"
    told = {
        ">pull/s": f"{shard['pulled_rows_per_s']:,.0f}",
        ">push/s": f"{shard['pushed_rows_per_s']:,.0f}",
        ">in/s": in_bytes(shard.get("received_bytes_per_s", 0)),
        ">out/s": in_bytes(shard.get("sent_bytes_per_s", 0)),
        ">p50": _in_ms(shard.get("p50_ms")),
        ">p99": _in_ms(shard.get("p99_ms")),
        ">memory": in_bytes(shard["resident_bytes"]),
        ">log": log,
        ">lanes": str(shard.get("lane_connections", 0)),
    }
    if "sent_bytes_per_s" not in shard:  # it does not answer, and has told nothing
        told = dict.fromkeys(told, "-")
    health = Text(shard["health"], "green" if shard["health"] in GOOD else "bold red")
    return {"shard": str(shard["index"]), "health": health, **told}


def _table_cells(table: dict[str, Any]) -> dict[str, str]:
    pull, push = table["pull"], _worst(table["push"], table["step"])
    skew, hottest = table["skew"], table.get("hottest_share")
    rows, size = sizes_of(table) if "rows" in table else ("-", "-")
    return {
        "table": table["name"],
        ">rows": rows,
        ">bytes": size,
        ">pull/s": f"{table['pulled_rows_per_s']:,.0f}",
        ">push/s": f"{table['pushed_rows_per_s']:,.0f}",
        ">pull p50": _in_ms(pull["p50_ms"]),
        ">pull p99": _in_ms(pull["p99_ms"]),
        ">push p50": _in_ms(push["p50_ms"]),
        ">push p99": _in_ms(push["p99_ms"]),
        ">skew": "-" if skew is None else f"{skew:.2f}",
        ">hottest": "-" if hottest is None else f"{hottest:.1%}",
    }


def _worst(*some: dict[str, float | None]) -> dict[str, float | None]:
    """Of pushes and steps, the slower."""
    return {name: max((one[name] for one in some if one[name] is not None), default=None) for name in some[0]}  # type: ignore[type-var]


def _in_ms(ms: float | None) -> str:
    if ms is None:
        return "-"
    return f"{ms:.2f}ms" if ms < 10 else f"{ms:,.0f}ms"
