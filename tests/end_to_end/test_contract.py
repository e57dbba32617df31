"""The contract on embedded clusters and on processes, over each carrier. On Ray: deploy/launch/test_contract_ray.py."""

import pytest
from contract import Contract

from rowloom.client.calls.direct import Direct
from rowloom.deploy import local_cluster


class TestEmbedded(Contract):
    @pytest.fixture(scope="class")
    @classmethod
    def cluster(cls):
        with local_cluster(shards=2) as cluster:
            yield cluster


class TestProcesses(Contract):
    @pytest.fixture(scope="class")
    @classmethod
    def cluster(cls):
        with local_cluster(shards=2, processes=True) as cluster:
            yield cluster


class TestTcp(TestProcesses):
    CARRIER = "tcp"


class TestUsualWay(TestEmbedded):
    """What small calls of one table do when they cannot be done directly: see client/direct.py."""

    @pytest.fixture(autouse=True)
    def nothing_is_plain(self, monkeypatch):
        monkeypatch.setattr(Direct, "pull", lambda *_: None)
        monkeypatch.setattr(Direct, "push", lambda *_: None)


class TestGrpc(TestProcesses):
    CARRIER = "grpc"
