"""The contract on Ray: shards as actors on a Ray of this machine, scaled as `rowloom scale` does it."""

import os
from pathlib import Path

import pytest
from contract import Contract

from rowloom.client import Client, connect
from rowloom.deploy.config.config import parse
from rowloom.deploy.launch.ray_session import attached
from rowloom.deploy.observe.log_files import chosen, logs_of
from rowloom.deploy.operate import local_ray
from rowloom.deploy.operate.clusters import down, reach, up
from rowloom.deploy.operate.directory import ClusterDirectory

pytestmark = pytest.mark.ray


class RayCluster:
    """What `rowloom up` starts with `launcher: ray`."""

    def __init__(self, home) -> None:
        self._directory = ClusterDirectory(home)
        ray = {"address": "local", "num_cpus_per_shard": 0.1}
        config = parse(
            {
                "name": "contract",
                "shards": 2,
                "launcher": "ray",
                "ray": ray,
                "storage": f"file://{home}/state",
            }
        )
        self.record = up(config, self._directory).record
        self.address = self.record.address

    def connect(self, **options) -> Client:
        return connect(self.address, **options)

    def scale(self, shards: int) -> None:
        remote, _ = reach(self.record, self._directory)
        with remote:
            remote.scale(shards)

    def close(self) -> None:
        down(self.record, self._directory)


def without_tokens() -> None:
    """As if this process had been at a Ray without tokens before, which Ray has not forgotten."""
    raylet = pytest.importorskip("ray._raylet")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "disabled")
        raylet.Config.initialize("")


class TestRay(Contract):
    STEPS = 40
    MOST_SHARDS = 3

    @pytest.fixture(scope="class")
    @classmethod
    def cluster(cls, tmp_path_factory):
        os.environ.setdefault("RAY_AUTH_MODE", "token")  # as a token that was shown there before leaves it
        without_tokens()  # that mode once stayed: our own Ray refused us
        cluster = RayCluster(tmp_path_factory.mktemp("home"))
        yield cluster
        cluster.close()

    def test_status_names_the_files_to_which_ray_sends_what_they_log(self, cluster):
        remote, status = reach(cluster.record, cluster._directory)
        remote.close()
        assert Path(status.log_file).is_file()
        for shard in status.shards:
            assert f"process=shard-{shard.shard.index} place=" in Path(shard.statistics.log_file).read_text()
        (log, *_) = logs_of(status)
        assert chosen(logs_of(status), "coordinator") == [log]

    def test_shards_are_no_nicer_than_the_trainers_beside_them(self, cluster):
        ray = pytest.importorskip("ray")
        found = local_ray.find(cluster._directory)
        assert found is not None
        with attached(found.address, token=local_ray.token_of(found.address, cluster._directory)):
            names = [a["name"] for a in ray.util.list_named_actors(all_namespaces=True)]
            shards = [ray.get_actor(name, "rowloom") for name in names if "/shard-" in name]
            pids = [ray.get(shard.info.remote())[-1] for shard in shards]
        assert pids
        assert {os.getpriority(os.PRIO_PROCESS, pid) for pid in pids} == {os.getpriority(os.PRIO_PROCESS, 0)}
