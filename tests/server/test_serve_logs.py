"""A server with a log: what its calls hear when that fails, is replaced, or cannot be read."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from waiting import until

from rowloom.client import SGD, TableSpec, Zeros
from rowloom.proto import methods
from rowloom.proto import rowloom_pb2 as pb
from rowloom.proto.codec import Block, PartName, Push
from rowloom.proto.errors import PushUnresolved, RetryLater, Unavailable
from rowloom.proto.framing import joined
from rowloom.proto.layout import Layout, ShardAddress
from rowloom.proto.spec import TableEntry
from rowloom.server.call import GRPC, Call, Caller
from rowloom.server.durable.extents import Owner
from rowloom.server.durable.log import Mode
from rowloom.server.durable.shard_log import ShardLog, ShardLogs
from rowloom.server.serve import Server
from rowloom.server.states import Serving, Waiting

LAYOUT = Layout("c", 1, (ShardAddress(0, "h:1", 1),))
ENTRY = TableEntry(1, TableSpec("t", 100, dim=2, optimizer=SGD(lr=1.0), initializer=Zeros()))


def server_on(folder: Path) -> Server:
    return Server(carrier="grpc", logs=ShardLogs(str(folder), Mode.PROCESS, segment_bytes=8192))


@pytest.fixture
def server(tmp_path) -> Iterator[Server]:
    """One that serves, and listens to nobody."""
    server = server_on(tmp_path)
    adopt(server, fresh=True)
    yield server
    server.stop(0)


def ask(server: Server, method: str, request) -> None:
    server.answer(Call(method, request.SerializeToString(), Caller(GRPC)))


def adopt(server: Server, *, fresh: bool) -> None:
    tables = [ENTRY.to_message()]
    ask(server, methods.ADOPT, pb.AdoptRequest(layout=LAYOUT.to_message(), fresh=fresh, tables=tables))


def push(seq: int) -> Call:
    tables = [(1, np.array([3]), Block(np.ones((1, 2), np.float32)))]
    request = Push(LAYOUT.header(0), 7, (PartName(1, 0, seq),), push=seq, tables=tables)
    return Call(methods.PUSH, joined(request.encode()), Caller(GRPC))


def fails(*_) -> None:
    raise PushUnresolved("the disk is broken")


def test_a_step_of_the_coordinator_that_is_not_safe_is_to_be_repeated(server, monkeypatch) -> None:
    # PushUnresolved is for pushes: the coordinator took it for a refusal, and dropped the table everywhere.
    monkeypatch.setattr(ShardLog, "wait", fails)
    with pytest.raises(Unavailable, match="the disk is broken"):
        ask(
            server,
            methods.SHARD_CREATE_TABLE,
            pb.CreateTableRequest(header=LAYOUT.header(0), table=ENTRY.to_message()),
        )
    with pytest.raises(PushUnresolved):
        server.answer(push(1))


def test_a_reply_waits_for_the_log_that_it_was_noted_in(server, monkeypatch) -> None:
    # While its record was written the next layout could be adopted, whose log is another: its positions say nothing.
    write, wait, waited = ShardLog.write, ShardLog.wait, []
    mine = server._host.journal

    def replaced(log, noted) -> None:
        write(log, noted)
        server._host.journal = server._logs.begin(Owner("c", 2, 0))

    def watched(log, position) -> None:
        waited.append(log)
        wait(log, position)

    monkeypatch.setattr(ShardLog, "write", replaced)
    monkeypatch.setattr(ShardLog, "wait", watched)
    server.answer(push(1))
    assert waited == [mine]
    mine.close()


def test_a_push_that_came_when_the_log_was_closed_was_applied_and_unresolved(server) -> None:
    # A killed coordinator ends its shards, and lanes bring pushes until the end: the shard's next life resolves them.
    server.answer(push(1))
    server.stop(0)
    with pytest.raises(RetryLater, match="the server stops"):
        server.answer(push(2))


def test_a_push_whose_log_was_dropped_for_the_next_layout_is_acked(server, monkeypatch) -> None:
    # It was told that its outcome is not known, and its call failed.
    mine = server._host.journal

    def dropped(log, position) -> None:
        server._host.journal = None
        fails()

    monkeypatch.setattr(ShardLog, "wait", dropped)
    assert server.answer(push(1))
    mine.close()


@pytest.mark.parametrize("error", [OSError(5, "input/output error"), BlockingIOError("it is locked")])
def test_a_log_that_cannot_be_read_at_the_moment_is_read_when_it_is_asked_for_again(
    error, tmp_path, monkeypatch
) -> None:
    # The shard was lost, until somebody started its server again.
    first = server_on(tmp_path)
    adopt(first, fresh=True)
    first.answer(push(1))
    first.stop(0)
    server = server_on(tmp_path)

    def fails(*_) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(server._logs, "recover", fails)
        with pytest.raises(RetryLater):
            adopt(server, fresh=False)
        until(lambda: isinstance(server._host.state, Waiting))
    with pytest.raises(RetryLater):
        adopt(server, fresh=False)
    until(lambda: isinstance(server._host.state, Serving))
    assert server._host.shard.rows == 1
    server.stop(0)


def test_a_table_that_was_made_while_the_log_had_failed_is_not_said_to_be_safe(server) -> None:
    # All that had been noted was safe, so its answer had nothing to wait for; a restart lost the table.
    server.answer(push(1))
    writer = server._host.journal._writer
    with writer._changed:
        writer._fail(OSError(5, "input/output error"))
    entry = TableEntry(2, TableSpec("u", 100, dim=2))
    request = pb.CreateTableRequest(header=LAYOUT.header(0), table=entry.to_message())
    for _ in range(2):
        with pytest.raises(Unavailable, match="not safe yet: the log failed"):
            ask(server, methods.SHARD_CREATE_TABLE, request)
    adopt(server, fresh=False)  # which ends a freeze, and notes nothing
