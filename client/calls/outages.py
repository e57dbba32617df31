"""Which shards do not answer, since when, and what people are told of it. No I/O, no threads."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal

from ...proto.errors import NoAnswer, RowloomError, StateLost, Unavailable, cause
from ...proto.layout import ShardAddress

# A standby has taken the place of its shard by then, and silence beyond it looks like a program that hangs.
PATIENCE_S = 2.0
LEAST_S = 1.0  # that a call still waits, or its error says all
NO_ANSWER = "no answer in time"
SAYS_WHAT = "`rowloom status` says what can be done"
CALL_AGAIN = "call again"
STARTED_AGAIN = "a shard whose process has ended is started again by itself, while the coordinator runs"
Asked = Literal["push", "pull", ""]
_AGAIN: dict[Asked, str] = {
    "push": "takes pushes again",
    "pull": "answers pulls again",
    "": "answers again",
}
FORGOTTEN_S = 60.0  # nobody asked the shard for so long: what was before is another story


@dataclass
class Outage:
    """A shard that does not answer.

    Attributes:
        since: when the first request was sent that got no answer.
        last: when it was last seen not to answer.
        why: in words.
        told: whether the log has it.
        refuses: it answers, and says itself that it does not do what it is asked.
        changes: that is a push; an answer to a pull does not end it.
        serves: it has answered something else since.
    """

    since: float
    last: float
    why: str
    told: bool = False
    refuses: bool = False
    changes: bool = False
    serves: bool = False


class Outages:
    """Those of one client, by shard.

    Args:
        lock: held around each change.

    Attributes:
        tell: what people are told goes there, as (level of `logging`, text); nowhere unless somebody sets it.
        another: in words, that another cluster answers where this one may be; empty: none does.
        open: by shard index. Whoever gets an answer calls `answered` if there are any, which is not often.
    """

    def __init__(self, lock: AbstractContextManager[Any]) -> None:
        self.tell: Callable[[int, str], object] = lambda level, text: None
        self.another = ""
        self.open: dict[int, Outage] = {}
        self._lock = lock

    def failed(
        self,
        shard: ShardAddress,
        error: RowloomError,
        sent: float,
        now: float,
        deadline: float,
        durability: str,
        *,
        push: bool = False,
    ) -> None:
        """A request was not answered, or by a server that is not ready, and is sent again later.

        Args:
            shard: to which it was sent.
            error: what came in place of an answer.
            sent: when the request was.
            now: the time.
            deadline: when its call gives up.
            durability: of the cluster.
            push: what was sent; False: something else.
        """
        with self._lock:
            outage = self.open.get(shard.index)
            refuses = isinstance(error, Unavailable) and not isinstance(error, NoAnswer)
            another = outage is not None and outage.serves and not (refuses and push)
            if outage is None or another or now - outage.last > FORGOTTEN_S:
                outage = self.open[shard.index] = Outage(sent, now, "")
            outage.last, outage.why = now, cause(error)
            outage.refuses, outage.changes = refuses, refuses and push
            if outage.told or now - outage.since < PATIENCE_S or deadline - now < LEAST_S:
                return
            outage.told = True
        again = f"; {STARTED_AGAIN}" if durability not in ("", "memory") and not outage.refuses else ""
        self.tell(
            logging.WARNING,
            f"{self.in_words(shard, now)}. The call waits for it, up to {deadline - now:.0f} s more{again}; "
            "`rowloom status` says how it is",
        )

    def answered(self, index: int, now: float, asked: Asked = "") -> None:
        """A shard answers. asked: for what; a pull says nothing of pushes that it refuses."""
        with self._lock:
            outage = self.open.get(index)
            if outage is not None and outage.changes and asked != "push":
                outage.serves = True
                return
            self.open.pop(index, None)
        if outage is not None and outage.told:
            self.tell(logging.INFO, f"shard {index} {_AGAIN[asked]}, after {now - outage.since:.0f} s")

    def in_words(self, shard: ShardAddress, now: float, otherwise: str = NO_ANSWER) -> str:
        """Of a shard that has not done what it was asked: for how long, and why.

        otherwise: why, if it is none of those that do not answer.
        """
        outage = self.open.get(shard.index)
        if outage is None:
            return f"{named(shard)} has not done it: {otherwise}"
        what = "has refused this" if outage.refuses else "has served nothing"
        return f"{named(shard)} {what} for {now - outage.since:.0f} s: {outage.why}"

    def what_next(self, shards: Iterable[ShardAddress], durability: str, then: str = CALL_AGAIN) -> str:
        """In words, what can be done when these do not do what they are asked.

        then: what the caller does when they serve.
        """
        if self.another:
            return (
                f"{self.another}. If that has taken the place of this one, `connect` again: its rows are others, also "
                "under the same name; what was pushed here does not count there"
            )
        outages = [self.open.get(shard.index) for shard in shards]
        if outages and all(outage is not None and outage.refuses for outage in outages):
            return f"{SAYS_WHAT}; to end its process is of no use"
        if durability in ("", "memory"):
            return "`rowloom status` says whether a shard is dead or stands still, and what can be done then"
        return (
            f"{STARTED_AGAIN.replace('a', 'A', 1)}, and reads its log: {then} when `rowloom status` says that it "
            "serves. One that stands still, stopped or hung, stays so: `rowloom status` says which it is, and what to "
            "type; `rowloom logs` says what happened to it"
        )


def named(shard: ShardAddress) -> str:
    """A shard for people."""
    return f"shard {shard.index} at {shard.address}"


def dead(shard: ShardAddress) -> StateLost:
    """The error of a shard whose process has ended for good."""
    return StateLost(
        f"{named(shard)} is dead: its process has ended, and the rows that it held are lost. `rowloom status` has the "
        "ways out: rows of other shards are saved by `rowloom export TABLE FILE --partial`, then `rowloom recover "
        f"--accept-loss {shard.index}` makes it anew, from initial values, or a snapshot, if there is one, is restored"
    )
