"""The ids that a table is asked for most, from what its shards have counted. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..proto import rowloom_pb2 as pb

MOST_HOT = 1024  # ids that a shard counts, of one table


@dataclass(frozen=True, eq=False)
class Hottest:
    """The ids that are pulled and pushed most, from a sample of one id in 1,024.

    An id that a call names more than once may count once: clients ask a shard for each id of a call once.

    Attributes:
        ids: [K] int64, the hottest first.
        shares: [K] float64: how many of the ids that were pulled and pushed are this one, in [0, 1].
        shards: [K] int64: the shard of each.
        sampled: ids that were looked at. Of so many, a share p is known to about sqrt(p / sampled).
        error: beside that, by how much a share may be too low.
    """

    ids: np.ndarray
    shares: np.ndarray
    shards: np.ndarray
    sampled: int
    error: float

    def words(self, most: int = 3) -> str:
        """The first of them, for people: `7 (12.0 %), 9 (3.1 %)`; empty if there are none."""
        return ", ".join(
            f"{row_id} ({share:.1%})".replace("%", " %")
            for row_id, share in zip(self.ids[:most].tolist(), self.shares[:most].tolist(), strict=True)
        )


def merged(replies: Sequence[pb.HottestIdsReply], limit: int) -> Hottest:
    """The hottest of a table, from what each of its shards says, by shard."""
    sampled = sum(reply.sampled_ids for reply in replies)
    weights = [reply.sampled_ids / max(sampled, 1) for reply in replies]
    ids = [np.frombuffer(reply.ids, "<i8").astype(np.int64) for reply in replies]
    shares = [
        weight * np.array(reply.counts, np.float64) / max(reply.seen, 1)
        for weight, reply in zip(weights, replies, strict=True)
    ]
    shards = np.repeat(np.arange(len(replies)), [len(some) for some in ids])
    every_id, share = np.concatenate([np.empty(0, np.int64), *ids]), np.concatenate([np.empty(0), *shares])
    order = np.lexsort((every_id, -share))[:limit]
    error = max((w * r.taken / max(r.seen, 1) for w, r in zip(weights, replies, strict=True)), default=0.0)
    return Hottest(every_id[order], share[order], shards[order], sampled, error)
