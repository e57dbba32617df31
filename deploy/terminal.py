"""Results on stdout, progress on stderr: for people, or as JSON."""

from __future__ import annotations

import contextlib
import json
import sys
import threading
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console, RenderableType


ANY_WIDTH = 10_000  # nothing is as wide


def can_ask() -> bool:
    """Whether there is somebody to answer a question."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def agreed(question: str) -> bool:
    """Ask on the terminal; only a yes is one."""
    sys.stderr.write(f"{question} Go on? [y/N] ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def console() -> Console:
    """Where results go. As wide as they need when stdout is no terminal; on one, tables are folded, never cut."""
    from rich.console import Console

    return Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else ANY_WIDTH)


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
def at_once(text: str, quiet: bool) -> Generator[None]:
    """Says on a terminal what goes on until the first stage is shown: what that needs takes seconds to be imported."""
    if quiet or not sys.stderr.isatty():
        yield
        return
    sys.stderr.write(f"{text} ...")
    sys.stderr.flush()
    try:
        yield
        import rich.progress  # what the first stage is shown with  # noqa: F401  # pyright: ignore[reportUnusedImport]
    finally:
        sys.stderr.write("\r\x1b[K")
        sys.stderr.flush()


@contextlib.contextmanager
def unless_soon(seconds: float, tell: Callable[[], object], quiet: bool) -> Generator[None]:
    """Call `tell`, in another thread, if the block lasts longer. quiet: do not."""
    if quiet:
        yield
        return
    timer = threading.Timer(seconds, tell)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


class Stage:
    """One line of what is shown: how far one thing is."""

    def __init__(self, update: Callable[..., None], say: Callable[[str], None]) -> None:
        self._update = update
        self.say = say
        """A line that stays, above the bars; said to the quiet and to logs too."""

    def advance(self, more: float = 1, note: str = "") -> None:
        """So much more is done."""
        self._update(advance=more, note=note)

    def reach(self, done: float, total: float | None, note: str = "") -> None:
        """So much is done in all, of so much; a total of None or 0 is not known yet."""
        self._update(completed=done, total=total or None, note=note)


class Stages:
    """What a long command shows on stderr while it works: one line for each stage.

    Use as `with Stages(quiet) as stages:`, and inside `with stages("reading") as stage:`.

    Args:
        quiet: show nothing.
        lasting: the lines stay when all is done.
    """

    def __init__(self, quiet: bool, *, lasting: bool = True) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        screen = Console(stderr=True)
        self._progress = Progress(
            TextColumn("{task.description:<28}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[count]}"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[note]}"),
            console=screen,
            disable=quiet or not screen.is_terminal,
            transient=not lasting,
        )
        # A log gets a line for each stage that is done.
        self._logged = lasting and not quiet and not screen.is_terminal

    def __enter__(self) -> Stages:
        self._progress.start()
        return self

    def __exit__(self, *exc: object) -> None:
        if not self._progress.disable:  # Before 14.3 Rich ends even a disabled bar with an empty line.
            self._progress.stop()

    @contextlib.contextmanager
    def __call__(self, title: str, total: float | None = None, unit: str = "") -> Generator[Stage]:
        """One stage.

        Args:
            title: what is being done.
            total: how much there is to do; None: not known.
            unit: of what is counted; none: the count is not shown.
        """
        progress = self._progress
        task = progress.add_task(title, total=total, note="", count="")

        def update(**changes: Any) -> None:
            progress.update(task, **changes)
            if unit:
                now = progress.tasks[task]
                of = f"/{now.total:,.0f}" if now.total is not None else ""
                progress.update(task, count=f"{now.completed:,.0f}{of} {unit}")

        def say(text: str) -> None:
            progress.console.print(f"rowloom: {text}", markup=False, highlight=False, soft_wrap=True)

        yield Stage(update, say)
        now = progress.tasks[task]
        done = now.completed if now.total is not None else 1
        progress.update(task, total=done or 1, completed=done or 1)
        progress.stop_task(task)
        if self._logged:
            words = (title, progress.tasks[task].fields["count"], now.fields["note"])
            progress.console.print(
                ": ".join(filter(None, words)), markup=False, highlight=False, soft_wrap=True
            )


@contextlib.contextmanager
def stage(title: str, quiet: bool, *, unit: str = "", lasting: bool = False) -> Generator[Stage]:
    """A single stage. Arguments as of `Stages`."""
    with Stages(quiet, lasting=lasting) as stages, stages(title, unit=unit) as only:
        yield only
