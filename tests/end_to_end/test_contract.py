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
    @pytest.fixture(scope="class")
    @classmethod
    def cluster(cls):
        with local_cluster(shards=2, processes=True) as cluster:
            yield cluster


class TestTcp(TestProcesses):
    CARRIER = "tcp"


class TestGrpc(TestProcesses):
    CARRIER = "grpc"
