"""One request to a host and what it answers, whichever carrier brings the one and takes the other.

Plain slots, not frozen: they are made for each of calls that take 100 us, and freezing triples what that costs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..proto.errors import RowloomError
from ..proto.framing import Buffer

GRPC, LANE = "grpc", "lane"


@dataclass(slots=True)
class Caller:
    """Who asks.

    Attributes:
        carrier: GRPC, LANE, or another word for what brings the request.
        principal: who that has proved to be; "" as long as nobody is asked to.
    """

    carrier: str
    principal: str = ""


@dataclass(slots=True)
class Call:
    """One request.

    Attributes:
        method: such as methods.PULL.
        data: the message. It may lie in memory that the client shares and still writes to: what decides or indexes is
            copied before it is checked.
        caller: who asks.
        space: where the reply will lie in the end, if that is known: it is then made there, if it can be.
        placed: how many bytes of the reply lie in `space`, from its beginning: all of it, and the answer has no
            buffers; or 0.
    """

    method: str
    data: bytes | memoryview
    caller: Caller
    space: memoryview | None = None
    placed: int = 0


@dataclass(slots=True)
class WaitFor:
    """Nothing has happened yet: handle the call again when the host's state has changed.

    Attributes:
        limit_s: how long to wait for that.
        otherwise: what to answer then.
    """

    limit_s: float
    otherwise: RowloomError


@dataclass(slots=True)
class Answer:
    """What a host says; the shell sends it when it may go.

    Attributes:
        buffers: the reply, one after the other, unless the call has it (`placed`); they do not refer to the message.
        after: the position of the log that must be durable before the reply may go.
        wait_for: there is no reply yet.
        journal: the log that it is; filled in by the shell.
    """

    buffers: Sequence[Buffer] = ()
    after: int = 0
    wait_for: WaitFor | None = None
    journal: Any = None
