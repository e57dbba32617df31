"""One shard in one epoch: its tables, its ledger, and the order in which things happen to them. No I/O, no threads.

Why it is so. What must hold: a push is applied whole or not at all, and once. So it has two halves. In the first, all
of it is decoded, checked, looked up, given memory and recorded, table by table; whatever fails there leaves every row
as a pull sees it. In the second, steps are counted and kernels run, nothing else. The record comes before the writes
because it needs memory, and nobody can look in between: one lock is held around both.
Should a kernel fail all the same, nobody knows which rows have the push. Then the shard says so and takes no more:
pulls go on, pushes raise StateLost, and its ledger is not handed to another layout.
Rejected: images of the rows before the push, to undo it. They would make each push five times as slow, against
something that has not happened yet. Take that up again if a push is to be whole over several shards.
Ids, bags and factors are copied before they are checked, because the message may lie in memory that the client still
writes to. Gradients are not, though a copy would cost little (4 MB: 0.08 ms of 1.2 ms): to change one after its check,
a client must be hostile, and then it can as well push 3e38 twice, which is finite. Either way it spoils rows that it
may write, and no others. Take that up again when what was applied is also logged: both must read the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import numpy as np

from ..proto import rowloom_pb2 as pb
from ..proto.codec import (
    ASSIGN,
    GRADIENTS,
    RENORM,
    Block,
    Pull,
    PullReply,
    Push,
    Step,
    StepReply,
    from_wire,
    shaped,
    step_lead,
    to_wire,
)
from ..proto.codec_bags import Entries, PullBags, PullBagsReply
from ..proto.errors import (
    InvalidRequest,
    Overloaded,
    PushUnresolved,
    StateLost,
    TableExists,
    TableNotFound,
    WrongCluster,
    WrongLayout,
)
from ..proto.layout import PROTOCOL, Layout
from ..proto.plain import Room
from ..proto.spec import TableEntry
from .access.owned import Owned
from .bags import count_of, expanded, pooled
from .cut import ShardCut
from .ledger import Ledger
from .metrics.counters import Counters
from .metrics.hot_ids import HotTables
from .received import own
from .table import ShardTable, Write

# Rows that one pull may ask for, before they are packed. Clients ask for about 4 MB; rows that do not exist and begin
# with normal values take 3 ns a byte, during which others wait.
MAX_ROWS_BYTES = 64 << 20
# Rows or gradients that one request may make a shard go through, where a few bytes of it stand for a whole row: entries
# of bags, ids to renorm. Others wait meanwhile, up to 0.3 s. Clients ask for about 64 MB.
MAX_WORK_BYTES = 256 << 20
MOST_CUTS = 64  # that a shard remembers, of which the last is asked for


class Shard:
    """Shard `index` of `layout`. Callers hold one lock around every method.

    Args:
        layout: the epoch.
        index: which of its shards this is.
        entries: its tables.
        key: keys the hashes of ids; see `rows.index`.
        ledger: empty; None: one of the usual size.
    """

    def __init__(
        self,
        layout: Layout,
        index: int,
        entries: Iterable[TableEntry] = (),
        *,
        key: int = 0,
        ledger: Ledger | None = None,
    ) -> None:
        self.layout = layout
        self.index = index
        # What `check` has let pass last, and under which layout.
        self._passed: tuple[pb.Header | None, Layout] = (None, layout)
        self._key = key
        self.generation = 1  # counts cuts, and passes over rows that move: what changes is marked with it
        # By snapshot, the newest generation that is in it: what changed since is marked with a later one.
        self.cuts: dict[str, int] = {}
        self._torn: int | None = None  # the client whose push failed half-way
        self.tables: dict[int, ShardTable] = {}
        self.ledger = Ledger() if ledger is None else ledger
        self.counters = Counters()
        self.hot = HotTables(key)
        self.owned = Owned()
        for entry in entries:
            self.create_table(entry)

    def __repr__(self) -> str:
        rows = sum(len(t) for t in self.tables.values())
        return f"<Shard {self.index}/{self.layout.n} epoch={self.layout.epoch} tables={len(self.tables)} rows={rows}>"

    def check(self, header: pb.Header) -> None:
        """Refuse what is not meant for this shard.

        Raises:
            WrongCluster, WrongLayout, InvalidRequest.
        """
        # Headers of pulls are kept, one object for all that are equal: see `codec`.
        if header is self._passed[0] and self.layout is self._passed[1]:
            return
        if header.protocol != PROTOCOL:
            raise InvalidRequest(
                f"this server speaks protocol {PROTOCOL}, the request {header.protocol}: take the same rowloom for "
                "trainers and servers"
            )
        if header.cluster_id != self.layout.cluster_id:
            raise WrongCluster(f"this is cluster {self.layout.cluster_id!r}, not {header.cluster_id!r}")
        if header.epoch != self.layout.epoch or header.shard != self.index:
            raise WrongLayout(
                f"this is shard {self.index} in epoch {self.layout.epoch}, "
                f"the request is for shard {header.shard} in epoch {header.epoch}",
                epoch=self.layout.epoch,
                layout=self.layout.to_message().SerializeToString()
                if header.epoch < self.layout.epoch
                else b"",
            )
        self._passed = header, self.layout

    # ------------------------------------------------------------------------------------------------ pull, push

    def pull(self, request: Pull, buffer: memoryview | None = None) -> PullReply:
        """Rows of every table asked for. Raises InvalidRequest, TableNotFound, Overloaded, WrongLayout.

        Args:
            request: whose rows are wanted.
            buffer: where the reply is best made, from its beginning.
        """
        return self._read(self._wanted(request), request.wire, Room(buffer))

    def step(self, request: Step, buffer: memoryview | None = None) -> StepReply:
        """Push, then pull; both are checked before anything changes. Arguments and errors as of `push` and `pull`."""
        wanted = self._wanted(request.pull)
        for table, ids in wanted:
            table.check_ids(ids)
        duplicate = self.push(request.push)
        room = Room(buffer, partial(step_lead, duplicate))
        return StepReply(duplicate, self._read(wanted, request.pull.wire, room))

    def _wanted(self, request: Pull) -> list[tuple[ShardTable, np.ndarray]]:
        """What a pull asks for, checked but for its ids."""
        self.check(request.header)
        size = 0
        wanted: list[tuple[ShardTable, np.ndarray]] = []
        for number, ids in request.tables:
            table = self.table(number)
            wanted.append((table, own(ids)))
            size += len(ids) * table.width * 4
        if size > MAX_ROWS_BYTES:
            raise Overloaded(
                f"one pull may ask for {MAX_ROWS_BYTES} bytes of rows, got {size}: send smaller chunks"
            )
        return wanted

    def _read(self, wanted: list[tuple[ShardTable, np.ndarray]], wire: int, room: Room) -> PullReply:
        blocks: list[Block] = []
        arrays = room.rows([(len(ids), table.width) for table, ids in wanted], wire)
        for (table, ids), rows in zip(wanted, arrays, strict=True):
            table.pull(ids, rows)
            if not room.end:
                blocks.append(to_wire(rows, wire))
        self._pulled(wanted)
        return PullReply(blocks, wire, room.end)

    def _pulled(self, wanted: Iterable[tuple[ShardTable, np.ndarray]]) -> None:
        """Count a pull that succeeded."""
        rows: list[tuple[int, int]] = []
        for table, ids in wanted:
            self.hot.see(table.number, ids)
            rows.append((table.number, len(ids)))
        self.counters.pulled(rows)

    def pull_bags(self, request: PullBags) -> PullBagsReply:
        """What the rows here add to the bags of a request. Raises as `pull`."""
        self.check(request.header)
        wanted: list[tuple[ShardTable, Entries, int]] = []
        _check_work([(self.table(asked.table), len(asked.ids)) for asked in request.tables])
        for asked in request.tables:
            table = self.table(asked.table)
            factors = None if asked.factors is None else own(asked.factors)
            entries = Entries(asked.table, own(asked.ids), own(asked.bags), factors)
            wanted.append((table, entries, count_of(entries, f"table {table.spec.name!r}")))
        size = sum(count * table.width * 4 for table, _, count in wanted)
        if size > MAX_ROWS_BYTES:
            raise Overloaded(
                f"one pull may ask for {MAX_ROWS_BYTES} bytes of sums, got {size}: send smaller chunks"
            )
        blocks = [to_wire(pooled(table, entries, count), request.wire) for table, entries, count in wanted]
        self._pulled((table, entries.ids) for table, entries, _ in wanted)
        return PullBagsReply(blocks, request.wire)

    def push(self, request: Push) -> bool:
        """Apply one request of a push, once. Returns whether it had been applied before.

        Raises:
            InvalidRequest, TableNotFound, Overloaded, QuotaExceeded, WrongLayout: nothing changed.
            StateLost: a push has failed half-way before; nothing changed.
            PushUnresolved: this one failed half-way.
        """
        self.check(request.header)
        self.check_whole()
        if self.ledger.has(request.client_id, request.client_epoch, request.names):
            self.counters.repeated(self._tables_of(request))
            return True
        self._check_name(request)
        try:
            writes, rows = self._ready(request)
        except MemoryError as e:
            raise Overloaded("this machine has no memory left for the push; nothing changed") from e
        try:
            for write in writes:
                write()
        except BaseException as e:
            self._torn = request.client_id
            raise PushUnresolved(
                f"the push failed half-way on shard {self.index}, which takes no more: {type(e).__name__}: {e}"
            ) from e
        self.counters.pushed(rows)
        return False

    def count_rejected(self, request: Push) -> None:
        """A push ended in an error."""
        self.counters.rejected(self._tables_of(request))

    def _tables_of(self, request: Push) -> list[int]:
        """Numbers of the tables that it names and that exist."""
        return [number for number, _, _ in request.tables if number in self.tables]

    def trace(self, request: Push) -> tuple[int, int]:
        """What a push that was just applied has left: (rows of its tables, a checksum of the last row it changed)."""
        rows = fold = 0
        for number, ids, _ in request.tables:
            table = self.table(number)
            rows += len(table)
            if len(ids):
                fold = table.checksum(int(ids[-1]))
        return rows, fold

    def check_whole(self) -> None:
        """Raise StateLost if a push has failed half-way: nobody knows which of its rows have it."""
        if self._torn is not None:
            raise StateLost(
                f"a push of client {self._torn} failed half-way on shard {self.index}, so some of its rows may have "
                "it and others not: pulls go on, pushes are refused. The server's log has the cause; `rowloom export` "
                "keeps the rows as they are, and `rowloom import` brings them back into a cluster that was started "
                "again (`rowloom down`, `rowloom up`)"
            )

    def _ready(self, request: Push) -> tuple[list[Callable[[], Any]], list[tuple[int, int]]]:
        """Everything about a push that can fail, its record in the ledger included: its writes, and rows by table."""
        client = request.client_id, request.client_epoch
        writes: list[Callable[[], Any]] = []
        rows: list[tuple[int, int]] = []
        for table, ids, values in self._checked(request):
            if table.counts_steps and request.kind == GRADIENTS:
                count = self.ledger.step, *client, request.push, table.number, table.next_step
                writes.append(partial(*count))
            writes.append(self._write(request, table, ids, values))
            self.hot.see(table.number, ids)
            rows.append((table.number, len(ids)))
        finished = request.low_water, request.oldest_epoch
        self.ledger.record(*client, request.names[-1], *finished, request.push, request.parts)
        return writes, rows

    def _check_name(self, request: Push) -> None:
        name = request.names[-1]
        if (name.epoch, name.shard) != (self.layout.epoch, self.index):
            raise InvalidRequest(
                f"the last name of a part must be of the shard it is sent to "
                f"(epoch {self.layout.epoch}, shard {self.index}), got epoch {name.epoch}, shard {name.shard}"
            )

    def _checked(self, request: Push) -> list[tuple[ShardTable, np.ndarray, np.ndarray]]:
        """Decoded and checked, all of it, before anything is written. One table may stand in it once."""
        work: list[tuple[ShardTable, np.ndarray, np.ndarray]] = []
        seen: set[int] = set()
        short = [t for t in request.tables if t[2].bags is not None or request.kind == RENORM]
        if short:
            _check_work([(self.table(number), len(ids)) for number, ids, _ in short])
        for number, ids, block in request.tables:
            table = self.table(number)
            if number in seen:
                raise InvalidRequest(f"table {table.spec.name!r} stands twice in one push")
            seen.add(number)
            ids = own(ids)
            table.check_ids(ids)
            if block.bags is not None:
                work.append((table, *self._from_bags(request, table, ids, block)))
                continue
            work.append((table, ids, self._values(request, table, ids, block)))
        self.owned.check(self.tables.values(), work, self.layout.n)
        for table, ids, _ in work:
            table.reserve(ids)
        return work

    @staticmethod
    def _from_bags(
        request: Push, table: ShardTable, ids: np.ndarray, block: Block
    ) -> tuple[np.ndarray, np.ndarray]:
        what = f"table {table.spec.name!r}"
        if request.kind != GRADIENTS:
            raise InvalidRequest(f"{what}: only gradients come by bag, got a push of kind {request.kind}")
        ids, grads = expanded(ids, block, request.wire, table.width, what)
        table.check_push(ids, grads)
        return ids, grads

    @staticmethod
    def _values(request: Push, table: ShardTable, ids: np.ndarray, block: Block) -> np.ndarray:
        if request.kind == RENORM:
            if not request.max_norm > 0 or not request.norm_type > 0:
                raise InvalidRequest(
                    f"max_norm and norm_type must be above 0, got {request.max_norm} and {request.norm_type}"
                )
            return np.empty((0, table.width), np.float32)
        values = from_wire(shaped(block, len(ids), table.width, f"table {table.spec.name!r}"), request.wire)
        if request.kind == ASSIGN:
            table.check_assign(ids, values)
        elif request.kind == GRADIENTS:
            table.check_push(ids, values)
        else:
            raise InvalidRequest(f"unknown kind of push {request.kind}")
        return values

    def _write(self, request: Push, table: ShardTable, ids: np.ndarray, values: np.ndarray) -> Write:
        if request.kind == ASSIGN:
            return table.to_assign(ids, values)
        if request.kind == RENORM:
            return table.to_renorm(ids, request.max_norm, request.norm_type)
        step = table.step
        if table.counts_steps:
            step = self.ledger.step_of(request.client_id, request.push, table.number, step)
        return table.to_push(ids, values, step)

    # ----------------------------------------------------------------------------------------------------- tables

    def table(self, number: int) -> ShardTable:
        """The table of that number. Raises TableNotFound."""
        table = self.tables.get(number)
        if table is None:
            raise TableNotFound(f"no table has number {number} here: it was dropped, or never made")
        return table

    def create_table(self, entry: TableEntry) -> None:
        """Make a table. The same one again is no error. Raises TableExists."""
        known = self.tables.get(entry.number)
        if known is None:
            table = self.tables[entry.number] = ShardTable(entry, self.index, self.layout.n, self._key)
            table.begin_generation(self.generation)
        elif known.spec != entry.spec:
            raise TableExists(
                f"number {entry.number} is table {known.spec.name!r}: {known.spec.differences(entry.spec)}"
            )

    def drop_table(self, number: int) -> None:
        """Drop a table and its memory. One that is gone is no error."""
        self.tables.pop(number, None)
        self.counters.tables.pop(number, None)
        self.hot.forget(number)
        self.ledger.forget_table(number)

    def cut(self, numbers: Iterable[int] | None = None, id: str = "", parent: str = "") -> ShardCut:
        """The shard as it is now, to be read while it changes.

        Args:
            numbers: of the tables that are wanted; None: all.
            id: of the snapshot that it is for, by which later ones may be made upon it.
            parent: only rows that changed since this snapshot; all of them, where the shard does not know which did.

        Raises:
            TableNotFound: one of them is not here.
            StateLost: a push has failed half-way.
        """
        self.check_whole()
        tables = self.tables.values() if numbers is None else [self.table(number) for number in numbers]
        cut = ShardCut(tables, self.ledger, self.generation + 1, self.cuts.get(parent) if parent else None)
        if id:
            self.cuts[id] = self.generation
            if len(self.cuts) > MOST_CUTS:
                del self.cuts[next(iter(self.cuts))]
        self.generation += 1
        return cut

    def begin_pass(self) -> int:
        """Begin a pass over rows that go to another shard. Returns its generation, which marks what changes now."""
        self.check_whole()
        for table in self.tables.values():
            table.track(self.generation)
            table.begin_generation(self.generation + 1)
        self.generation += 1
        return self.generation

    def statistics(self) -> pb.StatisticsReply:
        """Counters and sizes; the host adds what concerns the process."""
        c = self.counters
        return pb.StatisticsReply(
            index=self.index,
            cluster_id=self.layout.cluster_id,
            epoch=self.layout.epoch,
            tables=[self._statistics(t) for t in self.tables.values()],
            pulls=c.pulls,
            pulled_rows=c.pulled_rows,
            pushes=c.pushes,
            pushed_rows=c.pushed_rows,
            duplicates=c.duplicates,
            clients=len(self.ledger),
            counts=c.messages(self.names),
            quotas=self.owned.messages(self.tables.values(), self.layout.n),
        )

    def _statistics(self, table: ShardTable) -> pb.TableStatistics:
        hot = self.hot.of(table.number).hottest(10)
        return pb.TableStatistics(
            table=table.number,
            name=table.spec.name,
            rows=len(table),
            bytes=table.nbytes,
            step=table.step,
            sampled_ids=hot.looked_at,
            hottest_share=float(hot.shares[:1].sum()),
            hottest_10_share=float(hot.shares.sum()),
        )

    @property
    def names(self) -> dict[int, str]:
        """Of the tables, by number."""
        return {number: table.spec.name for number, table in self.tables.items()}

    @property
    def rows(self) -> int:
        """Rows that exist, of all tables."""
        return sum(len(table) for table in self.tables.values())

    def entries(self) -> list[TableEntry]:
        """The tables as the cluster knows them."""
        return [table.entry for table in self.tables.values()]


def _check_work(asked: Sequence[tuple[ShardTable, int]]) -> None:
    """Raise Overloaded where so many entries of these tables are too much for one request."""
    size = sum(4 * table.width * count for table, count in asked)
    if size > MAX_WORK_BYTES:
        table, count = max(asked, key=lambda some: some[0].width * some[1])
        raise Overloaded(
            f"one request may go through {MAX_WORK_BYTES} bytes of rows, its entries stand for {size}: send smaller "
            f"chunks, of at most {MAX_WORK_BYTES // (4 * table.width)} entries of table {table.spec.name!r}, got "
            f"{count}"
        )
