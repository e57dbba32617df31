"""A new cluster that begins with what a snapshot holds, as a program of effects.

    launch ─▶ every shard reads what it owns ─▶ count ─▶ adopt ─▶ COMMIT

Why it is so. What must hold: the cluster is there with everything, or not at all. Until the commit nobody knows that
there is a cluster: its port is closed, and what failed is ended. So there is nothing to roll back here.
The cluster has an id of its own, so no push of the old one applies to it: a client refuses a layout of another
cluster, and a shard a request that is meant for one. Its first epoch follows the snapshot's: names of parts that the
ledgers know are of earlier epochs, and never those of a new push.
What the shards received is in their logs before they are adopted, if they have logs. So a shard that is killed right
after the commit reads it there.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ...proto import methods
from ...proto import rowloom_pb2 as pb
from ...proto.errors import InvalidRequest, SnapshotCorrupt, Unavailable
from ...proto.layout import Layout, ShardAddress
from ...proto.spec import Dealing, TableEntry, TableSpec
from ..launch.launcher import ServerProcess, addresses
from .coordinator import ATTEMPT_S, Coordinator
from .effects import Look, Program, ServerCall, call_all
from .receiving import all_received
from .starting import launch
from .state import ClusterState, RestoredSnapshot

STEP_LIMIT_S = 10.0  # for every server to take a step
STALL_S = 120.0  # reading has stopped when no shard has looked through a file for so long


@dataclass(frozen=True)
class RestoreSource:
    """A snapshot that is to be restored.

    Attributes:
        about: what is remembered of it.
        layout: the shards that it was made of.
        tables: all of them, with their numbers and rates.
    """

    about: RestoredSnapshot
    layout: Layout
    tables: Sequence[TableEntry]


def merged_tables(source: RestoreSource, wanted: Sequence[TableSpec]) -> list[TableEntry]:
    """The tables of the new cluster: those of the snapshot, where a config has them placed as it says, and new ones.

    Tables keep their numbers, because the ledger has them, and the rates that were in force.

    Raises:
        InvalidRequest: a table of the config is another one than that of its name in the snapshot; all are named.
    """
    specs = {spec.name: spec for spec in wanted}
    merged: list[TableEntry] = []
    faults: list[str] = []
    for entry in source.tables:
        spec = specs.pop(entry.spec.name, None)
        if spec is not None:
            differences = _contradictions(entry, spec)
            faults += [f"table {spec.name!r}: {one}" for one in differences]
            if not differences:
                entry = dataclasses.replace(entry, spec=entry.spec.dealt(spec.dealing))
        # A cluster that begins deals them so from its first epoch on.
        merged.append(dataclasses.replace(entry, made=None))
    if faults:
        raise InvalidRequest(
            f"nothing was started: the config contradicts snapshot {source.about.url} ('here' is the snapshot, "
            "'there' the config):\n  "
            + "\n  ".join(faults)
            + "\nSay what the snapshot has, or leave the table out of the config"
        )
    number = max((entry.number for entry in source.tables), default=0)
    return merged + [TableEntry(k, spec) for k, spec in enumerate(specs.values(), number + 1)]


def _contradictions(entry: TableEntry, spec: TableSpec) -> list[str]:
    """What differs and cannot be had from the snapshot.

    A config may have the rate that the table began with or the one in force, and deal ids as it likes. It need not
    repeat the metadata.
    """
    free = {*Dealing._fields, *([] if spec.metadata else ["metadata"])}

    def differing(mine: TableSpec) -> list[str]:
        return [one for one in mine.differences(spec) if one.partition(":")[0] not in free]

    return differing(entry.spec) if differing(entry.current_spec) else []


class Restoring:
    """One restore into new servers.

    Args:
        coordinator: of a cluster that was never up.
        source: what is restored.
        tables: see `merged_tables`.
        shards: how many.
        on_rows: called with (rows that have arrived, rows in all).
    """

    def __init__(
        self,
        coordinator: Coordinator,
        source: RestoreSource,
        tables: Sequence[TableEntry],
        shards: int,
        on_rows: Callable[[int, int], None] = lambda rows, total: None,
    ) -> None:
        self._coordinator = coordinator
        self._source = source
        self._tables = tables
        self._shards = shards
        self._on_rows = on_rows
        self._rows = 0

    def run(self) -> Program:
        """Start the servers and fill them.

        Raises:
            SnapshotCorrupt: a file is not right; the message names it and the block.
            RowloomError: there is no cluster; what was started is still to be ended.
        """
        coordinator = self._coordinator
        began = coordinator.clock()
        cluster_id = coordinator.new_cluster_id()
        # What a coordinator that is killed leaves in logs is found by this.
        yield from coordinator.commit(dataclasses.replace(coordinator.state, beginning=cluster_id))
        keys, launched = yield from launch(coordinator, self._shards)
        epoch = self._source.layout.epoch + 1
        target = Layout(cluster_id, epoch, addresses(launched), coordinator.address)
        try:
            yield from self._receive(target)
            yield from call_all(
                coordinator.adoptions(target, range(target.n), fresh=False), coordinator.clock, STEP_LIMIT_S
            )
        except Unavailable as e:
            raise (yield from self._explained(e, keys)) from e
        yield from coordinator.commit(self._after(target, keys, coordinator.clock() - began))

    def _receive(self, target: Layout) -> Program:
        coordinator, total = self._coordinator, self._source.about.rows
        turn = coordinator.turn()
        calls = [self._preparation(target, shard, turn) for shard in target.shards]
        yield from call_all(calls, coordinator.clock, STEP_LIMIT_S, ATTEMPT_S)

        def count(rows: int) -> None:
            self._rows = rows
            self._on_rows(rows, total)

        stalled = f"no row has arrived for {STALL_S:.0f} s: {self._source.about.url} may be out of reach"
        yield from all_received(target, coordinator.clock, count, stall_s=STALL_S, stalled=stalled)
        if self._rows != total:
            url = self._source.about.url
            raise SnapshotCorrupt(
                f"snapshot {url} has {total} rows, {self._rows} arrived: some ids are there twice; "
                f"`rowloom verify {url}` names one"
            )

    def _preparation(self, target: Layout, shard: ShardAddress, turn: int) -> ServerCall:
        request = pb.PrepareRequest(
            source=self._source.layout.to_message(),
            layout=target.to_message(),
            index=shard.index,
            tables=[entry.to_message() for entry in self._tables],
            turn=turn,
            snapshot=self._source.about.url,
        )
        return ServerCall(shard.address, methods.PREPARE, request.SerializeToString())

    def _explained(self, error: Unavailable, keys: Sequence[int]) -> Program:
        """An error, or what it comes from: a shard's process that has ended."""
        processes: list[ServerProcess] = yield Look(keys)
        ended = [index for index, process in enumerate(processes) if process.state == "ended"]
        if not ended:
            return error
        which = ", ".join(map(str, ended))
        return Unavailable(f"the process of shard {which} ended while the snapshot was read: {error}")

    def _after(self, target: Layout, keys: list[int], seconds: float) -> ClusterState:
        state = self._coordinator.state
        return dataclasses.replace(
            state,
            layout=target,
            keys=keys,
            surplus=[key for key in state.surplus if key not in keys],
            tables={entry.spec.name: entry for entry in self._tables},
            next_table=max((entry.number for entry in self._tables), default=0) + 1,
            beginning="",
            restored=dataclasses.replace(
                self._source.about,
                seconds=seconds,
                incarnations=[shard.incarnation for shard in target.shards],
                epoch=target.epoch,
            ),
        )
