"""Steps, which push and pull in one call, when the push has been applied and the pull does not come back."""

import numpy as np
import pytest
from simulation.lab import ROWS, WIDTH, Lab

from rowloom.client.calls import operations as ops
from rowloom.proto import methods
from rowloom.proto.errors import PushUnresolved
from rowloom.server.shard import Shard


def step(lab: Lab, push: list[int], pull: list[int], timeout_s: float = 30.0):
    given = [(lab.entry, np.array(push), -np.ones((len(push), WIDTH), np.float32))]
    wanted = [(lab.entry, np.array(pull))]
    operation = ops.step(lab.session, given, wanted, lab.world.now + timeout_s)
    return lab.outcome(lambda ended: lab.world.operate(lab.session, operation, ended))


def pushed(lab: Lab) -> list[int]:
    """The rows that have a push, by the shards themselves."""
    rows = []
    for shard in lab.shards():
        ids, values, _, _ = shard.tables[1].read(0, 1 << 20)
        rows += ids[values[:, 0] == 1].tolist()
    return sorted(rows)


def test_a_step_whose_reply_was_lost_does_not_say_that_its_push_was_applied_nowhere() -> None:
    lab = Lab(1, 1)
    lab.lose_replies(methods.STEP, 1000)
    out = step(lab, [1, 2], [1, 2])
    assert isinstance(out, PushUnresolved)
    assert out.unknown_rows == 2
    assert pushed(lab) == [1, 2]


@pytest.mark.parametrize("seed", range(5))
def test_a_step_whose_push_was_acked_and_whose_pull_ended_without_rows_says_so(seed: int) -> None:
    # It raised Unavailable: "applied nowhere".
    lab = Lab(seed, 2)
    lab.lose_replies(methods.PULL, 1000)
    out = step(lab, [0, 2], [1, 3])  # rows of one shard pushed, of the other pulled
    assert isinstance(out, PushUnresolved)
    assert (out.acked_rows, out.unknown_rows, out.unapplied_rows) == (2, 0, 0)
    assert pushed(lab) == [0, 2]


def test_a_step_that_fails_between_its_push_and_its_pull_is_not_said_to_have_changed_nothing(
    monkeypatch,
) -> None:
    lab = Lab(1, 1)
    lab.do(lab.push(list(range(ROWS))))

    def no_memory(*_):
        raise MemoryError

    monkeypatch.setattr(Shard, "_read", no_memory)
    with pytest.raises(MemoryError):  # the shell makes an internal error of it, which leaves the push open
        step(lab, [1], [1])
    monkeypatch.undo()
    assert lab.rows()[:3, 0].tolist() == [1, 2, 1]
