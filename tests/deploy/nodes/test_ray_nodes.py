"""A Ray of three nodes: drained, taken away, killed; its head started anew; servers started anew one after the other.

See `raylets.py` for the nodes.
"""

import contextlib
import json
import os
import signal
import time

import pytest
from ray_trained import SPEC, trained
from raylets import POOL, raylets
from waiting import until

from rowloom.deploy import address_of
from rowloom.deploy.config.config import parse
from rowloom.deploy.config.runtime_env import digest_of
from rowloom.deploy.operate.directory import ClusterDirectory
from rowloom.deploy.operate.remote import Remote
from rowloom.proto.errors import InvalidRequest, Unavailable

ray = pytest.importorskip("ray")

from rowloom.deploy.launch.ray_actors import actors_of, groups_of  # noqa: E402
from rowloom.deploy.nodes.ray_nodes import nodes_of_ray  # noqa: E402
from rowloom.deploy.operate.ray_clusters import clusters, down_ray, find_ray, offer, up_ray  # noqa: E402

# Three raylets, of which some are killed: on two cores Ray takes minutes. By hand: `pytest -m slow` of this file.
# What is ignored is of what Ray's test cluster leaves open.
pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
HEAD, SECOND, THIRD = "127.0.0.5", "127.0.0.6", "127.0.0.7"


@pytest.fixture(scope="module")
def nodes(tmp_path_factory):
    """Three raylets; this process is attached."""
    with raylets(HEAD, [SECOND, THIRD], tmp_path_factory.mktemp("head")) as found:
        yield found


@pytest.fixture(scope="module")
def ram(nodes):
    """Two shards in memory, on the nodes of the pool."""
    yield up_ray(config_of("ram"))
    down_ray("ram")


@pytest.fixture(scope="module")
def kept(nodes, tmp_path_factory):
    """Two shards with logs, on the nodes of the pool."""
    yield up_ray(config_of("kept", storage=f"{tmp_path_factory.mktemp('kept')}", durability="process"))
    down_ray("kept")
    assert nothing_is_left("kept")


def config_of(name: str, **changes):
    ray_section = {"label_selector": POOL, **changes.pop("ray", {})}
    given = {"name": name, "shards": 2, "launcher": "ray", "tables": [SPEC], "ray": ray_section}
    return parse({**given, "security": {"insecure": True}, **changes})


def nothing_is_left(name: str) -> bool:
    return actors_of(name) == [] and groups_of(name) == []


def on(name: str) -> list[str]:
    """Addresses of the nodes of its shards."""
    return [shard.shard.address.partition(":")[0] for shard in status(name).shards]


def pids(name: str) -> set[int]:
    return {
        ray.get(ray.get_actor(actor, "rowloom").info.remote())[-1]
        for actor in actors_of(name)
        if "/mover" not in actor
    }


def pids_that_answer(name: str) -> set[int]:
    with contextlib.suppress(ValueError, ray.exceptions.RayError):  # Ray is just starting one again
        return pids(name)
    return set()


def all_are_new(name: str, before: set[int]) -> bool:
    with contextlib.suppress(ValueError, ray.exceptions.RayError):  # one is just being started
        return not pids(name) & before
    return False


def environment(pid: int) -> str:
    with open(f"/proc/{pid}/environ") as file:
        return file.read()


def coordinator_on(name: str) -> str:
    actor = ray.get_actor(f"{name}/coordinator", "rowloom")
    there = {node.id: node.address for node in nodes_of_ray()}
    return there.get(ray.get(actor.node.remote()), "gone")


def has_left(name: str, address: str) -> bool:
    """Whether all of a cluster serves, and nothing of it is on a node."""
    with contextlib.suppress(Unavailable, ValueError, ray.exceptions.RayError):
        return healthy(name) and address not in [*on(name), coordinator_on(name)]
    return False


def answers(name: str) -> bool:
    with contextlib.suppress(Unavailable, ValueError, ray.exceptions.RayError):
        return find_ray(name, 5.0) is not None
    return False


