"""Standbys on a Ray of several nodes: on another node than their shard, put in its place, and gone with the cluster.

See `raylets.py` for the nodes.
"""

import contextlib
import os
import signal
from contextlib import nullcontext

import pytest
from ray_trained import IDS, SPEC, assert_nothing_is_left, shown, trained
from raylets import POOL, raylets
from waiting import until

from rowloom.client import connect
from rowloom.deploy import address_of
from rowloom.deploy.config.config import parse
from rowloom.deploy.operate.applying import apply
from rowloom.deploy.operate.remote import Remote
from rowloom.proto.errors import Unavailable

ray = pytest.importorskip("ray")

from rowloom.deploy.launch.launcher import ServerProcess  # noqa: E402
from rowloom.deploy.launch.ray_actors import actors_of  # noqa: E402
from rowloom.deploy.launch.ray_launcher import RayLauncher  # noqa: E402
from rowloom.deploy.launch.shared_folder import Token  # noqa: E402
from rowloom.deploy.operate.ray_clusters import down_ray, up_ray  # noqa: E402

# What is ignored is of what Ray's test cluster leaves open.
pytestmark = [pytest.mark.ray, pytest.mark.filterwarnings("ignore")]
STALE = Token("/nowhere/logs/token-1", "written on another machine")
HEAD, SECOND, THIRD = "127.0.0.40", "127.0.0.41", "127.0.0.42"


def config_of(name: str, **changes):
    ray_section = {"label_selector": POOL, **changes.pop("ray", {})}
    given = {
        "name": name,
        "shards": 2,
        "replicas": 1,
        "launcher": "ray",
        "tables": [SPEC],
        "ray": ray_section,
    }
    return parse({**given, "security": {"insecure": True}, **changes})


def applied(name: str, **changes) -> None:
    with Remote(address_of(name)) as remote:
        apply(config_of(name, **changes), remote, remote.status())


def in_step(name: str) -> bool:
    """Whether each shard serves, and has a standby that may take its place, on another node."""
    with contextlib.suppress(Unavailable, ValueError, ray.exceptions.RayError):
        return all(
            shard["health"] == "serving"
            and shard["standby"] is not None
            and shard["standby"]["state"] == "in step"
            and node_of(shard) != node_of(shard["standby"])
            for shard in shown(name)["shards"]
        )
    return False


def node_of(server: dict) -> str:
    return server["address"].partition(":")[0]


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


def servers(name: str) -> dict[str, int]:
    """By name, the process of each actor."""
    return {a: ray.get(ray.get_actor(a, "rowloom").info.remote())[-1] for a in actors_of(name)}


def bundles() -> int:
    """How many are set aside, for all clusters."""
    table = ray.util.placement_group_table().values()
    return sum(len(group["bundles"]) for group in table if group["state"] != "REMOVED")


@pytest.fixture(scope="module")
def nodes(tmp_path_factory):
    """A head, and two nodes of the pool; this process is attached."""
    with raylets(HEAD, [SECOND, THIRD], tmp_path_factory.mktemp("head")) as found:
        yield found


@pytest.fixture(scope="module")
def ram(nodes):
    """Two shards in memory, each with a standby. Tests take it as the one before has left it."""
    up_ray(config_of("ram"))
    yield "ram"
    down_ray("ram")
    assert_nothing_is_left("ram")


def test_a_standby_is_on_another_node_and_takes_the_place_of_a_server_that_is_killed(ram):
    until(lambda: in_step(ram))
    before = shown(ram)["shards"]
    assert sorted(map(node_of, before)) == [SECOND, THIRD]
    with trained(ram) as trainer:
        for index in (0, 1, 0):
            pid = shown(ram)["shards"][index]["pid"]
            key = next(int(a.rpartition("-")[2]) for a, one in servers(ram).items() if one == pid)
            kill(pid)
            trainer.goes_on()
            until(lambda: in_step(ram))
            # A server that was killed leaves its bundle to the next standby, so none is set aside for nobody.
            assert bundles() == 4
            # Its node has seen it end, so nobody waited for it to serve no more; also as another process asks.
            assert RayLauncher(config_of(ram)).look(key) == ServerProcess("ended", sure=True)
    after = shown(ram)["shards"]
    assert [s["pid"] for s in after if s["pid"] in {b["pid"] for b in before}] == []


