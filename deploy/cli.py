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
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..proto.errors import NoAnswer, RowloomError, StateLost
from . import cli_files, cli_measure, cli_secure, cli_snapshots, cli_tables
from .checks import cli_checks
from .cli_options import (
    DEPLOY_YAML,
    Address,
    AsJson,
    Home,
    Name,
    WithNumbers,
    WrongUse,
    check_serving,
    check_urls,
    cluster,
    config_file,
    directory_of,
    interrupted,
    known_names,
    left_of,
    number,
)
from .config import home as homes
from .config.words import counted
from .down import cli_down
from .ending import INTERRUPTED, as_interrupts
from .nodes import cli_nodes
from .observe import commands as observing
from .render import cli_render
from .terminal import at_once, console, show, show_json, stage, unless_soon

if TYPE_CHECKING:
    from ..proto import rowloom_pb2 as pb
    from .config.config import DeployConfig
    from .operate.remote import Remote
    from .operate.skew import Seen
    from .terminal import Stage

HOTTEST = 5  # ids of each table, with --hot

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="""rowloom: embedding tables too big for one machine.

\b
Exit codes:
  0    done
  1    it failed or was refused, and the message says why; the storage of a cluster included; or what verify, diff and
       doctor looked at is not well
  2    wrong use: an option, a config, a file, folder or URL of this command that cannot be used, --home included
  3    a shard does not serve: up, status, tables, plan, verify, and whatever needs it; export --partial took the others
  4    there is no such cluster, or more than one to choose from
  5    the cluster does not answer: it is down, starting, has ended, stands still or cannot be reached
  130  interrupted; what was begun is removed, or the message says where it goes on
  143  ended by SIGTERM, as if interrupted: what was begun is removed; 129: by SIGHUP""",
)

SLOW_START_S = 10.0  # of a start without a word; a quick one takes 2 to 5 s
ConfigFile = Annotated[Path, typer.Argument(help="The deploy config.")]


def main() -> None:
    """The entry point: every failure of ours is a message on stderr and an exit code of `rowloom --help`."""
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    homes.settle()
    with as_interrupts():
        _run()


def _run() -> None:
    try:
        check_urls(sys.argv[1:])
        app()
    except SystemExit as e:
        if e.code == INTERRUPTED:  # typer ends so at Ctrl-C, without a word
            sys.stderr.write("rowloom: interrupted\n")
        raise
    except RowloomError as e:
        sys.stderr.write(f"rowloom: {e}\n")
        usual = 3 if isinstance(e, StateLost) else 5 if isinstance(e, NoAnswer) else 1
        sys.exit(getattr(e, "exit_code", usual))
    except KeyboardInterrupt:
        sys.stderr.write("rowloom: interrupted\n")
        sys.exit(INTERRUPTED)
    except BrokenPipeError:  # the reader of our output went away
        sys.stderr.close()
        sys.exit(1)
    except ImportError as e:  # what only some files and launchers need
        if os.environ.get("ROWLOOM_TRACEBACK"):
            raise
        bare = f"this needs a package that is not installed: {e.name or e}"
        sys.stderr.write(f"rowloom: {e if 'pip install' in str(e) else bare}\n")
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
    home: Home = None,
) -> None:
    if home is not None:  # commands read it; one of theirs counts more
        os.environ["ROWLOOM_HOME"] = str(home)


# ----------------------------------------------------------------------------------------------------------- commands


