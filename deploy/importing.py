"""`rowloom import` and `rowloom export`: files into tables and tables into files, with a bar while it lasts."""

from __future__ import annotations

import ast
import contextlib
import os
import re
from collections.abc import Generator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..client.files.beside import IDS_SUFFIX, WORDS_SUFFIX
from ..client.files.contract import mapped_array
from ..client.files.formats import format_to_write, known, says_format
from ..client.files.places import check_names_a_file, fetched
from ..client.files.transfer import Imported, export_table, from_pretrained, import_table
from ..client.urls import UnreadableFile, exists, is_url, read_text
from ..client.vocabulary import Vocabulary
from ..proto.atomic_file import naming
from ..proto.errors import InvalidRequest, RowloomError, StateLost
from ..proto.snapshots.folder import opened_url
from ..proto.spec import Initializer, Optimizer
from .operate.partial import left_out, readable
from .terminal import stage

if TYPE_CHECKING:
    from ..client.client import Client
    from ..client.table import Table

Serving = tuple[int, list[int]]
Place = str | os.PathLike[str]  # of this machine, or a URL


@dataclass(frozen=True)
class ImportTarget:
    """The table that a file goes into, as options say it: one that is there, or one that is made. Checks itself.

    Attributes:
        create: make the table of the file's shape; otherwise it must be there.
        freeze: a created table refuses pushes.
        optimizer: of a created table, as `Adagrad(lr=0.05)` or `SGD`.
        initializer: of a created table, likewise.
        partition: "mod" or "div", of a created table.
        num_embeddings: ids of a created table, if more than the file has.
        first_id: where the file's first row goes, in a table that is there.

    Raises:
        InvalidRequest: one of them, or some together, cannot be meant.
    """

    create: bool = False
    freeze: bool = False
    optimizer: str | None = None
    initializer: str | None = None
    partition: str = "mod"
    num_embeddings: int | None = None
    first_id: int | None = None

    def __post_init__(self) -> None:
        if not self.create:
            self._refuse_of_created("freeze", "optimizer", "initializer", "num_embeddings")
        elif self.first_id is not None:
            raise InvalidRequest(
                f"--first-id is for a table that is there, got {self.first_id} with --create"
            )
        if self.partition not in ("mod", "div"):
            raise InvalidRequest(f"--partition must be mod or div, got {self.partition!r}")
        self.recipes()

    def _refuse_of_created(self, *names: str) -> None:
        for name in names:
            if getattr(self, name) not in (None, False):
                option = "--" + name.replace("_", "-")
                raise InvalidRequest(f"{option} is for a table that is made here; add --create")

    def recipes(self) -> tuple[Optimizer | None, Initializer | None]:
        """Optimizer and initializer; None where the default holds."""
        return (
            None if self.optimizer is None else Optimizer.from_mapping(parsed(self.optimizer)),
            None if self.initializer is None else Initializer.from_mapping(parsed(self.initializer)),
        )


FILL = ImportTarget()


def import_file(
    client: Client,
    path: Place,
    name: str,
    target: ImportTarget = FILL,
    *,
    format: str | None = None,
    tensor: str | None = None,
    vocabulary: Place | None = None,
    save_vocabulary: Place | None = None,
    unk: str | None = "<unk>",
    pad: str | None = "<pad>",
    buckets: int = 0,
    mod_parts: int = 1,
    quiet: bool = False,
) -> dict[str, Any]:
    """What `rowloom import PATH TABLE` does.

    Args:
        client: the cluster.
        path: the file, or its URL; for a TensorFlow checkpoint its prefix, index or folder.
        name: the table.
        target: what kind of table that is.
        format: one of `rowloom.client.files.formats.FORMATS`; by default what the file looks like.
        tensor: which tensor or column.
        vocabulary: a file of words, for files of word vectors.
        save_vocabulary: where to write the vocabulary that the import made.
        unk: the word for unknown words, or None; of a vocabulary that is made here, like the next two.
        pad: the word for padding, or None.
        buckets: hash buckets.
        mod_parts: see `rowloom.client.files.import_table`.
        quiet: no bar.

    Returns:
        `{"table", "path", "rows", "skipped_words", "missing_words", "vocabulary"}`, for `--json`.

    Raises:
        RowloomError: as `import_table` and `from_pretrained`.
        FileNotFoundError: no such file.
    """
    words = Vocabulary.from_file(vocabulary) if vocabulary is not None else None
    with _in_options(), stage(f"{Path(path).name} into {name}", quiet, unit="rows", lasting=True) as moving:
        reading: dict[str, Any] = {"format": format, "tensor": tensor, "vocabulary": words}
        reading |= {"mod_parts": mod_parts, "progress": moving.reach}
        if not target.create:
            done = import_table(client, path, name=name, first_id=target.first_id, **reading)
        else:
            optimizer, initializer = target.recipes()
            done = from_pretrained(
                client,
                path,
                name,
                freeze=target.freeze,
                optimizer=optimizer,
                initializer=initializer,
                partition=target.partition,
                num_embeddings=target.num_embeddings,
                unk=unk,
                pad=pad,
                buckets=buckets,
                **reading,
            )
    return _report(done, path, save_vocabulary)


