"""The commands that look: `rowloom top`, `hot`, `logs`, `metrics`."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ...proto.errors import RowloomError
from ..cli_options import Address, AsJson, Home, Name, WrongUse, cluster, directory_of, table_of, wrong_use
from ..terminal import console, show, show_json

if TYPE_CHECKING:
    from ...proto import rowloom_pb2 as pb
    from .log_files import ProcessLog

FIRST_S = 0.5  # until the first rates are shown, at most
Interval = Annotated[float, typer.Option("--interval-s", min=0.1, help="Seconds between two looks.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    for command in (top, hot, logs, metrics):
        app.command()(command)


@contextlib.contextmanager
def _until_interrupted() -> Generator[None]:
    """What a command does until Ctrl-C or SIGTERM, its usual end."""
    with contextlib.suppress(KeyboardInterrupt):
        yield


def top(
    once: Annotated[bool, typer.Option("--once", help="Show it once, over the interval, and end.")] = False,
    interval_s: Interval = 2.0,
    name: Name = None,
    address: Address = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Show what each shard and table does now. Rows and bytes a second, times of calls, skew, memory. Ctrl-C ends."""
    from .history import History

    with cluster(name, address, home) as (remote, earlier, _):
        history = History(remote.status, every_s=interval_s)
        history.saw(earlier)
        if once:
            time.sleep(interval_s)
            history.look()
            seen = history.state()["now"]
            show(as_json, seen, _screen({"now": seen}))
            return
        with _until_interrupted(), _live(as_json) as shown:
            pause_s, note = min(interval_s, FIRST_S), ""
            while True:
                time.sleep(pause_s)
                try:
                    history.look()
                    note = ""
                except RowloomError as e:  # it may come back; what was last seen stays
                    note = f"the coordinator does not answer: {e}"
                shown(history.state(), note)
                pause_s = interval_s


def _screen(seen: dict[str, Any], note: str = "") -> Any:
    from .top import render_top

    samples, events = seen.get("samples", ()), seen.get("events", ())[1:]  # the first one: it began to look
    return render_top(seen["now"], console().width, note, samples, events)


@contextlib.contextmanager
def _live(as_json: bool) -> Generator[Callable[[dict[str, Any], str], object]]:
    """What shows a state: on a screen of its own, one below the other where stdout is no terminal, or as JSON."""
    screen = console()

    def as_line(seen: dict[str, Any], note: str) -> None:
        show_json({**seen["now"], "note": note})

    def below(seen: dict[str, Any], note: str) -> None:
        screen.print(_screen(seen, note), markup=False)

    if as_json:
        yield as_line
    elif not screen.is_terminal:
        yield below
    else:
        from rich.live import Live

        with Live(console=screen, screen=True, auto_refresh=False) as live:

            def anew(seen: dict[str, Any], note: str) -> None:
                live.update(_screen(seen, note), refresh=True)

            yield anew


