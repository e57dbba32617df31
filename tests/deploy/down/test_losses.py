"""What `rowloom down` says of the rows and snapshots that go, or that a kept log does not have."""

import pytest

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


def shard(index: int, health: str) -> pb.ShardStatus:
    return pb.ShardStatus(shard=pb.ShardAddress(index=index), health=health)


def test_a_down_that_keeps_did_not_say_of_which_shards_the_last_pushes_are_in_no_log(answers):
    healths = ["serving", "pulls only", "lost", "pulls only"]
    answers(pb.StatusReply(shards=[shard(i, health) for i, health in enumerate(healths)]))
    assert losses.not_kept(KEPT) == (
        "; but shard 2 cannot be read from the log as that is: `rowloom logs 2` says why"
        "; but the log of shards 1 and 3 had failed: what was pushed since then is not in it"
    )
    answers(pb.StatusReply(shards=[shard(0, "serving")]))
    assert losses.not_kept(KEPT) == ""


def test_the_question_of_a_cluster_that_does_not_answer_was_silent_of_snapshots_that_go(
    answers, monkeypatch, tmp_path
):
    answers(None)
    monkeypatch.setattr(losses, "is_running", lambda *_: True)
    monkeypatch.setattr(losses, "is_kept", lambda _: True)
    monkeypatch.setattr(losses, "going_in_words", lambda storage: f"2 snapshots of {storage}")
    lost = losses.lost_with(KEPT, ClusterDirectory(tmp_path))
    assert lost.words.endswith(". `rowloom down` removes 2 snapshots of /kept too.")
