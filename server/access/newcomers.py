"""How many new clients each principal may bring to one server, so that others' are not forgotten for them.

Why it is so. What must hold: who may push to one table does not make a shard forget the clients of everybody else. A
shard remembers so many clients, of all principals together, and a client is whatever number somebody chooses to push
under; so a principal that takes a new one for each push would soon have them all. This counts at the door, where it is
known who asks, and beside what is logged: what a shard has acknowledged it applies again without asking.
Rejected: that whoever has most clients forgets its own first. Who pushed is not in the log, nor in the ledgers that
move, and a log that is read again must forget the same clients. Take that up again if principals that are patient
become a problem: they still bring PER_MINUTE.
"""

from __future__ import annotations

from ...proto.errors import Overloaded
from ..call import Caller
from .rights import ADMIN, ALL

FIRST = 5000  # at once: a quarter of what a shard remembers
PER_MINUTE = 300.0  # beyond them


class Newcomers:
    """Those of one server. Callers hold the host's lock."""

    def __init__(self) -> None:
        self._left: dict[str, tuple[float, float]] = {}  # principal -> how many it may bring, since when

    def come(self, caller: Caller, now: float) -> None:
        """A client pushes that the shard does not know. Who may administer all tables is not counted.

        Raises:
            Overloaded: its principal has brought too many. Clients come again by themselves.
        """
        who = caller.principal
        if caller.rights is None or caller.rights.may(ADMIN, ALL):
            return
        left, since = self._left.get(who, (float(FIRST), now))
        left = min(FIRST, left + (now - since) * PER_MINUTE / 60)
        self._left[who] = (left - 1 if left >= 1 else left), now
        if left < 1:
            raise Overloaded(
                f"{who!r} has brought {FIRST} new clients to this server, and then more than {PER_MINUTE:g} a minute: "
                "the next one has to wait. A client that is kept, instead of made anew for each push, is none",
                retry_after_s=(1 - left) * 60 / PER_MINUTE,
            )
