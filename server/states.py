"""The states of a server process, one value each. What goes from one to the next is in `host.py`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..proto import rowloom_pb2 as pb
from ..proto.layout import Layout
from .shard import Shard


@dataclass(frozen=True)
class Waiting:
    """Started, and adopted by nobody yet: it holds no rows. why: its log could not be read the last time."""

    why: str = ""
    word: ClassVar[str] = "waiting"  # as in HealthReply
    shard: ClassVar[None] = None
    layout: ClassVar[None] = None


@dataclass(frozen=True)
class Recovering:
    """Adopted as a shard whose rows it is reading from its log. why: that failed the last time."""

    layout: Layout
    index: int
    why: str = ""
    word: ClassVar[str] = "recovering"
    shard: ClassVar[None] = None


@dataclass(frozen=True)
class Lost:
    """Adopted as a shard whose rows it does not have. why: they could not be read from its log, if it has one."""

    why: str = ""
    word: ClassVar[str] = "lost"
    shard: ClassVar[None] = None
    layout: ClassVar[None] = None


@dataclass(frozen=True)
class _Holding:
    shard: Shard

    @property
    def layout(self) -> Layout:
        """The epoch that it serves."""
        return self.shard.layout


@dataclass(frozen=True)
class Serving(_Holding):
    """It takes pulls and pushes. brake_s: so long a push holds others up, for each of its rows."""

    brake_s: float = 0.0
    word: ClassVar[str] = "serving"


@dataclass(frozen=True)
class Moving(_Holding):
    """Its rows move to another layout, or are cut: pulls go on, pushes wait. Nowhere else is said whether pushes wait.

    admitted: (client_id, push) of those that need not, because other shards have a part of them.
    """

    admitted: frozenset[tuple[int, int]] = frozenset()
    word: ClassVar[str] = "moving"


@dataclass(frozen=True)
class Retired:
    """No shard of `layout`, which followed the one that it served."""

    layout: Layout
    word: ClassVar[str] = "retired"
    shard: ClassVar[None] = None


@dataclass(frozen=True)
class Standing:
    """The standby of a shard. layout: that of the shard, which another server serves."""

    layout: Layout
    index: int
    word: ClassVar[str] = "standby"
    shard: ClassVar[None] = None


def name_of(state: State) -> str:
    """The process in this state for people: shard-1, or standby-1; empty: it is none, or none any more."""
    if isinstance(state, Standing):
        return f"standby-{state.index}"
    if isinstance(state, Recovering):
        return f"shard-{state.index}"
    return f"shard-{state.shard.index}" if state.shard is not None else ""


def tell(state: State, reply: pb.HealthReply) -> None:
    """Fill in what a process is in this state."""
    reply.state = state.word
    if state.shard is not None:
        layout = state.shard.layout
        reply.index, reply.epoch, reply.cluster_id = state.shard.index, layout.epoch, layout.cluster_id
    if isinstance(state, Lost):
        reply.lost = state.why
    if isinstance(state, Waiting | Recovering):
        reply.unread = state.why


State = Waiting | Recovering | Lost | Serving | Moving | Retired | Standing
