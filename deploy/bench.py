"""The benchmark: pull, push and step, beside a plain socket that moves the same rows in the same run."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table as TextTable

from ..client import Adagrad, Client, Normal, Table, TableSpec, connect
from ..proto.errors import InvalidRequest
from ..server.allocator import keep_freed_memory
from .embedded import local_cluster
from .machine import describe, machine
from .plots import bars, check_plot
from .stages import Stages
from .yardstick import Yardstick

TABLE = "rowloom-bench"
BATCHES = (1024, 16_384, 65_536)
OPS = ("pull", "push", "step")
ZIPF = 1.05
FILL_ROWS = 65_536
BLOCK_S = 0.25  # one system's turn
BATCHES_MADE = 8  # of each size, used in turn


def run_bench(
    address: str | None = None,
    *,
    shards: int = 2,
    rows: int = 1_000_000,
    dim: int = 64,
    rounds: int = 5,
    batches: Sequence[int] = BATCHES,
    block_s: float = BLOCK_S,
    plot: Path | None = None,
    quiet: bool = False,
    seed: int = 0,
) -> dict[str, Any]:
    """Measure one trainer on a cluster.

    A step is a pull, then a push of gradients for the same ids. In each round every measurement gets a turn of rowloom
    and then a turn of the yardstick, so that both see the same weather; rates are medians over the rounds.

    Args:
        address: of a running cluster, where a table is made and dropped; none: one is started, a process a shard.
        shards: of the cluster that is started.
        rows: of the table; all are filled before anything is measured.
        dim: columns, float32.
        rounds: interleaved rounds.
        batches: ids in a call.
        block_s: seconds of a turn.
        plot: where a picture goes; none: nowhere.
        quiet: show no progress.
        seed: of the ids.

    Returns:
        machine, config (arguments and shards), seconds, plot, and results. Each of these holds distribution, op, batch,
        distinct (ids of a batch), rows_per_s (ids asked for), mb_per_s (their rows' bytes), p50_ms, p99_ms,
        client_cpu_s_per_million and server_cpu_s_per_million (CPU seconds for a million ids), the same figures with
        yardstick_ in front, and ratio (to the yardstick's rows_per_s).

    Raises:
        InvalidRequest: an argument is wrong.
        RowloomError: the cluster failed.
    """
    began = time.monotonic()
    _at_least_one(
        shards=shards,
        rows=rows,
        dim=dim,
        rounds=rounds,
        **{f"batches[{i}]": b for i, b in enumerate(batches)},
    )
    plot = None if plot is None else Path(plot)
    check_plot(plot)
    keep_freed_memory()
    with ExitStack() as stack:
        stages = stack.enter_context(Stages(quiet))
        with stages("starting"):
            client = stack.enter_context(_client(stack, address, shards))
            table = stack.enter_context(_table(client, rows, dim))
            yardstick = stack.enter_context(Yardstick(rows, dim, max(batches)))
        _fill(table, rows, dim, stages)
        ours, theirs = _Rowloom(client, table), _Sockets(yardstick)
        cases = _cases(batches, rows, dim, np.random.default_rng(seed))
        _measure(cases, ours, theirs, rounds, block_s, stages)
        results = [case.result(dim) for case in cases]
        found, count = machine(), len(client.statistics())
        if plot is not None:
            bars(plot, results, f"{rows:,} rows x {dim}, {count} shards, 1 trainer\n{describe(found)}")
        return {
            "machine": found,
            "config": {
                "address": address,
                "shards": count,
                "rows": rows,
                "dim": dim,
                "rounds": rounds,
                "block_s": block_s,
                "zipf": ZIPF,
            },
            "results": results,
            "seconds": time.monotonic() - began,
            "plot": None if plot is None else str(plot.resolve()),
        }


def _at_least_one(**values: int) -> None:
    for name, value in values.items():
        if value < 1:
            raise InvalidRequest(f"{name} must be at least 1, got {value!r}")


def _client(stack: ExitStack, address: str | None, shards: int) -> Client:
    if address is None:
        address = stack.enter_context(local_cluster(shards, processes=True)).address
    return connect(address)


@contextmanager
def _table(client: Client, rows: int, dim: int) -> Iterator[Table]:
    """A table that is gone afterwards."""
    spec = TableSpec(TABLE, rows, dim=dim, optimizer=Adagrad(lr=0.05), initializer=Normal(std=0.01, seed=1))
    table = client.create_table(spec)
    try:
        yield table
    finally:
        client.drop_table(TABLE)


def _fill(table: Table, rows: int, dim: int, stages: Stages) -> None:
    """Make every row. By push and not by assign, so that the slots' memory is not touched for the first time later."""
    nothing = np.zeros((FILL_ROWS, dim), np.float32)
    with stages(f"filling {rows:,} rows", total=rows) as advance:
        for begin in range(0, rows, FILL_ROWS):
            ids = np.arange(begin, min(begin + FILL_ROWS, rows))
            table.push(ids, nothing[: len(ids)])
            advance(len(ids))


# ------------------------------------------------------------------------------------------------------------- ids


def zipf_ids(n: int, rows: int, rng: np.random.Generator, exponent: float = ZIPF) -> np.ndarray:
    """Ids with a bounded Zipf distribution, the popular ones scattered over the whole range.

    Args:
        n: how many.
        rows: ids are in [0, rows).
        rng: draws them.
        exponent: above 1: the id of rank k comes in proportion to k ** -exponent.

    Returns:
        [n] int64.
    """
    # The inverse of the continuous distribution's cumulative function, on [1, rows + 1).
    power = 1.0 - exponent
    rank = (1.0 + rng.random(n) * ((rows + 1.0) ** power - 1.0)) ** (1.0 / power)
    return scattered(np.minimum(rank.astype(np.int64), rows) - 1, rows)


def scattered(ranks: np.ndarray, rows: int) -> np.ndarray:
    """Another order of [0, rows): ranks [N] int64 in it become ids in it, each its own."""
    factor = max(1, int(rows * 0.6180339887))
    while np.gcd(factor, rows) != 1:
        factor += 1
    return (ranks * factor + rows // 3) % rows


def uniform_ids(n: int, rows: int, rng: np.random.Generator) -> np.ndarray:
    """[n] int64 ids, each of [0, rows) as likely."""
    return rng.integers(0, rows, n)


DISTRIBUTIONS: dict[str, Callable[[int, int, np.random.Generator], np.ndarray]] = {
    "zipf": zipf_ids,
    "uniform": uniform_ids,
}


# -------------------------------------------------------------------------------------------------------- the turns


class _Rowloom:
    """What is measured."""

    def __init__(self, client: Client, table: Table) -> None:
        self._client = client
        self.pull, self.push = table.pull, table.push

    def server_cpu_s(self) -> float:
        """CPU seconds that all shards have used."""
        return sum(shard["cpu_s"] for shard in self._client.statistics())


class _Sockets:
    """What it is measured against."""

    def __init__(self, yardstick: Yardstick) -> None:
        self.pull, self.push = yardstick.pull, yardstick.push
        self.server_cpu_s = yardstick.server_cpu_s


@dataclass
class _Turns:
    """What one system did with one case.

    Attributes:
        rates: ids per second, one for each round.
        times: seconds of each call of all rounds.
        client_cpu_s, server_cpu_s, ids: in all.
    """

    rates: list[float] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    client_cpu_s: float = 0.0
    server_cpu_s: float = 0.0
    ids: int = 0

    def run(self, system: _Rowloom | _Sockets, case: _Case, block_s: float) -> None:
        """One turn: at least three calls, and as many as fit."""
        call = getattr(case, case.op)
        server, client, began = system.server_cpu_s(), time.process_time(), time.perf_counter()
        times: list[float] = []
        while len(times) < 3 or sum(times) < block_s:
            start = time.perf_counter()
            call(system, case.ids[len(times) % len(case.ids)])
            times.append(time.perf_counter() - start)
        seconds = time.perf_counter() - began
        self.client_cpu_s += time.process_time() - client
        self.server_cpu_s += system.server_cpu_s() - server
        ids = len(times) * case.batch
        self.ids += ids
        self.times += times
        self.rates.append(ids / seconds)

    def figures(self, row_bytes: int) -> dict[str, float]:
        """As `run_bench` returns them."""
        rate = float(np.median(self.rates))
        p50, p99 = np.percentile(self.times, [50, 99]) * 1000
        return {
            "rows_per_s": rate,
            "mb_per_s": rate * row_bytes / 1e6,
            "p50_ms": float(p50),
            "p99_ms": float(p99),
            "client_cpu_s_per_million": self.client_cpu_s / self.ids * 1e6,
            "server_cpu_s_per_million": self.server_cpu_s / self.ids * 1e6,
        }


@dataclass
class _Case:
    """One measurement: an op on ids of one distribution and number."""

    distribution: str
    op: str
    batch: int
    ids: list[np.ndarray]
    grads: np.ndarray
    ours: _Turns = field(default_factory=_Turns)
    theirs: _Turns = field(default_factory=_Turns)

    def pull(self, system: _Rowloom | _Sockets, ids: np.ndarray) -> None:
        system.pull(ids)

    def push(self, system: _Rowloom | _Sockets, ids: np.ndarray) -> None:
        system.push(ids, self.grads)

    def step(self, system: _Rowloom | _Sockets, ids: np.ndarray) -> None:
        system.pull(ids)
        system.push(ids, self.grads)

    def result(self, dim: int) -> dict[str, Any]:
        # A step moves the rows there and their gradients back.
        row_bytes = 4 * dim * (2 if self.op == "step" else 1)
        ours, theirs = self.ours.figures(row_bytes), self.theirs.figures(row_bytes)
        return {
            "distribution": self.distribution,
            "op": self.op,
            "batch": self.batch,
            "distinct": float(np.median([len(np.unique(some)) for some in self.ids])),
            **ours,
            **{f"yardstick_{name}": value for name, value in theirs.items()},
            "ratio": ours["rows_per_s"] / theirs["rows_per_s"],
        }


def _cases(batches: Sequence[int], rows: int, dim: int, rng: np.random.Generator) -> list[_Case]:
    cases = []
    for distribution, draw in DISTRIBUTIONS.items():
        for batch in batches:
            ids = [draw(batch, rows, rng) for _ in range(BATCHES_MADE)]
            grads = rng.standard_normal((batch, dim), np.float32) * np.float32(1e-3)
            cases += [_Case(distribution, op, batch, ids, grads) for op in OPS]
    return cases


def _measure(
    cases: Sequence[_Case], ours: _Rowloom, theirs: _Sockets, rounds: int, block_s: float, stages: Stages
) -> None:
    with stages("warming up", total=len(cases)) as advance:
        for case in cases:
            for system in (ours, theirs):
                _Turns().run(system, case, block_s / 4)
            advance(1)
    with stages(f"measuring, {rounds} rounds", total=rounds * len(cases)) as advance:
        for _ in range(rounds):
            for case in cases:
                case.ours.run(ours, case, block_s)
                case.theirs.run(theirs, case, block_s)
                advance(1, f"{case.distribution} {case.op} {case.batch:,}")


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
    for name in ("sockets M rows/s", "p50 ms", "CPU", "ratio"):
        table.add_column(name, justify="right")
    for row in result["results"]:
        table.add_row(*_cells(row), end_section=row["op"] == OPS[-1])
    out = Console(file=io.StringIO(), width=160)
    out.print(table)
    assert isinstance(out.file, io.StringIO)
    return out.file.getvalue().rstrip() + (f"\nplot in {result['plot']}" if result["plot"] else "")


def _cells(row: dict[str, Any]) -> list[str]:
    def cpu(front: str) -> str:
        client, server = row[f"{front}client_cpu_s_per_million"], row[f"{front}server_cpu_s_per_million"]
        return f"{client:.2f} + {server:.2f}"

    return [
        row["distribution"],
        row["op"],
        f"{row['batch']:,}",
        f"{row['distinct']:,.0f}",
        f"{row['rows_per_s'] / 1e6:.2f}",
        f"{row['mb_per_s']:,.0f}",
        f"{row['p50_ms']:.2f}",
        f"{row['p99_ms']:.2f}",
        cpu(""),
        f"{row['yardstick_rows_per_s'] / 1e6:.2f}",
        f"{row['yardstick_p50_ms']:.2f}",
        cpu("yardstick_"),
        f"{row['ratio']:.2f}",
    ]
