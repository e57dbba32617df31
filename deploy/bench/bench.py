"""The benchmark: pull, push and step, beside a plain socket that moves the same rows in the same run."""

from __future__ import annotations

import io
import time
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table as TextTable

from ...client import Adagrad, Client, Normal, Table, TableSpec, connect
from ...proto.allocator import keep_freed_memory
from ...proto.errors import InvalidRequest
from ..embedded import local_cluster
from ..plots import bars, check_plot
from ..terminal import Stages
from .machine import describe, machine
from .rival_tensorflow import TensorFlow
from .samples import BLOCK_S, Here, Samples, System, fill, measure, row_bytes
from .workload import BATCHES, OPS, ZIPF, Case, make_cases
from .yardstick import Yardstick

TABLE = "rowloom-bench"
OURS, YARDSTICK = "rowloom", "yardstick"
RIVALS = {"tensorflow": TensorFlow}


def run_bench(
    address: str | None = None,
    *,
    shards: int = 2,
    rows: int = 1_000_000,
    dim: int = 64,
    rounds: int = 5,
    batches: Sequence[int] = BATCHES,
    block_s: float = BLOCK_S,
    against: str | None = None,
    plot: Path | None = None,
    quiet: bool = False,
    seed: int = 0,
) -> dict[str, Any]:
    """Measure one trainer on a cluster.

    A step is a pull, then a push of gradients for the same ids. In each round every measurement gets a turn of rowloom
    and then a turn of the yardstick, so that both see the same weather; rates are medians over the rounds.

    Args:
        address: of a running cluster, where a table is made and dropped; none: one is started, a process a shard.
        shards: of the cluster that is started, and of the rival.
        rows: of the table; all are filled before anything is measured.
        dim: columns, float32.
        rounds: interleaved rounds.
        batches: ids in a call.
        block_s: seconds of a turn.
        against: a rival that takes its turns too: "tensorflow", whose step is one run of a session; none: only the
            yardstick does.
        plot: where a picture goes; none: nowhere.
        quiet: show no progress.
        seed: of the ids.

    Returns:
        machine, config (arguments and shards), seconds, plot, and results. Each of these holds distribution, op, batch,
        distinct (ids of a batch), rows_per_s (ids asked for), mb_per_s (their rows' bytes), p50_ms, p99_ms,
        client_cpu_s_per_million and server_cpu_s_per_million (CPU seconds for a million ids), the same figures with
        yardstick_ in front, and ratio (to the yardstick's rows_per_s). With a rival also its figures with its name in
        front, and its name with _ratio (to its rows_per_s).

    Raises:
        InvalidRequest: an argument is wrong, or the rival is not installed.
        RowloomError: the cluster failed.
    """
    began = time.monotonic()
    check_at_least_one(
        shards=shards,
        rows=rows,
        dim=dim,
        rounds=rounds,
        **{f"batches[{i}]": b for i, b in enumerate(batches)},
    )
    if against is not None and against not in RIVALS:
        raise InvalidRequest(f"against must be one of {', '.join(RIVALS)}, got {against!r}")
    plot = None if plot is None else Path(plot)
    check_plot(plot)
    keep_freed_memory()
    with ExitStack() as stack:
        stages = stack.enter_context(Stages(quiet))
        with stages("starting"):
            systems: dict[str, System] = {}
            if against is not None:
                systems[against] = stack.enter_context(RIVALS[against](rows, dim, shards))
            client = stack.enter_context(_client(stack, address, shards))
            table = stack.enter_context(bench_table(client, rows, dim))
            yardstick = stack.enter_context(Yardstick(rows, dim, max(batches)))
        systems = {OURS: Rowloom(client, table), YARDSTICK: Sockets(yardstick)} | systems
        for name in systems:
            if name != YARDSTICK:
                fill_with_progress(name, systems[name], rows, dim, stages)
        cases = make_cases(batches, rows, dim, seed)
        seats = {name: Here(system, cases) for name, system in systems.items()}
        found = measure(cases, seats, rounds, block_s, stages)
        results = [_result(case, turns, dim) for case, turns in zip(cases, found, strict=True)]
        there, count = machine(), len(client.statistics())
        if plot is not None:
            bars(
                plot, results, f"{rows:,} rows x {dim}, {count} shards, 1 trainer\n{describe(there)}", against
            )
        return {
            "machine": there,
            "config": {
                "address": address,
                "shards": count,
                "rows": rows,
                "dim": dim,
                "rounds": rounds,
                "block_s": block_s,
                "zipf": ZIPF,
                "against": against,
            },
            "results": results,
            "seconds": time.monotonic() - began,
            "plot": None if plot is None else str(plot.resolve()),
        }


def check_at_least_one(**values: int) -> None:
    """Raise InvalidRequest for a value below 1, with its name."""
    for name, value in values.items():
        if value < 1:
            raise InvalidRequest(f"{name} must be at least 1, got {value!r}")


def _client(stack: ExitStack, address: str | None, shards: int) -> Client:
    if address is None:
        return stack.enter_context(local_cluster(shards, processes=True)).connect()
    return connect(address)


@contextmanager
def bench_table(client: Client, rows: int, dim: int) -> Generator[Table]:
    """A table that is gone afterwards."""
    spec = TableSpec(TABLE, rows, dim=dim, optimizer=Adagrad(lr=0.05), initializer=Normal(std=0.01, seed=1))
    table = client.create_table(spec)
    try:
        yield table
    finally:
        client.drop_table(TABLE)


