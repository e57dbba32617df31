"""Builds whose standbys take the log of their shard in a wrong way, and scenes in which that must be seen."""

from collections import deque
from collections.abc import Callable

import numpy as np
from simulation.broken_standbys import EVERY, both_ways, in_step, lab_in_step, primary, standby
from simulation.cluster import CoordinatorNode
from simulation.lab import ROWS, Lab

from rowloom.client import SGD, TableSpec, Zeros
from rowloom.client.calls import operations as ops
from rowloom.client.calls.control import ask
from rowloom.proto import methods
from rowloom.proto import rowloom_pb2 as pb
from rowloom.proto.errors import RowloomError
from rowloom.proto.spec import TableEntry
from rowloom.server.durable import shard_log, succession
from rowloom.server.durable.log import Mode
from rowloom.server.durable.segments import LOCK, Segments
from rowloom.server.standby.log_place import LogPlace

# ---------------------------------------------------------------------------------------------------------- scenes


def all_end(lab: Lab) -> None:
    """Every server and every standby at the same moment."""
    for index in range(lab.node.coordinator.layout.n):
        primary(lab, index).kill(None)
        standby(lab, index).kill(None)


def is_everywhere(lab: Lab, pushes: int) -> None:
    """Now, and when only the logs are left."""
    assert set(lab.rows()[:, 0]) == {pushes}, "a push is lost that was acknowledged, or is there twice"
    in_step(lab)
    all_end(lab)
    assert set(lab.rows()[:, 0]) == {pushes}, "the log lacks a push that was acknowledged, or has it twice"


def a_server_ends_whose_standby_is_behind() -> None:
    lab = lab_in_step(3, waits=False, mode=Mode.PROCESS)
    lab.world.severed.add((standby(lab, 0).address, primary(lab, 0).address))
    lab.do(lab.push(EVERY))
    lab.do(lab.push(EVERY))
    primary(lab, 0).kill(None)
    is_everywhere(lab, 2)
    assert lab.node.taken_over == 1


def a_server_ends_that_has_not_written_what_its_standby_has() -> None:
    lab = lab_in_step(3, mode=Mode.DISK)
    lab.do(lab.push(EVERY))
    old, other = primary(lab, 0), standby(lab, 0).host
    lab.storage.slow_s = 5.0
    before, pushed = other.following.position, list[object]()
    lab.world.operate(lab.session, lab.push(EVERY), pushed.append)
    lab.world.run(lambda: other.following.position > before)
    assert old.host.journal.safe < old.host.journal.end
    old.kill(None)
    lab.storage.slow_s = 0.001
    lab.world.run(lambda: bool(pushed))
    assert not isinstance(pushed[0], RowloomError)
    lab.do(lab.push(EVERY))
    is_everywhere(lab, 3)


def a_server_lives_whose_place_is_taken() -> None:
    """Clients reach it, and the coordinator that would end it does not, for a while."""
    lab = lab_in_step(3, mode=Mode.PROCESS)
    world, coordinator = lab.world, CoordinatorNode.ADDRESS
    old, wanted = primary(lab, 0), [(lab.entry, np.arange(ROWS))]
    clients = [world.session([coordinator], number) for number in (2, 3)]

    def pull(session):
        return lab.wait(
            lambda ended: world.operate(session, ops.pull(session, wanted, world.now + 300), ended)
        )

    pull(clients[0])
    ways = both_ways(old.address, coordinator)
    world.severed |= ways
    world.run(lambda: lab.node.taken_over == 1)
    world.at(8.0, world.severed.difference_update, ways)
    grads = -np.ones((ROWS, 3), np.float32)
    push = ops.push(clients[1], [(lab.entry, np.array(EVERY), grads)], world.now + 60)
    lab.wait(lambda ended: world.operate(clients[1], push, ended))
    (rows,) = pull(clients[0])
    assert set(rows[:, 0]) == {1}, "a client reads what was true before a push that was acknowledged"
    in_step(lab)
    is_everywhere(lab, 1)


