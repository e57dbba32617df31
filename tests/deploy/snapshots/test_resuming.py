"""All of a cluster is killed whose trainer kept checkpoints: what goes on, and what the commands say of the model."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from killing import kill_all

from rowloom.client import InvalidRequest, connect, newest_snapshot
from rowloom.client.layers import checkpoints
from rowloom.deploy.snapshots.resuming import GoesOn, NewestCheckpoint, newest_checkpoint

ADS = """
name: ads
shards: 2
storage: kept
tables:
  - {name: users, num_embeddings: 1000, dim: 4, optimizer: {sgd: {lr: 1.0}}, initializer: zeros}
"""
IDS = np.arange(100)


def train(client, steps: int = 1) -> None:
    for _ in range(steps):
        client.table("users").push(IDS, np.ones((100, 4), np.float32))


def rows_of(client) -> np.ndarray:
    return client.table("users").pull(IDS)


@pytest.fixture
def checkpoint(cli):
    """Path of a checkpoint of a cluster that was trained two steps, and one more after it, and killed whole."""
    cli.write(ADS)
    with connect(cli.json("up")["address"]) as client:
        train(client, 2)
        taken = checkpoints.save(client, "torch", {"weight": np.ones(3)}, {"step": 2})
        train(client)
    kill_all(cli.directory, "ads")
    return taken.path


PAGE = (Path(__file__).parents[3] / "docs/resume.md").read_text(encoding="utf-8")
(SHOWN,) = re.findall(r"^```python title=[^\n]*\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def first_step(client) -> int:
    """Where a trainer begins that asks as docs/resume.md says."""
    names = {
        "client": client,
        "model": None,
        "optimizer": None,
        "newest_snapshot": newest_snapshot,
        "load_checkpoint": lambda client, model, optimizer: checkpoints.load(client, "torch")[1],
    }
    assert SHOWN.count("/data/ads/snapshots") == 1
    exec(SHOWN.replace("/data/ads/snapshots", "kept/snapshots"), names)
    return names["begin"]


def ways(text: str) -> list[list[str]]:
    """The commands that a message has between backticks, as a shell would read them."""
    return [shlex.split(part)[1:] for part in text.split("`")[1::2] if part.startswith("rowloom ")]


@pytest.mark.slow
def test_a_killed_cluster_went_on_and_its_trainer_began_with_new_weights_on_trained_rows(cli, checkpoint):
    _, err = cli.run("status", code=5)
    restore = f"`rowloom restore {checkpoint} FILE`, go on with model and rows of that moment"
    assert f"`rowloom down --yes`, then {restore}" in err

    out, err = cli.run("up", "deploy.yaml")
    assert "; it goes on with 100 rows in 1 table\n" in out
    assert err.startswith("rowloom: ITS LOGS HAVE ROWS AND NO MODEL, and the newest checkpoint there is ")
    with connect(cli.directory.get("ads").address) as client:
        assert client.restored is None  # a trainer asked for this only
        with pytest.raises(InvalidRequest, match="the cluster began without a snapshot"):
            first_step(client)
        np.testing.assert_array_equal(rows_of(client), -3.0)

    down, restore = ways(err)
    assert (down, restore) == (["down", "--yes"], ["restore", checkpoint, "deploy.yaml"])
    cli.run(*down)
    cli.run(*restore)
    with connect(cli.directory.get("ads").address) as client:
        assert first_step(client) == 2
        assert checkpoints.load(client, "torch")[0]["weight"].tolist() == [1.0] * 3
        np.testing.assert_array_equal(rows_of(client), -2.0)


def test_programs_did_not_hear_with_what_a_cluster_goes_on(cli, checkpoint):
    told = cli.json("up")["goes_on"]
    assert (told["rows"], told["tables"], told["whole"]) == (100, 1, True)
    assert told["checkpoint"]["url"] == checkpoint
    assert cli.json("up")["goes_on"] is None  # it runs already


def test_the_way_to_a_checkpoint_is_not_shown_where_there_is_none(cli):
    cli.write(ADS)
    assert cli.json("up")["goes_on"] is None  # it began
    with connect(cli.directory.get("ads").address) as client:
        assert first_step(client) == 0
        train(client)
        client.snapshot({"step": 1})
    cli.run("down", "--keep")
    assert "model" not in cli.run("status", code=5)[1]
    assert newest_checkpoint("kept") is None
    out, err = cli.run("up", "--name", "ads")
    assert "; it goes on with 100 rows in 1 table\n" in out
    assert "MODEL" not in err  # what a slow start says may be there
    with (
        connect(cli.directory.get("ads").address) as client,
        pytest.raises(SystemExit, match="no checkpoint was kept"),
    ):
        first_step(client)


def test_a_restore_after_a_kill_named_a_longer_way_than_down(cli, checkpoint):
    _, err = cli.run("restore", checkpoint, "deploy.yaml", code=1)
    down = ["down", "--name", "ads", "--yes"]
    assert down in ways(err)
    assert "its rows since the snapshot are lost" in err
    cli.run(*down)
    cli.run("restore", checkpoint, "deploy.yaml")
    with connect(cli.directory.get("ads").address) as client:
        assert checkpoints.load(client, "torch")[1] == {"step": 2}


@pytest.mark.parametrize(("rows", "whole", "told"), [(0, True, False), (0, False, True), (7, True, True)])
def test_a_model_is_missed_where_there_may_be_rows(rows, whole, told):
    goes_on = GoesOn(rows, 1, whole, NewestCheckpoint("s1", "/a b/s1", 0.0))
    warning = goes_on.warning(" --name ads", "my deploy.yaml")
    assert bool(warning) == told
    if told:
        assert "`rowloom down --yes --name ads`, then `rowloom restore '/a b/s1' 'my deploy.yaml'`" in warning
