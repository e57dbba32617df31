"""Rows on their way to the shard that will own them: the receiving end.

    pass 0: all rows ─▶ pass k: what changed since pass k - 1 began ─▶ ... ─▶ the last pass, while pushes wait ─▶ ledger

One `Stream` for each old shard, all of them side by side: it asks pass after pass for the rows that will be owned
here, until a pass has begun while pushes wait, and then for the ledger, piece by piece. When all streams have ended,
steps and ledgers are put together.

Why it is so. What must hold: of a row the newest image wins. A stream asks one thing after the other and installs what
comes, and a row has one old shard; so the newest image comes last. Every answer says what it is - of which shard, of
which tables, whether it ends the last pass - so those in a log, in the order in which they were installed, fill a shard
again, and nothing but the answers decides whether it is whole.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass

import numpy as np

from ...proto import methods
from ...proto import rowloom_pb2 as pb
from ...proto.errors import InvalidRequest
from ...proto.layout import Layout, ShardAddress, dealings
from ..durable.records import Kind
from ..ledger import PIECE_BYTES
from ..received import own
from ..shard import Shard
from .outgoing import BLOCK_BYTES
from .steps import Latest, lacking, latest_pushes

PEER_ATTEMPTS = 5  # to ask another server that is busy or does not answer
# Between two passes. What has changed meanwhile goes with the next one; to ask all the time would cost the old shard.
PASS_PAUSE_S = 0.005
# Passes have become shorter when one has less than this part of the rows of the shortest pass that counted as such.
SHRINKS = 0.8
_I64, _F32 = np.dtype("<i8"), np.dtype("<f4")


@dataclass
class PeerCall:
    """One request to another server; its reply bytes come back into the generator."""

    address: str
    method: str
    data: bytes
    timeout_s: float = 10.0


@dataclass
class Pause:
    """Nothing is asked for so long; None comes back."""

    seconds: float


Ask = PeerCall | Pause


def peer_pause_s(attempt: int) -> float:
    """Seconds before attempt number `attempt` + 1, counted from 0."""
    return 0.05 * 2**attempt


class Stream:
    """What comes from one old shard.

    Attributes:
        passes: that are over.
        left: rows of the latest one.
        rows: that came, each as often as it came; bytes: of all answers.
        rows_there: of all tables on the old shard, for all owners.
        stuck: passes since they last became shorter.
        waited_s: for other streams, which is not counted as work; said by the shell.
        done: the last pass is over, and the ledger is here.
    """

    def __init__(self, receive: Receive, old: ShardAddress) -> None:
        self._receive, self.old = receive, old
        self.passes = self.left = self.rows = self.bytes = self.rows_there = self.stuck = 0
        self.steps: list[int] | None = None  # once the last pass is over
        self.pushes: dict[int, Latest] = {}  # of its clients
        self.done = False
        self._busy_s = self.waited_s = 0.0
        self._shortest = 0  # rows of the pass by which they last became shorter

    @property
    def left_s(self) -> float:
        """What another pass will take, about."""
        return self.left * self._busy_s / max(1, self.rows) if self.passes else self._busy_s

    def run(self) -> Generator[Ask, bytes, None]:
        """Yields what to ask, is sent the reply bytes. Its answers install themselves: see `kind_of`."""
        since = 0
        while True:
            began, rows = self._receive.clock() - self.waited_s, self.rows
            reply = pb.ReadPassReply()
            while not reply.done:
                reply = self._receive.rows_came((yield self._asks(since, reply)))
            self._passed(self.rows - rows, self._receive.clock() - self.waited_s - began)
            if reply.last:
                break
            since = reply.generation
            yield Pause(PASS_PAUSE_S)
        piece = pb.ReadLedgerReply(next=1)
        cursor = 0
        while piece.next:
            header = self._receive.source.header(self.old.index)
            request = pb.ReadLedgerRequest(header=header, cursor=cursor, limit_bytes=PIECE_BYTES)
            data = yield PeerCall(self.old.address, methods.READ_LEDGER, request.SerializeToString())
            piece = self._receive.ledger_came(data)
            cursor = piece.next

    def _asks(self, since: int, before: pb.ReadPassReply) -> PeerCall:
        """What comes behind an answer of the same pass; behind an empty one, its beginning."""
        receive = self._receive
        request = pb.ReadPassRequest(
            header=receive.source.header(self.old.index),
            tables=receive.tables,
            new_n=receive.shard.layout.n,
            new_index=receive.shard.index,
            since=since,
            generation=before.generation,
            last=before.last,
            at=before.at,
            cursor=before.cursor,
            limit_bytes=receive.block_bytes,
            dealt=dealings(receive.shard.layout.dealt),
        )
        return PeerCall(self.old.address, methods.READ_PASS, request.SerializeToString())

    def _passed(self, rows: int, seconds: float) -> None:
        # Not compared with the pass before it: where long and short passes take turns, every second one would count
        # as progress, and the move would never end. As it is, passes can become shorter only so many times.
        if not self.passes or rows < self._shortest * SHRINKS:
            self._shortest, self.stuck = rows, 0
        else:
            self.stuck += 1
        self.left, self._busy_s = rows, self._busy_s + seconds
        self.passes += 1


class Receive:
    """Fills a shard of the next epoch from the shards of this one.

    Args:
        source: the layout of this epoch.
        shard: empty, with the tables of the old ones.
        clock: in seconds.
        block_bytes: how much is asked for at a time, about.
        only: the one shard of them that has its rows; None: all may have some.
    """

    def __init__(
        self,
        source: Layout,
        shard: Shard,
        clock: Callable[[], float] = lambda: 0.0,
        block_bytes: int = BLOCK_BYTES,
        only: int | None = None,
    ) -> None:
        self.source, self.shard, self.clock, self.block_bytes = source, shard, clock, block_bytes
        self.tables = sorted(shard.tables)
        self.streams = [Stream(self, old) for old in source.shards if only is None or old.index == only]
        self.done = False
        self._same: dict[bytes, bytes] = {}

    @property
    def rows(self) -> int:
        """Rows that have come, each counted once."""
        return self.shard.rows

    @property
    def bytes(self) -> int:
        """Of all answers."""
        return sum(stream.bytes for stream in self.streams)

    def progress(self) -> pb.ProgressReply:
        """How far it is; the host adds what it knows."""
        streams = self.streams
        slowest = max(streams, key=lambda stream: stream.left_s)
        return pb.ProgressReply(
            rows=self.rows,
            bytes=self.bytes,
            passes=min(stream.passes for stream in streams),
            left=sum(stream.left for stream in streams),
            left_s=slowest.left_s,
            stuck=slowest.stuck,
            rows_total=sum(stream.rows_there for stream in streams),
            moved=sum(stream.rows for stream in streams),
            slowest_bytes=min(stream.bytes + stream.done for stream in streams),
            held_bytes=sum(table.nbytes for table in self.shard.tables.values()),
        )

    def came(self, kind: Kind, data: bytes) -> None:
        """Install an answer that is read from a log."""
        if kind is Kind.RECEIVED:
            self.rows_came(data)
        else:
            self.ledger_came(data)

    def rows_came(self, data: bytes) -> pb.ReadPassReply:
        """Install rows. Raises InvalidRequest, TableNotFound, Overloaded."""
        reply = pb.ReadPassReply.FromString(data)
        stream = self._stream(reply.shard)
        for moved in reply.tables:
            table = self.shard.table(moved.table)
            ids = own(np.frombuffer(moved.ids, _I64))  # kernels are compiled for arrays that are ours
            if len(ids):
                table.check_ids(ids)
                table.install(ids, _rows(moved.values, ids), [_rows(s, ids) for s in moved.slots])
            stream.rows += len(ids)
        stream.bytes += len(data)
        stream.rows_there = reply.rows
        if reply.last and reply.done:
            if len(reply.steps) != len(self.tables):
                raise InvalidRequest(f"{len(reply.steps)} steps came for {len(self.tables)} tables")
            stream.steps = list(reply.steps)
        return reply

    def ledger_came(self, data: bytes) -> pb.ReadLedgerReply:
        """Merge a piece of a ledger; the last one of all ends it. Raises InvalidRequest."""
        piece = pb.ReadLedgerReply.FromString(data)
        stream = self._stream(piece.shard)
        if stream.steps is None:
            raise InvalidRequest(f"the ledger of shard {piece.shard} came before the last of its rows")
        self.shard.ledger.merge(piece)
        # Many clients push to the same tables: their list is kept once.
        stream.pushes.update(
            (client, (push, self._same.setdefault(t, t))) for client, (push, t) in latest_pushes(piece)
        )
        stream.bytes += len(data)
        stream.done = not piece.next
        if all(stream.done for stream in self.streams) and not self.done:
            self._finish()
        return piece

    def _finish(self) -> None:
        ledger = self.shard.ledger
        ledger.settle()
        # Of a client that one of them has forgotten nobody knows what that one has counted.
        known = [{c: p for c, p in stream.pushes.items() if ledger.knows(c)} for stream in self.streams]
        missed = lacking(known)
        for k, number in enumerate(self.tables):
            self.shard.tables[number].step = max(
                (stream.steps or [])[k] + more[number]
                for stream, more in zip(self.streams, missed, strict=True)
            )
        self.done = True

    def _stream(self, index: int) -> Stream:
        for stream in self.streams:
            if stream.old.index == index:
                return stream
        raise InvalidRequest(f"an answer came from shard {index}, of {self.source.n}, which was not asked")


def kind_of(call: PeerCall) -> Kind:
    """What the answer to a call is in a log."""
    return Kind.RECEIVED if call.method == methods.READ_PASS else Kind.LEDGER


def _rows(data: bytes, ids: np.ndarray) -> np.ndarray:
    values = np.frombuffer(data, _F32)
    if values.size % len(ids):
        raise InvalidRequest(f"{values.size} values are no whole number of columns for {len(ids)} ids")
    return values.reshape(len(ids), -1)
