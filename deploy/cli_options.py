"""Options that commands share, and the cluster that they mean."""

from __future__ import annotations

import contextlib
from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from ..proto.errors import InvalidRequest, RowloomError, TableNotFound
from .terminal import agreed, can_ask

if TYPE_CHECKING:
    from ..proto import rowloom_pb2 as pb
    from .operate.directory import ClusterDirectory
    from .operate.remote import Remote

AsJson = Annotated[
    bool, typer.Option("--json", help="Print one JSON object on stdout and nothing else there.")
]
Home = Annotated[
    Path | None,
    typer.Option(help="Folder that remembers clusters.", envvar="ROWLOOM_HOME", show_default="~/.rowloom"),
]
Name = Annotated[str | None, typer.Option(help="The cluster's name; may be left out if there is one.")]
Address = Annotated[
    str | None, typer.Option(help="host:port of the coordinator, for a cluster not known here.")
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


class NotServing(RowloomError):
    """The cluster was asked, and a shard of it does not serve."""

    exit_code = 3


class WrongUse(InvalidRequest):
    """Options or arguments that cannot be meant; nothing was done."""

    exit_code = 2


class ClusterHere(NamedTuple):
    """The cluster that a command means.

    Attributes:
        remote: a connection to its coordinator.
        now: its status.
        options: what other commands need to mean it too, such as " --name ads"; empty if they need nothing.
    """

    remote: Remote
    now: pb.StatusReply
    options: str


def directory_of(home: Path | None) -> ClusterDirectory:
    """The clusters that are known here."""
    from .operate.directory import ClusterDirectory

    return ClusterDirectory(home)


@contextlib.contextmanager
def cluster(name: str | None, address: str | None, home: Path | None) -> Generator[ClusterHere]:
    """The cluster that the options mean, wherever its coordinator is now."""
    from .operate.clusters import locate, reach

    directory = directory_of(home)
    remote, status = reach(locate(directory, name, address), directory)
    options = f" --address {address}" if address is not None else directory.option(status.name)
    with remote:
        yield ClusterHere(remote, status, options)


@contextlib.contextmanager
def wrong_use() -> Generator[None]:
    """What a check of options or arguments refuses is wrong use."""
    try:
        yield
    except InvalidRequest as e:
        raise WrongUse(str(e)) from e


def table_of(state: dict[str, Any], name: str, more: str = "") -> dict[str, Any]:
    """A table of a `summary`. Raises TableNotFound, with the tables that there are. more: what else can be done."""
    for table in state["tables"]:
        if table["name"] == name:
            return table
    there = ", ".join(sorted(t["name"] for t in state["tables"])) or "none"
    raise TableNotFound(f"no table {name!r}; there are: {there}{more}")


def check_serving(
    state: dict[str, Any], refused: str = "", *, only: int | None = None, options: str = ""
) -> None:
    """Nothing if the shards of a cluster serve.

    Args:
        state: a `summary`.
        refused: in words, that nothing was done.
        only: the shard that matters; None: all.
        options: of commands that mean this cluster.

    Raises:
        NotServing: one does not; the message says what can be done.
    """
    from .operate.status import not_serving, ways_out

    bad = not_serving(state)
    if bad and (only is None or only in bad):
        after = f"; {refused}" if refused else ""
        raise NotServing(f"{'; '.join(bad.values())}{after}{ways_out(state, options)}")


def confirm(question: str, yes: bool, *, ask_nobody: bool) -> None:
    """Ask before rows are thrown away.

    Args:
        question: what will be lost.
        yes: they may be.
        ask_nobody: where nobody can be asked, go on.

    Raises:
        WrongUse: nobody can be asked.
        RowloomError: the answer was no.
    """
    if yes or (ask_nobody and not can_ask()):
        return
    if not can_ask():
        raise WrongUse(f"{question} Add --yes if that is meant; nothing was changed")
    if not agreed(question):
        raise RowloomError("nothing was changed")