def a_table_is_made_where_a_log_has_failed() -> None:
    lab = lab_in_step(3, 1, mode=Mode.PROCESS)
    old = primary(lab, 0)
    lab.do(lab.push(EVERY))
    lab.storage.failing[old.key] = "write"
    lab.outcome(lambda ended: lab.world.operate(lab.session, lab.push(EVERY, 5.0), ended))
    spec = TableSpec("late", ROWS, dim=3, optimizer=SGD(lr=1.0), initializer=Zeros())
    request = pb.DefineTableRequest(spec=spec.to_message())
    made = ask(lab.session, methods.CREATE_TABLE, request, 30.0)
    lab.outcome(lambda ended: lab.world.operate(lab.session, made, ended))
    feed = old.host.feed
    lab.world.run(lambda: feed.confirmed == feed.end)
    lab.storage.failing.clear()
    old.kill(None)
    made = ask(lab.session, methods.CREATE_TABLE, request, 300.0)
    entry = TableEntry.from_message(pb.DefineTableReply.FromString(lab.do(made)).table)
    grads, ids = -np.ones((ROWS, 3), np.float32), np.arange(ROWS)
    lab.do(ops.push(lab.session, [(entry, ids, grads)], lab.world.now + 600))
    in_step(lab)
    all_end(lab)
    (rows,) = lab.do(ops.pull(lab.session, [(entry, ids)], lab.world.now + 600))
    assert set(rows[:, 0]) == {1}, "the log lacks a table"


# ---------------------------------------------------------------------------------------------------------- builds


def does_nothing_again_that_only_the_log_has(patch) -> None:
    """A standby serves what it has."""

    class Lazy(succession.Replay):
        def redo(self, record, *, compare=True) -> None:
            pass

    patch.setattr(succession, "Replay", Lazy)


def writes_nothing_that_the_log_lacks(patch) -> None:
    """What the server before did not get to write is nowhere but in memory."""
    caught_up = shard_log.caught_up
    patch.setattr(shard_log, "caught_up", lambda *rest: (caught_up(*rest)[0], []))


def writes_all_that_it_kept(patch) -> None:
    """Also what the log has."""
    caught_up = shard_log.caught_up
    patch.setattr(
        shard_log, "caught_up", lambda s, shard, place: (caught_up(s, shard, place)[0], list(place.unsafe))
    )
    patch.setattr(LogPlace, "safe", lambda self, position: setattr(self, "based", True))


def takes_a_log_that_another_server_has(patch) -> None:
    """The lock is not asked for."""
    patch.setattr(Segments, "_take", lambda self: self.disk.open(self._path(LOCK), create=True))


def forgets_that_a_change_is_not_in_the_log(patch) -> None:
    """What came while the log had failed is taken for logged."""

    ignored = property(lambda self: False, lambda self, value: None)
    patch.setattr(LogPlace, "unlogged", ignored, raising=False)


def keeps_nothing_that_may_not_be_written(patch) -> None:
    """All that comes is taken for written."""

    def came(self: LogPlace, record: pb.FedRecord, payload: bytes) -> None:
        self.unlogged, self.lsn, self.unsafe = not record.lsn, record.lsn, deque()

    patch.setattr(LogPlace, "came", came)


SCENES: list[Callable[[], None]] = [
    a_server_ends_whose_standby_is_behind,
    a_server_ends_that_has_not_written_what_its_standby_has,
    a_server_lives_whose_place_is_taken,
    a_table_is_made_where_a_log_has_failed,
]
BUILDS: dict[Callable[..., None], Callable[[], None]] = {
    does_nothing_again_that_only_the_log_has: a_server_ends_whose_standby_is_behind,
    writes_nothing_that_the_log_lacks: a_server_ends_that_has_not_written_what_its_standby_has,
    writes_all_that_it_kept: a_server_ends_that_has_not_written_what_its_standby_has,
    takes_a_log_that_another_server_has: a_server_lives_whose_place_is_taken,
    forgets_that_a_change_is_not_in_the_log: a_table_is_made_where_a_log_has_failed,
    keeps_nothing_that_may_not_be_written: a_server_ends_that_has_not_written_what_its_standby_has,
}
