"""Looking at rows where they lie, straight from the shards."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ...proto import methods
from ...proto import rowloom_pb2 as pb
from ...proto.channel import Channels
from ...proto.errors import NoAnswer, Unavailable
from ...proto.layout import Layout, ShardAddress, owner
from ...proto.security.credentials import NOTHING, Credentials
from ...proto.spec import TableEntry

BLOCK_BYTES = 4 << 20
SCAN_BYTES = 256 << 10  # a shard looks at 64 times as many rows in a call, and does nothing else meanwhile
MOST_SHARDS = 2**32 - 1  # of a layout in a message
Block = tuple[np.ndarray, np.ndarray, list[np.ndarray]]


class SilentShard(Unavailable):
    """A shard was asked, and did not answer."""

    exit_code = 3


class Reader:
    """Reads the rows that exist, straight from the shards. Raises RowloomError.

    Args:
        address: of the coordinator or any shard.
        credentials: what they are shown.
    """

    def __init__(self, address: str, credentials: Credentials = NOTHING) -> None:
        self._channels = Channels(credentials)
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

    def _ask(self, shard: ShardAddress, method: str, request: bytes) -> bytes:
        """One call to a shard. Raises RowloomError; SilentShard if it does not answer."""
        try:
            return self._call(shard.address, method, request)
        except NoAnswer as e:
            raise SilentShard(f"shard {shard.index} at {e}") from None

    def slots_of(self, entry: TableEntry, shard: ShardAddress, row_id: int) -> list[np.ndarray] | None:
        """The slots of a row, each [width] float32, as they lie on its shard; None: the row does not exist there.

        A shard gives rows by the shard that owns them under some layout; under one of so many it owns hardly another.
        """
        nth = int(owner(entry.spec, np.array([row_id]), MOST_SHARDS)[0])
        cursor = 0
        while True:
            request = pb.ReadRowsRequest(
                header=self.layout.header(shard.index),
                table=entry.number,
                cursor=cursor,
                limit_bytes=SCAN_BYTES,
                new_n=MOST_SHARDS,
                new_index=nth,
            )
            data = self._ask(shard, methods.READ_ROWS, request.SerializeToString())
            reply = pb.ReadRowsReply.FromString(data)
            found = np.flatnonzero(np.frombuffer(reply.ids, "<i8") == row_id)
            if len(found):
                count = len(reply.ids) // 8
                return [np.frombuffer(s, "<f4").reshape(count, -1)[found[0]] for s in reply.slots]
            cursor = reply.next
            if not cursor:
                return None

    def hottest(self, entry: TableEntry, limit: int, *, recent: bool = False) -> list[pb.HottestIdsReply]:
        """What each shard says of the ids that it is asked for most, by shard. recent: with a sample of all of them."""
        found: list[pb.HottestIdsReply] = []
        for shard in self.layout.shards:
            header = self.layout.header(shard.index)
            request = pb.HottestIdsRequest(header=header, table=entry.number, limit=limit, recent=recent)
            data = self._ask(shard, methods.HOTTEST_IDS, request.SerializeToString())
            found.append(pb.HottestIdsReply.FromString(data))
        return found

    def some_ids(self, entry: TableEntry, shard: ShardAddress, cursor: int, count: int) -> np.ndarray:
        """Ids of so many rows of a shard at most, which stand one after the other there, from a place on: [M] int64."""
        request = pb.ReadRowsRequest(
            header=self.layout.header(shard.index),
            table=entry.number,
            cursor=cursor,
            limit_bytes=8 * count,
            ids_only=True,
        )
        data = self._ask(shard, methods.READ_ROWS, request.SerializeToString())
        return np.frombuffer(pb.ReadRowsReply.FromString(data).ids, "<i8").astype(np.int64)

    def blocks(self, entry: TableEntry, shard: ShardAddress) -> Iterator[Block]:
        """(ids [N], values [N, width], slots) of the rows of one shard, float32, block by block."""
        header = self.layout.header(shard.index)
        cursor = 0
        while True:
            request = pb.ReadRowsRequest(
                header=header, table=entry.number, cursor=cursor, limit_bytes=BLOCK_BYTES
            )
            data = self._ask(shard, methods.READ_ROWS, request.SerializeToString())
            reply = pb.ReadRowsReply.FromString(data)
            ids = np.frombuffer(reply.ids, "<i8")
            if len(ids):
                shape = (len(ids), -1)
                slots = [np.frombuffer(s, "<f4").reshape(shape) for s in reply.slots]
                yield ids, np.frombuffer(reply.values, "<f4").reshape(shape), slots
            cursor = reply.next
            if not cursor:
                return
