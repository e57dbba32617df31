"""Clusters of processes that begin with a snapshot, killed right after or in the middle; and the command line."""

import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
from command_line import Cli
from killing import kill_all

from rowloom.client import SGD, Adam, Normal, TableSpec, Unavailable, connect
from rowloom.deploy import local_cluster
from rowloom.deploy.config.config import parse
from rowloom.deploy.control import receiving, restoring
from rowloom.deploy.coordinator_server import CoordinatorServer
from rowloom.deploy.launch.local_launcher import ProcessLauncher

SPEC = TableSpec("t", 2000, dim=8, optimizer=Adam(lr=0.1), initializer=Normal(std=0.1, seed=3))
ALL, IDS = np.arange(2000), np.arange(0, 2000, 3)
NEW = """
name: new
shards: 3
storage: {storage}
durability: process
tables:
  - {{name: t, num_embeddings: 2000, dim: 8, partition: div, optimizer: {{adam: {{lr: 0.1}}}},
     initializer: {{normal: {{std: 0.1, seed: 3}}}}}}
  - {{name: more, num_embeddings: 10, dim: 1, optimizer: {{sgd: {{lr: 1.0}}}}}}
"""


def push(client, seed: int) -> np.ndarray:
    """A push, the same for everyone who names the same seed. Returns all rows after it."""
    table = client.table("t")
    table.push(IDS, np.random.default_rng(seed).standard_normal((len(IDS), 8), np.float32))
    return table.pull(ALL)


@pytest.fixture(scope="module")
def taken(tmp_path_factory) -> tuple[str, np.ndarray, np.ndarray]:
    """A snapshot's folder, which stays as it is; the rows in it, and what they are one push later."""
    old = tmp_path_factory.mktemp("old")
    with (
        local_cluster(2, processes=True, storage=old, tables=[SPEC]) as cluster,
        cluster.connect() as client,
    ):
        push(client, 0)
        before = push(client, 1)
        return client.snapshot(extra={"step": 2}).path, before, push(client, 2)


def shards_of(cli: Cli) -> list[dict]:
    return cli.json("status")["shards"]


@pytest.mark.slow
def test_a_shard_that_is_killed_right_after_a_restore_has_its_rows(taken, cli) -> None:
    url, before, after = taken
    cli.write(NEW.format(storage=cli.folder / "kept"))
    done = cli.json("restore", url)
    assert (done["name"], done["shards"], done["rows"]) == ("new", 3, len(IDS))
    assert done["url"] == url
    for shard in shards_of(cli)[:2]:
        os.kill(shard["pid"], signal.SIGKILL)
    with connect(done["address"], timeout_s=200.0) as client:
        np.testing.assert_array_equal(client.table("t").pull(ALL), before)
        np.testing.assert_array_equal(push(client, 2), after)
        assert client.restored is not None
        assert client.restored.extra == {"step": 2}
    cli.run("down", "--keep")
    address = cli.json("up")["address"]
    with connect(address, timeout_s=200.0) as client:
        np.testing.assert_array_equal(client.table("t").pull(ALL), after)
        assert client.restored is not None
    err = cli.run("restore", url, code=1)[1]
    assert "cluster 'new' runs already, and a restore makes a new one" in err


def test_without_a_config_the_cluster_is_as_it_was(taken, cli) -> None:
    url, before, _ = taken
    out, _ = cli.run("restore", url)
    assert f"local is up with {len(IDS)} rows" in out
    with connect(cli.json("list")["clusters"][0]["address"]) as client:
        np.testing.assert_array_equal(client.table("t").pull(ALL), before)


def test_a_damaged_block_is_named_on_the_command_line_and_a_second_try_works(taken, cli) -> None:
    whole, before, _ = taken
    url = str(shutil.copytree(whole, cli.folder / "copy"))
    cli.write(NEW.format(storage=cli.folder / "kept"))
    file = next(Path(url).glob("shard-00000/t.rows*"))
    data = file.read_bytes()
    file.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    err = cli.run("restore", url, code=2)[1]
    assert f"{file} is damaged: block 0" in err
    assert cli.directory.names() == []
    assert list((cli.folder / "kept").rglob("shard-*")) == []
    file.write_bytes(data)
    with connect(cli.json("restore", url)["address"]) as client:
        np.testing.assert_array_equal(client.table("t").pull(ALL), before)


def test_what_cannot_be_restored_is_said_at_once(taken, cli) -> None:
    url, _, _ = taken
    assert "-other does not exist" in cli.run("restore", f"{url}-other", code=2)[1]
    cli.write(NEW.format(storage=cli.folder / "kept").replace("dim: 8", "dim: 9"))
    assert "table 't': dim: 8 here, 9 there" in cli.run("restore", url, code=1)[1]
    assert cli.directory.names() == []


@pytest.mark.slow
def test_a_shard_killed_while_it_reads_ends_the_restore_and_a_second_try_works(
    taken, tmp_path, monkeypatch
) -> None:
    for room in (receiving, restoring):
        monkeypatch.setattr(room, "STEP_LIMIT_S", 2.0)
    url, before, _ = taken
    config = parse({"name": "new", "shards": 3, "storage": str(tmp_path / "kept"), "durability": "process"})
    launcher = ProcessLauncher(config)

    def kill(rows: int, total: int) -> None:
        os.kill(launcher.pid(2), signal.SIGKILL)

    with pytest.raises(Unavailable, match="the process of shard 2 ended while the snapshot was read"):
        CoordinatorServer(config, launcher).restore(url, kill)
    monkeypatch.undo()
    assert list((tmp_path / "kept").rglob("shard-*")) == []
    server = CoordinatorServer(config, ProcessLauncher(config))
    server.restore(url)
    try:
        with connect(server.address) as client:
            np.testing.assert_array_equal(client.table("t").pull(ALL), before)
    finally:
        server.stop()


@pytest.mark.slow
def test_a_cluster_killed_right_after_a_restore_is_followed_by_one_that_has_the_rows(taken, cli) -> None:
    url, before, after = taken
    cli.write(NEW.format(storage=cli.folder / "kept"))
    cli.json("restore", url)
    kill_all(cli.directory, "new")
    with connect(cli.json("up")["address"], timeout_s=200.0) as client:
        np.testing.assert_array_equal(client.table("t").pull(ALL), before)
        np.testing.assert_array_equal(push(client, 2), after)
        assert client.table("more").spec.optimizer == SGD(lr=1.0)
        assert client.restored is not None
