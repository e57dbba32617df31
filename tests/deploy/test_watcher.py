"""What is made of a shard's answers: its health in a word, and its figures."""

import pytest

from rowloom.deploy.watcher import UNKNOWN, _status, health_of
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
