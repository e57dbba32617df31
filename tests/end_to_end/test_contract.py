"""The contract on embedded clusters and on processes, over each carrier. On Ray: deploy/launch/test_contract_ray.py."""

import pytest
from contract import Contract

from rowloom.deploy import local_cluster


class TestEmbedded(Contract):
    @pytest.fixture(scope="class")
    @classmethod
    def cluster(cls):
        with local_cluster(shards=2) as cluster:
            yield cluster


class TestProcesses(Contract):
    MOST_SHARDS = 4

    @pytest.fixture(scope="class")
    @classmethod
    def cluster(cls):
        with local_cluster(shards=2, processes=True) as cluster:
            yield cluster


class TestTcp(TestEmbedded):  # what is carried is the same beyond the socket
    CARRIER = "tcp"


class TestGrpc(TestEmbedded):
    CARRIER = "grpc"
