"""`rowloom apply` with another version of rowloom, in a shared folder: every server has it, and trainers go on.

A Ray of two nodes; see `raylets.py`.
"""

import gc
import json
import shutil
import threading
from functools import partial

import numpy as np
import pytest
from raylets import raylets
from waiting import PATIENCE_S, until
from wheels import wheel_of

from rowloom.client import SGD, TableSpec, Zeros, connect
from rowloom.deploy import address_of

pytest.importorskip("ray")

# By hand: `pytest -m slow` of this file. What is ignored is of what Ray's test cluster leaves open.
pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.timeout(600),
]
HEAD, NODE = "127.0.0.30", "127.0.0.31"
IDS, ONES = np.arange(500), np.ones((500, 4), np.float32)
CONFIG = """
name: ads
shards: 2
launcher: ray
{storage}
security: {{insecure: true}}
ray:
  address: {ray}
  runtime_env: {env}
"""


@pytest.fixture(scope="module")
def ray(tmp_path_factory):
    with raylets(HEAD, [NODE], tmp_path_factory.mktemp("head")) as found:
        yield found
    gc.collect()


@pytest.fixture(scope="module")
def newer(tmp_path_factory) -> str:
    """The URL of a zip with another version, as `py_modules` takes it. A wheel is one."""
    folder = tmp_path_factory.mktemp("wheels")
    return f"file://{shutil.copy(wheel_of('99.1.0', folder), folder / 'rowloom-99.1.0.zip')}"


def versions(cli) -> list[str]:
    """Of the coordinator, then of each shard."""
    state = json.loads(cli.run("status", "--name", "ads", "--json")[0])
    return [state["version"], *(shard["version"] for shard in state["shards"])]


def all_have(cli, version: str) -> bool:
    out, _, code = cli.attempt("status", "--name", "ads", "--json")
    if code:  # the coordinator has just left
        return False
    state = json.loads(out)
    return {state["version"], *(shard["version"] for shard in state["shards"])} == {version}


@pytest.mark.parametrize("durability", ["memory", "process"])
def test_every_server_says_the_version_of_a_wheel_after_apply_while_a_trainer_pushes(
    cli, ray, newer, durability, tmp_path
):
    storage = f"storage: {tmp_path}/kept\ndurability: process" if durability == "process" else ""

    def write(env: dict) -> None:
        cli.write(CONFIG.format(storage=storage, ray=ray.address, env=json.dumps(env)))

    write({})
    cli.run("up", "deploy.yaml")
    before = versions(cli)
    assert "99.1.0" not in before
    ending, failed, pushed = threading.Event(), [], 0
    with connect(partial(address_of, "ads"), timeout_s=PATIENCE_S) as client:
        spec = TableSpec("t", 500, dim=4, optimizer=SGD(lr=1.0), initializer=Zeros())
        table = client.create_table(spec)

        def train() -> None:
            nonlocal pushed
            try:
                while not ending.is_set():
                    table.push(IDS, ONES)
                    pushed += 1
                    assert (table.pull(IDS) == -pushed).all()
            except BaseException as e:
                failed.append(e)

        trainer = threading.Thread(target=train)
        trainer.start()
        try:
            write({"py_modules": [newer]})
            done = cli.json("apply", "deploy.yaml")
            assert [change["action"] for change in done["changes"]] == ["upgrade"]
            until(lambda: all_have(cli, "99.1.0"))
            seen = pushed
            until(lambda: failed or pushed > seen + 3)
        finally:
            ending.set()
            trainer.join()
    assert not failed
    assert versions(cli) == ["99.1.0"] * 3
    cli.run("down", "--name", "ads")


def test_a_wheel_that_is_not_there_leaves_the_cluster_as_it_was(cli, ray, tmp_path):
    cli.write(CONFIG.format(storage="limits: {start_timeout_s: 20}", ray=ray.address, env={}))
    cli.run("up", "deploy.yaml")
    before = versions(cli)
    missing = f"file://{tmp_path}/rowloom-98.0.zip"
    wrong = json.dumps({"py_modules": [missing]})
    cli.write(CONFIG.format(storage="limits: {start_timeout_s: 20}", ray=ray.address, env=wrong))
    _, err, code = cli.attempt("apply", "deploy.yaml")
    assert code
    assert "98.0" in err
    assert versions(cli) == before
    cli.run("down", "--name", "ads")
