"""`rowloom import` and `rowloom export`: pretrained rows in, trained rows out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from ..proto.errors import StateLost
from .cli_options import (
    Address,
    AsJson,
    Home,
    Name,
    NotServing,
    WrongUse,
    check_serving,
    cluster,
    interrupted,
    table_of,
    wrong_use,
)
from .terminal import show

if TYPE_CHECKING:
    from .importing import Serving

_FORMATS = (
    "{formats}; else by the suffix."  # the names come when the help is shown: importing them takes a while
)
Format = Annotated[str | None, typer.Option("--format", help=_FORMATS)]
Words = Annotated[str | None, typer.Option(help="A file of words, a word a line, for files of word vectors.")]


class _WithFormats(TyperCommand):
    """A command whose help names the formats of `rowloom.client.files`."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """As click wants it."""
        from ..client.files.formats import FORMATS

        for parameter in self.params:
            text = getattr(parameter, "help", None)
            if text:
                parameter.help = text.replace("{formats}", ", ".join(FORMATS))  # type: ignore[attr-defined]
        super().format_help(ctx, formatter)


def register(app: typer.Typer) -> None:
    """Put the two commands on the command line."""
    app.command("import", cls=_WithFormats)(import_)
    app.command("export", cls=_WithFormats)(export)


def import_(
    path: Annotated[
        str, typer.Argument(help="The file, or its URL; for a TensorFlow checkpoint its prefix or folder.")
    ],
    table: Annotated[str, typer.Argument(help="The table's name.")],
    create: Annotated[bool, typer.Option("--create", help="Make the table, of the file's shape.")] = False,
    freeze: Annotated[
        bool, typer.Option("--freeze", help="With --create: the table refuses pushes.")
    ] = False,
    optimizer: Annotated[
        str | None, typer.Option(help="With --create: as 'Adam(lr=0.05, betas=(0.9, 0.99))'.")
    ] = None,
    initializer: Annotated[
        str | None, typer.Option(help="With --create: of rows that the file lacks.")
    ] = None,
    partition: Annotated[str, typer.Option(help="With --create: mod or div.")] = "mod",
    num_embeddings: Annotated[
        int | None, typer.Option(help="With --create: more ids than the file has.")
    ] = None,
    format_: Format = None,
    tensor: Annotated[str | None, typer.Option(help="Which tensor or column, if there are several.")] = None,
    vocabulary: Words = None,
    save_vocabulary: Annotated[
        str | None, typer.Option(help="Where to write the words that were found.")
    ] = None,
    first_id: Annotated[
        int | None, typer.Option(help="Where the first row goes, in a table that is there.")
    ] = None,
    name: Name = None,
    address: Address = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Fill a table from a file, block by block. A file larger than memory works."""
    from .importing import ImportTarget, check_formats, check_order, import_file
    from .operate.status import summary

    with wrong_use():
        check_order(path, table, "import")
        check_formats(path, format_, writing=False)
        target = ImportTarget(create, freeze, optimizer, initializer, partition, num_embeddings, first_id)
    with (
        cluster(name, address, home) as (remote, now, options),
        remote.client() as client,
    ):
        state = summary(now)
        check_serving(state, "nothing was written", options=options)
        if not create:
            table_of(state, table, "; --create makes it of the file")
        with interrupted(lambda: _left_of_import(path, table, create)):
            result = import_file(
                client,
                path,
                table,
                target,
                format=format_,
                tensor=tensor,
                vocabulary=vocabulary,
                save_vocabulary=save_vocabulary,
                quiet=as_json,
            )
    show(as_json, result, f"{result['rows']:,} rows of {path} are in table {table}")


def _left_of_import(path: str, table: str, create: bool) -> str:
    if create:
        return f"table {table!r} was dropped again, nothing is left"
    return f"some rows of {path} may be in table {table!r}, the others are as before; the same import again writes all"


def export(
    table: Annotated[str, typer.Argument(help="The table's name.")],
    path: Annotated[str, typer.Argument(help="The file to write, or its URL.")],
    format_: Format = None,
    tensor: Annotated[str, typer.Option(help="What the tensor or column is called.")] = "weight",
    ids: Annotated[
        str | None, typer.Option(help="A .npy file or a text file of ids: only these rows.")
    ] = None,
    trained: Annotated[
        bool, typer.Option("--trained", help="Only rows that were ever pushed to or assigned.")
    ] = False,
    partial: Annotated[
        bool,
        typer.Option(
            "--partial",
            help="Take the rows of the shards that serve, and say what is missing. Exit code 3 if something is.",
        ),
    ] = False,
    vocabulary: Words = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file if it is there.")] = False,
    name: Name = None,
    address: Address = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Write a table to a file, block by block. A file that is there is only replaced with --overwrite."""
    from .importing import beside, check_formats, check_order, export_file, is_there
    from .operate.status import summary

    with wrong_use():
        if format_ is None:
            check_order(path, table, "export")
        check_formats(path, format_, writing=True)
    if trained and ids is not None:
        raise WrongUse("--trained and --ids both say which rows; give one of them")
    if is_there(path) and not overwrite:
        raise WrongUse(f"{path} is there already; --overwrite replaces it")
    with (
        cluster(name, address, home) as (remote, now, options),
        remote.client() as client,
    ):
        state = summary(now)
        serving = _serving(state, partial, options)
        table_of(state, table)
        result = export_file(
            client,
            table,
            path,
            format=format_,
            tensor=tensor,
            ids=ids,
            trained=trained,
            vocabulary=vocabulary,
            serving=serving,
            quiet=as_json,
        )
    more = "".join(f"; {one} belongs to it: keep both" for one in beside(path))
    told = f"{result['rows']:,} rows of table {table} are in {path}{more}"
    show(as_json, result, told)
    if result["missing"]:  # whoever asked for a part of it is to know that it is one
        lost = "; ".join(
            f"{'all' if ids is None else f'up to {ids:,}'} trained rows are missing, of the ids that belong to shard "
            f"{shard}, which does not serve"
            for shard, ids in result["missing"].items()
        )
        raise NotServing(f"{path} is not the whole table, as --partial allows: {lost}")


def _serving(state: dict[str, Any], partial: bool, options: str) -> Serving | None:
    """For `export_file`: which shards serve; None if all do. Raises NotServing if some do not and all are wanted."""
    from .operate.status import living

    there = living(state)
    if len(there) == len(state["shards"]):
        return None
    if not partial:
        check_serving(state, "nothing was written", options=options)
    if not there:
        raise StateLost(f"no shard of {state['name']!r} serves: there is nothing to take")
    return len(state["shards"]), there
