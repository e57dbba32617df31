"""`rowloom snapshot`, `snapshots`, `diff` and `restore`: a cluster at one moment, kept and brought back."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, NoReturn

import typer

from ..proto.errors import InvalidRequest, NoAnswer, RowloomError, Unavailable
from .cli_options import (
    Address,
    AsJson,
    Home,
    Name,
    WrongUse,
    check_serving,
    cluster,
    config_file,
    directory_of,
    interrupted,
    left_of,
    named_snapshot,
    wrong_use,
)
from .config.words import counted, seconds_of
from .terminal import Stage, show, stage

if TYPE_CHECKING:
    from ..proto.snapshots.snapshot import StoredSnapshot
    from .operate.remote import Remote

NO_NEW = "there is no new snapshot"
GOES = "* only keeps the logs short: `rowloom down` removes it with them; `rowloom snapshot` makes one that stays"
Url = Annotated[
    str, typer.Argument(metavar="URL", help="A snapshot's folder: a path, or a URL such as s3://....")
]


def register(app: typer.Typer) -> None:
    """Put the commands on the command line."""
    app.command("snapshot")(snapshot)
    app.command("snapshots")(snapshots)
    app.command("diff")(diff)
    app.command("restore")(restore)


def snapshot(
    extra: Annotated[Path | None, typer.Option(help="A file, less than 16 MiB, kept with it.")] = None,
    full: Annotated[
        bool, typer.Option("--full", help="Whole by itself, not only what has changed since the one before.")
    ] = False,
    every: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="Go on taking one, as every 10m (s, m, h, d), until Ctrl-C."),
    ] = None,
    keep: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Of those taken with --keep, the newest N stay, and what they were made upon; others are "
            "never removed.",
        ),
    ] = None,
    name: Name = None,
    address: Address = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Take a snapshot of a cluster while trainers go on. It has rows, slots, steps, and who pushed what."""
    from ..proto.snapshots.extra import encode_extra
    from .operate.status import summary

    def take() -> None:
        with wrong_use():
            given = {extra.name: extra.read_bytes()} if extra is not None else {}
            encode_extra(given)
        goes_on = (
            "one that was begun is finished by the cluster; `rowloom snapshots` lists it when it is whole"
        )
        with (
            interrupted(lambda: goes_on),
            cluster(name, address, home) as (remote, now, options),
        ):
            check_serving(summary(now), NO_NEW, reads=True, options=options)
            with stage("writing a snapshot", as_json), naming_shards(remote, options):
                taken = remote.take_snapshot(given, full=full, keep=keep or 0)
        keys = ("id", "url", "rows", "bytes", "pause_s", "seconds")
        result = {key: getattr(taken, key) for key in keys} | {"parent": taken.parent or None}
        told = f"{taken.url}\n{taken.rows:,} rows, {taken.bytes:,} bytes"
        told += f" upon {taken.parent}" if taken.parent else ""
        show(as_json, result, f"{told}; pushes waited for {1e3 * taken.pause_s:.0f} ms")

    if every is None:
        take()
    elif every_s := seconds_of(every):
        repeat(take, every_s)
    else:
        raise WrongUse(f"--every must be a time above 0, such as 90s, 10m, 1h or 1d, got {every!r}")


@contextmanager
def naming_shards(remote: Remote, options: str) -> Generator[None]:
    """Around a snapshot, which needs all shards: where one ceases to serve meanwhile, the error names it.

    Raises:
        NotServing: there is no snapshot, and a shard does not serve.
        RowloomError: there is none for another reason.
    """
    from .operate.status import summary

    try:
        yield
    except NoAnswer:  # of the coordinator, which then cannot be asked about its shards either
        raise
    except Unavailable as e:
        try:
            state = summary(remote.status())
        except RowloomError:  # what is known is the first error
            raise e from None
        check_serving(state, NO_NEW, options=options)
        raise


def repeat(
    take: Callable[[], None], every_s: float, wait: Callable[[float], object] = time.sleep
) -> NoReturn:
    """Take one at each multiple of a time from now on. What fails is said, and tried again at the next.

    Raises:
        InvalidRequest: the first one is refused.
    """
    began, k = time.monotonic(), 0
    while True:
        try:
            take()
        except WrongUse:
            raise
        except RowloomError as e:
            if (
                isinstance(e, InvalidRequest) and not k
            ):  # as where there is no storage: none will be taken later, either
                raise
            sys.stderr.write(f"rowloom: no snapshot this time: {e}\n")
            sys.stderr.flush()
        # One that took longer than that leaves out those that would have begun meanwhile.
        k = max(k + 1, math.ceil((time.monotonic() - began) / every_s))
        wait(max(0.0, began + k * every_s - time.monotonic()))


