"""One request to a host and what it answers, whichever carrier brings the one and takes the other.

Plain slots, not frozen: they are made for each of calls that take 100 us, and freezing triples what that costs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..proto.errors import RowloomError
from ..proto.framing import Buffer
from .access.rights import Principal
from .metrics.traffic import NO_TABLE
from .standby.feed import Feed

GRPC, LANE = "grpc", "lane"


@dataclass(slots=True)
class Caller:
    """Who asks.

    Attributes:
        carrier: GRPC, LANE, or another word for what brings the request.
        principal: who that has proved to be; "" as long as nobody is asked to.
        rights: what that one may do; None: everything, because nobody is asked.
    """

    carrier: str
    principal: str = ""
    rights: Principal | None = None


@dataclass(slots=True)
class Call:
    """One request.

    Attributes:
        method: such as methods.PULL.
        data: the message. It may lie in memory that the client shares and still writes to: what decides or indexes is
            copied before it is checked. What is kept - in a log, or for a standby - is copied by the carrier.
        caller: who asks.
        space: where the reply will lie in the end, if that is known: it is then made there, if it can be.
        table: number of the only table whose rows are asked for or sent, once that is known; see `metrics.traffic`.
        placed: how many bytes of the reply lie in `space`, from its beginning: all of it, and the answer has no
            buffers; or 0.
        not_before: when a push that is braked may go on, a standby is answered or a pass begins at the latest; 0: not
            known yet.
    """

    method: str
    data: bytes | memoryview
    caller: Caller
    space: memoryview | None = None
    placed: int = 0
    not_before: float = 0.0
    table: int = NO_TABLE


@dataclass(slots=True)
class WaitFor:
    """Nothing has happened yet: handle the call again when the host's state has changed.

    Attributes:
        limit_s: how long to wait for that.
        otherwise: what to answer then, or where there is no room to wait.
        again: then it is handled again instead.
    """

    limit_s: float
    otherwise: RowloomError
    again: bool = False


@dataclass(frozen=True, slots=True)
class Fed:
    """A change that the standby is to have before it is acknowledged: what lies before a position of a feed."""

    feed: Feed
    position: int

    @property
    def is_safe(self) -> bool:
        """Whether it may be acknowledged."""
        return self.feed.covers(self.position)


@dataclass(slots=True)
class Answer:
    """What a host says; the shell sends it when it may go.

    Attributes:
        buffers: the reply, one after the other, unless the call has it (`placed`); they do not refer to the message.
        after: the position of the log that must be durable before the reply may go.
        wait_for: there is no reply yet.
        fed: what the standby must have before the reply may go; None: nothing.
    """

    buffers: Sequence[Buffer] = ()
    after: int = 0
    wait_for: WaitFor | None = None
    fed: Fed | None = None
