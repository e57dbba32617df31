"""What `rowloom down` says of the rows and snapshots that go, or that a kept log does not have."""

import pytest

from rowloom.deploy.config.config import parse
from rowloom.deploy.down import losses
from rowloom.deploy.operate.directory import ClusterDirectory, Record
from rowloom.proto import rowloom_pb2 as pb
from rowloom.proto.errors import Unavailable

KEPT = Record("ads", "local", "127.0.0.1:1", storage="/kept")


@pytest.fixture
def answers(monkeypatch):
    """Sets the status that the cluster answers with; None: it does not answer."""

    def answer(status: pb.StatusReply | None) -> None:
        class Fake:
            def __init__(self, *_): ...
            def __enter__(self):
                return self

            def __exit__(self, *_): ...
            def status(self):
                if status is None:
                    raise Unavailable("it does not answer")
                return status

        monkeypatch.setattr(losses, "Remote", Fake)

    return answer


def shard(index: int, health: str, rows: int = 0) -> pb.ShardStatus:
    status = pb.ShardStatus(shard=pb.ShardAddress(index=index), health=health, pid=70 + index, node="here")
    if rows:
        status.statistics.tables.add(rows=rows)
    return status


@pytest.fixture
def ways(answers, monkeypatch, tmp_path):
    """What `down` says after "they are lost with it.", of a cluster with a log, or without, and shards as given."""
    monkeypatch.setattr(losses, "is_running", lambda *_: True)
    monkeypatch.setattr(losses, "_short", lambda _: " It removes 1 snapshot too.")

    def said(*shards: pb.ShardStatus, durability: str = "process") -> str:
        config = parse({"name": "ads", "durability": durability, "storage": "/kept"}).to_json()
        answers(pb.StatusReply(name="ads", shards=shards, config=config))
        words = losses.lost_with(KEPT, ClusterDirectory(tmp_path)).words
        return words.partition(" lost with it.")[2].replace(" --name ads", "")

    return said


def test_a_down_that_keeps_did_not_say_of_which_shards_the_last_pushes_are_in_no_log(answers):
    healths = ["serving", "pulls only", "lost", "pulls only"]
    answers(pb.StatusReply(shards=[shard(i, health) for i, health in enumerate(healths)]))
    found = losses.not_kept(KEPT)
    assert found.words == (
        ", but for what was pushed since the log of shards 1 and 3 had failed"
        "; but shard 2 cannot be read from the log as that is: `rowloom logs 2` says why"
    )
    assert found.failed == [1, 3]
    assert found.question.startswith(
        "What was pushed since the log of shards 1 and 3 had failed is not in it: no tr"
    )
    answers(pb.StatusReply(shards=[shard(0, "serving"), shard(1, "lost")]))
    assert (losses.not_kept(KEPT).failed, losses.not_kept(KEPT).question) == ([], "")
    answers(None)
    assert losses.not_kept(KEPT) == losses.NotKept()


def test_the_question_of_a_cluster_that_does_not_answer_was_silent_of_snapshots_that_go(
    answers, monkeypatch, tmp_path
):
    answers(None)
    monkeypatch.setattr(losses, "is_running", lambda *_: True)
    monkeypatch.setattr(losses, "is_kept", lambda _: True)
    monkeypatch.setattr(losses, "going_in_words", lambda storage: f"2 snapshots of {storage}")
    lost = losses.lost_with(KEPT, ClusterDirectory(tmp_path))
    assert lost.words.endswith(". `rowloom down` removes 2 snapshots of /kept too.")


def test_the_export_of_other_shards_was_advised_where_there_are_none_and_not_how_the_stopped_one_goes_on(
    ways,
):
    goes_on = " `kill -CONT 70` on here lets shard 0 go on, with its rows."
    assert ways(shard(0, "stopped"), durability="memory") == goes_on
    kept = " `rowloom down --keep` leaves them in its logs"
    assert ways(shard(0, "stopped")) == f"{goes_on}{kept}. It removes 1 snapshot too."
    both = ways(shard(0, "stopped"), shard(1, "serving", 9), durability="memory")
    assert both == f"{goes_on} `rowloom export TABLE FILE --partial` keeps rows."


def test_of_a_dead_shard_with_a_log_nobody_heard_that_it_is_started_again_by_itself(ways):
    for health in ("dead", "recovering"):
        said = ways(shard(0, health), shard(1, "serving", 9))
        assert said.startswith(
            " A shard that is dead, or starts anew, is started again by itself and reads its rows"
        )
        assert "wait some seconds, and ask again (`rowloom status`)" in said
        assert "rowloom snapshot" not in said  # it would fail
    assert "by itself" not in ways(shard(0, "dead"), shard(1, "serving", 9), durability="memory")


def test_of_a_shard_that_cannot_be_started_again_it_was_said_that_it_is_by_itself(ways):
    dead = shard(0, "dead")
    dead.stays_dead = "the disk is full"
    said = ways(dead, shard(1, "serving", 9))
    assert said.startswith(" Shard 0 cannot be started again yet: the disk is full. `rowloom down --keep`")
    assert "by itself" not in said


def test_that_logs_which_failed_lack_the_last_pushes_was_said_after_the_cluster_had_ended(ways):
    said = ways(shard(0, "serving", 9), shard(1, "pulls only", 9))
    assert (
        "leaves them in its logs, but for what was pushed since the log of shard 1 had failed; `rowloom ex"
        in said
    )


def test_a_snapshot_was_advised_on_a_disk_that_is_full(ways):
    said = ways(shard(0, "pulls only", 9))
    assert " So does `rowloom snapshot`, once there is room on the disk of its storage." in said
    assert " So does `rowloom snapshot`. It removes" in ways(shard(0, "serving", 9))
