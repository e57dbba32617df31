"""Calls that an exception ends, such as Ctrl-C: what they were given is given back, and nothing comes of them later."""

import pytest
from simulation.lab import Lab
from simulation.trainer import open_numbers
from simulation.world import Cut

from rowloom.proto import methods
from rowloom.proto.errors import PushUnresolved


@pytest.mark.parametrize("event", range(1, 8))
def test_a_call_that_is_cut_gives_its_numbers_back(event: int) -> None:
    # They stayed open, and after 65,536 more pushes every shard answered Overloaded.
    lab = Lab(event, 3)
    out: list = []
    running = lab.world.operate(lab.session, lab.push(list(range(12))), out.append)
    running.cut_in = event
    lab.world.run(lambda: bool(out))
    assert open_numbers(lab.session) == 0
    for _ in range(3):
        lab.do(lab.push(list(range(12))))
    windows = [w for shard in lab.shards() for w in shard.ledger._clients[1].windows.values()]
    assert max(len(w.applied) for w in windows) == 1


def test_a_part_of_a_call_that_was_cut_is_not_applied_after_a_later_push() -> None:
    lab = Lab(1, 1)
    lab.world.slow = 5.0
    out: list = []
    running = lab.world.operate(lab.session, lab.push([1]), out.append)
    running.cut_in = 1
    running.step(None, 1)
    assert isinstance(out[0], Cut)
    lab.world.slow = 0.001
    lab.do(lab.push([2]))
    lab.world.run(lambda: lab.world.now > 60 or not lab.world._events)
    assert lab.rows()[1:3, 0].tolist() == [0, 1]


def test_a_call_that_is_cut_while_rows_move_gives_all_its_names_back() -> None:
    lab = Lab(1, 2)
    lab.lose_replies(methods.PUSH, 1000)
    out: list = []
    running = lab.world.operate(lab.session, lab.push(list(range(12))), out.append)
    lab.world.run(lambda: lab.world.now > 5)
    assert lab.scale(3) is None
    lab.world.run(lambda: lab.world.now > 30)  # split anew, and sent under two names
    running.cut_in = 1
    lab.world.run(lambda: bool(out))
    assert open_numbers(lab.session) == 0


def test_a_call_that_has_failed_waits_for_the_rest_without_spinning() -> None:
    # It asked to be woken at a moment that had passed, as long as another shard did not answer.
    lab = Lab(1, 2)
    lab.do(lab.push([0, 1]))
    lab.node.shards[0].kill(0.1)
    lab.world.nodes.pop(lab.node.ADDRESS)
    out: list = []
    lab.world.clogged.add("shard-1:1")
    running = lab.world.operate(lab.session, lab.push([0, 1]), out.append)
    lab.world.run(lambda: bool(out) or running._steps > 1000)
    assert isinstance(out[0], PushUnresolved)  # shard 0 says StateLost, shard 1 nothing at all
    assert running._steps < 1000
