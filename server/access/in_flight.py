"""How many calls of each principal are under way in one server, against its quota. Every carrier counts here."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

from ...proto import rowloom_pb2 as pb
from ...proto.errors import Overloaded
from ...proto.framing import Buffer
from ..call import Call, Caller
from .quotas import WHO, Quotas
from .rights import ADMIN, ALL

RETRY_S = 0.02  # until a client comes again, at the soonest


class CallsInFlight:
    """The calls of one server. Thread-safe.

    Attributes:
        quotas: of all principals; replaced as a whole.
    """

    def __init__(self) -> None:
        self.quotas = Quotas()
        self._lock = threading.Lock()
        self._now: Counter[str] = Counter()
        self._refused: Counter[str] = Counter()

    def enter(self, caller: Caller) -> str:
        """A call comes. Returns what `leave` is to be told; empty: it is not counted.

        Servers and operators, who may administer all tables, are not counted, or nobody could raise a quota.

        Raises:
            Overloaded: its principal has as many under way as it may. Clients come again by themselves.
        """
        who = caller.principal
        if not who or (caller.rights is not None and caller.rights.may(ADMIN, ALL)):
            return ""
        most = self.quotas.of(who).calls
        with self._lock:
            if most is not None and self._now[who] >= most:
                self._refused[who] += 1
                raise Overloaded(
                    f"{who!r} has {self._now[who]} calls under way on this server, and its quota is {most} calls: "
                    f"send fewer at once, or {WHO}",
                    retry_after_s=RETRY_S,
                )
            self._now[who] += 1
        return who

    def leave(self, who: str) -> None:
        """A call is answered that was counted."""
        if who:
            with self._lock:
                self._now[who] -= 1

    def counted(self, answer: Callable[[Call], Sequence[Buffer]]) -> Callable[[Call], Sequence[Buffer]]:
        """The same answers, each counted as long as it takes."""

        def counting(call: Call) -> Sequence[Buffer]:
            who = self.enter(call.caller)
            try:
                return answer(call)
            finally:
                self.leave(who)

        return counting

    def messages(self) -> Iterator[pb.QuotaUse]:
        """What each principal has under way that has called."""
        with self._lock:
            now, refused = dict(self._now), dict(self._refused)
        for who in sorted(now):
            limit = self.quotas.of(who).calls
            yield pb.QuotaUse(
                principal=who, what="calls", used=now[who], limit=limit, refused=refused.get(who, 0)
            )
