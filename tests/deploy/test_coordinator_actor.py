"""What a coordinator on Ray goes on with; Ray itself is not needed for that."""

import os

import pytest

from rowloom.deploy import coordinator_actor
from rowloom.deploy.config.config import DeployConfig, parse
from rowloom.deploy.coordinator_actor import _goes_on
from rowloom.deploy.coordinator_server import CoordinatorServer
from rowloom.deploy.launch.local_launcher import ThreadLauncher
from rowloom.proto.errors import InvalidRequest


@pytest.fixture(autouse=True)
def _named(monkeypatch) -> None:
    monkeypatch.setattr(coordinator_actor, "node_here", lambda: "10.0.0.7")


def config(tmp_path) -> DeployConfig:
    kept = {"storage": str(tmp_path), "durability": "process", "launcher": "ray"}
    return parse({"name": "ads", "shards": 1, **kept})


def test_a_node_that_does_not_see_the_logs_does_not_begin_the_cluster_anew(tmp_path) -> None:
    with pytest.raises(InvalidRequest, match=r"logs of cluster 'ads-1'.* node 10\.0\.0\.7 does not see them"):
        _goes_on(config(tmp_path), "ads-1")
    assert not _goes_on(config(tmp_path), "")


def test_a_coordinator_that_ray_has_lost_and_that_lives_on_gets_none_beside_it(tmp_path) -> None:
    server = CoordinatorServer(config(tmp_path), ThreadLauncher(), storage=str(tmp_path))
    server.start()
    cluster_id = server.coordinator.layout.cluster_id
    os.makedirs(tmp_path / "logs" / cluster_id)  # servers in threads have none here
    try:
        with pytest.raises(InvalidRequest, match=f"runs still, at {server.address}"):
            _goes_on(config(tmp_path), cluster_id)
    finally:
        server.stop(keep=True)
    assert _goes_on(config(tmp_path), cluster_id)
