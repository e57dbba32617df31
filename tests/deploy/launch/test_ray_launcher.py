"""Clusters on a Ray of two nodes: where shards go, what survives whose death, and that nothing is left behind.

The nodes are two raylets of this machine with loopback addresses of their own.
"""

import gc
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
from stopping import stop
from waiting import until

from rowloom.client import SGD, StateLost, TableSpec, Zeros, connect
from rowloom.deploy import address_of
from rowloom.deploy.config.config import DeployConfig, parse
from rowloom.deploy.operate import local_ray
from rowloom.deploy.operate.clusters import down, reach
from rowloom.deploy.operate.directory import ClusterDirectory, Record
from rowloom.deploy.operate.remote import Remote
from rowloom.proto.errors import InvalidRequest, Unavailable

ray = pytest.importorskip("ray")

from rowloom.deploy.launch.ray_session import attached, attached_to  # noqa: E402
from rowloom.deploy.operate.ray_clusters import clusters, down_ray, find_ray, up_ray  # noqa: E402

pytestmark = [
    pytest.mark.ray,
    pytest.mark.filterwarnings(
        "ignore"
    ),  # Ray's test cluster leaves files and sockets to the garbage collector
]
NODES = ("127.0.0.2", "127.0.0.3")
SPEC = TableSpec("t", 1000, dim=4, optimizer=SGD(lr=1.0), initializer=Zeros())
IDS = np.arange(1000)


@pytest.fixture(scope="module")
def nodes(tmp_path_factory):
    """Two raylets; this process is attached."""
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "disabled")
        patch.setenv("RAY_prestart_worker_first_driver", "0")
        options = {"num_cpus": 3, "object_store_memory": 80_000_000, "include_dashboard": False}
        cluster = Cluster(initialize_head=True, head_node_args={**options, "node_ip_address": NODES[0]})
        try:
            cluster.add_node(**options, node_ip_address=NODES[1], resources={"seat": 1})
            cluster.wait_for_nodes()
            with attached(cluster.address):
                yield cluster
        finally:
            cluster.shutdown()
            gc.collect()  # while its warnings are ignored


def config_of(**changes) -> DeployConfig:
    return parse({"name": "ads", "shards": 2, "launcher": "ray", "tables": [SPEC], **changes})


def assert_nothing_is_left() -> None:
    assert ray.util.list_named_actors(all_namespaces=True) == []
    assert groups() == {}


def groups() -> dict[str, int]:
    """Placement groups that are there: bundles by name."""
    table = ray.util.placement_group_table().values()
    return {g["name"]: len(g["bundles"]) for g in table if g["state"] != "REMOVED"}


def pid_of(actor: str) -> int:
    return ray.get(ray.get_actor(actor, "rowloom").info.remote())[-1]


def answers(name: str) -> bool:
    try:
        return find_ray(name) is not None
    except Unavailable:
        return False


def trained(client):
    """The table, each row pushed once."""
    table = client.table("t")
    table.assign(IDS, np.zeros((1000, 4), np.float32))
    table.push(IDS, np.ones((1000, 4), np.float32))
    return table


def assert_trained(table) -> None:
    np.testing.assert_array_equal(table.pull(IDS), np.full((1000, 4), -1.0, np.float32))


class OneCluster:
    """One cluster of two shards for all tests of a class: Ray takes seconds for each process that it starts.

    Each test takes it as the one before has left it. Nothing of it may be left afterwards.
    """

    @pytest.fixture(scope="class")
    @classmethod
    def cluster(cls, nodes):
        """Yields the coordinator's address, at the beginning."""
        yield up_ray(config_of(ray={"coordinator_resources": {"seat": 1}}))  # the second node
        down_ray("ads")
        assert_nothing_is_left()


class TestWhileItRuns(OneCluster):
    """What leaves it as it is; the last one scales it."""

    def test_a_second_up_of_the_same_name_is_refused(self, cluster):
        with pytest.raises(InvalidRequest, match="cluster 'ads' runs already"):
            up_ray(config_of(shards=1))

    def test_a_cluster_without_logs_is_not_ended_by_a_down_that_is_to_keep_them(
        self, cluster, tmp_path, monkeypatch
    ):
        monkeypatch.setattr(local_ray, "is_own", lambda address: False)  # its address looks like that of one
        record = Record("ads", "ray", cluster, ray=attached_to() or "")
        with pytest.raises(InvalidRequest, match="in memory only, so none can be kept"):
            down(record, ClusterDirectory(tmp_path), keep=True)
        assert answers("ads")

    def test_a_cluster_is_found_by_name_and_the_others_are_named(self, cluster):
        assert address_of("ads") == cluster
        assert clusters() == ["ads"]
        with pytest.raises(Unavailable, match=r"no cluster 'adz' runs on this Ray .*; there are: ads"):
            address_of("adz")

    def test_a_process_of_its_own_finds_the_cluster_by_name(self, cluster):
        script = "from rowloom.deploy import address_of; print(address_of('ads'))"
        environment = {**os.environ, "RAY_ADDRESS": attached_to(), "RAY_AUTH_MODE": "disabled"}
        command = [sys.executable, "-W", "ignore", "-c", script]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.stdout.strip().endswith(cluster), done.stderr

    def test_shards_spread_over_the_nodes_and_placement_groups_grow_and_shrink_with_them(self, cluster):
        assert groups() == {"rowloom/ads/0-1": 2}
        with connect(cluster) as client, Remote(cluster) as remote:
            status = remote.status()
            assert {s.shard.address.partition(":")[0] for s in status.shards} == set(NODES)
            for shard in status.shards:  # each advertises the address of its own node
                assert shard.node.startswith(shard.shard.address.partition(":")[0])
            table = trained(client)
            remote.scale(4)
            hosts = [s.shard.address.partition(":")[0] for s in remote.status().shards]
            assert sorted(hosts) == sorted(2 * NODES)
            assert groups() == {"rowloom/ads/0-1": 2, "rowloom/ads/2-3": 2}
            remote.scale(2)
            until(
                lambda: groups() == {"rowloom/ads/0-1": 2}
            )  # retired servers first tell clients where to go
            remote.scale(3)
            assert groups() == {"rowloom/ads/0-1": 2, "rowloom/ads/4-4": 1}
            assert_trained(table)


