"""Rows on their way to the shard that will own them: the receiving end.

    pass 0: all rows ─▶ pass k: what changed since pass k - 1 began ─▶ ... ─▶ the last pass, while pushes wait ─▶ ledger

One `Stream` for each old shard, all of them side by side: it asks pass after pass for the rows that will be owned
here, until a pass has begun while pushes wait, and then for the ledger, piece by piece; the first piece comes with the
end of that pass. When all streams have ended, steps and ledgers are put together.

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
from ...proto.codec import table_of_field
from ...proto.errors import InvalidRequest
from ...proto.framing import Buffer, array_of, fields, message_of, spans, submessage
from ...proto.layout import Layout, ShardAddress, dealings
from ..durable.records import Kind
from ..ledger import PIECE_BYTES
from ..received import own
from ..shard import Shard
from .outgoing import BLOCK_BYTES, FIELDS
from .steps import Latest, lacking, latest_pushes

# Of blocks, in all streams together: each keeps the memory of one. Where they are many, blocks are smaller.
BLOCKS_BYTES, LEAST_BYTES = 32 << 20, 1 << 19
PEER_ATTEMPTS = 5  # to ask another server that is busy or does not answer
BULK_ROWS = 20_000  # streams with more than this in a pass take turns: trainers need the cores, too
# Between two passes, for each stream of a receiver; the most. What changes meanwhile goes with the next pass; to ask
# all the time would cost old shards what trainers need: a move from 16 to 12 shards makes 192 streams.
PASS_PAUSE_S, MOST_PAUSE_S = 0.005, 0.2
# Between two marks of a pass; for each table of a shard; and so many of them fit into the time that a pass has taken.
MARK_S, MARK_TABLE_S, MARKS = 0.01, 20e-6, 32
# Passes have become shorter when one has less than this part of the rows of the shortest pass that counted as such.
SHRINKS = 0.8
_I64, _F32 = np.dtype("<i8"), np.dtype("<f4")
_TABLES, _NUMBER, _IDS, _VALUES, _SLOTS = FIELDS


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
        calls: of trainers, that the old shard has answered.
        stuck: passes since they last became shorter.
        waited_s: for other streams and for trainers, which is not counted as work; the shell adds to it, too.
        done: the last pass is over, and the ledger is here.
    """

    def __init__(self, receive: Receive, old: ShardAddress) -> None:
        self._receive, self.old = receive, old
        self.passes = self.left = self.rows = self.bytes = self.rows_there = self.stuck = 0
        self.calls = 0
        self.steps: list[int] | None = None  # once the last pass is over
        self.pushes: dict[int, Latest] = {}  # of its clients
        self.done = False
        self._busy_s = self.waited_s = 0.0
        self._shortest = 0  # rows of the pass by which they last became shorter

    @property
    def left_s(self) -> float:
        """What another pass will take, about."""
        return self.left * self._busy_s / max(1, self.rows) if self.passes else self._busy_s

    def run(self) -> Generator[Ask, Buffer, None]:
        """Yields what to ask, is sent the reply bytes. Its answers install themselves: see `kind_of`."""
        marks = Marks()
        while True:
            began, rows = self._worked(), self.rows
            before, marks = marks, Marks(self._receive.clock())
            reply, held = pb.ReadPassReply(), False
            while not reply.done:
                marks.look(self._receive.clock(), reply, len(self._receive.tables))
                reply = self._receive.rows_came((yield self._asks(before, marks.due, reply)))
                marks.read(reply.generation)
                held |= reply.held_s > 0
                self.waited_s += reply.held_s
            self._passed(self.rows - rows, self._worked() - began)
            if reply.last:
                break
            if self.in_bulk or not held:
                yield Pause(self._receive.pause_s)
        piece, cursor = pb.ReadLedgerReply(next=1), 0
        if reply.HasField("ledger"):
            piece, cursor = reply.ledger, reply.ledger.next
        while piece.next:
            header = self._receive.source.header(self.old.index)
            request = pb.ReadLedgerRequest(header=header, cursor=cursor, limit_bytes=PIECE_BYTES)
            data = yield PeerCall(self.old.address, methods.READ_LEDGER, request.SerializeToString())
            piece = self._receive.ledger_came(data)
            cursor = piece.next

    @property
    def in_bulk(self) -> bool:
        """Whether it takes turns with the others of its receiver."""
        return not self.passes or self.left > BULK_ROWS

    def _worked(self) -> float:
        return self._receive.clock() - self.waited_s

    def _asks(self, marks: Marks, mark: bool, before: pb.ReadPassReply) -> PeerCall:
        """What comes behind an answer of the same pass; behind an empty one, its beginning.

        marks: of the pass before; mark: a mark is due in this one.
        """
        request = self._receive.next_block(self.old.index, marks.since, before)
        request.marks.extend(marks.later)
        request.mark, request.last = mark, before.last
        # Most ledgers are small, and pushes wait for them.
        request.ledger_bytes = self._receive.block_bytes // 4
        # There it begins at the moment in which pushes wait. Not in bulk: other streams would wait as well.
        request.wait_s = 0.0 if self.in_bulk or before.generation else self._receive.pause_s
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