def test_a_coordinator_that_is_started_again_leaves_standbys_as_they_are_and_uses_them(ram):
    until(lambda: in_step(ram))
    before = servers(ram)
    with trained(ram) as trainer:
        kill(before["ram/coordinator"])
        until(lambda: in_step(ram))
        after = servers(ram)
        assert before.pop("ram/coordinator") != after.pop("ram/coordinator")
        assert before == after
        one = shown(ram)["shards"][0]
        for pid in (servers(ram)["ram/coordinator"], one["pid"]):  # nobody is there who could promote
            kill(pid)
        trainer.goes_on()
        until(lambda: in_step(ram))
        now = shown(ram)["shards"][0]
        assert (now["pid"], now["address"]) == (one["standby"]["pid"], one["standby"]["address"])


def test_standbys_are_read_from_and_end_and_come_again_by_apply(ram):
    until(lambda: in_step(ram))
    with connect(address_of(ram), read_from="nearest", max_staleness_s=60.0) as reader:
        table = reader.table("t")
        until(lambda: len(table.pull(IDS)) and any(s["standby"]["pulls"] for s in shown(ram)["shards"]))
    with trained(ram) as trainer:
        applied(ram, replicas=0)
        until(lambda: len(servers(ram)) == 3)  # the coordinator and two shards
        assert [s["standby"] for s in shown(ram)["shards"]] == [None, None]
        trainer.goes_on()
        applied(ram)
        until(lambda: in_step(ram))
        kill(shown(ram)["shards"][1]["pid"])
        trainer.goes_on()
    until(lambda: in_step(ram))


@pytest.mark.slow
def test_another_number_of_shards_has_standbys_again(ram):
    until(lambda: in_step(ram))
    with trained(ram), Remote(address_of(ram)) as remote:
        for shards in (3, 2):
            remote.scale(shards)
            until(lambda count=shards: in_step(ram) and len(servers(ram)) == 1 + 2 * count)


def test_standbys_that_would_not_see_the_logs_of_their_shards_are_refused_with_the_folder(ram, monkeypatch):
    until(lambda: in_step(ram))
    launcher = RayLauncher(config_of(ram, storage="/nowhere", durability="process"))
    keys = sorted(launcher.keys())[:1]
    monkeypatch.setattr("rowloom.deploy.launch.ray_launcher.token_in", lambda folder: nullcontext(STALE))
    with pytest.raises(
        Unavailable, match=r"does not see what .* in /nowhere/logs.*; a standby is on another node"
    ):
        launcher.check_standbys(keys)


@pytest.mark.slow
def test_a_cluster_whose_standbys_have_no_room_does_not_start_and_leaves_nothing(nodes):
    with pytest.raises(
        Unavailable, match=r"no other node of Ray than \w+, where the shard is, has room .* CPU 2; free"
    ):
        up_ray(config_of("large", shards=4, ray={"num_cpus_per_shard": 2}))
    assert_nothing_is_left("large")


@pytest.mark.slow
def test_servers_that_were_started_without_standbys_lose_nothing_either(nodes):
    up_ray(config_of("later", shards=1, replicas=0))
    try:
        with trained("later") as trainer:
            applied("later", shards=1)
            until(lambda: in_step("later"))
            kill(shown("later")["shards"][0]["pid"])  # Ray starts this one again, without rows
            trainer.goes_on()
            until(lambda: in_step("later") and len(servers("later")) == 3)
    finally:
        down_ray("later")
    assert_nothing_is_left("later")
