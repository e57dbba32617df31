"""Options that commands share, and the cluster that they mean."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer
from typer.core import TyperCommand

from ..proto.errors import (
    InvalidRequest,
    NoAnswer,
    RowloomError,
    SnapshotCorrupt,
    TableNotFound,
)
from .config.storage_url import ELSEWHERE, dies_with_its_process
from .ending import INTERRUPTED
from .terminal import agreed, can_ask

if TYPE_CHECKING:
    from ..proto import rowloom_pb2 as pb
    from .operate.directory import ClusterDirectory
    from .operate.remote import Remote

DEPLOY_YAML = Path("deploy.yaml")
AsJson = Annotated[
    bool, typer.Option("--json", help="Print one JSON object on stdout and nothing else there.")
]


def _folder(text: str) -> Path:
    """A --home. Raises Unparsed: it is empty, as of a variable that is not set; that is not the folder one is in."""
    if not text:
        raise Unparsed(
            '--home must be a folder, got "": leave it out for ~/.rowloom, or give . for this folder'
        )
    return Path(text)


Home = Annotated[
    Path | None,
    typer.Option(
        help="Folder that remembers clusters.",
        envvar="ROWLOOM_HOME",
        show_default="~/.rowloom",
        parser=_folder,
        metavar="PATH",
    ),
]


def known_names() -> list[str]:
    """The clusters that are known here, for shells that complete --name; none where that cannot be known."""
    with contextlib.suppress(RowloomError):
        return directory_of(None).names()
    return []


Name = Annotated[
    str | None,
    typer.Option(help="The cluster's name; may be left out if there is one.", autocompletion=known_names),
]


def _host_and_port(address: str | None) -> str | None:
    """An --address. Raises WrongUse: it can be none."""
    if address is not None and ("@" in address or "?" in address):
        from ..proto.recipes import shown_address

        raise WrongUse(
            f"--address must be host:port, as 127.0.0.1:7400, got {shown_address(address)}: a token is shown by "
            "ROWLOOM_TOKEN_FILE"
        )
    if address is not None and "://" in address:
        bare = address.partition("://")[2].partition("/")[0]
        form = bare if ":" in bare else f"{bare or '127.0.0.1'}:7400"
        raise WrongUse(f"--address must be host:port, as {form}, got {address!r}: leave its protocol out")
    host, _, port = (address or "").rpartition(":")
    if address is not None and not (host and port.isdecimal() and 0 < int(port) < 65536):
        raise WrongUse(f"--address must be host:port, as 127.0.0.1:7400, got {address!r}")
    return address


Address = Annotated[
    str | None,
    typer.Option(help="host:port of the coordinator, for a cluster not known here.", callback=_host_and_port),
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


def number(what: str, kind: type[int] | type[float], example: str) -> Callable[[str], Any]:
    """What reads an argument that is a number: for `parser=`. what: is called so in the error; example: of its use."""

    def read(text: str) -> int | float:
        try:
            return kind(text)
        except ValueError:
            noun = "a whole number" if kind is int else "a number"
            raise Unparsed(f"{what} must be {noun}, as in `{example}`, got {text!r}") from None

    return read


_BELOW_ZERO = re.compile(r"-([0-9]|\.[0-9]|inf|nan)", re.IGNORECASE)


class WithNumbers(TyperCommand):
    """A command with numbers as arguments: -1 is one, and no option, so that it is refused by its value."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """As click wants it. Other options that are none are still refused as such."""
        ctx.ignore_unknown_options = any(_BELOW_ZERO.match(arg) for arg in args)
        return super().parse_args(ctx, args)


class NotServing(RowloomError):
    """The cluster was asked, and a shard of it does not serve."""

    exit_code = 3


class WrongUse(InvalidRequest):
    """Options or arguments that cannot be meant; nothing was done."""

    exit_code = 2


class Unparsed(RowloomError):
    """Wrong use, too. It is no ValueError: typer would put words of its own before those of a parser's."""

    exit_code = 2


class Interrupted(RowloomError):
    """By Ctrl-C; the message says what is left."""

    exit_code = INTERRUPTED


def check_urls(arguments: Sequence[str]) -> None:
    """Raise WrongUse if one is a URL of memory: what a command reads there is never there, what it writes goes."""
    for one in arguments:
        if dies_with_its_process(one):
            raise WrongUse(
                f"{one} is memory of this process: nothing is there that others wrote, and nothing would be there when "
                f"the command has ended; {ELSEWHERE}"
            )


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


