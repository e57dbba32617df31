"""One shard in one epoch: its tables, its ledger, and the order in which things happen to them. No I/O, no threads.

Decisions come first and writes last: a push is decoded, checked and looked up in the ledger for all its tables before
the first row changes, so a bad one changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

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
    Room,
    Step,
    StepReply,
    from_wire,
    shaped,
    to_wire,
)
from ..proto.codec_bags import PullBags, PullBagsReply
from ..proto.errors import (
    InvalidRequest,
    Overloaded,
    TableExists,
    TableNotFound,
    WrongCluster,
    WrongLayout,
)
from ..proto.layout import PROTOCOL, Layout
from ..proto.spec import TableEntry
from .bags import count_of, expanded, pooled
from .ledger import Ledger
from .table import Table

MAX_ROWS_BYTES = 256 << 20  # rows that one pull may ask for; clients ask for about 4 MB


@dataclass
class Counters:
    """What a shard has done since it started."""

    pulls: int = 0
    pulled_rows: int = 0
    pushes: int = 0
    pushed_rows: int = 0
    duplicates: int = 0


class Shard:
    """Shard `index` of `layout`. Callers hold one lock around every method."""

    def __init__(self, layout: Layout, index: int, entries: Iterable[TableEntry] = ()) -> None:
        self.layout = layout
        self.index = index
        self.tables: dict[int, Table] = {}
        self.ledger = Ledger()
        self.counters = Counters()
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
        if header.protocol != PROTOCOL:
            raise InvalidRequest(f"this server speaks protocol {PROTOCOL}, the request {header.protocol}")
        if header.cluster_id != self.layout.cluster_id:
            raise WrongCluster(f"this is cluster {self.layout.cluster_id!r}, not {header.cluster_id!r}")
        if header.epoch != self.layout.epoch or header.shard != self.index:
            raise WrongLayout(
                f"this is shard {self.index} in epoch {self.layout.epoch}, "
                f"the request is for shard {header.shard} in epoch {header.epoch}",
                epoch=self.layout.epoch,
            )

    # ------------------------------------------------------------------------------------------------ pull, push

    def pull(self, request: Pull, room: Room | None = None) -> PullReply:
        """Rows of every table asked for. Raises InvalidRequest, TableNotFound, Overloaded, WrongLayout.

        Args:
            request: whose rows are wanted.
            room: where the reply's rows are best put.
        """
        return self._read(self._wanted(request), request.wire, room)

    def step(self, request: Step, space: memoryview | None = None) -> StepReply:
        """Push, then pull; both are checked before anything changes. Raises as `push` and `pull`."""
        wanted = self._wanted(request.pull)
        duplicate = self.push(request.push)
        return StepReply(duplicate, self._read(wanted, request.pull.wire, StepReply.room(space, duplicate)))

    def _wanted(self, request: Pull) -> list[tuple[Table, np.ndarray]]:
        """What a pull asks for, checked."""
        self.check(request.header)
        wanted = [(self.table(number), ids) for number, ids in request.tables]
        size = sum(len(ids) * table.width * 4 for table, ids in wanted)
        if size > MAX_ROWS_BYTES:
            raise Overloaded(
                f"one pull may ask for {MAX_ROWS_BYTES} bytes of rows, got {size}: send smaller chunks"
            )
        for table, ids in wanted:
            table.check_ids(ids)
        return wanted

    def _read(self, wanted: list[tuple[Table, np.ndarray]], wire: int, room: Room | None = None) -> PullReply:
        blocks = []
        arrays = (room or Room()).rows([(len(ids), table.width) for table, ids in wanted], wire)
        for (table, ids), rows in zip(wanted, arrays, strict=True):
            table.pull(ids, rows)
            blocks.append(to_wire(rows, wire))
            self.counters.pulled_rows += len(ids)
        self.counters.pulls += 1
        return PullReply(blocks, wire)

    def pull_bags(self, request: PullBags) -> PullBagsReply:
        """What the rows here add to the bags of a request. Raises as `pull`."""
        self.check(request.header)
        wanted = []
        for entries in request.tables:
            table = self.table(entries.table)
            table.check_ids(entries.ids)
            wanted.append((table, entries, count_of(entries, f"table {table.spec.name!r}")))
        size = sum(count * table.width * 4 for table, _, count in wanted)
        if size > MAX_ROWS_BYTES:
            raise Overloaded(
                f"one pull may ask for {MAX_ROWS_BYTES} bytes of sums, got {size}: send smaller chunks"
            )
        blocks = [to_wire(pooled(table, entries, count), request.wire) for table, entries, count in wanted]
        self.counters.pulls += 1
        self.counters.pulled_rows += sum(len(entries.ids) for entries in request.tables)
        return PullBagsReply(blocks, request.wire)

    def push(self, request: Push) -> bool:
        """Apply one part of a push, once. Returns whether it had been applied before.

        Raises:
            InvalidRequest, TableNotFound, Overloaded, WrongLayout: nothing changed.
        """
        self.check(request.header)
        if self.ledger.has(request.client_id, request.client_epoch, request.names):
            self.counters.duplicates += 1
            return True
        self._check_name(request)
        work = self._checked(request)
        for table, ids, values in work:
            self._apply(request, table, ids, values)
            self.counters.pushed_rows += len(ids)
        self.ledger.record(
            request.client_id,
            request.client_epoch,
            request.names[-1],
            request.low_water,
            request.oldest_epoch,
        )
        self.counters.pushes += 1
        return False

    def _check_name(self, request: Push) -> None:
        name = request.names[-1]
        if (name.epoch, name.shard) != (self.layout.epoch, self.index):
            raise InvalidRequest(
                f"the last name of a part must be of the shard it is sent to "
                f"(epoch {self.layout.epoch}, shard {self.index}), got epoch {name.epoch}, shard {name.shard}"
            )

    def _checked(self, request: Push) -> list[tuple[Table, np.ndarray, np.ndarray]]:
        """Decoded and checked, all of it, before anything is written. One table may stand in it once."""
        work, seen = [], set()
        for number, ids, block in request.tables:
            table = self.table(number)
            if number in seen:
                raise InvalidRequest(f"table {table.spec.name!r} stands twice in one push")
            seen.add(number)
            table.check_ids(ids)
            if block.bags is not None:
                work.append((table, *self._from_bags(request, table, ids, block)))
                continue
            work.append((table, ids, self._values(request, table, ids, block)))
        for table, ids, _ in work:
            table.reserve(ids)
        return work

    @staticmethod
    def _from_bags(
        request: Push, table: Table, ids: np.ndarray, block: Block
    ) -> tuple[np.ndarray, np.ndarray]:
        what = f"table {table.spec.name!r}"
        if request.kind != GRADIENTS:
            raise InvalidRequest(f"{what}: only gradients come by bag, got a push of kind {request.kind}")
        ids, grads = expanded(ids, block, request.wire, table.width, what)
        table.check_push(ids, grads)
        return ids, grads

    @staticmethod
    def _values(request: Push, table: Table, ids: np.ndarray, block: Block) -> np.ndarray:
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

    def _apply(self, request: Push, table: Table, ids: np.ndarray, values: np.ndarray) -> None:
        if request.kind == ASSIGN:
            table.assign(ids, values)
        elif request.kind == RENORM:
            table.renorm(ids, request.max_norm, request.norm_type)
        else:
            step = table.step
            if table.counts_steps:
                step = self.ledger.step(
                    request.client_id, request.client_epoch, request.push, table.number, table.next_step
                )
            table.push(ids, values, step)

    # ----------------------------------------------------------------------------------------------------- tables

    def table(self, number: int) -> Table:
        """The table of that number. Raises TableNotFound."""
        table = self.tables.get(number)
        if table is None:
            raise TableNotFound(f"no table has number {number} here: it was dropped, or never made")
        return table

    def create_table(self, entry: TableEntry) -> None:
        """Make a table. The same one again is no error. Raises TableExists."""
        known = self.tables.get(entry.number)
        if known is None:
            self.tables[entry.number] = Table(entry, self.index, self.layout.n)
        elif known.spec != entry.spec:
            raise TableExists(
                f"number {entry.number} is table {known.spec.name!r}: {known.spec.differences(entry.spec)}"
            )

    def drop_table(self, number: int) -> None:
        """Drop a table and its memory. One that is gone is no error."""
        self.tables.pop(number, None)
        self.ledger.forget_table(number)

    def statistics(self) -> pb.StatisticsReply:
        """Counters and sizes; the host adds what concerns the process."""
        c = self.counters
        return pb.StatisticsReply(
            index=self.index,
            epoch=self.layout.epoch,
            tables=[
                pb.TableStatistics(table=t.number, name=t.spec.name, rows=len(t), bytes=t.nbytes, step=t.step)
                for t in self.tables.values()
            ],
            pulls=c.pulls,
            pulled_rows=c.pulled_rows,
            pushes=c.pushes,
            pushed_rows=c.pushed_rows,
            duplicates=c.duplicates,
            clients=len(self.ledger),
        )

    @property
    def rows(self) -> int:
        """Rows that exist, of all tables."""
        return sum(len(table) for table in self.tables.values())

    def entries(self) -> list[TableEntry]:
        """The tables as the cluster knows them."""
        return [table.entry for table in self.tables.values()]