class TestWhatEnds(OneCluster):
    """Coordinators, then shards, then all of it."""

    @pytest.mark.slow
    def test_shards_outlive_their_coordinator_and_the_next_one_finds_them(self, cluster, tmp_path):
        directory, address = ClusterDirectory(tmp_path), address_of("ads")
        directory.put(Record("ads", "ray", address, ray=attached_to() or ""))
        with connect(address) as client:
            table = trained(client)
            with Remote(address) as remote:
                remote.scale(2)
                before = remote.status()
                remote.scale(3)
                remote.scale(2)  # a server is still to be stopped when the coordinator dies
            os.kill(pid_of("ads/coordinator"), signal.SIGKILL)
            assert_trained(table)
            until(lambda: answers("ads"))
            remote, after = reach(directory.get("ads"), directory)  # Ray restarted it at another port
            with remote:
                assert directory.get("ads").address == remote.address == address_of("ads") != address
                assert {at.partition(":")[0] for at in (address, remote.address)} == {NODES[1]}
                assert [s.shard for s in after.shards] == [s.shard for s in before.shards]
                assert groups() == {"rowloom/ads/0-1": 2}
                remote.scale(3)  # a client that was there before hears of the new layout
                assert_trained(table)
                remote.scale(2)

    @pytest.mark.slow
    def test_a_shard_that_only_stands_still_on_ray_keeps_its_rows_unless_its_end_is_forced(self, cluster):
        address = address_of("ads")
        with connect(address, timeout_s=120.0) as client, Remote(address) as remote:
            table = trained(client)
            pid = remote.status().shards[0].pid
            stop(pid)
            try:
                until(lambda: [s.health for s in remote.status().shards] == ["unreachable", "serving"])
                assert remote.status().shards[0].pid == pid
                with pytest.raises(
                    InvalidRequest, match=rf"its process {pid} on \S+ is alive and may hold its rows"
                ):
                    remote.accept_loss(0)
            finally:
                os.kill(pid, signal.SIGCONT)
            assert_trained(table)
            stop(pid)
            remote.accept_loss(0, force=True)
            np.testing.assert_array_equal(table.pull(IDS)[::2], 0.0)

    def test_a_shard_that_ray_restarts_says_that_its_rows_are_lost(self, cluster):
        address = address_of("ads")
        with connect(address, timeout_s=120.0) as client, Remote(address) as remote:
            table = trained(client)
            os.kill(remote.status().shards[0].pid, signal.SIGKILL)
            with pytest.raises(StateLost, match="holds no rows"):
                table.pull(IDS)
            np.testing.assert_array_equal(
                table.pull([1]), np.full((1, 4), -1.0, np.float32)
            )  # the other lives
            until(lambda: [s.health for s in remote.status().shards] == ["lost", "serving"])
            remote.accept_loss(0)  # made anew in its place: its actor is there, and empty
            assert [s.health for s in remote.status().shards] == ["serving", "serving"]
        with connect(address) as client:
            rows = client.table("t").pull(IDS)
        np.testing.assert_array_equal(rows[1::2], -1.0)
        np.testing.assert_array_equal(rows[::2], 0.0)

    def test_a_shutdown_by_someone_without_ray_leaves_nothing(self, cluster):
        with Remote(address_of("ads")) as remote:
            remote.shutdown()
        until(lambda: not ray.util.list_named_actors(all_namespaces=True) and not groups())


def test_a_cluster_for_which_there_is_no_room_says_for_which_it_waits_and_what_is_free_and_leaves_nothing(
    nodes,
):
    told: list[str] = []
    with pytest.raises(Unavailable, match=r"no room for 9 shards of .*CPU.* free now: .*: CPU 3; .*: CPU 3"):
        up_ray(config_of(shards=9, limits={"start_timeout_s": 10}), told.append)
    assert "waiting for room on Ray, at most 10 s" in told[0]
    assert (
        "9 shards of CPU 1 each (SPREAD), CPU 9 in all; more than there is even when all is free: 6 fit"
        in told[0]
    )
    assert_nothing_is_left()


def test_actors_without_a_coordinator_are_not_thrown_away_by_up(nodes):
    up_ray(config_of())
    ray.kill(ray.get_actor("ads/coordinator", "rowloom"), no_restart=True)
    until(lambda: not answers("ads"))
    with pytest.raises(InvalidRequest, match=r"2 actors .* maybe with rows: `rowloom down --name ads`"):
        up_ray(config_of())
    down_ray("ads")
    down_ray("ads")  # again: no error
    assert_nothing_is_left()


def test_an_address_in_the_wanted_network_isadvertised():
    from rowloom.deploy.launch.ray_actors import advertised

    assert advertised(None, "10.0.0.1") == "10.0.0.1"
    assert advertised("shards.example", "10.0.0.1") == "shards.example"
    assert advertised("10.0.0.0/8", "10.0.0.1") == "10.0.0.1"
    with pytest.raises(InvalidRequest, match=r"no address in 203\.0\.113\.0/24; it has .*10\.0\.0\.1"):
        advertised("203.0.113.0/24", "10.0.0.1")
