"""Clients that a shard has forgotten, because more have pushed since than it remembers."""

import numpy as np
import pytest
from simulation.lab import WIDTH, Lab

from rowloom.client.calls import operations as ops
from rowloom.deploy.control.reshard import Reshard
from rowloom.proto import methods
from rowloom.proto.errors import ClientForgotten, PushUnresolved, Unavailable
from rowloom.server.ledger import Ledger


def crowded(shards: int = 1) -> Lab:
    """A lab whose shards remember two clients."""
    lab = Lab(1, shards)
    for shard in lab.shards():
        shard.ledger.max_clients = 2
    return lab


def others_push(lab: Lab, count: int = 2) -> None:
    """Other clients each push to row 9."""
    for _ in range(count):
        session = lab.world.session([lab.node.ADDRESS], lab.world.rng.getrandbits(63) | 1)
        given = [(lab.entry, np.array([9]), -np.ones((1, WIDTH), np.float32))]
        push = ops.push(session, given, lab.world.now + 600)
        lab.wait(lambda ended, s=session, p=push: lab.world.operate(s, p, ended))


def ends_with(lab: Lab, push) -> object:
    return lab.outcome(lambda ended: lab.world.operate(lab.session, push, ended))


def test_a_retry_that_comes_after_its_client_was_forgotten_is_not_applied_again() -> None:
    lab = crowded()
    lab.lose_replies(methods.PUSH, 1)
    out: list = []
    lab.world.operate(lab.session, lab.push([3]), out.append)
    lab.world.run(lambda: len(lab.shards()[0].ledger) == 1)
    others_push(lab)
    lab.world.run(lambda: bool(out))
    assert isinstance(out[0], PushUnresolved)
    assert "1 may have it" in str(out[0])
    assert "goes on under a new name" in str(out[0])
    assert lab.rows()[3, 0] == 1
    lab.do(lab.push([3]))
    assert lab.rows()[3, 0] == 2


def test_a_push_that_came_twice_and_was_forgotten_in_between_was_once_said_to_have_changed_nothing() -> None:
    lab = crowded()
    second = lab.double_next(methods.PUSH)
    out: list = []
    lab.world.operate(lab.session, lab.push([3]), out.append)
    lab.world.run(lambda: len(lab.shards()[0].ledger) == 1)
    others_push(lab)
    second()
    lab.world.run(lambda: bool(out))
    assert isinstance(out[0], PushUnresolved)
    assert isinstance(out[0].__cause__, ClientForgotten)
    assert "1 may have it" in str(out[0])
    assert lab.rows()[3, 0] == 1


def test_a_push_of_a_client_that_was_forgotten_while_it_was_silent_changes_nothing_and_the_next_one_goes_on() -> (
    None
):
    lab = crowded()
    lab.do(lab.push([3]))
    before = lab.session.pushers[0].client_id
    others_push(lab)
    outcome = ends_with(lab, lab.push([3]))
    assert isinstance(outcome, PushUnresolved)  # nobody knows whether it came before
    assert "goes on under a new name" in str(outcome)
    assert lab.rows()[3, 0] == 1
    lab.do(lab.push([3]))
    assert lab.rows()[3, 0] == 2
    assert lab.session.pushers[0].client_id != before


def test_a_client_keeps_its_name_while_it_is_known() -> None:
    lab = crowded()
    before = lab.session.pushers[0].client_id
    for _ in range(3):
        lab.do(lab.push([3]))
        others_push(lab, 1)
    assert lab.session.pushers[0].client_id == before


@pytest.mark.parametrize("scale_to", [1, 3])
def test_a_forgotten_client_stays_forgotten_where_the_rows_move_to(scale_to: int) -> None:
    lab = crowded(2)
    lab.do(lab.push([2, 3]))
    others_push(lab, 4)
    assert lab.scale(scale_to) is None
    assert isinstance(ends_with(lab, lab.push([3])), PushUnresolved)
    assert lab.rows()[2:4, 0].tolist() == [1, 1]


@pytest.mark.parametrize(
    "error", [MemoryError(), ValueError("not a ledger"), KeyError(1), Unavailable("too large")]
)
def test_pushes_go_on_at_once_when_a_ledger_cannot_be_taken_over(error: Exception, monkeypatch) -> None:
    # A receiver that ended without a word left pushes waiting until the scaling had seen no row for half a minute.
    def fails(*_):
        raise error

    lab = Lab(1, 2)
    lab.do(lab.push([3]))
    monkeypatch.setattr(Ledger, "merge", fails)
    before = lab.world.now
    out = lab.scale(3)
    assert isinstance(out, Unavailable)
    assert type(error).__name__ in str(out)
    lab.do(lab.push([3]))
    assert lab.world.now - before < 10
    assert lab.rows()[3, 0] == 2


def test_shards_are_thawed_whatever_goes_wrong_in_the_coordinator(monkeypatch) -> None:
    # Errors that are not ours went past the way back: pushes waited for the next look at the shards.
    lab = Lab(1, 2)
    monkeypatch.setattr(Reshard, "_wait", lambda *_: iter([][0]))
    with pytest.raises(IndexError):
        lab.scale(3)
    assert [state.word for state in lab.states()] == ["serving", "serving"]
