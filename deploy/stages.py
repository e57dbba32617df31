"""What a long command shows while it works: one line for each stage, on stderr."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn


class Stages:
    """Use as `with Stages(quiet) as stages:`, and inside `with stages("reading"):`.

    Args:
        quiet: show nothing.
    """

    def __init__(self, quiet: bool) -> None:
        self._progress = Progress(
            TextColumn("{task.description:<28}"),
            BarColumn(bar_width=24),
            TimeElapsedColumn(),
            TextColumn("{task.fields[note]}"),
            console=Console(stderr=True),
            disable=quiet,
        )

    def __enter__(self) -> Stages:
        self._progress.start()
        return self

    def __exit__(self, *exc: object) -> None:
        if not self._progress.disable:  # Before 14.3 Rich ends even a disabled bar with an empty line.
            self._progress.stop()

    @contextmanager
    def __call__(self, title: str, total: int | None = None) -> Iterator[Callable[..., None]]:
        """One stage. Gives a function to tell (how much more is done, a note).

        Args:
            title: what is being done.
            total: how much there is to do; None: not known.
        """
        task = self._progress.add_task(title, total=total, note="")
        yield lambda more, note="": self._progress.update(task, advance=more, note=note)
        done = self._progress.tasks[task].completed if total is not None else 1
        self._progress.update(task, total=done or 1, completed=done or 1)
        self._progress.stop_task(task)
