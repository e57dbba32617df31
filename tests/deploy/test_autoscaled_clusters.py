"""A cluster that scales itself, by the same path as an operator's scaling."""

import numpy as np
import pytest
from waiting import until

import rowloom.deploy.scaling as scaling
from rowloom.client import SGD, TableSpec, connect
from rowloom.deploy.config.config import InvalidConfig, parse
from rowloom.deploy.coordinator_server import CoordinatorServer
from rowloom.deploy.launch.local_launcher import ProcessLauncher
from rowloom.deploy.operate.applying import apply
from rowloom.deploy.operate.planning import plan
from rowloom.deploy.operate.remote import Remote
from rowloom.deploy.operate.status import summary

IDS = np.arange(4000)
SPEC = TableSpec("users", 100_000, dim=16, optimizer=SGD(lr=1.0))


def config(shards=1, **policy):
    return {"name": "auto", "shards": shards, "tables": [SPEC], "autoscale": policy or None}


@pytest.fixture
def soon(monkeypatch):
    """Looks come quickly one after the other."""
    monkeypatch.setattr(scaling, "LOOK_S", 0.1)


@pytest.fixture
def start(tmp_path, soon):
    """(config) -> a coordinator's server; all are ended."""
    servers = []

    def up(value, storage=None):
        wanted = parse(value)
        server = CoordinatorServer(wanted, ProcessLauncher(wanted, tmp_path), storage=storage)
        servers.append(server)
        server.start()
        return server

    yield up
    for server in servers:
        server.stop()


def test_a_cluster_whose_rows_outgrow_their_shards_scales_itself_and_keeps_every_row(start):
    server = start(config(max=3, target_bytes_per_shard="100KB", cooldown=1))
    with connect(server.address) as client:
        users = client.table("users")
        users.push(IDS, np.ones((len(IDS), 16), np.float32))
        rows = users.pull(IDS)
        until(lambda: server.coordinator.layout.n == 3, seconds=60)
        np.testing.assert_array_equal(users.pull(IDS), rows)
    with Remote(server.address) as remote:
        until(lambda: "`autoscale.max` is 3" in summary(remote.status())["autoscale"])


def test_a_dry_run_says_what_it_would_do_and_does_nothing(start):
    server = start(config(max=3, target_bytes_per_shard="100KB", cooldown=1, dry_run=True))
    with connect(server.address) as client, Remote(server.address) as remote:
        client.table("users").push(IDS, np.ones((len(IDS), 16), np.float32))
        until(
            lambda: "3 shards wanted; only said" in (summary(remote.status())["autoscale"] or ""), seconds=60
        )
    assert server.coordinator.layout.n == 1


def test_a_policy_is_changed_and_ended_by_apply_and_outlives_the_coordinator(start, tmp_path):
    storage = str(tmp_path / "state")
    server = start(config(), storage)
    with Remote(server.address) as remote:
        assert summary(remote.status())["autoscale"] is None
        wanted = parse(config(2, min=2, max=3, target_qps_per_shard=1e9, cooldown=1))
        assert [c.action for c in plan(wanted, remote.status()).changes] == ["scale", "autoscale"]
        apply(wanted, remote, remote.status())
        assert plan(wanted, remote.status()).changes == []
    server.leave()
    again = CoordinatorServer(parse(config()), server.launcher, storage=storage)
    again.take_up()
    try:
        assert again.config.autoscale == wanted.autoscale
        with Remote(again.address) as remote:
            remote.scale(3)
            # It was scaled since the file was written: no reason to move rows back.
            (change,) = plan(wanted, remote.status()).changes
            assert (change.path, change.action) == ("shards", "keep")
            assert "`autoscale` decides, from 2 to 3" in change.reason
            remote.scale(4)  # by hand, beyond what the policy would do
            (change,) = plan(wanted, remote.status()).changes
            assert (change.path, change.action) == ("shards", "scale")
            remote.set_autoscale(None)
            assert summary(remote.status())["autoscale"] is None
    finally:
        again.stop()


@pytest.mark.parametrize(
    ("policy", "words"),
    [
        ({"max": 4}, "needs target_bytes_per_shard, target_qps_per_shard, or both"),
        ({"min": 5, "max": 4, "target_qps_per_shard": 1}, "must be at most autoscale.max, 4, got 5"),
        ({"min": 2, "max": 4, "target_qps_per_shard": 1}, "shards: must be in [2, 4]"),
        ({"max": 4, "target_qps_per_shard": 0}, "must be more than 0"),
        ({"max": 4, "target_byts_per_shard": 1}, "did you mean 'target_bytes_per_shard'?"),
        ({"max": 4, "target_qps_per_shard": 1, "dry_run": 1}, "autoscale.dry_run"),
    ],
)
def test_a_policy_that_cannot_be_is_refused_with_what_would_be_right(policy, words):
    with pytest.raises(InvalidConfig) as refused:
        parse(config(**policy))
    assert words in str(refused.value)