def hot(
    table: Annotated[str | None, typer.Argument(help="The table's name; none: all of them.")] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=1024, help="How many ids of each.")] = 10,
    name: Name = None,
    address: Address = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Show which ids are pulled and pushed most. And how much of all that is each. Takes the right to pull."""
    from ..operate.status import render_hottest, summary
    from .hot import as_json as plain
    from .hot import hottest_of

    with cluster(name, address, home) as (remote, now, _):
        state = summary(now)
        names = (
            [table_of(state, table)["name"]] if table is not None else [t["name"] for t in state["tables"]]
        )
        looked = hottest_of(remote.address, remote.credentials, names, limit)
        if table is not None and isinstance(refusal := looked[table], RowloomError):
            raise refusal
        found = {one: plain(hottest) for one, hottest in looked.items()}
    show(as_json, {"name": now.name, "tables": found}, render_hottest(found))


def logs(
    process: Annotated[
        str | None,
        typer.Argument(help="The index of a shard, or `coordinator`; none: all of them.", metavar="PROCESS"),
    ] = None,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on with what these processes say, until Ctrl-C.")
    ] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, help="How many of the last lines.")] = 100,
    name: Name = None,
    address: Address = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Show what the processes of a cluster say happens to them. Of a cluster here also when it does not run."""
    from .log_files import Follower, chosen, last_lines, still_in_words, with_older

    known, since = _known_logs(name, address, home, process)
    with wrong_use():
        files = chosen(known, process)
    if as_json and not follow:
        still = {log.process: log.still for log in files if log.still}
        paths = {log.process: str(log.path) for log in files}
        said = last_lines(files, lines, since)
        show_json({"files": paths, "lines": said, "not_running": still, "since": since or None})
        return
    # Before the last lines are read, so that none is missed in between.
    with Follower(files if follow else []) as following, _until_interrupted():
        said = last_lines(files, lines, since)
        for line in said:
            _say(line, as_json)
        if lines and not said:
            where = ", ".join(str(log.path) for log in files)
            sys.stderr.write(f"rowloom: nothing was logged yet: {where}\n")
        older = with_older(files, since) if len(said) < lines else []
        if older:
            where = ", ".join(str(log.path) for log in older)
            sys.stderr.write(
                f"rowloom: lines of an earlier cluster of this name, of before {since}, are left out: {where}\n"
            )
        if still := still_in_words(files):
            sys.stderr.write(f"rowloom: {still}\n")
        for line in following.lines() if follow else ():
            _say(line, as_json)


def _say(line: str, as_json: bool) -> None:
    from .log_files import unfolded

    sys.stdout.write(f"{json.dumps({'line': line}) if as_json else unfolded(line)}\n")
    sys.stdout.flush()


def _known_logs(
    name: str | None, address: str | None, home: Path | None, process: str | None
) -> tuple[list[ProcessLog], str]:
    """By the files of the cluster, if it is of this machine; else by asking it. And since when it logs, if known."""
    from ..launch.cluster_folder import begin_of, logs_in
    from ..operate.clusters import only_name
    from ..operate.left_shards import folder_of
    from .log_files import check_says, logs_here, logs_of

    directory = directory_of(home)
    if address is None:
        meant = name if name is not None else only_name(directory)
        record = directory.get(meant)
        folder = folder_of(meant, directory)
        if record.launcher == "local" if record is not None else logs_in(folder).is_dir():
            running = (record.pid, record.started) if record is not None else (0, 0)
            return logs_here(folder, *running), begin_of(folder)
    with cluster(name, address, home) as (_, status, _):
        check_says(status, process)
        return logs_of(status), ""


def metrics(
    out: Annotated[
        Path | None, typer.Option(help="A file for file_sd_configs of Prometheus; none: stdout.")
    ] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Keep the file fresh, until Ctrl-C.")] = False,
    interval_s: Interval = 5.0,
    name: Name = None,
    address: Address = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Say where each process offers its metrics, for Prometheus. `metrics: {port: 0}` in the config turns them on."""
    if watch and out is None:
        raise WrongUse("--watch keeps a file fresh: say which with --out FILE")
    with cluster(name, address, home) as (remote, status, _):
        known = _write_targets(status, out, [])
        show(as_json, {"out": str(out) if out else None, "targets": known}, _told(known, out))
        with _until_interrupted():
            while watch:
                time.sleep(interval_s)
                with contextlib.suppress(
                    RowloomError
                ):  # it may come back; until then the file stays as it is
                    known = _write_targets(remote.status(), out, known)


def _write_targets(
    status: pb.StatusReply, out: Path | None, known: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    from ...proto.atomic_file import write_atomic
    from .targets import targets

    found = targets(status)
    if not found:
        raise RowloomError(
            f"{status.name} offers no metrics: start it with `metrics: {{port: 0}}` in its deploy config"
        )
    if out is not None and found != known:
        write_atomic(out, json.dumps(found, indent=2) + "\n")
    return found


def _told(found: list[dict[str, Any]], out: Path | None) -> str:
    if out is None:
        return json.dumps(found, indent=2)
    return f"{out} names {len(found)} processes"
