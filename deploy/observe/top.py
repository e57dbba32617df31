"""The screen of `rowloom top`: shards and tables, as wide as the terminal allows."""

from __future__ import annotations

import itertools
import time
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

from ..config.memory import in_bytes
from ..config.words import counted
from ..operate.status import GOOD, WIDEST, grid, health_in_words, in_time
from ..standby.shown import standby_in_words
from .figures import sizes_of

if TYPE_CHECKING:
    from rich.console import RenderableType

# What is left out first where there is no room, together.
_STEPS = (
    (),
    (">lanes", ">pull p50", ">push p50"),
    (">in/s", ">out/s", ">p50", ">bytes"),
    ("standby", ">log", ">push p99"),
    (">memory",),
)
LEFT_OUT = tuple(tuple(itertools.chain(*_STEPS[: k + 1])) for k in range(len(_STEPS)))
BLOCKS = "▁▂▃▄▅▆▇█"
LAST_EVENTS = 5


def render_top(
    state: dict[str, Any],
    width: int,
    note: str = "",
    samples: Sequence[dict[str, Any]] = (),
    events: Sequence[dict[str, Any]] = (),
) -> RenderableType:
    """An `activity` for people.

    Args:
        state: the activity.
        width: of the screen, in columns.
        note: what is to be said beside it.
        samples: as a `History` has them; none: no lines of what was.
        events: the same.
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
        lines.append(Text(_moves(state["move"]), "bold yellow"))
    lines += [Text(f"not finished yet: {one}", "bold yellow") for one in state["unfinished"]]
    lines += [
        Text(
            f"shard {s['index']} is {health_in_words(s)}; `rowloom status` says what can be done", "bold red"
        )
        for s in state["shards"]
        if s["health"] not in GOOD
    ]
    lines += [Text(line) for line in _history(samples, width)]
    told = [Text(f"{_clock(one['time'])} {one['text']}") for one in events[-LAST_EVENTS:]]
    return Group(
        *lines,
        Text(""),
        _fitting([_shard_cells(s) for s in state["shards"]], width),
        Text(""),
        _fitting([_table_cells(t) for t in [*state["tables"], *state["other_tables"]]], width),
        *([Text(""), *told] if told else []),
    )


def _moves(move: dict[str, Any]) -> str:
    """In words, how far rows that move are."""
    said = f"rows move: {move['state']}"
    if not move["rows"] + move["rows_left"]:  # nobody has counted them yet
        return said
    said += f", {move['rows']:,} moved, {move['rows_left']:,} left"
    if move["rows_per_s"]:
        said += f", {move['rows_per_s']:,.0f} rows/s"
    return said if move["eta_s"] is None else f"{said}, about {in_time(move['eta_s'])} more"


def _history(samples: Sequence[dict[str, Any]], width: int) -> list[str]:
    """How many rows a second were pulled and pushed until now, the newest at the end."""
    if len(samples) < 2:
        return []
    lines = [(name, [one[f"{name}_rows_per_s"] for one in samples]) for name in ("pulled", "pushed")]
    ends = [f" at most {max(rates):,.0f} rows/s" for _, rates in lines]
    room = max(width - len("pulled ") - max(map(len, ends)), 1)
    return [f"{name} {sparkline(rates[-room:])}{end}" for (name, rates), end in zip(lines, ends, strict=True)]


def sparkline(values: Sequence[float]) -> str:
    """A bar for each value, of the height that it has beside the largest; 0 is a blank."""
    most = max(values, default=0.0) or 1.0
    bars = (BLOCKS[min(int(len(BLOCKS) * value / most), len(BLOCKS) - 1)] for value in values)
    return "".join(bar if value > 0 else " " for bar, value in zip(bars, values, strict=True))


def _clock(seconds: float) -> str:
    return time.strftime("%H:%M:%S", time.localtime(seconds))


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
    every = dict.fromkeys(column for row in rows for column in row)
    columns = [column for column in every if column not in left_out]
    table = grid(*columns, gap=1 if left_out else 2)
    for row in rows:
        table.add_row(*(row.get(column, "none") for column in columns))
    return table


def _shard_cells(shard: dict[str, Any]) -> dict[str, Any]:
    from rich.text import Text

    log = "failed" if shard["log_error"] else in_bytes(shard["log_bytes"]) if shard["log_bytes"] else "-"
    told = {
        ">rows": f"{shard['rows']:,}",
        ">bytes": in_bytes(shard["bytes"]),
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
    standby = shard.get("standby")
    kept = {} if standby is None else {"standby": standby_in_words(standby)}
    return {"shard": str(shard["index"]), "health": health, **told, **kept}


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
