"""The command `rowloom`: start a cluster, look at it, change it, end it.

Commands only read options and show results; `operate` does the work. What a command needs is imported when it runs, so
that the command line starts fast.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..proto.errors import RowloomError, StateLost
from . import cli_files, cli_measure, cli_snapshots, cli_tables
from .cli_options import (
    Address,
    AsJson,
    Home,
    Name,
    WrongUse,
    Yes,
    check_serving,
    cluster,
    confirm,
    directory_of,
)
from .config.words import counted
from .terminal import console, show, show_json, stage

if TYPE_CHECKING:
    from ..proto import rowloom_pb2 as pb
    from .config.config import DeployConfig
    from .operate.directory import ClusterDirectory
    from .terminal import Stage

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="""rowloom: embedding tables too big for one machine.

\b
Exit codes:
  0    done
  1    it failed or was refused, and the message says why; the storage of a cluster included
  2    wrong use: an option, a config, a file or folder of this command that cannot be used, --home included
  3    a shard does not serve: up, status, tables, plan, and whatever needs that shard
  4    there is no such cluster, or more than one to choose from
  130  interrupted""",
)


DEPLOY_YAML = Path("deploy.yaml")
ConfigFile = Annotated[Path, typer.Argument(help="The deploy config.")]


class Interrupted(RowloomError):
    """By Ctrl-C; the message says what is left."""

    exit_code = 130


def main() -> None:
    """The entry point: every failure of ours is a message on stderr and an exit code of `rowloom --help`."""
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    try:
        app()
    except SystemExit as e:
        if e.code == 130:  # typer ends so at Ctrl-C, without a word
            sys.stderr.write("rowloom: interrupted\n")
        raise
    except RowloomError as e:
        sys.stderr.write(f"rowloom: {e}\n")
        sys.exit(getattr(e, "exit_code", 3 if isinstance(e, StateLost) else 1))
    except KeyboardInterrupt:
        sys.stderr.write("rowloom: interrupted\n")
        sys.exit(130)
    except BrokenPipeError:  # the reader of our output went away
        sys.stderr.close()
        sys.exit(1)
    except ImportError as e:  # what only some files and launchers need
        if os.environ.get("ROWLOOM_TRACEBACK"):
            raise
        sys.stderr.write(f"rowloom: this needs a package that is not installed: {e.name or e}\n")
        sys.exit(2)
    except OSError as e:  # a file or folder that the user named, or home
        where = f"{e.filename}: " if e.filename else ""
        sys.stderr.write(f"rowloom: {where}{e.strerror or e}\n")
        sys.exit(2)
    except Exception as e:  # a fault of ours; who can use its traceback asks for it
        if os.environ.get("ROWLOOM_TRACEBACK"):
            raise
        sys.stderr.write(
            f"rowloom: internal error: {type(e).__name__}: {e}; ROWLOOM_TRACEBACK=1 shows where\n"
        )
        sys.exit(1)


def _version(wanted: bool) -> None:
    if wanted:
        import importlib.metadata

        sys.stdout.write(f"rowloom {importlib.metadata.version('rowloom')}\n")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


# ----------------------------------------------------------------------------------------------------------- commands


@app.command()
def up(
    config: Annotated[
        Path | None,
        typer.Argument(help="The deploy config; none: ./deploy.yaml, and without that one shard here."),
    ] = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Start a cluster. It stays when this command has ended. Exit code 3 if it runs and a shard does not serve."""
    from .config.config import parse
    from .operate.clusters import up as start
    from .operate.status import summary

    path = config if config is not None else DEPLOY_YAML if DEPLOY_YAML.exists() else None
    wanted = _load(path) if path is not None else parse({})
    directory = directory_of(home)
    try:
        with stage(f"starting {counted(wanted.shards, 'shard')} of {wanted.name!r}", as_json) as starting:
            result = start(wanted, directory, starting.say)
    except KeyboardInterrupt:
        raise Interrupted(_left_of(wanted.name, directory)) from None
    record = result.record
    how = "is up" if result.started else "runs already"
    taken = (
        "" if config is not None else f", from ./{path}" if path is not None else ", no ./deploy.yaml here"
    )
    show(
        as_json,
        {
            "name": record.name,
            "address": record.address,
            "launcher": record.launcher,
            "shards": wanted.shards,
            "started": result.started,
            "replaced": result.replaced,
            "config_hash": wanted.hash,
            "config": str(path) if path is not None else None,
        },
        f"{record.name} {how}: {counted(wanted.shards, 'shard')} ({record.launcher}{taken}), coordinator "
        f"{record.address}\n"
        f'    client = connect("{record.address}")',
    )
    if result.replaced:
        sys.stderr.write(
            f"rowloom: the {record.name!r} that ran before had ended by itself, and its rows are lost: this one begins "
            "at initial values\n"
        )
    if result.status is not None:
        check_serving(summary(result.status), options=directory.option(record.name))


