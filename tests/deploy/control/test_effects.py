"""Programs of the coordinator that wait for shards: for those that may come, and not for those that cannot."""

import pytest

from rowloom.deploy.control.effects import Calls, Look, ServerCall, Sleep, call_all, check_running
from rowloom.deploy.launch.launcher import ServerProcess
from rowloom.proto.errors import RetryLater, Unavailable

CALLS = [ServerCall("a:1", "/m", b""), ServerCall("b:1", "/m", b"")]


def silent() -> list:
    return [b"yes", Unavailable("connection refused")]


def test_a_change_waited_for_a_shard_that_only_its_end_would_start_again():
    # Trainers stood still for as long: up to 40 s when a shard was killed while rows moved.
    program = call_all(CALLS, lambda: 0.0, 30.0, check=lambda: check_running([1, 2]))
    assert isinstance(next(program), Calls)
    assert program.send(silent()) == Look([1, 2])
    with pytest.raises(
        Unavailable, match="the processes of 1 of 2 shard servers have ended; they are started again"
    ):
        program.send([ServerProcess("running"), ServerProcess("ended")])


@pytest.mark.parametrize("answer", [Unavailable("busy"), RetryLater("later")])
def test_a_shard_that_is_there_is_asked_again(answer):
    program = call_all(CALLS, lambda: 0.0, 30.0, check=lambda: check_running([1, 2]))
    next(program)
    program.send([b"yes", answer])
    assert isinstance(program.send([ServerProcess("running"), ServerProcess("stopped")]), Sleep)
    assert program.send(None) == Calls([CALLS[1]], 10.0)
    with pytest.raises(StopIteration) as ended:
        program.send([b"so"])
    assert ended.value.value == [b"yes", b"so"]


def test_without_a_check_nothing_is_looked_at():
    program = call_all(CALLS, lambda: 0.0, 30.0)
    next(program)
    assert isinstance(program.send(silent()), Sleep)
