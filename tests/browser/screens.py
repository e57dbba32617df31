"""Pictures of the console and of `rowloom top` as an operator sees them: busy, moving, with a dead shard, empty.

    python tests/browser/screens.py OUT [--seconds 40]

It starts a cluster of processes in a folder of its own, loads it, scales it from two shards to three while it looks,
and ends all of it. Three widths, light and dark. With axe-core (`npm install -g axe-core`), what it finds is printed.
With a Prometheus and npm, the dashboard for Grafana is drawn, too, by Grafana's own components: npm fetches them the
first time (650 MB), to `~/.cache/rowloom-grafana`.
"""

import argparse
import contextlib
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

import numpy as np
from browser import Browser, axe, browser, missing
from panels import built, draw_panels, missing_for_panels
from prometheus import prometheus_of
from rich.console import Console
from waiting import until

from rowloom.client import SGD, Adagrad, TableSpec, connect
from rowloom.deploy.config.config import parse
from rowloom.deploy.observe.rates import activity
from rowloom.deploy.observe.top import render_top
from rowloom.deploy.operate.clusters import down, up
from rowloom.deploy.operate.directory import ClusterDirectory
from rowloom.deploy.operate.remote import Remote

WIDTHS = (390, 900, 1440)
TABLES = (
    TableSpec("users", 3_000_000, dim=64, optimizer=Adagrad(lr=0.05)),
    TableSpec("items", 400_000, dim=32, optimizer=SGD(lr=0.1)),
    TableSpec("context.last_seen_category_of_the_previous_session", 50_000, dim=16),
)


@contextlib.contextmanager
def started(
    home: Path, name: str, tables: tuple[TableSpec, ...], shards: int, durability: str = "memory"
) -> Iterator[str]:
    """A cluster of processes with metrics; the coordinator's address."""
    directory = ClusterDirectory(home)
    config = parse(
        {
            "name": name,
            "shards": shards,
            "storage": str(home / name),
            "durability": durability,
            "metrics": {"port": 0},
            "tables": list(tables),
        }
    )
    record = up(config, directory).record
    try:
        yield record.address
    finally:
        down(record, directory)


def trains(address: str, ending: threading.Event, seed: int) -> None:
    """A trainer that pulls and pushes batches of all tables."""
    rng = np.random.default_rng(seed)
    with connect(address) as client:
        tables = [client[spec.name] for spec in TABLES]
        while not ending.is_set():
            for table, spec in zip(tables, TABLES, strict=True):
                ids = rng.zipf(1.2, 4096) % int(spec.num_embeddings or 1)
                table.push(ids, np.full((4096, spec.dim), 1e-3, np.float32) + table.pull(ids) * 0)


def filled(address: str) -> None:
    """Rows enough that moving them takes a while."""
    with connect(address) as client:
        for spec in TABLES[:2]:
            for ids in np.array_split(np.arange(int(spec.num_embeddings or 0)), 40):
                client[spec.name].push(ids, np.ones((len(ids), spec.dim), np.float32))


def pictures(page: Browser, out: Path, name: str) -> None:
    """One file for each width, light and dark; and what axe-core finds."""
    script = axe()
    for dark in (False, True):
        for width in WIDTHS:
            page.shape(width, dark=dark)
            until(lambda: page.run("document.querySelectorAll('#events li').length"), 60)
            page.picture(out / f"{name}-{width}-{'dark' if dark else 'light'}.png")
            wide = page.run("document.documentElement.scrollWidth - document.documentElement.clientWidth")
            if wide > 0:
                print(f"{name} at {width}: {wide} pixels wider than the screen")
        for fault in page.faults(script) if script else []:
            print(
                f"{name} {'dark' if dark else 'light'}: {fault['impact']} {fault['id']}: {fault['where'][:3]}"
            )


def top(state: dict[str, Any], out: Path, name: str) -> None:
    """`rowloom top` at two widths, as SVG."""
    for width in (80, 140):
        with open(os.devnull, "w", encoding="utf-8") as nowhere:
            screen = Console(width=width, record=True, file=nowhere, force_terminal=True)
            screen.print(render_top(state, width))
        (out / f"top-{name}-{width}.svg").write_text(screen.export_svg(title="rowloom top"), encoding="utf-8")


def observed(address: str) -> str:
    """The console's address."""
    with Remote(address) as remote:
        return f"http://{remote.status().metrics_address}/"


def main() -> None:
    """Take all pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seconds", type=float, default=40.0, help="of load before the first picture")
    parser.add_argument("--durability", default="memory", help="with `process` there are logs to see")
    options = parser.parse_args()
    if missing():
        sys.exit(missing())
    options.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder, browser() as page:
        home = Path(folder)
        with started(home, "empty", (), 1) as address:
            page.open(observed(address))
            pictures(page, options.out, "empty")
        with (
            started(home, "ads", TABLES, 2, options.durability) as address,
            dashboards(address, page, options.out, home) as drawn,
        ):
            filled(address)
            ending = threading.Event()
            trainers = [threading.Thread(target=trains, args=(address, ending, seed)) for seed in range(2)]
            for one in trainers:
                one.start()
            try:
                _busy(address, page, options.out, options.seconds, drawn)
            finally:
                ending.set()
                for one in trainers:
                    one.join()
            _dead(address, page, options.out, drawn)


@contextlib.contextmanager
def dashboards(address: str, page: Browser, out: Path, folder: Path) -> Iterator[Callable[[str], None]]:
    """What draws, under a name, the dashboard of what a Prometheus has read of the cluster since now."""
    if why := missing_for_panels() or built():
        print(why)
        yield lambda name: None
        return
    began = time.time()
    with prometheus_of(observed(address).removesuffix("/"), folder) as prometheus:
        yield lambda name: draw_panels(prometheus, page, out, name, began)


def _busy(address: str, page: Browser, out: Path, seconds: float, drawn: Callable[[str], None]) -> None:
    page.open(observed(address))
    time.sleep(seconds)  # of history, for the charts
    pictures(page, out, "busy")
    drawn("busy")
    with Remote(address) as remote:
        before = remote.status()
        time.sleep(2)
        top(activity(remote.status(), before), out, "busy")
        moving = threading.Thread(target=_scaled, args=(address,))
        moving.start()
        until(lambda: remote.status().HasField("scaling"), 60)
        before = remote.status()
        time.sleep(2)
        top(activity(remote.status(), before), out, "moving")
        until(lambda: "%" in page.run("document.getElementById('move').textContent"), 60)
        pictures(page, out, "moving")
        drawn("moving")
        moving.join()
        remote.take_snapshot()
    time.sleep(11)  # two looks later the console knows
    pictures(page, out, "moved")
    drawn("moved")


def _scaled(address: str) -> None:
    with Remote(address) as remote:
        remote.scale(3)


def _dead(address: str, page: Browser, out: Path, drawn: Callable[[str], None]) -> None:
    """One shard is killed: without a log its rows are gone, with one it comes again by itself."""
    with Remote(address) as remote:
        os.kill(remote.status().shards[1].pid, signal.SIGKILL)
        until(lambda: page.run("document.getElementById('summary').className") == "bad", 60)
        pictures(page, out, "dead")
        top(activity(remote.status()), out, "dead")
        drawn("dead")


if __name__ == "__main__":
    main()
