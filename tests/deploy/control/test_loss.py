"""What may be made anew from initial values, and what may not."""

from dataclasses import dataclass
from types import SimpleNamespace

import pytest

from rowloom.deploy.control.effects import Calls, Look, ServerCall, Stop
from rowloom.deploy.control.loss import LossUnsafe, accept_loss
from rowloom.deploy.launch.launcher import ServerProcess
from rowloom.proto import methods
from rowloom.proto import rowloom_pb2 as pb
from rowloom.proto.errors import InvalidRequest, Unavailable
from rowloom.proto.layout import Layout, ShardAddress


def test_a_loss_was_accepted_of_a_killed_shard_whose_log_was_about_to_be_read():
    layout = Layout("ads-1", 1, (ShardAddress(0, "127.0.0.1:9", 7),), "127.0.0.1:8")
    coordinator = SimpleNamespace(
        layout=layout,
        clock=lambda: 0.0,
        revives=True,
        state=SimpleNamespace(keys=[0], standby_in_step=lambda _: None),
    )
    program = accept_loss(coordinator, 0)
    assert isinstance(next(program), Calls)
    assert isinstance(program.send([Unavailable("it does not answer")]), Look)
    with pytest.raises(InvalidRequest, match=r"its rows are in its log, and it is started again.*--force"):
        program.send([ServerProcess("ended")])


def asked(health: pb.HealthReply, *, force: bool = False):
    """`accept_loss` of the only shard of a cluster with logs, which answers this."""
    layout = Layout("ads-1", 1, (ShardAddress(0, "127.0.0.1:9", 7),), "127.0.0.1:8")
    coordinator = SimpleNamespace(
        layout=layout,
        clock=lambda: 0.0,
        revives=True,
        state=SimpleNamespace(keys=[0], standby_in_step=lambda _: None, snapshots=(), surplus=[]),
    )
    program = accept_loss(coordinator, 0, force=force)
    assert isinstance(next(program), Calls)
    return program.send([health.SerializeToString()])


@pytest.mark.parametrize("state", ["waiting", "recovering"])
def test_a_loss_was_accepted_of_a_shard_that_was_about_to_read_its_log_and_its_whole_log_went(state):
    health = pb.HealthReply(state=state, incarnation=7, unread="/x/wal-0000000001.log: Input/output error")
    with pytest.raises(
        InvalidRequest, match=r"is no loss: its rows are in its log.*Input/output error.*--force"
    ):
        asked(health)
    with pytest.raises(InvalidRequest, match="Nothing was changed"):
        asked(pb.HealthReply(state=state, incarnation=7))
    assert isinstance(asked(health, force=True), Stop)


def test_a_shard_that_serves_pulls_only_was_said_to_be_serving():
    health = pb.HealthReply(
        state="serving", incarnation=7, log_error="/x/spare-2.new: No space left on device"
    )
    with pytest.raises(
        InvalidRequest, match=r"has its rows \(it serves pulls only.*No space left.*make room"
    ):
        asked(health)


def test_a_loss_that_was_accepted_was_not_said_where_the_new_log_failed():
    layout = Layout("ads-1", 1, (ShardAddress(0, "127.0.0.1:9", 7),), "127.0.0.1:8")
    times = iter([0.0])

    def nothing(*_, **__):
        return
        yield

    @dataclass
    class State:
        keys: list
        surplus: list
        layout: Layout
        snapshots: tuple = ()

        def standby_in_step(self, _):
            return None

    coordinator = SimpleNamespace(
        layout=layout,
        clock=lambda: next(times, 100.0),
        revives=True,
        state=State([0], [], layout),
        adoptions=lambda layout, shards, *, fresh: [ServerCall("127.0.0.1:9", methods.ADOPT, b"")],
        commit=nothing,
        adopt=nothing,
    )

    def told(after: pb.HealthReply) -> Unavailable:
        nonlocal times
        times = iter([0.0, 0.0])
        program = accept_loss(coordinator, 0)
        next(program)
        assert isinstance(program.send([pb.HealthReply(state="lost").SerializeToString()]), Calls)
        assert isinstance(program.send([Unavailable("Adopt is not safe yet")]), Calls)
        with pytest.raises(Unavailable) as caught:
            program.send([after.SerializeToString()])
        return caught.value

    unsafe = told(pb.HealthReply(state="serving", epoch=1, log_error="No space left on device"))
    assert isinstance(unsafe, LossUnsafe)
    assert "was made anew, and the rows that it held are lost" in str(unsafe)
    refused = told(pb.HealthReply(state="lost"))
    assert not isinstance(refused, LossUnsafe)
    assert "shard 0 at 127.0.0.1:9 is not made anew yet: Adopt is not safe yet" in str(refused)
