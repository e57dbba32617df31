"""What callers are told to do about a push that not every shard has answered. Pure."""

from __future__ import annotations

from typing import NamedTuple

from ...proto import codec
from .outages import CALL_AGAIN

_GO_ON = "go on with the next batch"
_EXACT = (
    "Go on with the next batch; where each push must count exactly once, end the trainers and restore a snapshot, if "
    "the cluster has one (`rowloom snapshots` lists them)"
)


class UnresolvedPush(NamedTuple):
    """In words: what happened, what to do about it, and what to do when the shards serve again."""

    what: str
    todo: str
    then: str


def told_of(kind: int | None) -> UnresolvedPush:
    """Of a push that some rows have, or may have.

    kind: of the push; None: all of it is done, and what is left are the rows that a step pulls.
    """
    if kind is None:
        todo = "Do not push the same batch again, or all its rows get it twice: pull them"
        return UnresolvedPush("the rows to pull did not come", todo, "pull them")
    what = "the push ended before every shard had answered"
    if kind == codec.GRADIENTS:
        twice = "Do not push the same batch again, or the rows that have it get it twice"
        return UnresolvedPush(what, f"{twice}. {_EXACT}", _GO_ON)
    return UnresolvedPush(
        what, "The same call again does no harm: it sets each row to the same values", CALL_AGAIN
    )
