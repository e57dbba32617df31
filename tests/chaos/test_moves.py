"""A short run of moves in which processes are killed. `moves.py` beside it goes through all places, and runs longer."""

import importlib.util
import os
import random

from chaos.history import History
from chaos.moves import MOST_SHARDS, Moves, run
from chaos.steps import HOOK, PLACES, Place, PlacesInTurn, Steps


def test_a_move_ends_in_one_of_two_layouts_with_every_push_once_when_a_process_is_killed_in_it(tmp_path):
    places = (
        Place("coordinator", "commit", "after", "kill"),
        Place("shard", "read last pass", "before", "kill"),
    )
    found, done = run(
        Moves(moves=2, trainers=2, seed=7, places=places, most=2), History(tmp_path / "history")
    )
    assert found["good"], (found, done)
    assert [moved.place for moved in done] == list(places)
    assert [moved.ended for moved in done] == ["new", "old"]
    assert found["acked"] > 0


def test_every_place_has_its_turn_whatever_layouts_the_cluster_comes_to():
    rng = random.Random(5)
    places, drawn, n = PlacesInTurn(rng), [], 2
    while len(drawn) < 3 * len(PLACES):
        drawn.append(places.draw(n, MOST_SHARDS))
        n = rng.choice([m for m in range(1, MOST_SHARDS + 1) if drawn[-1].come(n, m)])
    assert {drawn.count(place) for place in PLACES} <= {2, 3, 4}


def test_the_one_that_is_meant_acts_at_the_step_that_is_meant_and_nobody_does_so_again(tmp_path, monkeypatch):
    spec = importlib.util.spec_from_file_location("hook", HOOK / "sitecustomize.py")
    assert spec is not None
    assert spec.loader is not None
    hook = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hook)
    steps, killed = Steps(tmp_path / "steps"), []
    monkeypatch.setattr(os, "kill", lambda pid, number: killed.append(step))
    shard, coordinator = (hook._Steps(tmp_path / "steps", role) for role in ("shard", "coordinator"))

    steps.arm(Place("shard", "freeze", "after", "kill"), nth=2)
    for step, process in enumerate([coordinator, shard, shard, shard]):
        with process.at("freeze"):
            assert not killed or step == 3
        with process.at("prepare"):
            pass
    assert killed == [2]
    assert steps.hit() == os.getpid()
    assert not steps.disarm()

    steps.arm(Place("shard", "freeze", "before", "stop"), nth=1)
    assert steps.hit() == 0
    assert steps.disarm()
    with shard.at("freeze"):
        assert killed == [2]
