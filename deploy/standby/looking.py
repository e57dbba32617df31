"""What servers say of themselves, and what the launcher knows of the others."""

from __future__ import annotations

from collections.abc import Sequence

from ...proto import rowloom_pb2 as pb
from ...proto.errors import RowloomError
from ..control.effects import Look, Program
from ..launch.launcher import ServerProcess


def processes_of(
    keys: Sequence[int], incarnations: Sequence[int], answers: Sequence[pb.HealthReply | None]
) -> Program:
    """Of servers, what the launcher knows of their processes; it is asked only about those that did not answer."""
    silent = [
        at
        for at, (incarnation, health) in enumerate(zip(incarnations, answers, strict=True))
        if health is None or health.incarnation != incarnation
    ]
    found = [ServerProcess("running")] * len(keys)
    looked: list[ServerProcess] = yield Look([keys[at] for at in silent])
    for at, process in zip(silent, looked, strict=True):
        another = process.incarnation not in (0, incarnations[at])  # the launcher started it again
        found[at] = ServerProcess("ended", sure=False) if another else process
    return found


def health_in(outcome: bytes | RowloomError) -> pb.HealthReply | None:
    """What a server answered; None: it did not."""
    return None if isinstance(outcome, RowloomError) else pb.HealthReply.FromString(outcome)
