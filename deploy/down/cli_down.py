"""The command that ends a cluster: down."""

from __future__ import annotations

from typing import Annotated

import typer

from ..cli_options import Address, AsJson, Home, Name, Yes, confirm, directory_of, interrupted
from ..terminal import show, stage


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(down)


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
    `rowloom import` brings them back. On a terminal it asks first, if there are rows. Where the cluster does not serve
    them, and `rowloom up` could go on with them, a script has to say --yes.
    """
    from ..operate.clusters import down as end
    from ..operate.clusters import forget as forget_record
    from ..operate.clusters import locate_to_end
    from ..operate.left import is_kept
    from .losses import Loss, lost_with

    directory = directory_of(home)
    if forget:
        gone = forget_record(directory, name)
        show(as_json, {"name": gone, "down": False}, f"{gone} is forgotten; nothing was ended")
        return
    with stage("looking for it", as_json) as looking:
        record = locate_to_end(directory, name, address, looking.say)
        lost = Loss() if yes or keep else lost_with(record, directory)
    if lost.words:
        confirm(lost.words, yes, ask_nobody=not lost.can_go_on)
    had = is_kept(record)
    again = f"some of it may run still; `rowloom down{directory.option(record.name)}` again ends it"
    with interrupted(lambda: again), stage(f"ending {record.name or record.address}", as_json):
        ended = end(record, directory, keep=keep)
    became = "; its rows are kept, and `rowloom up` goes on from them" if keep else ""
    if had and not keep:
        which = "the rows that were kept" if record.kept else "its rows"
        became = f"; {which} in {record.storage} are removed, its snapshots stay"
    show(as_json, {"name": ended, "down": True, "kept": keep}, f"{ended} is down{became}")
