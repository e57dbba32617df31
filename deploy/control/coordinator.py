"""Owns the layout and the list of tables, and decides every change to them. No I/O: programs yield effects.

One program runs at a time. A program that ends early, at any effect, leaves a cluster that the next one can go on from.
"""

from __future__ import annotations

import dataclasses
import math
import random
from collections.abc import Callable, Sequence

from ...proto import methods
from ...proto import rowloom_pb2 as pb
from ...proto.errors import InvalidRequest, TableExists, TableNotFound, Unavailable
from ...proto.layout import Layout, ShardAddress
from ...proto.spec import TableEntry, TableSpec
from ..launch.launcher import Launched
from .effects import Call, Calls, Commit, Launch, Program, call_all
from .state import ClusterState


class Coordinator:
    """Decisions over one cluster.

    Args:
        state: as it was stored, or a new one.
        clock: seconds, monotonic.
        rng: for the cluster's name.
        address: where clients reach this coordinator.
    """

    def __init__(
        self, state: ClusterState, clock: Callable[[], float], rng: random.Random, address: str
    ) -> None:
        self.state = state
        self.clock = clock
        self.address = address
        self._rng = rng
        self._turn = 0
        state.term += 1  # stored with the first commit, before the first turn is taken

    def turn(self) -> int:
        """The number of the next step for servers; higher than all before, also of coordinators before."""
        self._turn += 1
        return self.state.term << 32 | self._turn

    @property
    def layout(self) -> Layout:
        """The committed layout. Raises Unavailable before there is one."""
        if self.state.layout is None:
            raise Unavailable("the cluster is starting")
        return self.state.layout

    # ------------------------------------------------------------------------------------------------------ start

    def up(self, shards: int) -> Program:
        """Start a cluster from nothing: servers, layout, no tables."""
        launched = yield from self.launch(shards)
        cluster_id = f"{self.state.name}-{self._rng.getrandbits(64):016x}"
        layout = Layout(cluster_id, 1, addresses(launched), self.address)
        yield from self.adopt(layout, fresh=True)
        self.state.layout = layout
        yield Commit()

    def recover(self, found: Sequence[Launched | None]) -> Program:
        """Take up a cluster whose coordinator ended: bring every server to the committed layout, whatever it was doing.

        found: by shard, where its server is now. Returns the errors by shard; StateLost for one that came back empty.
        """
        shards = [
            dataclasses.replace(old, address=new.address, incarnation=new.incarnation) if new else old
            for old, new in zip(self.layout.shards, found, strict=True)
        ]
        self.state.layout = dataclasses.replace(self.layout, shards=tuple(shards), coordinator=self.address)
        yield Commit()
        return (yield Calls(self._adoptions(self.layout, fresh=False)))

    def launch(self, count: int) -> Program:
        """Start servers under keys of their own; remembers the keys. Returns list[Launched]."""
        keys = list(range(self.state.next_key, self.state.next_key + count))
        if not keys:
            return []
        self.state.next_key += count
        yield Commit()  # so that no other server ever gets these keys
        launched = yield Launch(keys)
        self.state.keys = self.state.keys + keys
        return launched

    def adopt(self, layout: Layout, limit_s: float = 30.0, *, fresh: bool = False) -> Program:
        """Every server becomes its shard of the layout; repeated until it has, or `limit_s` is over."""
        yield from call_all(self._adoptions(layout, fresh=fresh), self.clock, limit_s)

    def _adoptions(self, layout: Layout, *, fresh: bool) -> list[Call]:
        tables = [e.to_message() for e in self.state.tables.values()]
        request = pb.AdoptRequest(layout=layout.to_message(), fresh=fresh, tables=tables, turn=self.turn())
        calls = []
        for shard in layout.shards:
            request.index = shard.index
            calls.append(Call(shard.address, methods.ADOPT, request.SerializeToString()))
        return calls

    # ----------------------------------------------------------------------------------------------------- tables

    def create_table(self, spec: TableSpec) -> Program:
        """Make a table on every shard. Returns its entry; the existing one if the spec is the same."""
        known = self.state.tables.get(spec.name)
        if known is not None:
            differences = known.spec.differences(spec)
            if differences:
                raise TableExists(
                    f"table {spec.name!r} exists with another spec ({'; '.join(differences)}; 'here' is "
                    f"the one that exists): "
                    "use that spec, another name, or drop the table first"
                )
            return known
        entry = TableEntry(self.state.next_table, spec)
        self.state.next_table += 1
        yield Commit()  # so that no other table ever gets this number, whatever becomes of this one
        yield from self._on_every_shard(
            "CreateTable", lambda header: pb.CreateTableRequest(header=header, table=entry.to_message())
        )
        self.state.tables = {**self.state.tables, spec.name: entry}
        yield Commit()
        return entry

    def drop_table(self, name: str) -> Program:
        """Drop a table on every shard. Raises TableNotFound."""
        entry = self._entry(name)
        yield from self._on_every_shard(
            "DropTable", lambda header: pb.DropTableRequest(header=header, table=entry.number)
        )
        self.state.tables = {k: v for k, v in self.state.tables.items() if k != name}
        yield Commit()

    def set_lr(self, name: str, lr: float) -> Program:
        """Change a learning rate on every shard. Raises TableNotFound, InvalidRequest."""
        if not (math.isfinite(lr) and lr >= 0):
            raise InvalidRequest(f"lr must be finite and at least 0, got {lr}")
        old = self._entry(name)
        entry = dataclasses.replace(old, lr=lr, lr_version=old.lr_version + 1)
        self.state.tables = {**self.state.tables, name: entry}
        yield Commit()
        yield from self._on_every_shard(
            "SetLearningRate",
            lambda header: pb.SetLearningRateRequest(
                header=header, table=entry.number, lr=lr, version=entry.lr_version
            ),
        )

    def _entry(self, name: str) -> TableEntry:
        entry = self.state.tables.get(name)
        if entry is None:
            known = ", ".join(sorted(self.state.tables)) or "none"
            raise TableNotFound(f"no table {name!r}; there are: {known}")
        return entry

    def _on_every_shard(self, method: str, request: Callable[[pb.Header], object]) -> Program:
        calls = [
            Call(s.address, methods.SHARD + method, request(self.layout.header(s.index)).SerializeToString())  # type: ignore[attr-defined]
            for s in self.layout.shards
        ]
        yield from call_all(calls, self.clock)

    # ----------------------------------------------------------------------------------------------------- looking

    def describe(self) -> pb.DescribeLayoutReply:
        """The committed layout and the tables."""
        layout = self.state.layout
        return pb.DescribeLayoutReply(
            layout=layout.to_message() if layout else None,
            tables=[e.to_message() for e in self.state.tables.values()],
            has_tables=layout is not None,
        )

    def moved(self, index: int, launched: Launched) -> bool:
        """A shard's server was found at another address. Returns whether that is news."""
        old = self.layout.shards[index]
        new = ShardAddress(index, launched.address, launched.incarnation)
        if new == old:
            return False
        shards = tuple(new if s.index == index else s for s in self.layout.shards)
        self.state.layout = dataclasses.replace(self.layout, shards=shards)
        return True


def addresses(launched: Sequence[Launched]) -> tuple[ShardAddress, ...]:
    """Shard addresses of servers, in order."""
    return tuple(ShardAddress(i, s.address, s.incarnation) for i, s in enumerate(launched))
