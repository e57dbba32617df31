"""The panels of the dashboard for Grafana, drawn from what a real Prometheus answers: their series, not their looks."""

import re
import shutil
import time
from pathlib import Path

from prometheus import Prometheus, panels


def missing_for_panels() -> str:
    """In words, what is not installed; empty: nothing."""
    return "" if shutil.which("prometheus") else "prometheus is not installed, so the dashboard is not drawn"


def draw_panels(prometheus: Prometheus, out: Path, seconds: float) -> None:
    """All of them as one picture, of the last seconds; one without a series is said to be empty."""
    from matplotlib.figure import Figure

    every, end = list(panels()), time.time()
    figure = Figure(figsize=(14, 3 * -(-len(every) // 2)), layout="constrained")
    axes = figure.subplots(-(-len(every) // 2), 2, squeeze=False).ravel()
    for axis, (title, queries) in zip(axes, every, strict=False):
        axis.set_title(title, fontsize=9)
        for query, name in queries:
            for series in prometheus.series(query, end - seconds, end):
                label = re.sub(r"{{\s*(\w+)\s*}}", lambda m, s=series: s["metric"].get(m[1], ""), name)
                times, values = zip(
                    *((at - end, float(value)) for at, value in series["values"]), strict=True
                )
                axis.plot(times, values, label=label)
        if not axis.lines:
            print(f"dashboard: the panel {title!r} is empty")
            continue
        axis.legend(fontsize=6)
        axis.grid(alpha=0.3)
    figure.savefig(out / "dashboard.png", dpi=100)
