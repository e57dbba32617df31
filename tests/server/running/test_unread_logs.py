"""Shards whose logs cannot be read for a while: they say why, once, and read them when they can."""

import errno
import logging
import os

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
from rowloom.server.serve import Server

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