@app.command()
def up(
    config: Annotated[
        Path | None,
        typer.Argument(help="The deploy config; none: ./deploy.yaml, and without that one shard here."),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(
            help="In place of a config: a cluster known here, with the config that it had.",
            autocompletion=known_names,
        ),
    ] = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Start a cluster. It stays when this command has ended. Exit code 3 if it runs and a shard does not serve."""
    with at_once("rowloom: one moment", as_json):
        from .operate.clusters import may_run
        from .operate.clusters import up as start
        from .operate.left import shards_at_start, storage_away
        from .operate.status import in_memory, summary
        from .snapshots.resuming import goes_on_with

    wanted, path = _wanted(config, name, home)
    directory = directory_of(home)
    title = f"starting {wanted.name!r}"
    if not may_run(wanted.name, directory):  # else nobody knows yet how many have to be started
        title = f"starting {counted(shards_at_start(wanted), 'shard')} of {wanted.name!r}"
    with interrupted(lambda: left_of(wanted.name, directory)), stage(title, as_json) as starting:
        file = None if name is not None else str(path or "FILE")
        slow = partial(
            starting.say, f"{title}: where nothing was compiled yet, this takes up to a minute, once"
        )
        with unless_soon(SLOW_START_S, slow, as_json):
            result = start(wanted, directory, starting.say, file=file)
    record = result.record
    shards = result.shards or wanted.shards
    state = summary(result.status) if result.status is not None else None
    went_on = goes_on_with(state, record.storage) if state is not None and result.started else None
    well = state is None or state["healthy"]
    started = "is up" if well else "is started, and not all of it serves"
    how = started if result.started else "has a new coordinator" if result.taken_over else "runs already"
    found = f", from ./{path}" if path is not None else ", no ./deploy.yaml here"
    taken = "" if config is not None or name is not None else found
    show(
        as_json,
        {
            "name": record.name,
            "address": record.address,
            "launcher": record.launcher,
            "shards": shards,
            "started": result.started,
            "replaced": result.replaced,
            "config_hash": wanted.hash,
            "durability": wanted.durability,
            "config": str(path) if path is not None else None,
            "earlier_snapshots": result.passed_over.to_json() if result.passed_over is not None else None,
            "goes_on": went_on.to_json() if went_on is not None else None,
        },
        f"{record.name} {how}: {counted(shards, 'shard')} ({record.launcher}{taken}), coordinator "
        f"{record.address}{f'; it {went_on}' if went_on is not None else ''}\n"
        f"    client = {record.to_connect}",
    )
    if result.started and wanted.durability == "memory" and not as_json:
        sys.stderr.write(f"rowloom: {in_memory(wanted)}\n")
    if result.replaced:
        sys.stderr.write(
            f"rowloom: the {record.name!r} that ran before had ended by itself, and its rows are lost: this one begins "
            "at initial values\n"
        )
    if result.passed_over is not None:
        told = result.passed_over.after_start(directory.option(record.name), str(path or "FILE"))
        sys.stderr.write(f"rowloom: {told}\n")
    if went_on is not None and not as_json:
        sys.stderr.write(went_on.warning(directory.option(record.name), str(path or "FILE")))
    if result.status is not None and state is not None:
        if away := storage_away(result.status, directory):
            sys.stderr.write(f"rowloom: {away}\n")
        check_serving(state, options=directory.option(record.name))


@app.command()
def status(
    watch: Annotated[bool, typer.Option("--watch", help="Show it anew until interrupted.")] = False,
    interval_s: Annotated[
        float, typer.Option(min=0.1, help="Seconds between two looks; rates are over them.")
    ] = 1.0,
    hot: Annotated[
        bool,
        typer.Option(
            "--hot", help="Also the ids that each table is asked for most; takes the right to pull."
        ),
    ] = False,
    name: Name = None,
    address: Address = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Show each shard: its node, address, rows, rates and health. Exit code 3 if one does not serve."""
    from .operate.left import storage_away
    from .operate.status import render_status, summary

    directory = directory_of(home)

    def state_of(now: pb.StatusReply, earlier: pb.StatusReply, remote: Remote) -> dict[str, Any]:
        state = _with_hottest(summary(now, earlier), remote, hot)
        return state | {"storage_away": storage_away(now, directory) or None}

    while True:  # one that ceased to answer is looked for again: that says what has become of it
        with cluster(name, address, home) as (remote, now, options), contextlib.suppress(NoAnswer):
            time.sleep(min(interval_s, 0.5))
            earlier, now = now, remote.status()
            while watch:
                _show_status(state_of(now, earlier, remote), as_json)
                time.sleep(interval_s)
                earlier, now = now, remote.status()
            state = state_of(now, earlier, remote)
            break
    show(as_json, state, render_status(state))
    check_serving(state, options=options)


def _with_hottest(state: dict[str, Any], remote: Remote, hot: bool) -> dict[str, Any]:
    """A `summary`, and if that is wanted the hottest ids of its tables."""
    from .observe.hot import as_json, hottest_of

    if hot:
        names = [table["name"] for table in state["tables"]]
        found = hottest_of(remote.address, remote.credentials, names, HOTTEST)
        for table in state["tables"]:
            table["hottest"] = as_json(found[table["name"]])
    return state


def _show_status(state: dict[str, Any], as_json: bool) -> None:
    """On a screen of its own."""
    from .operate.status import render_status

    if as_json:
        show_json(state)
        return
    screen = console()
    screen.clear()
    screen.print(render_status(state, screen.width))


@app.command()
def plan(
    config: ConfigFile = DEPLOY_YAML,
    address: Address = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Show what `apply` would change, and the memory that it takes. Also what would be uneven. Changes nothing."""
    from .operate.planning import plan as compare
    from .operate.skew import to_json
    from .operate.status import render_plan, starts, summary

    wanted = _load(config)
    status, seen, unseen = _running(wanted, address, home)
    result = compare(wanted, status, seen, directory_of(home), file=str(config))
    show(
        as_json,
        {
            "running": status is not None,
            "changes": [dataclasses.asdict(c) for c in result.changes],
            "memory": dataclasses.asdict(result.memory),
            "refused": result.refused,
            "skew": [to_json(one) for one in result.skew],
            "skew_unknown": unseen,
            "problems": [one.to_json() for one in result.told],
        },
        render_plan(result, starts(wanted) if status is None else "", unseen),
    )
    result.check()
    if status is not None:
        check_serving(summary(status), options=directory_of(home).option(status.name), ways=False)


@app.command()
def apply(
    config: ConfigFile = DEPLOY_YAML,
    cancel: Annotated[
        bool, typer.Option("--cancel", help="Give up the scaling that runs: everything is as before it.")
    ] = False,
    restart: Annotated[
        bool, typer.Option("--restart", help="Start every server anew, one after the other.")
    ] = False,
    address: Address = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Bring a running cluster to a config, while trainers go on.

    Tables, learning rates, standbys; rows are moved to the new shards.

    With another `ray.runtime_env`, or --restart, every server is started anew, one after the other, while trainers
    go on; on Ray the coordinator, too.
    """
    from .operate.applying import apply as change
    from .operate.moves import handed_over, move_summary, moved, shown_on
    from .operate.status import summary

    wanted = _load(config)
    if cancel:
        _cancel(wanted, address, home, as_json)
        return
    with cluster(wanted.name, address, home) as (remote, now, options), _moving(as_json) as moving:
        check_serving(summary(now), "nothing was changed", options=options)
        with interrupted(lambda: f"what was begun goes on; `rowloom apply {config}` again does the rest"):
            offer = partial(_offer, wanted, home)
            done, scaled = change(
                wanted, remote, now, shown_on(moving), restart=restart, file=str(config), offer=offer
            )
    shown = ("create", "set_lr", "autoscale", "scale", "deal", "limit", "standbys", "upgrade")
    made = [c for c in done.changes if c.action in shown]
    anew = ["every server was started anew"] if restart else []
    stays = [str(c) for c in done.changes if c.action == "keep"]
    lines = [*([*map(str, made), *anew] or ["nothing to change"]), *stays]
    if scaled is not None:
        lines.append(handed_over(scaled) if scaled.handed_over else moved(scaled))
    show(
        as_json,
        {
            "changes": [dataclasses.asdict(c) for c in made],
            "scaling": move_summary(scaled) if scaled is not None else None,
        },
        "\n".join(lines),
    )


@app.command(cls=WithNumbers)
def scale(
    shards: Annotated[
        int,
        typer.Argument(
            help="How many shards there shall be.", parser=number("shards", int, "rowloom scale 3")
        ),
    ],
    name: Name = None,
    address: Address = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Change the number of shards. Every row and slot moves to its new owner; trainers go on."""
    from .config.sections import MAX_SHARDS
    from .operate.moves import move_summary, moved, shown_on
    from .operate.status import summary

    if not 1 <= shards <= MAX_SHARDS:
        raise WrongUse(f"shards must be in [1, {MAX_SHARDS}], got {shards}")
    with cluster(name, address, home) as (remote, now, options), _moving(as_json) as moving:
        check_serving(summary(now), "nothing was changed", options=options)
        with interrupted(lambda: f"the cluster goes on alone; `rowloom scale {shards}` again waits for it"):
            done = remote.scale(shards, shown_on(moving))
    before = done.shards_before or len(now.layout.shards)  # another scaling may have ended meanwhile
    told = (
        f"{before} -> {counted(shards, 'shard')}: {moved(done)}"
        if before != shards
        else f"{'there is' if shards == 1 else 'there are'} {counted(shards, 'shard')} already"
    )
    show(as_json, {"before": before, **move_summary(done), "shards": shards}, told)


cli_down.register(app)
cli_measure.register(app)
cli_tables.register(app)
cli_snapshots.register(app)
cli_files.register(app)
cli_secure.register(app)
cli_checks.register(app)
observing.register(app)
cli_render.register(app)
cli_nodes.register(app)


# -------------------------------------------------------------------------------------------------------- the cluster


def _wanted(config: Path | None, name: str | None, home: Path | None) -> tuple[DeployConfig, Path | None]:
    """What `up` is to start, and the file that says so, if one does."""
    from .config.config import parse
    from .operate.clusters import config_as_it_was

    if name is not None and config is not None:
        raise WrongUse(
            f"{config} says which cluster is meant: --name is for starting one again without a config"
        )
    if name is not None:
        return config_as_it_was(directory_of(home), name), None
    path = config_file(config)
    return (parse({}) if path is None else _load(path)), path


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


def _offer(wanted: DeployConfig, home: Path | None) -> None:
    from .operate.ray_clusters import offer

    offer(wanted, directory_of(home))


def _running(
    wanted: DeployConfig, address: str | None, home: Path | None
) -> tuple[pb.StatusReply | None, dict[str, Seen], dict[str, str]]:
    """The status of the cluster, None if it does not run; and by table what its shards have seen, or why not."""
    from .observe.sampling import sample
    from .operate.clusters import known

    if address is None and known(directory_of(home), wanted.name) is None:
        return None, {}, {}
    with cluster(wanted.name, address, home) as (remote, status, _):
        return status, *sample(remote.address, remote.credentials, status)


def _moving(quiet: bool) -> contextlib.AbstractContextManager[Stage]:
    return stage("moving rows", quiet, unit="rows")


def _cancel(wanted: DeployConfig, address: str | None, home: Path | None, as_json: bool) -> None:
    """Give up the scaling that runs."""
    from .operate.moves import move_summary

    with cluster(wanted.name, address, home) as (remote, _, _), stage("rolling back", as_json):
        ended = remote.cancel_scaling()
    what = f"scaling to {counted(ended.shards, 'shard')}"
    if ended.state != "failed":
        raise RowloomError(
            f"{what} was done before it could be cancelled: `rowloom status` shows what there is now"
        )
    show(as_json, move_summary(ended), f"{what} was cancelled: everything is as before")


if __name__ == "__main__":
    main()