def export_file(
    client: Client,
    name: str,
    path: Place,
    *,
    format: str | None = None,
    tensor: str = "weight",
    ids: Place | None = None,
    trained: bool = False,
    vocabulary: Place | None = None,
    serving: Serving | None = None,
    quiet: bool = False,
) -> dict[str, Any]:
    """What `rowloom export TABLE PATH` does.

    Args:
        client: the cluster.
        name: the table.
        path: the file to write, or its URL.
        format: as for `import_file`; by default by the file's suffix.
        tensor: what the tensor or column is called.
        ids: a `.npy` file, or a text file with an id a line; only these rows.
        trained: only rows that exist: that were ever pushed to or assigned. Not together with ids.
        vocabulary: the words of the ids, if the table does not have them.
        serving: how many shards there are, and which serve: only their rows; None: all.
        quiet: no bar.

    Returns:
        `{"table", "path", "rows", "missing"}`, for `--json`; missing: by shard that does not serve, how many ids are
            left out, at the most; None of the trained ones of a table whose ids are open-ended.

    Raises:
        RowloomError: as `export_table`; StateLost if no row is left to take.
    """
    words = Vocabulary.from_file(vocabulary) if vocabulary is not None else None
    chosen = _ids_in(ids) if ids is not None else None
    missing: dict[int, int | None] = {}
    if serving is not None and len(serving[1]) < serving[0]:
        take = _trained if trained else partial(_readable, words=words, ids=chosen)
        chosen, missing = take(client.table(name), serving)
        if not len(chosen):
            raise StateLost(f"not one row of table {name!r} is on a shard that serves: nothing was written")
    elif trained:
        chosen = client.table(name).ids()
    with (
        _in_options(),
        stage(f"{name} into {Path(path).name}", quiet, unit="rows", lasting=True) as moving,
        _blaming(path),
        naming(Path(path)),
    ):
        rows = export_table(
            client,
            path,
            name=name,
            format=format,
            tensor=tensor,
            ids=chosen,
            vocabulary=words,
            progress=moving.reach,
        )
    return {"table": name, "path": str(path), "rows": rows, "missing": missing}


def _trained(table: Table, serving: Serving) -> tuple[np.ndarray, dict[int, int | None]]:
    """Ids of the rows that exist on the shards that serve, and what that leaves out."""
    missing = left_out(table.spec, *serving)
    return table.client.list_entry_ids(table.entry, without=missing), missing


def _readable(
    table: Table, serving: Serving, *, ids: np.ndarray | None, words: Vocabulary | None
) -> tuple[np.ndarray, dict[int, int | None]]:
    words = words or Vocabulary.of(table)
    if ids is None and table.spec.num_embeddings is None:
        raise InvalidRequest(
            f"table {table.name!r} has open-ended ids: say which rows, with --ids, or --trained for those that exist"
        )
    if ids is None and words is not None:  # ids behind the vocabulary have no word
        ids = np.arange(len(words))
    found = readable(table.spec, ids, *serving)
    return found.ids, {**found.missing}


def check_formats(path: Place, format: str | None, *, writing: bool) -> None:
    """Whether the format that is asked for is one, or the file's name says which it becomes, and its URL can be one.

    Raises InvalidRequest.
    """
    with _in_options():
        if not str(path):
            raise InvalidRequest(
                "PATH is empty, got ''; name the file, as rows.npy, its URL, or the prefix of a TensorFlow checkpoint"
            )
        if is_url(path):
            opened_url(str(path))
        if writing:
            check_names_a_file(path)
            format_to_write(Path(path), format)
        elif format is not None:
            known(format)


def check_order(path: str, table: str, command: str) -> None:
    """Raises InvalidRequest for a file and a table that change places: what is wanted stands first in `command`.

    Args:
        path: what was given for the file.
        table: what was given for the table.
        command: import or export.
    """
    if command == "import":
        swapped = not is_url(path) and not exists(path) and (is_url(table) or Path(table).is_file())
        right = f"{table} {path}"
    else:
        swapped = not is_url(path) and not says_format(path) and (is_url(table) or says_format(table))
        right = f"{path} {table}"
    if swapped:
        raise InvalidRequest(
            f"{table!r} is a file, and a table's name is wanted in its place; the other way round: `rowloom {command} "
            f"{right}`"
        )


def is_there(path: Place) -> bool:
    """Whether an export to this path would replace something: the file, or a checkpoint of that prefix."""
    return exists(path) or exists(f"{path}.index")


