"""What may be made anew from initial values, and what may not."""

from types import SimpleNamespace

import pytest

from rowloom.deploy.control.effects import Calls, Look
from rowloom.deploy.control.loss import accept_loss
from rowloom.deploy.launch.launcher import ServerProcess
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