def snapshots(
    url: Annotated[
        str | None,
        typer.Argument(
            metavar="URL",
            help="A folder of snapshots, or the storage that has it; none: that of the cluster.",
        ),
    ] = None,
    name: Name = None,
    address: Address = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """List snapshots: size, rows, time, and why some cannot be used.

    Of each it is looked whether its manifest can be read and its files are there, in their sizes: `rowloom verify URL`
    reads them. A cluster need not run: of one that is down its storage is known. Those with a * the cluster took by
    itself, to keep its logs short: `rowloom down` without --keep removes them with the logs, and then
    nobody can restore them. `rowloom snapshot` takes one that stays, with all that it is made upon.
    """
    from .launch.keeping import snapshots_of
    from .snapshots.kept import going_of
    from .snapshots.named import folder_of_snapshots, snapshots_in

    if url is None:
        storage = _storage_of(name, address, home)
        if not storage:
            raise WrongUse("this cluster has no storage, so it has no snapshots: name a folder of them")
        url = snapshots_of(storage)
    else:
        with wrong_use():
            url = folder_of_snapshots(url)
    short = going_of(url)
    found = [_listed(one) | {"goes_with_logs": one.id in short} for one in snapshots_in(url)]
    lines = [_line(one) for one in found] or [f"there are no snapshots in {url}"]
    if any(one["goes_with_logs"] for one in found):
        lines.append(GOES)
    show(as_json, {"url": url, "snapshots": found}, "\n".join(lines))


def _storage_of(name: str | None, address: str | None, home: Path | None) -> str:
    """Where a cluster keeps its snapshots, also one that does not answer; empty: it has no storage.

    Raises InvalidRequest: it is not where it was.
    """
    from .config.config import from_json
    from .launch.cluster_folder import config_of
    from .operate.clusters import locate
    from .operate.left import check_storage, storage_away
    from .operate.left_shards import folder_of
    from .operate.remote import Unreachable

    directory = directory_of(home)
    known = locate(directory, name, address)
    if not known.kept:
        try:
            with cluster(name, address, home) as (_, now, _):
                if away := storage_away(now, directory):
                    raise InvalidRequest(away)
                return from_json(now.config).storage or ""
        except Unreachable:
            if not known.storage:
                raise
    check_storage(known, config_of(folder_of(known.name, directory)))
    return known.storage


def _listed(one: Any) -> dict[str, Any]:
    manifest = one.manifest
    return {
        "id": one.id,
        "url": one.url,
        "created_s": manifest.created_s if manifest else None,
        "rows": manifest.rows if manifest else None,
        "bytes": manifest.bytes if manifest else None,
        "shards": manifest.layout.n if manifest else None,
        "parent": manifest.parent.id if manifest and manifest.parent else None,
        "lineage": list(one.lineage),
        "problem": one.problem,
    }


def _line(one: dict[str, Any]) -> str:
    if one["created_s"] is None:
        return f"{one['id']}  {one['problem']}"
    when = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(one["created_s"]))
    told = f"{one['id']}  {when}  {one['rows']:,} rows  {one['bytes']:,} bytes  {counted(one['shards'], 'shard')}"
    if one["parent"]:
        told += f"  upon {one['parent']}"
    told += "  *" if one["goes_with_logs"] else ""
    return f"{told}  {one['problem']}" if one["problem"] else told


def diff(first: Url, second: Url, as_json: AsJson = False) -> None:
    """Say how two snapshots differ: tables, rows, slots. Exit code 1 if they do."""
    from ..proto.snapshots.differing import difference

    with named_snapshot(first, second), stage("comparing them", as_json):
        found = difference(first, second)
    lines = [_difference(one) for one in found if not one.same]
    show(as_json, {"tables": [one._asdict() for one in found]}, "\n".join(lines) or "they do not differ")
    if lines:
        raise typer.Exit(1)


