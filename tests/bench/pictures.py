"""Pictures of a comparison: bars beside rivals, time against batch size, rate against number of servers."""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

OURS = ("#1f6fb4", "#3a9ad9", "#9dc3e6")  # a carrier each
THEIRS = ("#d1495b", "#edae49", "#66a182", "#8d6a9f", "#a0522d")
SOCKETS = "#b8b8b8"


def draw(results: Sequence[dict[str, Any]], folder: Path) -> list[Path]:
    """Draw what the results allow: one of `compare` for each number of servers. Returns the files."""
    paths = [bars(results[0], folder / "rivals.png"), latency(results[0], folder / "latency.png")]
    if len(results) > 1:
        paths.append(shards(results, folder / "shards.png"))
    return paths


def bars(result: dict[str, Any], path: Path) -> Path:
    """Million rows a second of every system, one panel for each op that rivals have too, and distribution."""
    shared = [row for row in result["results"] if any(not n.startswith("rowloom") for n in row["systems"])]
    result = {**result, "results": shared or result["results"]}
    (figure, axes), colours = _panels(result), _colours(result)
    names = list(result["systems"])
    for (op, kind), panel in axes.items():
        some = [row for row in result["results"] if (row["op"], row["distribution"]) == (op, kind)]
        width = 0.8 / len(names)
        for at, name in enumerate(names):
            rates = [row["systems"].get(name, {}).get("rows_per_s", 0) / 1e6 for row in some]
            panel.bar(
                np.arange(len(some)) + (at - len(names) / 2) * width,
                rates,
                width,
                color=colours[name],
                label=name,
            )
        panel.set_xticks(range(len(some)), [f"{row['batch']:,}" for row in some])
        panel.set(title=f"{op}, {kind} ids", ylabel="million rows/s", xlabel="batch")
    return _save(figure, axes, path, result)


def latency(result: dict[str, Any], path: Path) -> Path:
    """p50 in ms against batch size, with p99 as a faint line above it."""
    (figure, axes), colours = _panels(result), _colours(result)
    for (op, kind), panel in axes.items():
        some = [row for row in result["results"] if (row["op"], row["distribution"]) == (op, kind)]
        for name in result["systems"]:
            mine = [(row["batch"], row["systems"][name]) for row in some if name in row["systems"]]
            if not mine:
                continue
            batches = [batch for batch, _ in mine]
            panel.plot(
                batches, [f["p50_ms"] for _, f in mine], marker="o", ms=3, color=colours[name], label=name
            )
            panel.plot(
                batches, [f["p99_ms"] for _, f in mine], color=colours[name], alpha=0.35, lw=0.8, ls="--"
            )
        panel.set(
            title=f"{op}, {kind} ids",
            xlabel="batch",
            ylabel="ms, p50 (p99 dashed)",
            xscale="log",
            yscale="log",
        )
    return _save(figure, axes, path, result)


def shards(results: Sequence[dict[str, Any]], path: Path) -> Path:
    """Million rows a second of the largest batch against the number of server processes."""
    (figure, axes), colours = _panels(results[0]), _colours(results[0])
    largest = max(row["batch"] for row in results[0]["results"])
    for (op, kind), panel in axes.items():
        for name in results[0]["systems"]:
            points = [
                (result["config"]["servers"], row["systems"][name]["rows_per_s"] / 1e6)
                for result in results
                for row in result["results"]
                if (row["op"], row["distribution"], row["batch"]) == (op, kind, largest)
                and name in row["systems"]
            ]
            if points:
                panel.plot(*zip(*points, strict=True), marker="o", color=colours[name], label=name)
        panel.set(title=f"{op}, {kind} ids, batch {largest:,}", xlabel="servers", ylabel="million rows/s")
    return _save(figure, axes, path, results[0])


def _panels(result: dict[str, Any]) -> tuple[Any, dict[tuple[str, str], Any]]:
    from matplotlib.figure import Figure

    ops = list(dict.fromkeys(row["op"] for row in result["results"]))
    kinds = list(dict.fromkeys(row["distribution"] for row in result["results"]))
    figure = Figure(figsize=(4.2 * len(ops), 3.2 * len(kinds)), layout="constrained")
    grid = figure.subplots(len(kinds), len(ops), squeeze=False)
    return figure, {(op, kind): grid[i][j] for i, kind in enumerate(kinds) for j, op in enumerate(ops)}


def _colours(result: dict[str, Any]) -> dict[str, str]:
    """Blues for rowloom, grey for the sockets, anything else for rivals."""
    ours, theirs = itertools.cycle(OURS), itertools.cycle(THEIRS)
    return {
        name: SOCKETS if name == "sockets" else next(ours if name.startswith("rowloom") else theirs)
        for name in result["systems"]
    }


def _save(figure: Any, axes: dict[Any, Any], path: Path, result: dict[str, Any]) -> Path:
    from rowloom.deploy.bench.machine import describe

    for panel in axes.values():
        panel.grid(alpha=0.3)
    first = next(iter(axes.values()))
    first.legend(frameon=False, fontsize=7)
    config = result["config"]
    figure.suptitle(
        f"{config['rows']:,} rows x {config['dim']}, Adagrad\n{describe(result['machine'])}", fontsize=7
    )
    figure.savefig(path, dpi=120)
    return path
