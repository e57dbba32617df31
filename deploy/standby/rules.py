"""How standbys are kept: what a config says of them, and the times that go with it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class StandbyRules:
    """How standbys are kept.

    Attributes:
        waits: a push is acknowledged when its shard's standby has it.
        lease_s: see SetStandbyRequest.
        after_s: a server that has not answered for so long is given up.
    """

    waits: bool = True
    lease_s: float = 2.0
    after_s: float = 5.0
