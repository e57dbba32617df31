"""Who the shards are: epoch, count, addresses; and which of them owns an id of a table."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from . import partition
from . import rowloom_pb2 as pb
from .spec import Dealing, TableEntry, TableSpec

PROTOCOL = 1


@dataclass(frozen=True)
class ShardAddress:
    """Where a shard is. `incarnation` is new with each start of its process."""

    index: int
    address: str
    incarnation: int = 0


@dataclass(frozen=True)
class Layout:
    """One epoch of a cluster. Epochs only grow.

    Attributes:
        dealt: by table number, how ids are dealt of tables that are dealt otherwise than when they were made. So
            whoever knows a table, since whenever, knows by the layout who owns its ids there.
    """

    cluster_id: str
    epoch: int
    shards: tuple[ShardAddress, ...]
    coordinator: str = ""
    dealt: Mapping[int, Dealing] = field(default_factory=dict[int, Dealing], hash=False)

    @property
    def n(self) -> int:
        """Number of shards."""
        return len(self.shards)

    def header(self, shard: int, max_staleness_s: float | None = None) -> pb.Header:
        """The header of all requests to a shard: the only place that makes one. Not to be written to.

        max_staleness_s: as in the message; None: it is no pull that a standby may answer.
        """
        return _header(self.cluster_id, self.epoch, shard, max_staleness_s)

    def next(self, shards: tuple[ShardAddress, ...], tables: Iterable[TableEntry]) -> Layout:
        """The layout that follows this one, with other shards. tables: all of them, dealt as they will be."""
        dealt = {one.number: one.spec.dealing for one in tables if one.made is not None}
        return dataclasses.replace(self, epoch=self.epoch + 1, shards=shards, dealt=dealt)

    def spec_of(self, entry: TableEntry) -> TableSpec:
        """What a table is in this epoch, whenever its entry is from."""
        return entry.spec.dealt(entry.dealing_by(self.dealt))

    def owner(self, entry: TableEntry, ids: np.ndarray) -> np.ndarray:
        """The shard of each id of a table. ids: [N] int64, valid. Returns [N] int64."""
        return owner(self.spec_of(entry), ids, self.n)

    def to_message(self) -> pb.Layout:
        """As the message."""
        return pb.Layout(
            cluster_id=self.cluster_id,
            epoch=self.epoch,
            coordinator=self.coordinator,
            shards=[
                pb.ShardAddress(index=s.index, address=s.address, incarnation=s.incarnation)
                for s in self.shards
            ],
            dealt=dealings(self.dealt),
        )

    @classmethod
    def from_message(cls, message: pb.Layout) -> Layout:
        """From the message."""
        shards = tuple(ShardAddress(s.index, s.address, s.incarnation) for s in message.shards)
        dealt = dealt_in(message.dealt)
        return cls(message.cluster_id, message.epoch, shards, message.coordinator, dealt)


def dealings(dealt: Mapping[int, Dealing]) -> list[pb.Dealing]:
    """`Layout.dealt` as messages."""
    return [dealing.to_message(table) for table, dealing in sorted(dealt.items())]


def dealt_in(messages: Iterable[pb.Dealing]) -> dict[int, Dealing]:
    """`Layout.dealt` from messages."""
    return {message.table: Dealing.from_message(message) for message in messages}


@functools.lru_cache(4096)
def _header(cluster_id: str, epoch: int, shard: int, max_staleness_s: float | None) -> pb.Header:
    return pb.Header(
        cluster_id=cluster_id, epoch=epoch, protocol=PROTOCOL, shard=shard, max_staleness_s=max_staleness_s
    )


def owner(spec: TableSpec, ids: np.ndarray, n: int) -> np.ndarray:
    """The shard of each id of a table when there are n shards. ids: [N] int64, valid. Returns [N] int64."""
    if spec.hash_ids:
        ids = partition.mix(ids)
    return partition.shard_of(ids, n, spec.partition, spec.num_embeddings)
