"""Which version of rowloom a process runs."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.metadata import Distribution, distributions
from pathlib import Path

NAME = "rowloom"


def running_version(known: Iterable[Distribution] | None = None, code: Path = Path(__file__)) -> str:
    """The version of the code that runs.

    Not the first one that is installed: a process that Ray starts has its driver's working folder first on its path,
    and that may be a checkout with the metadata of another version, beside code that came with the process.

    Args:
        known: installed distributions; None: those that this process finds.
        code: this file, as it was imported.
    """
    found = list(distributions(name=NAME) if known is None else known)
    above = code.parents[3]  # of rowloom/server/running
    beside = (one for one in found if Path(str(one.locate_file(""))).resolve() == above.resolve())
    return next(beside, found[0]).version