def beside(path: Place) -> list[str]:
    """What an export has put beside its file, and must stay with it."""
    return [one for one in (f"{path}{IDS_SUFFIX}", f"{path}{WORDS_SUFFIX}") if exists(one)]


# What the library calls its arguments, and what the command line calls them.
_OPTIONS = {
    "ids=table.ids() for": "--trained for",
    "format='glove'": "--format glove",
    **{
        f"{name}=": f"--{name.replace('_', '-')}"
        for name in ("format", "tensor", "vocabulary", "first_id", "ids")
    },
    "make the table with from_pretrained": "make the table with --create",
    "import_table writes rows into it": "leave --create out to write rows into it",
    "from_pretrained makes a table of a file": "--create makes a table of the file",
}


@contextlib.contextmanager
def _in_options() -> Generator[None]:
    """Errors of the library speak of options, not of arguments in Python. Only their words change."""
    try:
        yield
    except RowloomError as e:
        e.message = _reworded(e.message)
        raise
    except OSError as e:
        if e.strerror:
            e.strerror = _reworded(e.strerror)
        raise


def _reworded(message: str) -> str:
    for argument, option in _OPTIONS.items():
        if argument.endswith("="):  # one that has a value there keeps it
            message = re.sub(rf" {argument}(?=[\w'])", f" {option} ", message)
        message = message.replace(f" {argument}", f" {option}")
    return message


@contextlib.contextmanager
def _blaming(path: Place) -> Generator[None]:
    """Errors name the file that the user wants, not the one beside it that becomes it when it is whole."""
    try:
        yield
    except OSError as e:
        if e.filename is not None and Path(os.fsdecode(e.filename)).name.startswith(f"{Path(path).name}."):
            raise OSError(e.errno, e.strerror, str(path)) from e
        raise


def parsed(recipe: str) -> dict[str, Any]:
    """`Adam(lr=1e-3, betas=(0.9, 0.99), mode="row")` as `{"name": "Adam", "lr": 0.001, ...}`; `Adam` has a name only.

    Values are numbers, `True` or `False` (`true` and `false` too), words in quotes, tuples or lists of these, and
    recipes: `SGD(lr=Exponential(lr=0.1, decay_steps=100))`.

    Raises:
        InvalidRequest: anything else.
    """
    try:
        node = ast.parse(recipe.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as e:
        raise _unreadable(recipe) from e
    return _recipe(node, recipe)


def _unreadable(recipe: str) -> InvalidRequest:
    return InvalidRequest(f"write it as Name(argument=number, ...), got {recipe!r}")


def _recipe(node: ast.expr, recipe: str) -> dict[str, Any]:
    if isinstance(node, ast.Name):
        return {"name": node.id}
    if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name)):
        raise _unreadable(recipe)
    if node.args:
        raise InvalidRequest(
            f"{ast.unparse(node.args[0])!r} in {recipe!r} has no name; write argument=number"
        )
    values = {keyword.arg: _value(keyword.value, recipe) for keyword in node.keywords if keyword.arg}
    if len(values) < len(node.keywords):
        raise InvalidRequest(f"an argument in {recipe!r} is there twice, or has no name")
    return {"name": node.func.id, **values}


def _value(node: ast.expr, recipe: str) -> Any:
    if isinstance(node, ast.Call):
        return _recipe(node, recipe)
    if isinstance(node, ast.Name) and node.id in ("true", "false"):
        return node.id == "true"
    with contextlib.suppress(ValueError, TypeError):
        value = ast.literal_eval(node)
        if isinstance(value, int | float | str | tuple | list):
            return value  # pyright: ignore[reportUnknownVariableType]
    raise InvalidRequest(
        f"{ast.unparse(node)!r} in {recipe!r} is no number, word in quotes or tuple of numbers"
    )


def _ids_in(path: Place) -> np.ndarray:
    try:
        if str(path).endswith(".npy"):
            with fetched(path) as local:
                return np.array(mapped_array(local))
        return np.array([int(line) for line in read_text(path).split()], np.int64)
    except (ValueError, OverflowError) as e:
        raise UnreadableFile(f"{path} must hold integers, one a line, or be a .npy file: {e}") from e


def _report(done: Imported, path: Place, save_vocabulary: Place | None) -> dict[str, Any]:
    if save_vocabulary is not None:
        if done.vocabulary is None:
            raise InvalidRequest(f"{path} has no words; leave --save-vocabulary out")
        done.vocabulary.save(save_vocabulary)
    return {
        "table": done.table.name,
        "path": str(path),
        "rows": done.rows,
        "skipped_words": done.skipped,
        "missing_words": done.missing,
        "vocabulary": str(save_vocabulary) if save_vocabulary is not None else None,
    }
