"""Shards whose logs cannot be read for a while: they say why, once, and read them when they can."""

import errno
import logging
import os
import socket

import pytest
from waiting import until

from rowloom.proto import methods
from rowloom.proto import rowloom_pb2 as pb
from rowloom.proto.codec import Pull
from rowloom.proto.errors import RetryLater
from rowloom.proto.framing import joined
from rowloom.proto.layout import Layout, ShardAddress
from rowloom.server.call import Call, Caller
from rowloom.server.durable.extents import Owner
from rowloom.server.durable.log import Mode
from rowloom.server.durable.shard_log import ShardLogs
from rowloom.server.durable.succession import Succession
from rowloom.server.running import tasks
from rowloom.server.serve import Server
from rowloom.server.shard import Shard
from rowloom.server.standby.log_place import LogPlace
from rowloom.server.states import Recovering

LAYOUT = Layout("c", 1, (ShardAddress(0, "h:1", 1),))
HEADER = pb.Header(cluster_id="c", epoch=1, protocol=1)


def ask(server: Server, method: str, request) -> bytes:
    return b"".join(server.answer(Call(method, request.SerializeToString(), Caller("test"))))


def adopted(server: Server) -> bool:
    try:
        ask(server, methods.ADOPT, pb.AdoptRequest(layout=LAYOUT.to_message(), turn=1))
    except RetryLater:
        return False
    return True


def health(server: Server) -> pb.HealthReply:
    return pb.HealthReply.FromString(ask(server, methods.HEALTH, pb.HealthRequest()))


def test_a_disk_that_does_not_read_a_log_was_a_traceback_each_second_and_no_reason_in_the_health(
    tmp_path, monkeypatch, caplog
) -> None:
    logs = ShardLogs(str(tmp_path), Mode.PROCESS, segment_bytes=1 << 16)
    logs.begin(Owner("c", 1, 0)).close()
    server = Server(logs=logs)
    tried = []

    def fails(*_):
        tried.append(1)
        raise OSError(errno.EIO, os.strerror(errno.EIO), "/x/wal-0000000001.log")

    try:
        with monkeypatch.context() as patch, caplog.at_level(logging.INFO):
            patch.setattr(ShardLogs, "recover", fails)
            until(lambda: not adopted(server) and len(tried) > 2)
            until(lambda: health(server).state == "waiting")
            assert health(server).unread == "/x/wal-0000000001.log: Input/output error"
            pull = Call(methods.PULL, joined(Pull(HEADER, []).encode()), Caller("test"))
            with pytest.raises(
                RetryLater, match=r"cannot read its rows from its log yet: .*Input/output error"
            ):
                server.answer(pull)
        (said,) = [one for one in caplog.records if "cannot be read from its log" in one.getMessage()]
        assert said.exc_info is None
        until(lambda: adopted(server))
        assert (health(server).state, health(server).unread) == ("serving", "")
    finally:
        server.stop()


def test_a_standby_whose_log_a_server_that_is_cut_off_still_has_gave_no_reason_for_its_waiting(
    tmp_path, monkeypatch, caplog
) -> None:
    monkeypatch.setattr(tasks, "PATIENCE_S", 0.0)
    owner = Owner("c", 1, 0)
    logs = ShardLogs(str(tmp_path), Mode.PROCESS, segment_bytes=1 << 16)
    cut_off = logs.begin(owner)
    place = LogPlace()
    place.based = True
    server = Server(logs=ShardLogs(str(tmp_path), Mode.PROCESS, segment_bytes=1 << 16))
    try:
        with server._moved:
            server._host.become(Recovering(LAYOUT, 0))
            server._host.tasks.append(
                Succession(owner, Shard(LAYOUT, 0, []), place, lambda: Shard(LAYOUT, 0, []), ())
            )
            server._tasks.start()
        until(lambda: bool(health(server).unread))
        assert f"runs: process {os.getpid()} of {socket.gethostname()}" in health(server).unread
        (said,) = [one for one in caplog.records if "served again when its log is free" in one.getMessage()]
        assert "stop that one first" in said.getMessage()
        cut_off.close()
        until(lambda: health(server).state == "serving")
        assert not health(server).unread
    finally:
        server.stop()
