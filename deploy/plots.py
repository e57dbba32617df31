"""The two pictures: the demo's loss curve and the benchmark's bars. The only file that imports matplotlib."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..proto.errors import InvalidRequest

OURS, YARDSTICK, FAINT, MARK = "#1f6fb4", "#b8b8b8", "#9dc3e6", "#d1495b"
SIZE = (9.0, 4.5)


@dataclass(frozen=True)
class ScalingSpan:
    """What the loss curve marks: from when to when, in seconds since training began, and what to write there."""

    begin_s: float
    end_s: float
    label: str


MISSING = "a plot needs matplotlib: pip install 'rowloom[plot]'"


def can_plot() -> bool:
    """Whether matplotlib is installed."""
    return importlib.util.find_spec("matplotlib") is not None


def check_plot(path: Path | None) -> None:
    """Refuse at once what could not be drawn an hour later. Raises InvalidRequest."""
    if path is None:
        return
    check_place(path)
    _pyplot()


def check_place(path: Path) -> None:
    """Refuse a path that no plot can be written to. Raises InvalidRequest."""
    if not path.parent.is_dir():
        raise InvalidRequest(f"plot: there is no folder {str(path.parent)!r} to write {path.name!r} into")
    if path.suffix.lower() not in (".png", ".svg", ".pdf"):
        raise InvalidRequest(f"plot: {str(path)!r} must end with .png, .svg or .pdf")


def _pyplot() -> Any:
    try:
        from matplotlib.figure import Figure
    except ImportError as e:
        raise InvalidRequest(MISSING) from e
    return Figure


def _figure(columns: int = 1) -> tuple[Any, Any]:
    """A figure that no window shows, and its axes."""
    figure = _pyplot()(figsize=SIZE, layout="constrained")
    return figure, figure.subplots(1, columns, squeeze=False)[0]


def loss_curve(path: Path, points: Sequence[tuple[float, float]], scaling: ScalingSpan | None) -> None:
    """Draw the loss over time.

    Args:
        path: where to.
        points: (seconds, loss) in order of time.
        scaling: marked, if given.
    """
    seconds, losses = np.array(points, float).reshape(-1, 2).T  # pyright: ignore[reportUnknownVariableType]
    figure, (axes,) = _figure()
    axes.plot(seconds, losses, color=FAINT, linewidth=0.8)
    axes.plot(*smooth(seconds, losses), color=OURS, linewidth=1.8)  # pyright: ignore[reportUnknownArgumentType]
    if scaling is not None:
        axes.axvspan(scaling.begin_s, scaling.end_s, color=MARK, alpha=0.25, linewidth=0)
        top = float(losses.max())  # pyright: ignore[reportUnknownArgumentType]
        axes.annotate(
            scaling.label, (scaling.end_s, top), xytext=(6, -4), textcoords="offset points", va="top"
        )
    axes.set(xlabel="seconds of training", ylabel="loss per pair", title="Skip-gram, 2 trainers")
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120)


def smooth(seconds: np.ndarray, losses: np.ndarray, width: int = 15) -> tuple[np.ndarray, np.ndarray]:
    """Running means over `width` points; fewer if there are fewer. Both arguments [N]; returns two [M], M <= N."""
    width = max(1, min(width, len(losses)))
    window = np.full(width, 1 / width)
    return np.convolve(seconds, window, "valid"), np.convolve(losses, window, "valid")


def bars(path: Path, rows: Sequence[dict[str, Any]], title: str, against: str | None = None) -> None:
    """Draw rates beside those of the yardstick, one panel for each distribution of ids.

    Args:
        path: where to.
        rows: one for each measurement: distribution, op, batch, rows_per_s, yardstick_rows_per_s.
        title: above all panels.
        against: a rival's name, whose rate is in front of _rows_per_s; none: no such bars.
    """
    shown = [("", OURS, "rowloom"), ("yardstick_", YARDSTICK, "plain sockets")]
    if against is not None:
        shown.insert(1, (f"{against}_", MARK, against))
    width = 0.8 / len(shown)
    kinds = list(dict.fromkeys(row["distribution"] for row in rows))
    figure, panels = _figure(len(kinds))
    for axes, kind in zip(panels, kinds, strict=True):
        some = [row for row in rows if row["distribution"] == kind]
        place = np.arange(len(some))
        for at, (front, colour, label) in enumerate(shown):
            rates = [row[f"{front}rows_per_s"] / 1e6 for row in some]
            axes.bar(place + (at - (len(shown) - 1) / 2) * width, rates, width, color=colour, label=label)
        axes.set_xticks(place, [f"{r['op']}\n{r['batch']:,}" for r in some], fontsize=7)
        axes.set(title=f"{kind} ids", ylabel="million rows/s")
        axes.grid(axis="y", alpha=0.3)
        axes.legend(frameon=False)
    figure.suptitle(title, fontsize=7)
    figure.savefig(path, dpi=120)