class Marks:
    """In which generations a pass read rows, by where they are.

    A mark costs the old shard a little for each table, and each request of the next pass carries all of them: so they
    become rarer the longer a pass takes.

    Args:
        now: when it begins.

    Attributes:
        since: the generation in which it began; 0: there was no pass.
        later: the generations that began later, and where.
        due: another one is to begin with the next block.
    """

    def __init__(self, now: float = 0.0) -> None:
        self.since, self.later = 0, list[pb.PassMark]()
        self.due = False
        self._began = self._latest = now
        self._place = 0, 0

    def look(self, now: float, before: pb.ReadPassReply, tables: int) -> None:
        """Whether a mark is due. before: the answer before the next block; tables: how many there are."""
        pause = max(MARK_S, MARK_TABLE_S * tables, (now - self._began) / MARKS)
        self.due = bool(self.since) and not before.last and now >= self._latest + pause
        if self.due:
            self._latest, self._place = now, (before.at, before.cursor)

    def read(self, generation: int) -> None:
        """The block came."""
        if not self.since:
            self.since = generation
        elif self.due:
            at, cursor = self._place
            self.later.append(pb.PassMark(at=at, cursor=cursor, since=generation))


class Receive:
    """Fills a shard of the next epoch from the shards of this one.

    Args:
        source: the layout of this epoch.
        shard: empty, with the tables of the old ones.
        clock: in seconds.
        block_bytes: how much is asked for at a time, about, where old shards are few.
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
        self.source, self.shard, self.clock = source, shard, clock
        self.tables = sorted(shard.tables)
        self.streams = [Stream(self, old) for old in source.shards if only is None or old.index == only]
        self.block_bytes = min(block_bytes, max(LEAST_BYTES, BLOCKS_BYTES // max(1, len(self.streams))))
        self.pause_s = min(MOST_PAUSE_S, PASS_PAUSE_S * len(self.streams))  # between two passes of a stream
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

    def next_block(self, old: int, since: int, before: pb.ReadPassReply) -> pb.ReadPassRequest:
        """What asks a shard for the block behind an answer of the same pass; behind an empty one, for the first.

        Args:
            old: index of that shard.
            since: the generation in which the pass before it began; 0: there was none.
            before: the answer.
        """
        return pb.ReadPassRequest(
            header=self.source.header(old),
            tables=self.tables,
            new_n=self.shard.layout.n,
            new_index=self.shard.index,
            since=since,
            generation=before.generation,
            at=before.at,
            cursor=before.cursor,
            limit_bytes=self.block_bytes,
            dealt=dealings(self.shard.layout.dealt),
        )

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

    def came(self, kind: Kind, data: Buffer) -> None:
        """Install an answer that is read from a log."""
        if kind is Kind.RECEIVED:
            self.rows_came(data)
        else:
            self.ledger_came(data)

    def rows_came(self, data: Buffer) -> pb.ReadPassReply:
        """Install rows. Raises InvalidRequest, TableNotFound, Overloaded."""
        reply, tables = _parts(data)
        stream = self._stream(reply.shard)
        for number, moved in tables:
            table = self.shard.table(number)
            ids = own(array_of(moved[0], _I64, "ids"))  # kernels are compiled for arrays that are ours
            if len(ids):
                table.check_ids(ids)
                table.install(ids, *_columns(moved[1:], ids))
            stream.rows += len(ids)
        stream.bytes += len(data)
        stream.rows_there, stream.calls = reply.rows, reply.calls
        if reply.last and reply.done:
            if len(reply.steps) != len(self.tables):
                raise InvalidRequest(f"{len(reply.steps)} steps came for {len(self.tables)} tables")
            stream.steps = list(reply.steps)
        if reply.HasField("ledger"):
            self._merge(reply.ledger)
        return reply

    def ledger_came(self, data: Buffer) -> pb.ReadLedgerReply:
        """Merge a piece of a ledger; the last one of all ends it. Raises InvalidRequest."""
        piece = pb.ReadLedgerReply.FromString(bytes(data))
        self._stream(piece.shard).bytes += len(data)
        self._merge(piece)
        return piece

    def _merge(self, piece: pb.ReadLedgerReply) -> None:
        stream = self._stream(piece.shard)
        if stream.steps is None:
            raise InvalidRequest(f"the ledger of shard {piece.shard} came before the last of its rows")
        self.shard.ledger.merge(piece)
        # Many clients push to the same tables: their list is kept once.
        stream.pushes.update(
            (client, (push, self._same.setdefault(t, t))) for client, (push, t) in latest_pushes(piece)
        )
        stream.done = not piece.next
        if all(stream.done for stream in self.streams) and not self.done:
            self._finish()

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


def _parts(data: Buffer) -> tuple[pb.ReadPassReply, list[tuple[int, list[memoryview]]]]:
    """A reply without its rows; and (table, ids, values and slots as bytes, views) of those. Raises InvalidRequest."""
    view = memoryview(data).toreadonly()
    head, tables = bytearray(), list[tuple[int, list[memoryview]]]()
    for number, value, begin, end, start in spans(view):
        if number == _TABLES and value is None:
            number, *parts = 0, memoryview(b""), memoryview(b"")
            for inner, item in fields(view[begin:end]):
                if inner == _NUMBER:
                    number = table_of_field(item)
                elif inner in (_IDS, _VALUES):
                    parts[inner - _IDS] = submessage(item)
                elif inner == _SLOTS:
                    parts.append(submessage(item))
            tables.append((number, parts))
        else:
            head += view[start:end]
    return message_of(pb.ReadPassReply, head), tables


def _columns(columns: list[memoryview], ids: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
    """Weights and slots."""
    values, *slots = (_rows(data, ids) for data in columns)
    return values, slots


def _rows(data: memoryview, ids: np.ndarray) -> np.ndarray:
    values = array_of(data, _F32, "values")
    if values.size % len(ids):
        raise InvalidRequest(f"{values.size} values are no whole number of columns for {len(ids)} ids")
    return values.reshape(len(ids), -1)
