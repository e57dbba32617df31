"""What a look at shards and their standbys has found."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from ...proto import rowloom_pb2 as pb


@dataclass(frozen=True)
class Sighting:
    """What was seen of shards and standbys, by shard index.

    Attributes:
        gone: shards whose server is given up; True: it has ended for certain.
        empty: those of them at whose address another server answers, which holds nothing; its incarnation.
        healths: of standbys that answered.
        unfit: standbys that never will take a place, and why.
        alone: shards whose server did not answer, so that their standby may be all that there is.
        dead: of these, whose process has ended.
        over: standbys whose process has ended for certain.
    """

    gone: Mapping[int, bool] = field(default_factory=dict[int, bool])
    empty: Mapping[int, int] = field(default_factory=dict[int, int])
    healths: Mapping[int, pb.HealthReply] = field(default_factory=dict[int, pb.HealthReply])
    unfit: Mapping[int, str] = field(default_factory=dict[int, str])
    alone: Collection[int] = frozenset()
    dead: Collection[int] = frozenset()
    over: Collection[int] = frozenset()
