"""Looking at rows where they lie, straight from the shards."""

from __future__ import annotations

from collections.abc import Iterator

import grpc
import numpy as np

from ...proto import rowloom_pb2 as pb
from ...proto.channel import CHANNEL_OPTIONS, error_of
from ...proto.layout import PROTOCOL, Layout, ShardAddress
from ...proto.spec import TableEntry

BLOCK_BYTES = 4 << 20
Block = tuple[np.ndarray, np.ndarray, list[np.ndarray]]


class Reader:
    """Reads the rows that exist, straight from the shards. Raises RowloomError.

    address: of the coordinator or any shard.
    """

    def __init__(self, address: str) -> None:
        self._channels: dict[str, grpc.Channel] = {}
        data = self._call(address, "/rowloom.v1.Directory/DescribeLayout", b"")
        reply = pb.DescribeLayoutReply.FromString(data)
        self.layout = Layout.from_message(reply.layout)
        self.tables = {m.spec.name: TableEntry.from_message(m) for m in reply.tables}

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *exc: object) -> None:
        for channel in self._channels.values():
            channel.close()

    def _call(self, address: str, method: str, request: bytes) -> bytes:
        if address not in self._channels:
            self._channels[address] = grpc.insecure_channel(address, CHANNEL_OPTIONS)
        try:
            return self._channels[address].unary_unary(method)(request, timeout=30.0)
        except grpc.RpcError as e:
            raise error_of(e, address) from None

    def blocks(self, entry: TableEntry, shard: ShardAddress) -> Iterator[Block]:
        """(ids [N], values [N, width], slots) of the rows of one shard, float32, block by block."""
        header = pb.Header(
            cluster_id=self.layout.cluster_id, epoch=self.layout.epoch, protocol=PROTOCOL, shard=shard.index
        )
        cursor = 0
        while True:
            request = pb.ReadRowsRequest(
                header=header, table=entry.number, cursor=cursor, limit_bytes=BLOCK_BYTES
            )
            data = self._call(shard.address, "/rowloom.v1.Shard/ReadRows", request.SerializeToString())
            reply = pb.ReadRowsReply.FromString(data)
            ids = np.frombuffer(reply.ids, "<i8")
            if len(ids):
                shape = (len(ids), -1)
                slots = [np.frombuffer(s, "<f4").reshape(shape) for s in reply.slots]
                yield ids, np.frombuffer(reply.values, "<f4").reshape(shape), slots
            cursor = reply.next
            if not cursor:
                return
