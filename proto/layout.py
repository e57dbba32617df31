"""Who the shards are: epoch, count, addresses; and which of them owns an id of a table."""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass

import numpy as np

from . import partition
from . import rowloom_pb2 as pb
from .spec import TableSpec

PROTOCOL = 1


@dataclass(frozen=True)
class ShardAddress:
    """Where a shard is. `incarnation` is new with each start of its process."""

    index: int
    address: str
    incarnation: int = 0


@dataclass(frozen=True)
class Layout:
    """One epoch of a cluster. Epochs only grow."""

    cluster_id: str
    epoch: int
    shards: tuple[ShardAddress, ...]
    coordinator: str = ""

    @property
    def n(self) -> int:
        """Number of shards."""
        return len(self.shards)

    def header(self, shard: int) -> pb.Header:
        """The header of all requests to a shard: the only place that makes one. Not to be written to."""
        return _header(self.cluster_id, self.epoch, shard)

    def next(self, shards: tuple[ShardAddress, ...]) -> Layout:
        """The layout that follows this one, with other shards."""
        return dataclasses.replace(self, epoch=self.epoch + 1, shards=shards)

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
        )

    @classmethod
    def from_message(cls, message: pb.Layout) -> Layout:
        """From the message."""
        shards = tuple(ShardAddress(s.index, s.address, s.incarnation) for s in message.shards)
        return cls(message.cluster_id, message.epoch, shards, message.coordinator)


@functools.lru_cache(4096)
def _header(cluster_id: str, epoch: int, shard: int) -> pb.Header:
    return pb.Header(cluster_id=cluster_id, epoch=epoch, protocol=PROTOCOL, shard=shard)


def owner(spec: TableSpec, ids: np.ndarray, n: int) -> np.ndarray:
    """The shard of each id of a table when there are n shards. ids: [N] int64, valid. Returns [N] int64."""
    if spec.hash_ids:
        ids = partition.mix(ids)
    return partition.shard_of(ids, n, spec.partition, spec.num_embeddings)
