"""Rowloom beside other parameter servers, all in one run, in turns: the same ids, rows, gradients and servers.

`python tests/bench/compare.py --rivals openembedding tensorflow --rows 10000000 --json out.json --plots pictures`

Every system has trainer processes of its own and two server processes; only one system works at a time. A step is a
pull and then a push of gradients for the same ids; TensorFlow's is one run of its session. The op "fused", where
rowloom has it, pushes one batch and pulls the next in one call.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pictures
from rich import box
from rich.console import Console
from rich.table import Table
from seat import RIVALS, SOCKETS, Team

from rowloom.client import InvalidRequest, RowloomError, connect
from rowloom.deploy import local_cluster
from rowloom.deploy.bench.bench import Rowloom, bench_table, fill_with_progress
from rowloom.deploy.bench.machine import describe, machine
from rowloom.deploy.bench.samples import BLOCK_S, Samples, measure, row_bytes
from rowloom.deploy.bench.workload import BATCHES, OPS, ZIPF, Case, make_cases
from rowloom.deploy.terminal import Stages
from rowloom.proto.allocator import keep_freed_memory

OURS = "rowloom-"


def compare(
    rivals: Sequence[str],
    carriers: Sequence[str] = ("grpc", "tcp", "auto"),
    *,
    rows: int = 1_000_000,
    dim: int = 64,
    servers: int = 2,
    trainers: int = 1,
    rounds: int = 5,
    batches: Sequence[int] = BATCHES,
    block_s: float = BLOCK_S,
    seed: int = 0,
    quiet: bool = False,
) -> dict[str, Any]:
    """Measure rowloom and its rivals. A system that cannot be had is left out, and one line on stderr says why.

    Args:
        rivals: keys of RIVALS, "sockets", or "module:Class" of a rival.
        carriers: of rowloom, each of them a system; all use one cluster and one table.
        rows: of the table; all are filled before anything is measured.
        dim: columns, float32.
        servers: server processes of each system; the sockets have one for each trainer.
        trainers: processes that work at once, each on batches of its own.
        rounds: turns of each system with each case.
        batches: ids in a call.
        block_s: seconds of a turn.
        seed: of the ids and gradients.
        quiet: show no progress.

    Returns:
        machine, config, skipped (name: why), systems (name: version, server_rss_bytes after all turns) and results: for
        each case distribution, op, batch, distinct, systems (name: the figures of `run_bench`) and ratios (of each
        system of rowloom: to each rival, of rows per second).
    """
    keep_freed_memory()
    plan = {"rows": rows, "dim": dim, "servers": servers, "batches": tuple(batches), "seed": seed}
    plan["ops"] = (*OPS, "fused")
    skipped: dict[str, str] = {}
    with ExitStack() as stack:
        stages = stack.enter_context(Stages(quiet))
        with stages("starting rowloom"):
            address = stack.enter_context(local_cluster(servers, processes=True)).address
            client = stack.enter_context(connect(address))
            table = stack.enter_context(bench_table(client, rows, dim))
        fill_with_progress("rowloom", Rowloom(client, table), rows, dim, stages)
        seats: dict[str, Team] = {}
        for name in [*(OURS + carrier for carrier in carriers), *rivals]:
            with stages(f"starting {name}"):
                try:
                    check_memory(name, rows, dim)
                    seat = stack.enter_context(Team(name, plan | {"address": address}, trainers))
                except (RowloomError, RuntimeError) as e:
                    skipped[name] = str(e)
                    sys.stderr.write(f"{name} is left out: {e}\n")
                    continue
                if seat.can("push") and not name.startswith(OURS) and name != SOCKETS:
                    seat.fill()
                seats[seat.name] = seat
        cases = make_cases(batches, rows, dim, seed, plan["ops"])
        found = measure(cases, seats, rounds, block_s, stages)
        systems = {
            name: {"version": seat.version, "server_rss_bytes": seat.server_rss_bytes()}
            for name, seat in seats.items()
        }
    return {
        "machine": machine(),
        "config": {
            "rows": rows,
            "dim": dim,
            "servers": servers,
            "trainers": trainers,
            "rounds": rounds,
            "block_s": block_s,
            "zipf": ZIPF,
        },
        "skipped": skipped,
        "systems": systems,
        "results": [_result(c, turns, dim) for c, turns in zip(cases, found, strict=True) if turns],
    }


def check_memory(name: str, rows: int, dim: int) -> None:
    """Rather than let the machine run out of it. Rowloom's table is there already."""
    if name.startswith(OURS):
        return
    needs = 4 * rows * dim * (1 if name == SOCKETS else 2) * 1.1
    lines = Path("/proc/meminfo").read_text().splitlines()
    free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    if needs > free:
        raise InvalidRequest(
            f"it needs {needs / 1e9:.1f} GB of memory, {free / 1e9:.1f} GB are left; try fewer --rows"
        )


