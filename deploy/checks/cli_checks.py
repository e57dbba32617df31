"""`rowloom inspect`, `verify`, `doctor` and `schema`: what shows that all is well, or what is not."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from ...proto.errors import RowloomError
from ..cli_options import (
    Address,
    AsJson,
    Home,
    Name,
    WithNumbers,
    WrongUse,
    check_serving,
    cluster,
    config_file,
    named_snapshot,
    number,
)
from ..config.words import counted
from ..terminal import show, stage


def register(app: typer.Typer) -> None:
    """Put the commands on the command line."""
    app.command("inspect", cls=WithNumbers)(inspect)
    app.command("verify")(verify)
    app.command("doctor")(doctor)
    app.command("schema")(schema)


# ---------------------------------------------------------------------------------------------------------------- rows


def inspect(
    table: Annotated[str, typer.Argument(help="The table's name.")],
    row_ids: Annotated[
        list[int],
        typer.Argument(
            metavar="ID...",
            help="Ids of rows.",
            parser=number("an id", int, "rowloom inspect users 7"),
        ),
    ],
    name: Name = None,
    address: Address = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Show rows: their shard, place, weights and slots. Also whether each was ever trained.

    A row that was never trained shows its initial value, and has no slots.
    """
    from ..operate.reader import Reader
    from ..operate.status import summary
    from .inspecting import inspect_rows, owners_of_ids

    with cluster(name, address, home) as (remote, now, options), remote.client() as client:
        entry = client.table(table).entry
        with Reader(remote.address, remote.credentials) as reader:
            # What does not serve is said at once, not after the client's patience.
            for shard in owners_of_ids(entry.spec, row_ids, reader.layout):
                check_serving(summary(now), only=shard, reads=True, options=options)
            pulled = client.table(table).pull(row_ids, wire="float32")
            rows = inspect_rows(reader, reader.tables[table], row_ids, pulled)
        (held,) = (one for one in summary(remote.status())["tables"] if one["name"] == table)
    result = {"table": table, "epoch": reader.layout.epoch, "step": held["step"], "lr": held["lr"]}
    found = [row.to_json() for row in rows]
    # What it printed when it took one id only.
    result |= {"rows": found} | (found[0] if len(found) == 1 else {})
    head = f"{table}  epoch {result['epoch']}  {held['optimizer']}" + (
        f"  step {held['step']:,}" if held["step"] is not None else ""
    )
    show(as_json, result, "\n".join([head, *(_row(row, reader.layout.n) for row in rows)]))


def _row(row: Any, shards: int) -> str:
    import numpy as np

    def numbers(values: Any) -> str:
        return np.array2string(values, precision=6, threshold=4096, max_line_width=100)

    place = "" if row.index is None else f", number {row.index:,} of its ids"
    state = "trained" if row.trained else "never trained: its initial value"
    reached = f", up to step {row.reached:,}" if row.reached is not None else ""
    lines = [f"[{row.id}]  shard {row.shard} of {shards} at {row.address}{place}; {state}{reached}"]
    lines.append(numbers(row.values))
    return "\n".join(lines + [f"slot {k}  {numbers(slot)}" for k, slot in enumerate(row.slots)])


# -------------------------------------------------------------------------------------------------------------- verify


def verify(
    url: Annotated[
        str | None,
        typer.Argument(
            metavar="URL", help="A snapshot's folder: a path or a URL; none: the cluster that runs."
        ),
    ] = None,
    name: Name = None,
    address: Address = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Check a cluster that runs, or every byte of a snapshot. Exit code 1 names what is wrong.

    Of a cluster: every shard answers, all know the same layout, epoch, tables and learning rates, the counts of rows
    add up, and every row lies on the shard that owns it. It reads ids only, and trainers go on.
    """
    if url is not None:
        if name is not None or address is not None:
            raise WrongUse(
                f"{url} is a snapshot: --name and --address mean a cluster that runs; give one of them"
            )
        _verify_snapshot(url, as_json)
        return
    from ..operate.status import summary
    from .verifying import verify_cluster

    with cluster(name, address, home) as (remote, now, options), stage("reading ids of all rows", as_json):
        found = verify_cluster(remote.address, remote.credentials)
    state = summary(now)
    rows = sum(found.rows.values())
    told = (
        f"{state['name']}: {counted(found.shards, 'shard')}, epoch {found.epoch}, {counted(found.tables, 'table')}, "
        f"{rows:,} rows"
    )
    well = f"{told}, each on its owner; layout, tables and learning rates agree"
    lines = [told, *map(str, found.faults)] if found.faults else [well]
    whole = {"name": state["name"], "whole": not found.faults, "unfinished": state["unfinished"]}
    show(as_json, whole | found.to_json(), "\n".join(lines))
    check_serving(state, options=options, ways=False)
    if found.faults:
        later = "".join(f"; not finished yet, and repeated: {one}" for one in state["unfinished"])
        count = counted(len(found.faults), "fault")
        raise RowloomError(f"{count}, the first: {found.faults[0]}{later}")


def _verify_snapshot(url: str, as_json: bool) -> None:
    from ...proto.snapshots.verifying import verify as check

    with named_snapshot(url):
        pass
    with stage(f"reading {url}", as_json):
        found = check(url)  # that it is damaged is an answer
    told = f"{found.id} is whole: {found.rows:,} rows, {counted(found.files, 'file')}, {found.bytes:,} bytes"
    show(as_json, found._asdict(), told)


# -------------------------------------------------------------------------------------------------------------- doctor


def doctor(
    config: Annotated[
        Path | None,
        typer.Argument(help="The deploy config that is to run here; none: ./deploy.yaml, or one shard."),
    ] = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Check this machine, storage, Ray and the clusters known here. Exit code 1 if there is a fault.

    Each fault comes with what mends it. It changes nothing; where it tries to write it leaves nothing.
    """
    from ..config.config import load, parse
    from .doctor import examine

    path = config_file(config)
    wanted = load(path) if path is not None else parse({})
    with stage("looking", as_json):
        found = list(examine(wanted, home))
    faults = [one.name for one in found if one.state == "fault"]
    checks = [one.to_json() for one in found]
    show(as_json, {"healthy": not faults, "checks": checks}, "\n".join(one.lines() for one in found))
    if faults:
        raise RowloomError(f"{counted(len(faults), 'fault')}: {', '.join(dict.fromkeys(faults))}")


# -------------------------------------------------------------------------------------------------------------- schema


def schema(as_json: AsJson = False) -> None:
    """Print the JSON schema of deploy.yaml, for editors.

    `rowloom schema > deploy.schema.json`, and in the first line of deploy.yaml
    `# yaml-language-server: $schema=deploy.schema.json`.
    """
    from ..config.schema import schema as made

    sys.stdout.write(json.dumps(made(), indent=None if as_json else 2) + "\n")