def fill_with_progress(name: str, system: System, rows: int, dim: int, stages: Stages) -> None:
    """Make every row of a system."""
    with stages(f"filling {name}", total=rows) as stage:
        for more in fill(system.push, rows, dim):
            stage.advance(more)


class Rowloom:
    """What is measured.

    Args:
        client: counts the shards' CPU and memory.
        table: of that client.
    """

    def __init__(self, client: Client, table: Table) -> None:
        self._client = client
        self.pull, self.push = table.pull, table.push
        # Pushing one batch and pulling the next in one call, by clients that can.
        self._step: Any = getattr(table, "step", None)
        if self._step is not None:
            self.fused = self._fused

    def step(self, ids: np.ndarray, grads: np.ndarray) -> np.ndarray:
        """Pull rows, then push gradients for them."""
        rows = self.pull(ids)
        self.push(ids, grads)
        return rows

    def _fused(self, ids: np.ndarray, grads: np.ndarray, following: np.ndarray) -> np.ndarray:
        return self._step(ids, grads, following)

    def server_cpu_s(self) -> float:
        """CPU seconds that all shards have used."""
        return sum(shard["cpu_s"] for shard in self._client.statistics())

    def server_rss_bytes(self) -> int:
        """Resident memory of all shards."""
        return sum(shard["resident_bytes"] for shard in self._client.statistics())


class Sockets:
    """What it is measured against."""

    def __init__(self, yardstick: Yardstick) -> None:
        self.pull, self.push = yardstick.pull, yardstick.push
        self.server_cpu_s, self.server_rss_bytes = yardstick.server_cpu_s, yardstick.server_rss_bytes

    def step(self, ids: np.ndarray, grads: np.ndarray) -> np.ndarray:
        """Pull rows, then push gradients for them."""
        rows = self.pull(ids)
        self.push(ids, grads)
        return rows


def _result(case: Case, turns: dict[str, Samples], dim: int) -> dict[str, Any]:
    figures = {name: mine.figures(row_bytes(case.op, dim)) for name, mine in turns.items()}
    ours = figures.pop(OURS)
    result: dict[str, Any] = {
        "distribution": case.distribution,
        "op": case.op,
        "batch": case.batch,
        "distinct": case.distinct(),
        **ours,
    }
    for name, theirs in figures.items():
        result |= {f"{name}_{key}": value for key, value in theirs.items()}
        result["ratio" if name == YARDSTICK else f"{name}_ratio"] = ours["rows_per_s"] / theirs["rows_per_s"]
    return result


# ------------------------------------------------------------------------------------------------------- for people


def report(result: dict[str, Any]) -> str:
    """What `run_bench` found, as one table of text."""
    config = result["config"]
    table = TextTable(
        box=box.SIMPLE_HEAD,
        title=f"{config['rows']:,} rows x {config['dim']} float32, {config['shards']} shards, 1 trainer, Adagrad; "
        f"medians of {config['rounds']} rounds",
        caption="CPU: seconds for a million ids, trainer + servers. "
        "Sockets: plain TCP, the bytes of all rows, nothing applied.\n" + describe(result["machine"]),
        title_justify="left",
        caption_justify="left",
    )
    for name in ("ids", "op", "batch", "distinct", "M rows/s", "MB/s", "p50 ms", "p99 ms", "CPU"):
        table.add_column(name, justify="left" if name in ("ids", "op") else "right")
    against = config["against"]
    for name in ["sockets M rows/s", "p50 ms", "CPU", "ratio"] + (
        [f"{against} M rows/s", "p50 ms", "CPU", "ratio"] if against else []
    ):
        table.add_column(name, justify="right")
    for row in result["results"]:
        cells = _cells(row) + _beside(row, f"{YARDSTICK}_", "ratio")
        cells += _beside(row, f"{against}_", f"{against}_ratio") if against else []
        table.add_row(*cells, end_section=row["op"] == OPS[-1])
    out = Console(file=io.StringIO(), width=160 + 40 * bool(against))
    out.print(table)
    assert isinstance(out.file, io.StringIO)
    return out.file.getvalue().rstrip() + (f"\nplot in {result['plot']}" if result["plot"] else "")


def _cells(row: dict[str, Any]) -> list[str]:
    return [
        row["distribution"],
        row["op"],
        f"{row['batch']:,}",
        f"{row['distinct']:,.0f}",
        f"{row['rows_per_s'] / 1e6:.2f}",
        f"{row['mb_per_s']:,.0f}",
        f"{row['p50_ms']:.2f}",
        f"{row['p99_ms']:.2f}",
        _cpu(row, ""),
    ]


def _beside(row: dict[str, Any], front: str, ratio: str) -> list[str]:
    return [
        f"{row[f'{front}rows_per_s'] / 1e6:.2f}",
        f"{row[f'{front}p50_ms']:.2f}",
        _cpu(row, front),
        f"{row[ratio]:.2f}",
    ]


def _cpu(row: dict[str, Any], front: str) -> str:
    return f"{row[f'{front}client_cpu_s_per_million']:.2f} + {row[f'{front}server_cpu_s_per_million']:.2f}"
