"""`rowloom snapshot`, `snapshots`, `verify` and `diff`: the whole cluster at one moment, and what lies in storage."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from .cli_options import Address, AsJson, Home, Name, WrongUse, cluster, wrong_use
from .config.words import counted
from .terminal import show, stage

Url = Annotated[
    str, typer.Argument(metavar="URL", help="A snapshot's folder: a path, or a URL such as s3://....")
]


def register(app: typer.Typer) -> None:
    """Put the commands on the command line."""
    app.command("snapshot")(snapshot)
    app.command("snapshots")(snapshots)
    app.command("verify")(verify)
    app.command("diff")(diff)


def snapshot(
    extra: Annotated[Path | None, typer.Option(help="A file of at most 16 MB that is kept with it.")] = None,
    name: Name = None,
    address: Address = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Take a snapshot of a cluster while trainers go on: rows, slots, steps, and who pushed what."""
    with wrong_use():
        given = extra.read_bytes() if extra is not None else b""
    with cluster(name, address, home) as (remote, _, _), stage("writing a snapshot", as_json):
        taken = remote.take_snapshot(given)
    result = {
        "id": taken.id,
        "url": taken.url,
        "rows": taken.rows,
        "bytes": taken.bytes,
        "pause_s": taken.pause_s,
    }
    told = f"{taken.url}\n{taken.rows:,} rows, {taken.bytes:,} bytes; pushes waited for {1e3 * taken.pause_s:.0f} ms"
    show(as_json, result, told)


def snapshots(
    url: Annotated[
        str | None, typer.Argument(metavar="URL", help="A folder of snapshots; none: that of the cluster.")
    ] = None,
    name: Name = None,
    address: Address = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """List snapshots: size, rows, time, and what is wrong with those that cannot be used."""
    from ..proto.snapshots.listing import list_snapshots
    from .config.config import from_json
    from .launch.keeping import snapshots_of

    if url is None:
        with cluster(name, address, home) as (_, now, _):
            storage = from_json(now.config).storage
        if storage is None:
            raise WrongUse("this cluster has no storage, so it has no snapshots: name a folder of them")
        url = snapshots_of(storage)
    found = [_listed(one) for one in list_snapshots(url)]
    lines = [_line(one) for one in found] or [f"there are no snapshots in {url}"]
    show(as_json, {"url": url, "snapshots": found}, "\n".join(lines))


def _listed(one: Any) -> dict[str, Any]:
    manifest = one.manifest
    return {
        "id": one.id,
        "url": one.url,
        "created_s": manifest.created_s if manifest else None,
        "rows": manifest.rows if manifest else None,
        "bytes": manifest.bytes if manifest else None,
        "shards": manifest.layout.n if manifest else None,
        "lineage": list(one.lineage),
        "problem": one.problem,
    }


def _line(one: dict[str, Any]) -> str:
    if one["created_s"] is None:
        return f"{one['id']}  {one['problem']}"
    when = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(one["created_s"]))
    told = f"{one['id']}  {when}  {one['rows']:,} rows  {one['bytes']:,} bytes  {counted(one['shards'], 'shard')}"
    return f"{told}  {one['problem']}" if one["problem"] else told


def verify(url: Url, as_json: AsJson = False) -> None:
    """Check a snapshot whole: every byte of every file. Exit code 1 names the first block that is damaged."""
    from ..proto.snapshots.verifying import verify as check

    with stage(f"reading {url}", as_json):
        found = check(url)
    told = f"{found.id} is whole: {found.rows:,} rows, {counted(found.files, 'file')}, {found.bytes:,} bytes"
    show(as_json, found._asdict(), told)


def diff(first: Url, second: Url, as_json: AsJson = False) -> None:
    """Say how two snapshots differ: tables, rows, slots. Exit code 1 if they do."""
    from ..proto.snapshots.differing import difference

    with stage("comparing them", as_json):
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