def status(name: str):
    with Remote(address_of(name)) as remote:
        return remote.status()


def status_at(coordinator: str):
    with Remote(coordinator) as remote:
        return remote.status()


def healthy(name: str) -> bool:
    with contextlib.suppress(Exception):
        return all(shard.health == "serving" for shard in status(name).shards)
    return False


def test_a_node_is_drained_and_used_again_while_trainers_go_on(nodes, ram):
    assert sorted(on("ram")) == [SECOND, THIRD]
    with trained("ram"):
        with Remote(address_of("ram")) as remote:
            with pytest.raises(InvalidRequest, match=r"there is no node '10\.9\.9\.9'"):
                remote.drain("10.9.9.9")
            done = remote.drain(THIRD)
            assert (done.address, len(done.shards), done.move.state) == (THIRD, 1, "done")
        until(lambda: has_left("ram", THIRD))
        with Remote(address_of("ram")) as remote:
            assert remote.status().drained == [done.node]
            with pytest.raises(Unavailable, match=r"no other node has room for 2 shards.* Nothing was moved"):
                remote.drain(SECOND)
            assert remote.undrain(done.node[:8]).address == THIRD
            assert not remote.status().drained


def test_every_server_is_started_anew_with_another_environment_while_trainers_go_on(nodes, kept, tmp_path):
    before = pids("kept")
    env = {"env_vars": {"ROWLOOM_TRIAL": "second"}}
    with trained("kept"):
        with Remote(address_of("kept")) as remote:
            offer(
                config_of("kept", ray={"address": nodes.address, "runtime_env": env}),
                ClusterDirectory(tmp_path),
            )
            done = remote.upgrade(digest_of(env))
            assert (done.state, list(done.handed_over)) == ("done", [0, 1])
        until(lambda: healthy("kept") and all_are_new("kept", before))
    assert len(pids("kept")) == 3  # two shards and the coordinator
    assert all("ROWLOOM_TRIAL=second" in environment(pid) for pid in pids("kept"))
    with Remote(address_of("kept")) as remote:
        assert parse(json.loads(remote.status().config)).ray.runtime_env == env


def test_trainers_do_not_notice_that_the_head_is_started_anew(nodes, kept):
    coordinator = address_of("kept")
    with trained("kept") as trainer:
        nodes.kill_head_server()
        trainer.goes_on()
        assert len(status_at(coordinator).shards) == 2  # it answers without Ray
        nodes.start_head_server()
        until(lambda: answers("kept") and healthy("kept"))
    assert "kept" in clusters()


def test_a_node_that_ray_takes_away_is_left_by_itself(nodes, kept):
    from ray.core.generated import autoscaler_pb2

    taken = on("kept")[0]
    node = next(node for node in nodes_of_ray() if node.address == taken)
    head = ray._raylet.GcsClient(address=nodes.address)
    why = autoscaler_pb2.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
    deadline_ms = int((time.time() + 600) * 1000)
    with trained("kept"):
        assert head.drain_node(node.id, why, "spot", deadline_ms) == (True, "")
        until(lambda: has_left("kept", taken))


def test_shards_of_a_node_that_is_killed_come_back_elsewhere_with_all_rows(nodes, kept):
    nodes.add("127.0.0.8")
    killed = on("kept")[0]
    with trained("kept"):
        nodes.kill(killed)
        until(lambda: has_left("kept", killed))


def test_down_leaves_nothing_after_shards_and_coordinator_were_killed_and_other_clusters_alone(ram, kept):
    until(lambda: answers("kept") and healthy("kept"))  # whatever befell its nodes before
    until(lambda: len(pids_that_answer("ram")) == 3)  # shards without rows, and the coordinator
    for pid in pids_that_answer("ram"):
        os.kill(pid, signal.SIGKILL)
    down_ray("ram")
    assert nothing_is_left("ram")
    assert clusters() == ["kept"]
    assert healthy("kept")
