"""`rowloom snapshot` and its relatives, as their users have them."""

import shutil
import time

import numpy as np
import pytest
from waiting import until

from rowloom.client import connect, open_snapshot
from rowloom.deploy import cli_snapshots
from rowloom.deploy.cli_options import NotServing
from rowloom.deploy.snapshots.moments import in_words
from rowloom.proto import rowloom_pb2 as pb
from rowloom.proto.errors import Unavailable

ADS = """
name: ads
shards: 2
storage: STORAGE
tables:
  - {name: users, num_embeddings: 1000, dim: 4, optimizer: {adagrad: {lr: 0.05}}, initializer: zeros}
"""


@pytest.fixture
def ads(cli):
    cli.write(ADS.replace("STORAGE", str(cli.folder / "kept")))
    address = cli.json("up", "deploy.yaml")["address"]
    with connect(address) as client:
        client.table("users").push(np.arange(1000), np.ones((1000, 4), np.float32))
        yield client


def test_snapshots_are_taken_listed_verified_and_told_apart(cli, ads):
    (cli.folder / "state.bin").write_bytes(b"mine")
    first = cli.json("snapshot", "--extra", "state.bin")
    ads.table("users").push([3], np.ones((1, 4), np.float32))
    second = cli.json("snapshot")
    assert (first["parent"], second["parent"]) == (None, first["id"])
    assert open_snapshot(first["url"]).extra == {"state.bin": b"mine"}
    listed = cli.json("snapshots")["snapshots"]
    assert [one["lineage"] for one in listed] == [[first["id"]], [first["id"], second["id"]]]
    assert f"upon {first['id']}" in cli.run("snapshots")[0]
    assert cli.json("verify", second["url"])["snapshots"] == 2
    out, _ = cli.run("diff", first["url"], second["url"], code=1)
    assert "1 rows differ" in out
    assert cli.json("snapshot", "--full")["parent"] is None
    shutil.rmtree(first["url"])
    assert "which it needs" in cli.run("snapshots")[0]


def test_a_number_that_is_kept_leaves_those_alone_that_were_taken_without(cli, ads):
    mine = cli.json("snapshot")["id"]
    made = [cli.json("snapshot", "--full", "--keep", "2")["id"] for _ in range(4)]
    assert [one["id"] for one in cli.json("snapshots")["snapshots"]] == [mine, *made[-2:]]


def test_one_is_taken_again_and_again_and_one_that_fails_ends_nothing(monkeypatch, capsys):
    now, began, ends = [0.0], [], [3.0, 12.0, 35.0, 41.0]
    monkeypatch.setattr(cli_snapshots.time, "monotonic", lambda: now[0])

    def take() -> None:
        began.append(now[0])
        now[0] = ends[len(began) - 1]
        if len(began) == 2:
            raise Unavailable("the disk is full")

    def wait(seconds: float) -> None:
        if len(began) == len(ends):
            raise KeyboardInterrupt
        now[0] += seconds

    with pytest.raises(KeyboardInterrupt):
        cli_snapshots.repeat(take, 10.0, wait)
    assert began == [0.0, 10.0, 20.0, 40.0]  # the third took so long that one was left out
    assert capsys.readouterr().err == "rowloom: no snapshot this time: the disk is full\n"


class Asked:
    """A coordinator whose second shard has this health."""

    def __init__(self, health: str) -> None:
        self._health = health

    def status(self) -> pb.StatusReply:
        shards = [("serving", "127.0.0.1:1"), (self._health, "127.0.0.1:2")]
        return pb.StatusReply(
            durability="process",
            shards=[
                pb.ShardStatus(
                    shard=pb.ShardAddress(index=k, address=address), health=health, node="vm", pid=9
                )
                for k, (health, address) in enumerate(shards)
            ],
        )


def test_a_shard_that_ceased_to_answer_under_a_snapshot_was_not_named(cli):
    failed = Unavailable("127.0.0.1:2 did not answer: no answer in time")
    with pytest.raises(NotServing) as said, cli_snapshots.naming_shards(Asked("stopped"), " --name ads"):
        raise failed
    assert str(said.value) == (
        "shard 1 at 127.0.0.1:2 is stopped; there is no new snapshot. The process of shard 1 stands still (as by "
        "SIGSTOP) and holds its rows: `kill -CONT 9` on vm lets it go on"
    )
    with pytest.raises(Unavailable) as said, cli_snapshots.naming_shards(Asked("serving"), ""):
        raise failed
    assert said.value is failed


def test_a_time_that_is_none_is_wrong_use(cli):
    assert "--every must be a time above 0" in cli.run("snapshot", "--every", "10", code=2)[1]


@pytest.mark.slow
def test_a_push_too_many_is_undone_by_a_restore_to_the_second_before_it_beside_the_cluster_that_had_it(
    cli, ads
):
    taken = cli.json("snapshot")
    ads.table("users").push([3], np.ones((1, 4), np.float32))
    good = ads.table("users").pull([3, 4])
    before = int(time.time()) + 1
    until(lambda: time.time() >= before)
    ads.table("users").push([4], np.ones((1, 4), np.float32))
    cli.write(ADS.replace("STORAGE", str(cli.folder / "new")).replace("name: ads", "name: undone"))
    wanted = "restore", taken["url"], "deploy.yaml", "--until"
    told = cli.json(*wanted, in_words(before))
    assert (told["pushes"], told["left_out"], told["until"]) == (1, 0, in_words(before))
    with connect(told["address"]) as client:
        assert client.table("users").pull([3, 4]).tobytes() == good.tobytes()
    assert ads.table("users").pull([4]).tobytes() != good[1:].tobytes()
    cli.run("down", "--name", "undone", "--yes")
    lsns = ",".join(map(str, told["lsns"]))
    out, _ = cli.run(*wanted, lsns, "--logs", str(cli.folder / "kept" / "logs"))
    assert f"and 1 push after the snapshot, up to record {lsns}" in out
    _, said = cli.run(*wanted, "1h", code=1)
    assert "is not after snapshot" in said
    assert "say one like" in cli.run(*wanted, "noon", code=2)[1]
    assert "--logs is for --until" in cli.run("restore", taken["url"], "--logs", "there", code=2)[1]
