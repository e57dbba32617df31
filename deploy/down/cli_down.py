"""The command that ends a cluster: down."""

from __future__ import annotations

from typing import Annotated

import typer

from ..cli_options import Address, AsJson, Home, Name, WrongUse, Yes, confirm, directory_of, interrupted
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
    """End a cluster, its shards and their rows. Also its coordinator, its actors and placement groups.

    ALL ROWS ARE LOST, without --keep: `rowloom export` keeps those of a table, without its optimizer's slots, and
    `rowloom import` brings them back. Snapshots stay, but for those that the cluster took by itself to keep its logs
    short: `rowloom snapshots` marks them. On a terminal it asks first, if there are rows. A script has to say --yes
    where not all of the cluster serves, or it has ended and `rowloom up` could go on with its rows; with --keep, where
    a log has failed; with --forget, where it runs.
    """
    from ..launch.cluster_folder import config_of
    from ..operate.clusters import DOWN_WAIT_S, only_name
    from ..operate.clusters import down as end
    from ..operate.clusters import forget as forget_record
    from ..operate.left import is_kept, not_removed
    from ..operate.left_shards import folder_of, up_of
    from ..snapshots.kept import also_named, known_going, known_old_logs
    from ..snapshots.named import staying_in_words
    from .losses import Loss, NotKept, lost_with, not_kept, run_on_with, stays_of
    from .meant import locate_to_end, to_forget

    directory = directory_of(home)
    if forget:
        if keep or address is not None:
            raise WrongUse(
                f"--forget ends nothing, so {'--keep' if keep else '--address'} has no meaning beside it"
            )
        name = name or only_name(directory)
        known = None if yes else to_forget(directory, name)
        running = run_on_with(known, directory) if known is not None else Loss()
        if running.words:
            confirm(running.words, yes, ask_nobody=False)
        stays = stays_of(name, directory)
        gone = forget_record(directory, name)
        show(as_json, {"name": gone, "down": False}, f"{gone} is forgotten; nothing was ended{stays}")
        return
    with stage("looking for it", as_json) as looking:
        record = locate_to_end(directory, name, address, looking.say)
        had = is_kept(record)
        lost = Loss() if keep else lost_with(record, directory)
        if (
            lost.to_confirm and record.name and directory.is_locked(record.name)
        ):  # another one ends it, or starts it
            with directory.lock(record.name, DOWN_WAIT_S, looking.say):
                pass
            record = locate_to_end(directory, name, address, looking.say)
            had, lost = is_kept(record), lost_with(record, directory)
        runs = keep and record.address
        without = not_kept(record, directory.option(record.name)) if runs else NotKept()
    if lost.words:
        confirm(lost.words, yes, ask_nobody=not lost.to_confirm)
    if without.question:
        confirm(without.question, yes, ask_nobody=False)
    short = known_going(record.storage) if had and not keep else []
    old = known_old_logs(record.storage) if had and not keep else []
    stays = "" if keep else not_removed(record, config_of(folder_of(record.name, directory)))
    again = f"some of it may run still; `rowloom down{directory.option(record.name)}` again ends it"
    with interrupted(lambda: again), stage(f"ending {record.name or record.address}", as_json):
        ended = end(record, directory, keep=keep)
    became = (
        f"; its rows are kept, and {up_of(ended, directory)} goes on from them{without.words}" if keep else ""
    )
    if stays:
        became = f"; it had {lost.held}; {stays}" if lost.held else f"; {stays}"
    elif lost.held and not had:
        stay = staying_in_words(record.storage) if record.storage else ""
        became = f"; it had {lost.held}, which are gone with it{stay}"
    if had and not keep:
        which = "the rows that were kept" if record.kept else "its rows"
        which = f"it had {lost.held}, and {which}" if lost.held else which
        also = f", {also_named(short, old)} too" if short or old else ""
        gone = f"{which} in {record.storage} are removed"
        if lost.empty:
            gone = f"it had no rows, and its logs in {record.storage} are removed"
        became = f"; {gone}{also}{staying_in_words(record.storage)}"
    told = {
        "name": ended,
        "down": True,
        "kept": keep,
        "removed_snapshots": short,
        "removed_old_logs": old,
        "not_removed": record.storage if stays else None,
        "not_kept": list(without.failed),
    }
    show(as_json, told, f"{ended} is down{became}")
