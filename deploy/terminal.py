"""Results on stdout, progress on stderr: for people, or as JSON."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console, RenderableType


def console() -> Console:
    """Where results go. As wide as they need when stdout is no terminal."""
    from rich.console import Console

    return Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 200)


def show(as_json: bool, value: Any, text: RenderableType) -> None:
    """One JSON object, or the same for people."""
    if as_json:
        show_json(value)
    else:
        console().print(text, markup=False)


def show_json(value: Any) -> None:
    """One line of JSON."""
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


@contextlib.contextmanager
def working(what: str, quiet: bool) -> Iterator[None]:
    """Say on stderr what is being done while it lasts."""
    from rich.console import Console

    if quiet:
        yield
        return
    with Console(stderr=True).status(what):
        yield


@contextlib.contextmanager
def moving(quiet: bool) -> Iterator[Callable[[int, int], None]]:
    """A bar of rows moved, on stderr, from the first row on. Yields what to call with (rows moved, rows in all)."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    if quiet:  # Not `disable=True`: before 14.3 Rich ends even a disabled bar with an empty line.
        yield lambda rows, total: None
        return
    columns = (TextColumn("rows moved"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=None, start=False, visible=False)

        def tell(rows: int, total: int) -> None:
            if total:
                progress.start_task(task)
                progress.update(task, completed=rows, total=total, visible=True)

        yield tell