def config_file(given: Path | None) -> Path | None:
    """The deploy config that was named, or else the one of this folder; None: there is none."""
    return given if given is not None else DEPLOY_YAML if DEPLOY_YAML.exists() else None


def directory_of(home: Path | None) -> ClusterDirectory:
    """The clusters that are known here."""
    from .operate.directory import ClusterDirectory

    return ClusterDirectory(home)


@contextlib.contextmanager
def cluster(name: str | None, address: str | None, home: Path | None) -> Generator[ClusterHere]:
    """The cluster that the options mean, wherever its coordinator is now. Raises Unreachable: it ceased to answer."""
    from .operate.clusters import locate, reach
    from .operate.remote import Unreachable

    directory = directory_of(home)
    remote, status = reach(locate(directory, name, address), directory)
    options = f" --address {address}" if address is not None else directory.option(status.name)
    with remote:
        try:
            yield ClusterHere(remote, status, options)
        except NoAnswer as e:
            raise Unreachable(
                f"{e}. Whether it was done is not known: `rowloom status{options}` tells"
            ) from e


@contextlib.contextmanager
def interrupted(left: Callable[[], str]) -> Generator[None]:
    """Around what Ctrl-C ends only in this process. left: in words, what becomes of it, and what to do then."""
    try:
        yield
    except KeyboardInterrupt:
        raise Interrupted(f"interrupted: {left()}") from None


def left_of(name: str, directory: ClusterDirectory) -> str:
    """In words, what an `up` that was interrupted has left."""
    if name not in directory.names():
        return f"what was started of {name!r} was ended, nothing is left"
    with contextlib.suppress(RowloomError):
        record = directory.get(name)
        if record is not None and record.kept:
            return f"what was started of {name!r} was ended, and its rows are kept as they were"
    from .operate.left_shards import serving_on, up_of

    down, again = f"`rowloom down{directory.option(name)}` ends", up_of(name, directory)
    with contextlib.suppress(RowloomError):
        if (left := serving_on(name, directory)) is not None:
            return f"{name!r} is there: {left.words()}. {again} finds them; {down} them"
    return f"something of {name!r} may run; {again} finds it or starts anew, {down} it"


@contextlib.contextmanager
def wrong_use() -> Generator[None]:
    """What a check of options or arguments refuses is wrong use."""
    try:
        yield
    except InvalidRequest as e:
        raise WrongUse(str(e)) from e


@contextlib.contextmanager
def named_snapshot(*urls: str, instead: bool = False) -> Generator[None]:
    """What is wrong with a snapshot that the command line names is wrong use: that it is not there, or is damaged.

    instead: say which other one can be taken.
    """
    from ..proto.snapshots.folder import SnapshotFolder
    from ..proto.snapshots.manifest import MANIFEST
    from .snapshots.named import no_snapshot_in_words, others_in_words

    with wrong_use():
        folders = [SnapshotFolder(url) for url in urls]
    for folder in folders:
        if folder.size(MANIFEST) is None:
            raise WrongUse(no_snapshot_in_words(folder))
    try:
        yield
    except SnapshotCorrupt as e:
        more = "".join(f". {others_in_words(folder, str(e))}" for folder in folders if instead)
        raise WrongUse(f"{e}{more}") from e


def table_of(state: dict[str, Any], name: str, more: str = "") -> dict[str, Any]:
    """A table of a `summary`. Raises TableNotFound, with the tables that there are. more: what else can be done."""
    for table in state["tables"]:
        if table["name"] == name:
            return table
    there = ", ".join(sorted(t["name"] for t in state["tables"])) or "none"
    raise TableNotFound(f"no table {name!r}; there are: {there}{more}")


def check_serving(
    state: dict[str, Any],
    refused: str = "",
    *,
    only: int | None = None,
    reads: bool = False,
    options: str = "",
    ways: bool = True,
) -> None:
    """Nothing if the shards of a cluster serve.

    Args:
        state: a `summary`.
        refused: in words, that nothing was done.
        only: the shard that matters; None: all.
        reads: it is enough if they serve pulls.
        options: of commands that mean this cluster.
        ways: say what can be done; False: that `rowloom status` says it, for commands that only look.

    Raises:
        NotServing: one does not.
    """
    from .health.ways_out import ways_out
    from .operate.status import not_serving

    bad = not_serving(state, reads=reads)
    if bad and (only is None or only in bad):
        after = f"; {refused}" if refused else ""
        todo = ways_out(state, options) if ways else f"; `rowloom status{options}` says what can be done"
        raise NotServing(f"{'; '.join(bad.values())}{after}{todo}")


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