def _left_of(name: str, directory: ClusterDirectory) -> str:
    """In words, what an `up` that was interrupted has left."""
    if name not in directory.names():
        return f"interrupted: what was started of {name!r} was ended, nothing is left"
    return (
        f"interrupted: something of {name!r} may run; `rowloom down{directory.option(name)}` ends it, `rowloom up` "
        "finds it or starts anew"
    )


@app.command()
def status(
    watch: Annotated[bool, typer.Option("--watch", help="Show it anew until interrupted.")] = False,
    interval_s: Annotated[
        float, typer.Option(min=0.1, help="Seconds between two looks; rates are over them.")
    ] = 1.0,
    name: Name = None,
    address: Address = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Show each shard's node, address, epoch, rows, bytes, rates and health. Exit code 3 if one does not serve."""
    from .operate.status import render_status, summary

    with cluster(name, address, home) as (remote, now, options):
        time.sleep(min(interval_s, 0.5))
        earlier, now = now, remote.status()
        state = summary(now, earlier)
        while watch:
            if as_json:
                show_json(state)
            else:
                screen = console()
                screen.clear()
                screen.print(render_status(state, screen.width))
            time.sleep(interval_s)
            earlier, now = now, remote.status()
            state = summary(now, earlier)
    show(as_json, state, render_status(state))
    check_serving(state, options=options)


@app.command()
def plan(
    config: ConfigFile = DEPLOY_YAML,
    address: Address = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Show what `apply` would change and the memory that each shard needs. Changes nothing."""
    from .config.changes import refuse
    from .operate.clusters import plan as compare
    from .operate.status import render_plan, starts, summary

    wanted = _load(config)
    status = _status_if_it_runs(wanted, address, home)
    result = compare(wanted, status)
    show(
        as_json,
        {
            "running": status is not None,
            "changes": [dataclasses.asdict(c) for c in result.changes],
            "memory": dataclasses.asdict(result.memory),
            "refused": result.refused,
        },
        render_plan(result.changes, result.memory, starts(wanted) if status is None else ""),
    )
    refuse(result.changes)
    if status is not None:
        check_serving(summary(status), options=directory_of(home).option(status.name))


@app.command()
def apply(
    config: ConfigFile = DEPLOY_YAML,
    address: Address = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Bring a running cluster to a config: tables are made, learning rates set, rows moved to the new shards."""
    from .operate.clusters import apply as change
    from .operate.status import summary

    wanted = _load(config)
    with cluster(wanted.name, address, home) as (remote, now, options), _moving(as_json) as moving:
        check_serving(summary(now), "nothing was changed", options=options)
        done, scaled = change(wanted, remote, now, moving.reach)
    made = [c for c in done.changes if c.action in ("create", "set_lr", "scale")]
    lines = [str(c) for c in made] or ["nothing to change"]
    if scaled is not None:
        lines.append(_moved(scaled))
    show(
        as_json,
        {
            "changes": [dataclasses.asdict(c) for c in made],
            "scaling": _scaling(scaled) if scaled is not None else None,
        },
        "\n".join(lines),
    )


@app.command()
def scale(
    shards: Annotated[int, typer.Argument(help="How many shards there shall be.")],
    name: Name = None,
    address: Address = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Change the number of shards. Every row and slot moves to its new owner; trainers go on."""
    from .config.config import MAX_SHARDS
    from .operate.status import summary

    if not 1 <= shards <= MAX_SHARDS:
        raise WrongUse(f"shards must be in [1, {MAX_SHARDS}], got {shards}")
    with cluster(name, address, home) as (remote, now, options), _moving(as_json) as moving:
        check_serving(summary(now), "nothing was changed", options=options)
        before = len(now.layout.shards)
        done = remote.scale(shards, moving.reach)
    told = (
        f"{before} -> {counted(shards, 'shard')}: {_moved(done)}"
        if before != shards
        else f"{'there is' if shards == 1 else 'there are'} {counted(shards, 'shard')} already"
    )
    show(as_json, {"before": before, "shards": shards, **_scaling(done)}, told)


@app.command()
def down(
    name: Name = None,
    address: Address = None,
    forget: Annotated[
        bool, typer.Option("--forget", help="End nothing: its machines are gone for good.")
    ] = False,
    keep: Annotated[
        bool,
        typer.Option(
            "--keep", help="Its logs stay: `rowloom up` goes on from them. Not with durability memory."
        ),
    ] = False,
    yes: Yes = False,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """End a cluster: its shards, their rows, its coordinator, its actors and placement groups.

    ALL ROWS ARE LOST, without --keep: `rowloom export` keeps those of a table, without its optimizer's slots, and
    `rowloom import` brings them back. On a terminal it asks first, if there are rows.
    """
    from .operate.clusters import down as end
    from .operate.clusters import locate_to_end, lost_with, only_name

    directory = directory_of(home)
    if forget:
        gone = directory.forget(name if name is not None else only_name(directory))
        show(as_json, {"name": gone, "down": False}, f"{gone} is forgotten; nothing was ended")
        return
    with stage("looking for it", as_json) as looking:
        record = locate_to_end(directory, name, address, looking.say)
        lost = lost_with(record) if not yes and not keep else ""
    if lost:
        option = directory.option(record.name) if record.launcher else f" --address {record.address}"
        confirm(f"{lost} `rowloom export TABLE FILE{option}` keeps rows.", yes, ask_nobody=True)
    with stage(f"ending {record.name or record.address}", as_json):
        ended = end(record, directory, keep=keep)
    kept = "; its rows are kept, and `rowloom up` goes on from them" if keep else ""
    show(as_json, {"name": ended, "down": True, "kept": keep}, f"{ended} is down{kept}")


@app.command()
def inspect(
    table: Annotated[str, typer.Argument(help="The table's name.")],
    row_id: Annotated[int, typer.Argument(metavar="ID", help="The row's id.")],
    name: Name = None,
    address: Address = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Show one row and the shard that owns it. A row that was never pushed shows its initial value."""
    import numpy as np

    from ..client import connect
    from ..proto.layout import owner
    from .operate.status import summary

    shard = 0
    with cluster(name, address, home) as (remote, now, options), connect(remote.address) as client:
        found = client.table(table)
        # What does not serve is said at once, not after the client's patience.
        if 0 <= row_id < found.spec.id_limit:
            shard = int(owner(found.spec, np.array([row_id], np.int64), len(now.layout.shards))[0])
            check_serving(summary(now), only=shard, options=options)
        row = found.pull([row_id], wire="float32")[0]
    values = np.array2string(row, precision=6, threshold=4096, max_line_width=100)
    show(
        as_json,
        {
            "table": table,
            "id": row_id,
            "shard": shard,
            "address": now.layout.shards[shard].address,
            "row": row.tolist(),
        },
        f"{table}[{row_id}]  shard {shard} of {len(now.layout.shards)} at {now.layout.shards[shard].address}\n{values}",
    )


cli_measure.register(app)
cli_tables.register(app)
cli_snapshots.register(app)
cli_files.register(app)


# -------------------------------------------------------------------------------------------------------- the cluster


def _load(path: Path) -> DeployConfig:
    """What a file asks for. One that sets nothing is allowed, and said to be so: more may have been meant."""
    from .config.config import load

    wanted = load(path)
    if wanted.sets_nothing:
        sys.stderr.write(
            f"rowloom: {path} is empty, or sets no key, so it means the defaults: name {wanted.name}, "
            f"{counted(wanted.shards, 'shard')}, launcher {wanted.launcher}, no tables\n"
        )
    return wanted


def _status_if_it_runs(wanted: DeployConfig, address: str | None, home: Path | None) -> pb.StatusReply | None:
    from .operate.clusters import known

    if address is None and known(directory_of(home), wanted.name) is None:
        return None
    with cluster(wanted.name, address, home) as (_, status, _):
        return status


def _moving(quiet: bool) -> contextlib.AbstractContextManager[Stage]:
    return stage("moving rows", quiet, unit="rows")


def _scaling(reply: pb.ScaleReply) -> dict[str, Any]:
    return {
        "state": reply.state,
        "epoch": reply.epoch,
        "pause_s": round(reply.pause_s, 4),
        "rows": reply.rows,
        "seconds": round(reply.seconds, 4),
    }


def _moved(reply: pb.ScaleReply) -> str:
    return (
        f"{reply.rows:,} rows moved in {reply.seconds:.2f} s, pushes waited {reply.pause_s * 1000:.0f} ms, "
        f"epoch {reply.epoch}"
    )


if __name__ == "__main__":
    main()
