"""Specs of tables that are far too long, as the coordinator's port gets them."""

import pytest

from rowloom.client import TableSpec
from rowloom.deploy.config.config import parse
from rowloom.deploy.coordinator_server import CoordinatorServer
from rowloom.deploy.launch.local_launcher import ThreadLauncher
from rowloom.deploy.requests.handlers import MOST_CREATE_BYTES
from rowloom.proto import methods
from rowloom.proto import rowloom_pb2 as pb
from rowloom.proto.errors import InvalidRequest
from rowloom.server.access.rights import Grant, Principal
from rowloom.server.call import Call, Caller


def test_a_spec_that_is_far_too_long_once_was_read_whole_before_it_was_refused(tmp_path, monkeypatch) -> None:
    spec = TableSpec("u", 10, dim=1).to_message()
    spec.row_shape.extend([1] * MOST_CREATE_BYTES)
    request = pb.DefineTableRequest(spec=spec).SerializeToString()
    caller = Caller("test", "ann", Principal("ann", (Grant.parse("create:*"),)))
    server = CoordinatorServer(
        parse({"name": "ads", "shards": 1, "storage": str(tmp_path)}), ThreadLauncher()
    )
    server.start()
    try:
        read: list[bytes] = []
        monkeypatch.setattr(pb.DefineTableRequest, "FromString", read.append, raising=False)
        what = rf"a message of at most {MOST_CREATE_BYTES} bytes, got {len(request)}"
        with pytest.raises(InvalidRequest, match=what):
            server._answer(Call(methods.CREATE_TABLE, request, caller))
        assert not read
    finally:
        server.stop()
