"""The newest status of a cluster, for whoever cannot wait for a shard that stands still."""

import threading

import pytest
from waiting import until

from rowloom.deploy.observe.newest import Newest
from rowloom.proto import rowloom_pb2 as pb
from rowloom.proto.errors import Unavailable


class Slow:
    """A cluster whose answers come when a test lets them."""

    def __init__(self) -> None:
        self.asked, self.time = 0, 100.0
        self.let = threading.Semaphore(0)
        self.newest = Newest(self.status, lambda: self.time)

    def status(self) -> pb.StatusReply:
        self.asked += 1
        number = self.asked
        assert self.let.acquire(timeout=60)
        if number == 4:
            raise Unavailable("the coordinator ends")
        return pb.StatusReply(name=str(number))


def test_the_first_answer_is_waited_for_and_later_ones_only_so_long():
    slow = Slow()
    slow.let.release()
    first, age = slow.newest.within(0.0)
    assert (first.name, age) == ("1", 0.0)
    slow.time = 107.0
    known, age = slow.newest.within(0.01)
    assert (known.name, age) == ("1", 7.0)
    slow.time = 108.0
    assert slow.newest.within(0.0)[1] == 8.0
    assert slow.asked == 2  # one question for all who come meanwhile
    slow.let.release()
    until(lambda: slow.newest._asking is not None and slow.newest._asking.done())
    slow.time = 110.0
    known, age = slow.newest.within(0.0)
    assert (known.name, age) == ("2", 2.0)  # what nobody waited for to the end is there for who comes next
    slow.let.release()
    assert slow.newest.whole().name == "3"


def test_that_it_cannot_be_asked_is_told_to_whoever_asks():
    slow = Slow()
    for name in ("1", "2", "3"):
        slow.let.release()
        assert slow.newest.whole().name == name
    slow.let.release()
    with pytest.raises(Unavailable, match="the coordinator ends"):
        slow.newest.within(60.0)
    slow.let.release()
    assert slow.newest.whole().name == "5"
