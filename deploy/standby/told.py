"""What a shard's server knows of its standby."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Told:
    """What a shard's server was told of its standby, or is to be told.

    Attributes:
        server: its incarnation.
        standby: that of its standby; 0: it has none.
        waits: as in StandbyRules; of no meaning without a standby.
        replicated: shards of the cluster have standbys.
    """

    server: int
    standby: int
    waits: bool
    replicated: bool
