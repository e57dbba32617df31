"""Looking at rows where they lie, straight from the shards."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ...proto import methods
from ...proto import rowloom_pb2 as pb
from ...proto.channel import Channels
from ...proto.layout import Layout, ShardAddress
from ...proto.spec import TableEntry

BLOCK_BYTES = 4 << 20
Block = tuple[np.ndarray, np.ndarray, list[np.ndarray]]


class Reader:
    """Reads the rows that exist, straight from the shards. Raises RowloomError.

    address: of the coordinator or any shard.
    """

    def __init__(self, address: str) -> None:
        self._channels = Channels()
        data = self._call(address, methods.DESCRIBE_LAYOUT, b"")
        reply = pb.DescribeLayoutReply.FromString(data)
        self.layout = Layout.from_message(reply.layout)
        self.tables = {m.spec.name: TableEntry.from_message(m) for m in reply.tables}

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *exc: object) -> None:
        self._channels.close()

    def _call(self, address: str, method: str, request: bytes) -> bytes:
        return self._channels.call(address, method, request, timeout_s=30.0)

    def blocks(self, entry: TableEntry, shard: ShardAddress) -> Iterator[Block]:
        """(ids [N], values [N, width], slots) of the rows of one shard, float32, block by block."""
        header = self.layout.header(shard.index)
        cursor = 0
        while True:
            request = pb.ReadRowsRequest(
                header=header, table=entry.number, cursor=cursor, limit_bytes=BLOCK_BYTES
            )
            data = self._call(shard.address, methods.READ_ROWS, request.SerializeToString())
            reply = pb.ReadRowsReply.FromString(data)
            ids = np.frombuffer(reply.ids, "<i8")
            if len(ids):
                shape = (len(ids), -1)
                slots = [np.frombuffer(s, "<f4").reshape(shape) for s in reply.slots]
                yield ids, np.frombuffer(reply.values, "<f4").reshape(shape), slots
            cursor = reply.next
            if not cursor:
                return
