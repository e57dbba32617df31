"""`rowloom demo` and `rowloom bench`: what it does, shown, and how fast, measured."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from .cli_options import Address, AsJson, WrongUse, cluster, wrong_use
from .terminal import show, show_json


def register(app: typer.Typer) -> None:
    """Put the two commands on the command line."""
    app.command("demo")(demo)
    app.command("bench")(bench)


def demo(
    corpus: Annotated[
        Path | None, typer.Option(help="A text file or folder; none: Python's own source.")
    ] = None,
    plot: Annotated[Path, typer.Option(help="Where the loss curve goes.")] = Path("rowloom-demo.png"),
    launcher: Annotated[
        str,
        typer.Option(
            metavar="local|ray|embedded",
            help="Where shards run: processes of this machine, a local Ray, or threads of this process.",
        ),
    ] = "ray",
    as_json: AsJson = False,
) -> None:
    """Train word embeddings while two shards become three. It checks that nothing was lost."""
    from .config.launchers import check_launcher
    from .demo.demo import report, run_demo
    from .demo.demo_cluster import LAUNCHERS_OF_DEMO

    with wrong_use():
        check_launcher(launcher, LAUNCHERS_OF_DEMO)
    result = run_demo(corpus=corpus, plot=plot, launcher=launcher, quiet=as_json)
    show(as_json, result, report(result))
    if not (result["bit_equal_after_scaling"] and result["pushes_exactly_once"]):
        raise typer.Exit(1)


def bench(
    address: Address = None,
    shards: Annotated[
        int, typer.Option(min=1, help="Of the cluster that is started; not with --address.")
    ] = 2,
    rows: Annotated[int, typer.Option(min=1, help="Rows of the table.")] = 1_000_000,
    dim: Annotated[int, typer.Option(min=1, help="Columns of a row.")] = 64,
    rounds: Annotated[int, typer.Option(min=1, help="Interleaved rounds; medians are shown.")] = 5,
    against: Annotated[
        str | None, typer.Option(help="A rival that takes its turns in the same run: tensorflow.")
    ] = None,
    plot: Annotated[Path | None, typer.Option(help="Where a picture goes.")] = None,
    as_json: AsJson = False,
) -> None:
    """Measure pull, push and step beside plain sockets. These move the same bytes in the same run."""
    from .bench.bench import RIVALS, report, run_bench

    if against is not None and against not in RIVALS:
        raise WrongUse(f"--against must be one of {', '.join(RIVALS)}, got {against!r}")

    if address is not None:  # a cluster that does not answer is said at once
        with cluster(None, address, None):
            pass
    result = run_bench(
        address,
        shards=shards,
        rows=rows,
        dim=dim,
        rounds=rounds,
        against=against,
        plot=plot,
        quiet=as_json,
    )
    if as_json:
        show_json(result)
    else:
        sys.stdout.write(report(result) + "\n")  # a table as it is wide, not wrapped to the terminal