def _difference(one: Any) -> str:
    parts = list(one.spec)
    if one.only_first or one.only_second:
        parts.append(f"{one.only_first:,} rows only in the first, {one.only_second:,} only in the second")
    if one.differing:
        slots = "".join(f", slot {k} in {count:,}" for k, count in enumerate(one.slots) if count)
        parts.append(f"{one.differing:,} rows differ: weights in {one.values:,}{slots}")
    if one.ids:
        parts.append("ids such as " + ", ".join(map(str, one.ids[:5])))
    return f"table {one.name!r}: " + "; ".join(parts)


def restore(
    url: Url,
    config: Annotated[
        Path | None,
        typer.Argument(
            help="The deploy config; none: ./deploy.yaml, and without that a cluster here as it was then."
        ),
    ] = None,
    until: Annotated[
        str | None,
        typer.Option(
            metavar="WHEN",
            help="Go on to a later point with the logs of its cluster: 2026-11-28T07:15:00Z, or 10m (ago).",
        ),
    ] = None,
    logs: Annotated[
        str | None,
        typer.Option(
            metavar="FOLDER", help="Where those logs are, if not beside the folder of the snapshot."
        ),
    ] = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Start a new cluster with all that a snapshot holds. These are rows, slots, steps, rates, and who pushed what.

    The config says how many shards it has and how its tables are partitioned, whatever it was before; tables that the
    snapshot lacks are made. It is there whole, or not at all. With --until it begins as the cluster that took the
    snapshot was at a later moment.
    """
    from ..proto.snapshots.snapshot import open_snapshot
    from .operate.launchers import Restore
    from .operate.restoring import config_for
    from .operate.restoring import restore as start
    from .operate.status import in_memory

    if logs is not None and until is None:
        raise WrongUse("--logs is for --until: without it no log is read")
    with named_snapshot(url, instead=True):
        snapshot = open_snapshot(url)
    wanted = config_for(snapshot, config_file(config))
    directory = directory_of(home)
    began = time.monotonic()
    with _later(snapshot, until, logs, wanted.storage, as_json) as (source, told):
        rows = source.rows
        title = f"restoring {counted(wanted.shards, 'shard')} of {wanted.name!r}"
        with (
            named_snapshot(url, instead=True),
            interrupted(lambda: left_of(wanted.name, directory)),
            stage(title, as_json, unit="rows") as restoring,
        ):
            record = start(wanted, Restore(source.url, _Rate(restoring)), directory, restoring.say)
            restoring.reach(rows, rows)
    seconds = time.monotonic() - began
    show(
        as_json,
        {
            "name": record.name,
            "address": record.address,
            "launcher": record.launcher,
            "shards": wanted.shards,
            "snapshot": snapshot.id,
            "url": snapshot.url,
            "rows": rows,
            "seconds": round(seconds, 4),
            "config_hash": wanted.hash,
            **told,
        },
        f"{record.name} is up with {rows:,} rows of {snapshot.id}{source.words}: {counted(wanted.shards, 'shard')} "
        f"({record.launcher}), coordinator {record.address}, {seconds:.1f} s\n"
        f"    client = {record.to_connect}",
    )
    if wanted.durability == "memory" and not as_json:
        sys.stderr.write(f"rowloom: {in_memory(wanted)}\n")


@contextmanager
def _later(
    snapshot: StoredSnapshot, until: str | None, logs: str | None, storage: str | None, as_json: bool
) -> Generator[tuple[_Source, dict[str, Any]]]:
    """What is restored, while it is, and what is said of a point in time."""
    if until is None:
        yield _Source(snapshot.url, snapshot.manifest.rows), {}
        return
    from .snapshots.moments import point_of
    from .snapshots.point_in_time import rolled_forward

    with wrong_use():
        point = point_of(until, time.time())
    with ExitStack() as stack:
        with stage(f"reading {snapshot.id} and the logs behind it", as_json):
            there = stack.enter_context(rolled_forward(snapshot, point, logs, storage=storage))
        told = {"until": until, "pushes": there.pushes, "left_out": there.left_out, "lsns": list(there.lsns)}
        yield _Source(there.url, there.rows, f" and {there}"), told


class _Source(NamedTuple):
    """What is restored."""

    url: str
    rows: int
    words: str = ""


class _Rate:
    """Shows how many rows have arrived, and how many arrive in a second."""

    def __init__(self, shown: Stage) -> None:
        self._shown = shown
        self._began_s = time.monotonic()

    def __call__(self, rows: int, total: int) -> None:
        seconds = time.monotonic() - self._began_s
        note = f"{rows / seconds:,.0f} rows/s" if rows and seconds else ""
        self._shown.reach(rows, total, note)
