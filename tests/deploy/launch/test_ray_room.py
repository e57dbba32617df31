"""What shards ask of a Ray, what fits, and whether a Ray answers at all. Needs no Ray."""

import contextlib
import socket

import pytest

from rowloom.deploy import local_cluster
from rowloom.deploy.config.config import DeployConfig, parse
from rowloom.deploy.launch import ray_room
from rowloom.deploy.launch.ray_room import asked, bundle_of, capacity, waits_for_node
from rowloom.deploy.launch.ray_session import answers, attach
from rowloom.deploy.operate import local_ray
from rowloom.proto.errors import Unavailable

GIB = 2**30
LAPTOP = {"CPU": 8.0, "memory": 10.0 * GIB, "node:__internal_head__": 1.0}


def config_of(**ray) -> DeployConfig:
    return parse({"shards": 4, "launcher": "ray", "ray": ray})


def test_a_shard_asks_for_cores_memory_and_resources():
    config = config_of(num_cpus_per_shard=0.5, memory_per_shard="8GiB", resources={"ps": 1})
    assert bundle_of(config) == {"CPU": 0.5, "ps": 1.0, "memory": 8.0 * GIB}
    assert asked(config) == (
        "4 shards of CPU 0.5, ps 1, memory 8.0 GiB each (SPREAD), CPU 2, ps 4, memory 32.0 GiB in all"
    )


def test_what_is_asked_for_at_a_start_has_standbys_in_it_and_so_has_the_room_of_our_own_ray(monkeypatch):
    config = config_of(memory_per_shard="2GiB").model_copy(update={"replicas": 1})
    assert asked(config, standbys=True) == (
        "4 shards and 4 standbys of CPU 1, memory 2.0 GiB each (SPREAD), CPU 8, memory 16.0 GiB in all"
    )
    monkeypatch.setattr(ray_room, "resources_of_nodes", lambda: [LAPTOP])
    with pytest.raises(
        Unavailable, match=r"no room for 4 shards and 4 standbys of .*: 5 fit; the 1 nodes have"
    ):
        ray_room.check_room(config)
    ray_room.check_room(config_of(memory_per_shard="2GiB"))
    monkeypatch.setattr(ray_room, "resources_of_nodes", lambda: [{"CPU": 8.0, "memory": 16.0 * GIB}])
    ray_room.check_room(config)


@pytest.mark.parametrize(
    ("ray", "nodes", "fit"),
    [
        ({"memory_per_shard": "8GiB"}, [LAPTOP], 1),
        ({"memory_per_shard": "8GiB"}, [LAPTOP, LAPTOP], 2),
        ({"memory_per_shard": "1GiB"}, [LAPTOP], 8),
        ({"memory_per_shard": "1GiB", "placement": "STRICT_SPREAD"}, [LAPTOP, LAPTOP], 2),
        ({"placement": "STRICT_PACK"}, [LAPTOP, {"CPU": 3.0}], 8),
        ({"resources": {"ps": 1}}, [LAPTOP], 0),
        ({}, [], 0),
    ],
)
def test_so_many_shards_fit_on_empty_nodes(ray, nodes, fit):
    assert capacity(config_of(**ray), nodes) == fit


@contextlib.contextmanager
def head_that_hangs():
    """The kernel accepts connections for it, and it never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


def test_a_head_that_hangs_or_is_gone_does_not_answer_and_one_that_speaks_grpc_does():
    with head_that_hangs() as address:
        assert not answers(address, 0.2)
    assert not answers(address, 5.0)
    assert not answers("nowhere", 0.2)
    with local_cluster(shards=1) as cluster:
        assert answers(cluster.address, 120.0)


def test_nobody_attaches_to_a_head_that_hangs(monkeypatch):
    pytest.importorskip("ray")
    monkeypatch.setattr("rowloom.deploy.launch.ray_session.ANSWER_S", 0.2)
    monkeypatch.setattr(answers, "__defaults__", (0.2,))
    with (
        head_that_hangs() as address,
        pytest.raises(Unavailable, match=f"the Ray at {address} did not answer within"),
    ):
        attach(address)


def test_the_port_of_a_ray_was_one_that_the_system_gave_to_somebody_else_while_it_started():
    lowest = 32_768  # of those that Linux deals out
    assert all(1024 < local_ray._free_port() < lowest for _ in range(20))


def test_a_coordinator_whose_node_is_not_there_is_waited_for_by_name():
    config = config_of(coordinator_resources={"head": 1})
    assert waits_for_node(config, [LAPTOP, {"CPU": 1.0, "head": 1.0}]) == ""
    assert waits_for_node(config_of(), [LAPTOP]) == ""
    assert waits_for_node(config, [LAPTOP]).startswith(
        "no node of Ray has what the coordinator needs, ray.coordinator_resources head 1: start one with it"
    )
