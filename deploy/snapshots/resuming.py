"""What a cluster goes on with from its logs: rows; and the checkpoint that a trainer's model could go on with.

Why it is so. A log has every push that was acknowledged, also those behind the last checkpoint, and no dense model. So
a trainer that begins there has new weights on trained rows, and nothing looks wrong but its loss. Whoever expects the
model of yesterday has to hear that it is there, and what makes model and rows go on together.
"""

from __future__ import annotations

import contextlib
import shlex
from dataclasses import dataclass
from typing import Any

from ...proto.errors import RowloomError
from ..config.words import counted
from ..launch.keeping import snapshots_of
from .moments import in_words


@dataclass(frozen=True)
class NewestCheckpoint:
    """The newest checkpoint in a storage.

    Attributes:
        id: its name.
        url: its folder.
        created_s: when it was taken, in seconds since 1970, UTC.
    """

    id: str
    url: str
    created_s: float

    def told(self, options: str, file: str) -> str:
        """Which it is, and the commands that go on from it, for the middle of a sentence.

        Args:
            options: of commands that mean the cluster.
            file: its config.
        """
        return (
            f"the newest checkpoint there is {self.id}, of {in_words(self.created_s)}: `rowloom down --yes{options}`, "
            f"then `rowloom restore {shlex.quote(self.url)} {shlex.quote(file)}`, go on with model and rows of that "
            "moment, without what was pushed since"
        )


@dataclass(frozen=True)
class GoesOn:
    """A cluster that was started and has rows from its logs.

    Attributes:
        rows: how many are known.
        tables: how many there are.
        whole: every shard has told its rows.
        checkpoint: the newest in its storage; None: there is none, or it cannot be seen from here.
    """

    rows: int
    tables: int
    whole: bool
    checkpoint: NewestCheckpoint | None

    def __str__(self) -> str:
        """With what it goes on, in words."""
        least = "" if self.whole else "at least "
        return (
            f"goes on with {least}{self.rows:,} {'row' if self.rows == 1 else 'rows'} in "
            f"{counted(self.tables, 'table')}"
        )

    def warning(self, options: str, file: str) -> str:
        """A line that a model is not among it; empty: there was none, as far as is known. Arguments as of `told`."""
        if self.checkpoint is None or not (self.rows or not self.whole):
            return ""
        return f"rowloom: ITS LOGS HAVE ROWS AND NO MODEL, and {self.checkpoint.told(options, file)}\n"

    def to_json(self) -> dict[str, Any]:
        """For programs."""
        newest = self.checkpoint
        shown = {"id": newest.id, "url": newest.url, "created_s": newest.created_s} if newest else None
        return {"rows": self.rows, "tables": self.tables, "whole": self.whole, "checkpoint": shown}


def goes_on_with(state: dict[str, Any], storage: str | None) -> GoesOn:
    """Of a cluster that went on from the logs in a storage. state: its `summary`."""
    tables = state["tables"]
    return GoesOn(
        sum(table["rows"] for table in tables),
        len(tables),
        not any(table["uncounted_shards"] for table in tables),
        newest_checkpoint(storage),
    )


def newest_checkpoint(storage: str | None) -> NewestCheckpoint | None:
    """The one that trainers find there, too; None: there is none, or it cannot be seen from here."""
    # With numpy and what reads files, which commands that only look do not wait for.
    from ...client.snapshots import newest_snapshot, open_snapshot
    from ...proto.snapshots.extra import CHECKPOINT

    if not storage:
        return None
    with contextlib.suppress(RowloomError, OSError):
        url = newest_snapshot(snapshots_of(storage), having=CHECKPOINT)
        if url is not None:
            found = open_snapshot(url)
            return NewestCheckpoint(found.id, found.path, found.created_s)
    return None


def and_checkpoint(storage: str, options: str) -> str:
    """The same of a cluster that is down and could go on from its logs, after that was said; empty: there is none."""
    newest = newest_checkpoint(storage)
    return f". The logs have rows and no model, and {newest.told(options, 'FILE')}" if newest else ""
