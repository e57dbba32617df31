"""The command line of a cluster one of whose logs was damaged, or is gone, while it was down."""

import json
import shutil

import numpy as np
import pytest
from killing import kill_all

from rowloom.client import connect

ADS = """
name: ads
shards: 2
storage: ./kept
durability: process
tables:
  - {name: users, num_embeddings: 1000, dim: 4, optimizer: {sgd: {lr: 1.0}}, initializer: zeros}
"""
IDS = np.arange(1000)


@pytest.fixture
def log(cli):
    """The folder with the log of shard 1 of a cluster that is down, after ten pushes of all its rows."""
    cli.write(ADS)
    with connect(cli.json("up")["address"]) as client:
        for _ in range(10):
            client.table("users").push(IDS, np.ones((1000, 4), np.float32))
    cli.run("down", "--keep")
    (folder,) = (cli.folder / "kept" / "logs").glob("*/*/shard-1")
    return folder


def damage(log) -> None:
    """Overwrite 8 bytes in the middle of what was written."""
    (file,) = log.glob("wal-*.log")
    data = file.read_bytes()
    with file.open("r+b") as out:
        out.seek(len(data.rstrip(b"\0")) // 2)
        out.write(b"\xff" * 8)


def test_a_cluster_whose_shard_lost_its_log_was_said_to_be_up_as_if_all_were_well(cli, log):
    # `up` ended with 0; a second one, and `status`, with 3.
    copy = shutil.copytree(log, cli.folder / "copy")
    damage(log)
    out, err = cli.run("up", code=3)
    assert out.startswith("ads is started, and not all of it serves: 2 shards")
    assert "shard 1 at 127.0.0.1:" in err
    assert f" is lost: {log}/wal-0000000001.log: record " in err
    where = log.relative_to(cli.folder / "kept")
    assert (
        f"`rowloom down --keep`, put them back into {where} of the storage, then `rowloom up --name ads`"
        in err
    )
    out, told = cli.run("status", code=3)
    assert f"shard 1 is lost: {log}/wal-0000000001.log: record " in out
    assert ">= 500" in out
    assert err.endswith(told)  # before it, where the machine is slow, that `up` takes long
    assert "\n  Traceback" in cli.run("logs", "1")[0]  # in lines

    # As it said.
    cli.run("down", "--keep")
    shutil.rmtree(log)
    copy.rename(log)
    with connect(cli.json("up", "--name", "ads")["address"]) as client:
        np.testing.assert_array_equal(client.table("users").pull(IDS), np.full((1000, 4), -10, np.float32))


def damage_end(log, count: int) -> None:
    """Zeros over the last bytes of what was written, as of a file that was cut there."""
    (file,) = log.glob("wal-*.log")
    end = len(file.read_bytes().rstrip(b"\0"))
    with file.open("r+b") as out:
        out.seek(end - count)
        out.write(bytes(count))


@pytest.mark.slow
def test_damage_of_the_last_record_after_a_down_that_keeps_was_taken_for_a_crash(cli, log):
    # The shard served without the last push, which had been acknowledged.
    copy = shutil.copytree(log, cli.folder / "copy")
    damage_end(log, 1)
    err = cli.run("up", code=3)[1]
    assert f" is lost: {log}/wal-0000000001.log: record " in err
    assert " is damaged: " in err
    assert "It had been acknowledged: the log was whole up to record " in err
    assert "put them back into" in err
    cli.run("down", "--keep")
    shutil.rmtree(log)
    shutil.copytree(copy, log)
    with connect(cli.json("up", "--name", "ads")["address"]) as client:
        np.testing.assert_array_equal(client.table("users").pull(IDS), np.full((1000, 4), -10, np.float32))
        client.table("users").push(IDS, np.ones((1000, 4), np.float32))
    # Of a log that was not closed nobody can tell.
    kill_all(cli.directory, "ads")
    damage_end(log, 1)
    with connect(cli.json("up")["address"]) as client:
        found = client.table("users").pull(IDS)
    assert sorted(set(found.ravel().tolist())) == [-11.0, -10.0]
    assert "are no whole record, and are dropped" in cli.run("logs", "1")[0]


@pytest.mark.slow
def test_programs_hear_at_once_that_a_log_is_gone(cli, log):
    shutil.rmtree(log)
    out, err, code = cli.attempt("up", "--json")
    assert (json.loads(out)["started"], code) == (True, 3)
    assert " is lost: there is no log of shard 1 in epoch " in err
    out, _ = cli.run("recover", "--accept-loss", "1")
    assert out == "ads: shard 1 begins again at initial values; the other shards kept their rows\n"
    # Its new log is damaged in turn, and this time there is one to keep.
    with connect(cli.json("status")["coordinator"]) as client:
        for _ in range(10):
            client.table("users").push(IDS, np.ones((1000, 4), np.float32))
    cli.run("down", "--keep")
    damage(log)
    assert "`rowloom recover --accept-loss 1`" in cli.run("up", code=3)[1]
    out, _ = cli.run("recover", "--accept-loss", "1")
    assert out.endswith(f"; the other shards kept their rows. The old log stays: {log}.lost-1\n")
    assert (log.parent / "shard-1.lost-1").is_dir()
    # A down that removed it said nothing of it.
    cli.run("down", "--keep")
    old = f"1 old log that `rowloom recover` put aside ({log}.lost-1)"
    assert old in cli.run("down", "--name", "ads", code=2)[1]
    out, _ = cli.run("down", "--name", "ads", "--yes", "--json")
    assert json.loads(out)["removed_old_logs"] == [f"{log}.lost-1"]
    assert not log.parent.exists()