def _result(case: Case, turns: dict[str, Samples], dim: int) -> dict[str, Any]:
    figures = {name: mine.figures(row_bytes(case.op, dim)) for name, mine in turns.items()}
    rates = {name: f["rows_per_s"] for name, f in figures.items()}
    return {
        "distribution": case.distribution,
        "op": case.op,
        "batch": case.batch,
        "distinct": case.distinct(),
        "systems": figures,
        "ratios": {
            ours: {name: rates[ours] / rate for name, rate in rates.items() if not name.startswith(OURS)}
            for ours in rates
            if ours.startswith(OURS)
        },
    }


def report(result: dict[str, Any], out: Any = sys.stdout) -> None:
    """Write tables: rates with ratios, times, CPU, and memory."""
    config = result["config"]
    console = Console(file=out, width=200)
    title = f"{config['rows']:,} rows x {config['dim']} float32, Adagrad, {config['servers']} servers, "
    title += f"{config['trainers']} trainer{'s'[: config['trainers'] - 1]}, "
    console.print(f"{title}medians of {config['rounds']} rounds; {describe(result['machine'])}")
    names = list(result["systems"])
    tables = {
        "Million rows/s": lambda f: f"{f['rows_per_s'] / 1e6:.2f}",
        "p50 / p99 ms": lambda f: f"{f['p50_ms']:.2f} / {f['p99_ms']:.2f}",
        "CPU seconds for a million ids, trainer + servers": lambda f: (
            f"{f['client_cpu_s_per_million']:.2f} + {f['server_cpu_s_per_million']:.2f}"
        ),
    }
    for heading, cell in tables.items():
        table = _table(heading, names)
        for row in result["results"]:
            figures = row["systems"]
            table.add_row(*_case(row), *(cell(figures[n]) if n in figures else "-" for n in names))
        console.print(table)
    for ours in (name for name in names if name.startswith(OURS)):
        rivals = [name for name in names if not name.startswith(OURS)]
        table = _table(f"{ours}, times as fast as", rivals)
        for row in result["results"]:
            ratios = row["ratios"].get(ours, {})
            if ratios:
                table.add_row(*_case(row), *(f"{ratios[n]:.2f}" if n in ratios else "-" for n in rivals))
        console.print(table)
    for name, system in result["systems"].items():
        console.print(
            f"{name} {system['version']}: {system['server_rss_bytes'] / 1e6:,.0f} MB resident in its servers"
        )
    for name, why in result["skipped"].items():
        console.print(f"{name} was left out: {why}")


def _table(heading: str, names: Sequence[str]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, title=heading, title_justify="left")
    for name in ("ids", "op"):
        table.add_column(name)
    for name in ("batch", *names):
        table.add_column(name, justify="right")
    return table


def _case(row: dict[str, Any]) -> tuple[str, str, str]:
    return row["distribution"], row["op"], f"{row['batch']:,}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--rivals", nargs="*", default=["openembedding", "tensorflow", SOCKETS], metavar="NAME"
    )
    parser.add_argument("--carriers", nargs="+", default=["grpc", "tcp", "auto"])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument(
        "--shards", type=int, nargs="+", default=[2], help="server processes; several: one run each"
    )
    parser.add_argument("--trainers", type=int, default=1, help="processes of each system that work at once")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batches", type=int, nargs="+", default=list(BATCHES))
    parser.add_argument("--block-s", type=float, default=BLOCK_S)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="where all figures go")
    parser.add_argument("--plots", type=Path, help="a folder for pictures")
    args = vars(parser.parse_args())
    unknown = [name for name in args["rivals"] if name not in {*RIVALS, SOCKETS} and ":" not in name]
    if unknown:
        parser.error(f"no rival is called {unknown[0]!r}; there are {', '.join([*RIVALS, SOCKETS])}")
    path, folder, shards = args.pop("json"), args.pop("plots"), args.pop("shards")
    results = []
    for servers in shards:
        results.append(
            compare(args["rivals"], servers=servers, **{k: v for k, v in args.items() if k != "rivals"})
        )
        report(results[-1])
        if path is not None:
            path.write_text(json.dumps(results, indent=1) + "\n")
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        pictures.draw(results, folder)


if __name__ == "__main__":
    main()
