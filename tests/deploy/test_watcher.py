"""What is made of a shard's answers: its health in a word, and its figures."""

from types import SimpleNamespace
from typing import Any

import pytest

from rowloom.deploy.watcher import UNKNOWN, Watcher, _status, health_of
from rowloom.proto import rowloom_pb2 as pb
from rowloom.proto.errors import Unavailable
from rowloom.proto.layout import ShardAddress

SHARD = ShardAddress(1, "h:1", 7)


def said(state: str, incarnation: int = 7) -> bytes:
    return pb.HealthReply(state=state, incarnation=incarnation).SerializeToString()


def test_a_server_that_is_about_to_read_its_log_is_not_called_lost():
    assert health_of(said("waiting", 8), SHARD, revives=True) == "starting"
    assert health_of(said("waiting", 8), SHARD) == "lost"


@pytest.mark.parametrize(("state", "health"), [("serving", "unreachable"), ("lost", "lost")])
def test_the_rows_of_a_shard_that_did_not_count_them_in_time_were_left_out_of_a_sum_unseen(state, health):
    # `rowloom tables` showed 500 of 1,000 rows, and ended with 0.
    figures = pb.StatisticsReply(tables=[pb.TableStatistics(table=1, rows=500)]).SerializeToString()
    assert _status(SHARD, said(state), figures, UNKNOWN, False).health == state
    assert _status(SHARD, said(state), Unavailable("no answer within 2 s"), UNKNOWN, False).health == health


def test_why_something_cannot_be_done_yet_was_written_into_the_log_each_second(caplog):
    nobody: Any = None
    watcher = Watcher(nobody, nobody, nobody, nobody)
    for why in ("no room", "no room", "no disk", "", "no disk"):
        watcher._tell("shards cannot be started", why)
    said = [record.getMessage().removeprefix("shards cannot be started yet: ") for record in caplog.records]
    assert said == ["no room", "no disk", "no disk"]


def test_why_a_shard_has_lost_its_rows_comes_with_its_status():
    why = pb.HealthReply(state="lost", incarnation=7, lost="wal: record 3 is damaged").SerializeToString()
    figures = pb.StatisticsReply().SerializeToString()
    assert _status(SHARD, why, figures, UNKNOWN, True).lost == "wal: record 3 is damaged"
    assert _status(SHARD, Unavailable("no answer"), figures, UNKNOWN, True).lost == ""


def test_a_status_that_was_asked_while_a_coordinator_left_was_an_internal_error():
    nobody: Any = SimpleNamespace(look=lambda key: UNKNOWN)
    watcher = Watcher(nobody, nobody, nobody, nobody)
    assert watcher._looks([1])[0].result() == UNKNOWN
    watcher.stop()
    with pytest.raises(Unavailable, match="the cluster is being ended"):
        watcher._looks([1])
