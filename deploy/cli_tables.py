"""`rowloom list`, `tables`, `drop`, `set-lr` and `recover`: what is there, and small changes to it."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..proto.errors import RowloomError
from .cli_options import (
    Address,
    AsJson,
    Home,
    Name,
    WithNumbers,
    WrongUse,
    Yes,
    check_serving,
    cluster,
    confirm,
    directory_of,
    interrupted,
    number,
    table_of,
    wrong_use,
)
from .config.words import counted, shards_named
from .terminal import show, stage

if TYPE_CHECKING:
    from ..proto import rowloom_pb2 as pb

Table = Annotated[str, typer.Argument(help="The table's name.")]


def register(app: typer.Typer) -> None:
    """Put the commands on the command line."""
    app.command("list")(list_)
    app.command("tables")(tables)
    app.command("drop")(drop)
    app.command("set-lr", cls=WithNumbers)(set_lr)
    app.command("recover")(recover)


def list_(home: Home = None, as_json: AsJson = False) -> None:
    """Show the clusters that are known here, and the state of each."""
    from .operate.listing import listed, render_list

    directory = directory_of(home)
    found = listed(directory)
    show(as_json, {"clusters": found}, render_list(found, directory.home))


def tables(name: Name = None, address: Address = None, home: Home = None, as_json: AsJson = False) -> None:
    """Show the tables of a cluster. Exit code 3 if a shard does not serve: its rows are not counted."""
    from .operate.status import render_tables, summary

    with cluster(name, address, home) as (_, now, options):
        state = summary(now)
    show(as_json, {"name": state["name"], "tables": state["tables"]}, render_tables(state["tables"]))
    check_serving(state, reads=True, options=options)


def drop(
    table: Table,
    yes: Yes = False,
    name: Name = None,
    address: Address = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Drop a table: its rows and its optimizer's slots are gone. Asks before; in a script it wants --yes."""
    from .operate.status import summary

    with cluster(name, address, home) as (remote, now, options):
        state = summary(now)
        rows = table_of(state, table)["rows"]
        check_serving(state, "nothing was changed", options=options)
        confirm(
            f"Dropping table {table!r} of {state['name']!r} loses its {rows:,} rows.", yes, ask_nobody=False
        )
        remote.drop_table(table)
    show(
        as_json,
        {"name": state["name"], "table": table, "rows": rows, "dropped": True},
        f"table {table} is dropped; it had {rows:,} rows",
    )


def set_lr(
    table: Table,
    lr: Annotated[
        float,
        typer.Argument(
            metavar="RATE",
            help="The new learning rate; replaces a schedule.",
            parser=number("RATE", float, "rowloom set-lr users 0.05"),
        ),
    ],
    name: Name = None,
    address: Address = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Change the learning rate of a table. It holds for all pushes from now on."""
    from ..proto.optimizers import checked_rate
    from .operate.status import summary

    with wrong_use():
        lr = checked_rate(lr, table)
    with cluster(name, address, home) as (remote, now, options):
        state = summary(now)
        before = table_of(state, table)["lr"]
        check_serving(state, "nothing was changed", options=options)
        remote.set_lr(table, lr)
    was = before if isinstance(before, float | int) else "a schedule"
    show(
        as_json,
        {"name": now.name, "table": table, "before": before, "lr": lr},
        f"learning rate of table {table}: {was} -> {lr:g}",
    )


def recover(
    accept_loss: Annotated[
        list[int] | None,
        typer.Option(
            metavar="SHARD", help="A lost shard, to be made anew from initial values; may be repeated."
        ),
    ] = None,
    force: Annotated[
        bool,
        typer.Option(
            "--force", help="Also one that is alive and may hold its rows, or is about to read its log."
        ),
    ] = False,
    name: Name = None,
    address: Address = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Bring a cluster back to work that has lost shards. Their rows, slots and what was pushed to them are given up."""
    from .operate.status import summary

    with (
        cluster(name, address, home) as (remote, now, options),
        stage("making shards anew", as_json) as making,
    ):
        if not accept_loss:
            state = summary(now)
            show(as_json, _recovered(state, []), _nothing_lost(state, options))
            return
        _check_indexes(accept_loss, len(now.layout.shards))
        before = _lost_logs(now, home)
        for shard in accept_loss:
            with interrupted(lambda: f"a shard may be made anew still; `rowloom status{options}` tells"):
                remote.accept_loss(shard, force=force)
            making.say(
                f"shard {shard} was made anew: ALL ROWS THAT IT HELD ARE LOST, and begin again at their initial values"
            )
        state = summary(remote.status())
    stays = sorted(_lost_logs(now, home) - before)
    show(as_json, _recovered(state, accept_loss), _made_anew(state, sorted(set(accept_loss)), stays))
    check_serving(state, options=options)


def _lost_logs(now: pb.StatusReply, home: Path | None) -> set[str]:
    """The old logs of shards that were made anew, where they can be seen from here."""
    from .launch.keeping import lost_logs

    record = None
    with contextlib.suppress(RowloomError):
        record = directory_of(home).get(now.name)
    return (
        lost_logs(record.storage, now.layout.cluster_id) if record is not None and record.storage else set()
    )


def _made_anew(state: dict[str, Any], anew: list[int], stays: list[str]) -> str:
    """In words, what has become of shards whose loss was accepted.

    Args:
        state: a `summary`.
        anew: their indexes.
        stays: folders of their old logs.
    """
    others = "; the other shards kept their rows" if len(anew) < len(state["shards"]) else ""
    old = f". The old {'log stays' if len(stays) == 1 else 'logs stay'}: {', '.join(stays)}" if stays else ""
    begin = "begins" if len(anew) == 1 else "begin"
    return f"{state['name']}: {shards_named(anew)} {begin} again at initial values{others}{old}"


def _recovered(state: dict[str, Any], made_anew: list[int]) -> dict[str, Any]:
    return {"name": state["name"], "made_anew": made_anew, "healthy": state["healthy"]}


def _nothing_lost(state: dict[str, Any], options: str) -> str:
    """In words, that no shard needs to be made anew.

    Raises:
        WrongUse: one does, and its loss was not accepted.
        NotServing: some do not answer, and none is known to have lost its rows.
    """
    from .health.ways_out import ways_out
    from .operate.status import lost, not_serving

    bad = not_serving(state, reads=True)
    if not lost(state):
        check_serving(state, "nothing is known to be lost, so nothing was done", reads=True, options=options)
    if bad:
        what = "; ".join(bad.values())
        raise WrongUse(
            f"{what}; nothing was changed: say with --accept-loss SHARD which one is to be made anew"
            f"{ways_out(state, options)}"
        )
    serving = f"{counted(len(state['shards']), 'shard')}, all serving"
    if still := not_serving(state):
        serving = "; ".join(still.values()) + ways_out(state, options)
    return f"{state['name']}: nothing is lost ({serving}), so nothing was done"


def _check_indexes(shards: list[int], count: int) -> None:
    """All of them, before one is made anew. Raises WrongUse."""
    wrong = [shard for shard in shards if not 0 <= shard < count]
    if wrong:
        raise WrongUse(f"there is no shard {wrong[0]}: they are 0 to {count - 1}; nothing was changed")
