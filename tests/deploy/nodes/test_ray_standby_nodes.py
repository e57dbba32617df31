"""Standbys and whole nodes of Ray: one node only, more of them, drained, taken away, killed.

A sequence on one Ray: each test takes the nodes as the one before has left them. See `raylets.py` for them.
"""

import contextlib
import os
import signal
import time

import pytest
from ray_trained import SPEC, assert_nothing_is_left, shown, trained
from raylets import POOL, raylets
from stopping import stop
from waiting import until

from rowloom.deploy import address_of
from rowloom.deploy.config.config import parse
from rowloom.deploy.launch.processes import is_running, started
from rowloom.deploy.operate.remote import Remote
from rowloom.proto.errors import Unavailable

ray = pytest.importorskip("ray")

from rowloom.deploy.launch.launcher import ServerProcess  # noqa: E402
from rowloom.deploy.launch.ray_launcher import RayLauncher  # noqa: E402
from rowloom.deploy.nodes.ray_nodes import nodes_of_ray  # noqa: E402
from rowloom.deploy.operate.ray_clusters import down_ray, up_ray  # noqa: E402

# Four raylets, of which some are killed: on two cores Ray takes minutes. By hand: `pytest -m slow` of this file.
# What is ignored is of what Ray's test cluster leaves open.
pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
HEAD, FIRST, SECOND, THIRD, FOURTH = (f"127.0.0.{number}" for number in range(50, 55))


def config_of(name: str, **changes):
    given = {"name": name, "shards": 2, "replicas": 1, "launcher": "ray", "tables": [SPEC]}
    return parse({**given, "ray": {"label_selector": POOL}, "security": {"insecure": True}, **changes})


def node_of(server: dict) -> str:
    return server["address"].partition(":")[0]


def pairs(name: str) -> list[tuple[str, str]]:
    """Of each shard that serves, the addresses of its node and of its standby's, which is in step."""
    with contextlib.suppress(Unavailable, ValueError, ray.exceptions.RayError):
        shards = shown(name)["shards"]
        if all(
            s["health"] == "serving" and s["standby"] and s["standby"]["state"] == "in step" for s in shards
        ):
            return [(node_of(shard), node_of(shard["standby"])) for shard in shards]
    return []


def protected(name: str, *away: str) -> bool:
    """Whether each shard has a standby in step on another node, and nothing is on these."""
    found = pairs(name)
    return bool(found) and all(a != b and a not in away and b not in away for a, b in found)


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


@pytest.fixture(scope="module")
def nodes(tmp_path_factory):
    """A head, and one node of the pool; this process is attached."""
    with raylets(HEAD, [FIRST], tmp_path_factory.mktemp("head")) as found:
        yield found


@pytest.fixture(scope="module")
def ram(nodes):
    """Two shards in memory, each with a standby."""
    up_ray(config_of("ram"))
    yield "ram"
    down_ray("ram")
    assert_nothing_is_left("ram")


@pytest.fixture(scope="module")
def kept(nodes, tmp_path_factory):
    """The same with logs."""
    up_ray(config_of("kept", storage=f"{tmp_path_factory.mktemp('kept')}", durability="process"))
    yield "kept"
    down_ray("kept")
    assert_nothing_is_left("kept")


def test_where_ray_has_one_node_standbys_are_there_and_leave_it_for_the_first_other_one(nodes, ram):
    until(lambda: pairs(ram) == [(FIRST, FIRST)] * 2)
    with trained(ram) as trainer:
        kill(shown(ram)["shards"][0]["pid"])
        trainer.goes_on()
        until(lambda: pairs(ram) == [(FIRST, FIRST)] * 2)
        nodes.add(SECOND)
        until(lambda: pairs(ram) == [(FIRST, SECOND)] * 2)


def test_a_drained_node_is_left_by_standbys_and_where_no_other_may_have_one_there_is_none(nodes, ram):
    with trained(ram), Remote(address_of(ram)) as remote:
        done = remote.drain(SECOND)
        assert (list(done.shards), list(done.standbys)) == ([], [0, 1])
        until(lambda: [s["standby"] for s in shown(ram)["shards"]] == [None, None])
        until(lambda: any("has no standby yet: no other node of Ray" in s for s in shown(ram)["unfinished"]))
        remote.undrain(SECOND)
        until(lambda: pairs(ram) == [(FIRST, SECOND)] * 2)


def test_shards_that_leave_a_drained_node_have_standbys_again_on_others(nodes, ram):
    nodes.add(THIRD)
    with trained(ram), Remote(address_of(ram)) as remote:
        done = remote.drain(FIRST)
        assert (list(done.shards), done.move.state) == ([0, 1], "done")
        until(lambda: protected(ram, FIRST))
    with Remote(address_of(ram)) as remote:  # the coordinator may have left that node, too
        remote.undrain(FIRST)


def test_a_node_that_ray_takes_away_is_left_by_standbys_too(nodes, ram):
    from ray.core.generated import autoscaler_pb2

    taken = pairs(ram)[0][1]
    node = next(node for node in nodes_of_ray() if node.address == taken)
    head = ray._raylet.GcsClient(address=nodes.address)
    why = autoscaler_pb2.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
    with trained(ram):
        assert head.drain_node(node.id, why, "spot", int((time.time() + 600) * 1000)) == (True, "")
        until(lambda: protected(ram, taken))
    nodes.kill(taken)
    nodes.add(FOURTH)


@pytest.mark.parametrize("durability", ["memory", "process"])
def test_a_node_that_is_killed_with_a_shard_and_the_standby_of_another_costs_no_call(
    nodes, tmp_path, durability
):
    kept = {"storage": str(tmp_path), "durability": durability}
    up_ray(config_of("three", shards=3, **kept))
    try:
        until(lambda: protected("three"))
        killed = next(node for node, _ in pairs("three") if node in {other for _, other in pairs("three")})
        launcher = RayLauncher(config_of("three", shards=3, **kept))
        key = next(key for key in sorted(launcher.keys()) if launcher.look(key).node.startswith(killed))
        with trained("three") as trainer:
            nodes.kill(killed)
            trainer.goes_on()
            until(lambda: protected("three", killed))
        assert launcher.look(key) == ServerProcess("ended", sure=False)  # it may have been cut off only
        nodes.add(killed)
    finally:
        down_ray("three")
    assert_nothing_is_left("three")


def test_a_standby_takes_the_log_of_its_shard_and_when_both_end_the_log_is_read(nodes, kept):
    until(lambda: protected(kept))
    with trained(kept) as trainer:
        for both in (False, True):
            shard = shown(kept)["shards"][0]
            kill(shard["pid"])
            if both:
                kill(shard["standby"]["pid"])
            trainer.goes_on()
            until(lambda: protected(kept))


def test_a_server_that_ends_while_the_head_is_away_is_replaced_when_that_is_back(nodes, kept):
    until(lambda: protected(kept))
    with trained(kept) as trainer:
        pid = shown(kept)["shards"][0]["pid"]
        with nodes.head_away():
            kill(pid)
        trainer.goes_on()
        until(lambda: protected(kept))


def test_a_server_that_stands_still_is_ended_and_its_standby_has_the_log(nodes, kept):
    until(lambda: protected(kept))
    pid = shown(kept)["shards"][0]["pid"]
    began = started(pid)
    with trained(kept) as trainer:
        stop(pid)
        trainer.goes_on()
        assert not is_running(pid, began)  # it had the lock of the log
        until(lambda: protected(kept))
