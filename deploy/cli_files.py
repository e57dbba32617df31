"""`rowloom import` and `rowloom export`: pretrained rows in, trained rows out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .terminal import show

Name = Annotated[str | None, typer.Option(help="The cluster's name; not needed if only one is known here.")]
Address = Annotated[
    str | None, typer.Option(help="host:port of the coordinator, for a cluster not known here.")
]
Home = Annotated[Path | None, typer.Option(help="Where clusters are remembered; ~/.rowloom by default.")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")]
_FORMATS = (
    "npy, safetensors, torch, tensorflow, parquet, word2vec, word2vec-binary, glove; else by the suffix."
)
Format = Annotated[str | None, typer.Option("--format", help=_FORMATS)]
Words = Annotated[
    Path | None, typer.Option(help="A file of words, a word a line, for files of word vectors.")
]


def register(app: typer.Typer) -> None:
    """Put the two commands on the command line."""
    app.command("import")(import_)
    app.command("export")(export)


def import_(
    path: Annotated[Path, typer.Argument(help="The file; for a TensorFlow checkpoint its prefix or folder.")],
    table: Annotated[str, typer.Argument(help="The table's name.")],
    create: Annotated[bool, typer.Option("--create", help="Make the table, of the file's shape.")] = False,
    freeze: Annotated[
        bool, typer.Option("--freeze", help="With --create: the table refuses pushes.")
    ] = False,
    optimizer: Annotated[str | None, typer.Option(help="With --create: as 'Adagrad(lr=0.05)'.")] = None,
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
        Path | None, typer.Option(help="Where to write the words that were found.")
    ] = None,
    first_id: Annotated[
        int | None, typer.Option(help="Where the first row goes, in a table that is there.")
    ] = None,
    name: Name = None,
    address: Address = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Fill a table from a file, block by block: a file larger than memory works."""
    from ..client import connect
    from .importing import import_file

    with connect(_where(name, address, home)) as client:
        result = import_file(
            client,
            path,
            table,
            create=create,
            freeze=freeze,
            optimizer=optimizer,
            initializer=initializer,
            partition=partition,
            num_embeddings=num_embeddings,
            format=format_,
            tensor=tensor,
            vocabulary=vocabulary,
            save_vocabulary=save_vocabulary,
            first_id=first_id,
            quiet=as_json,
        )
    show(as_json, result, f"{result['rows']:,} rows of {path} are in table {table}")


def export(
    table: Annotated[str, typer.Argument(help="The table's name.")],
    path: Annotated[Path, typer.Argument(help="The file to write.")],
    format_: Format = None,
    tensor: Annotated[str, typer.Option(help="What the tensor or column is called.")] = "weight",
    ids: Annotated[
        Path | None, typer.Option(help="A .npy file or a text file of ids: only these rows.")
    ] = None,
    vocabulary: Words = None,
    name: Name = None,
    address: Address = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Write a table to a file, block by block."""
    from ..client import connect
    from .importing import export_file

    with connect(_where(name, address, home)) as client:
        result = export_file(
            client, table, path, format=format_, tensor=tensor, ids=ids, vocabulary=vocabulary, quiet=as_json
        )
    show(as_json, result, f"{result['rows']:,} rows of table {table} are in {path}")


def _where(name: str | None, address: str | None, home: Path | None) -> str:
    from .operate.clusters import locate
    from .operate.directory import ClusterDirectory

    return locate(ClusterDirectory(home), name, address).address
