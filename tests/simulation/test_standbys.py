"""A standby takes the place of a server that ended, or stands still, and nothing is lost or done twice."""

import os

import numpy as np
import pytest
from simulation.broken_standbys import BUILDS, SCENES, in_step, lab_in_step, lab_without, primary, standby
from simulation.lab import ROWS, WIDTH, Lab
from simulation.standby_histories import StandbyHistory

from rowloom.deploy.standby.rules import StandbyRules
from rowloom.proto import methods
from rowloom.proto import rowloom_pb2 as pb
from rowloom.proto.errors import StateLost, Unavailable
from rowloom.server.durable.log import Mode
from rowloom.server.standby.primary import observe

SEEDS = int(os.environ.get("ROWLOOM_SEEDS", "10"))
FIRST = int(os.environ.get("ROWLOOM_FIRST_SEED", "0"))


@pytest.mark.parametrize("seed", range(3))
def test_a_standby_takes_the_place_of_a_killed_server_with_every_acknowledged_push(seed: int) -> None:
    lab = lab_in_step(seed)
    for _ in range(3):
        lab.do(lab.push(list(range(ROWS))))
    primary(lab, 1).kill(None)
    began = lab.world.now
    lab.do(lab.push(list(range(ROWS))))
    assert lab.world.now - began < 5.0
    assert set(lab.rows()[:, 0]) == {4}
    in_step(lab)
    primary(lab, 1).kill(None)
    primary(lab, 0).kill(None)
    assert set(lab.rows()[:, 0]) == {4}
    assert lab.node.taken_over == 3
    assert np.isfinite(lab.rows()).all()


def test_a_server_that_stood_still_and_goes_on_changes_nothing() -> None:
    lab = lab_in_step(7)
    lab.do(lab.push(list(range(ROWS))))
    old = primary(lab, 1)
    old.sleep(30.0)
    lab.do(lab.push(list(range(ROWS))))
    assert primary(lab, 1) is not old
    lab.world.run(lambda: not old.sleeps)
    assert set(lab.rows()[:, 0]) == {2}
    assert lab.node.taken_over == 1


@pytest.mark.parametrize("waits", [True, False])
def test_a_server_that_nobody_reaches_serves_no_more_when_its_standby_does(waits: bool) -> None:
    lab = lab_in_step(3, waits=waits)
    old = primary(lab, 0)
    host = old.host
    lab.world.clogged.add(old.address)
    lab.world.run(lambda: lab.node.taken_over == 1)
    assert host.shard is not None
    assert not host.feed.holds(lab.world.now)
    lab.do(lab.push(list(range(ROWS))))
    lab.world.clogged.clear()
    assert set(lab.rows()[:, 0]) == {1}


def test_without_waiting_pushes_are_answered_before_the_standby_has_them_and_the_lag_is_told() -> None:
    lab = lab_in_step(5, 1, waits=False)
    standby(lab, 0).sleep(0.9)
    lab.do(lab.push(list(range(ROWS))))
    feed = primary(lab, 0).host.feed
    assert feed.end == feed.confirmed + 1
    lab.world.run(lambda: feed.end == feed.confirmed)


def test_a_server_whose_standby_ends_goes_on_alone_and_gets_another_one() -> None:
    lab = lab_in_step(6, 1)
    lab.do(lab.push(list(range(ROWS))))
    lab.node.shards[lab.node.coordinator.state.standbys[0].key].kill(None)
    lab.do(lab.push(list(range(ROWS))))
    in_step(lab)
    primary(lab, 0).kill(None)
    assert set(lab.rows()[:, 0]) == {2}


def test_a_shard_that_was_dead_for_good_was_said_to_be_started_again_and_its_standby_to_be_filled() -> None:
    lab = lab_in_step(11, 2)
    state, seen = lab.node.coordinator.state, lab.node.standbys.seen
    lab.world.run(lambda: lab.node.standbys.seen is not seen)  # none of them answers a look that has begun
    standby(lab, 0).kill(None)
    primary(lab, 0).kill(None)
    lab.world.run(lambda: 0 not in lab.node.coordinator.state.standbys)
    began = lab.world.now
    told = lab.change(lab.node.coordinator.set_lr("t", 0.5))
    assert isinstance(told, StateLost)
    assert "shard 0" in str(told)
    assert "it is dead, its process has ended (`rowloom recover --accept-loss 0`" in str(told)
    lab.world.run(lambda: lab.world.now - began > 20.0)
    # The launcher does not know of the end at each look.
    lab.world.run(lambda: not lab.node.standbys.said(), 2.0)
    started = lab.node.coordinator.state.next_key - state.next_key
    assert not started, "standbys that nothing can fill"


def test_rows_move_with_standbys_and_the_new_shards_get_theirs() -> None:
    lab = lab_in_step(8, 2)
    lab.do(lab.push(list(range(ROWS))))
    assert lab.scale(3) is None
    in_step(lab)
    for index in range(3):
        primary(lab, index).kill(None)
    assert set(lab.rows()[:, 0]) == {1}


@pytest.mark.parametrize(("index", "shards"), [(0, 3), (1, 1)])
def test_while_rows_moved_a_server_that_stood_still_was_waited_for_half_a_minute(
    index: int, shards: int
) -> None:
    lab = lab_in_step(9, 2)
    lab.do(lab.push(list(range(ROWS))))
    old, ends = primary(lab, index), []
    lab.node.scale(shards, lambda outcome: ends.append((lab.world.now, outcome)))
    lab.world.run(lambda: lab.node.moving.progress.state == "moving")
    began = lab.world.now
    old.sleep(120.0)
    lab.do(lab.push(list(range(ROWS))))
    assert lab.world.now - began < 12.0
    ((ended, outcome),) = ends
    assert ended - began < 9.0
    assert "does not answer" in str(outcome)
    assert primary(lab, index) is not old
    assert set(lab.rows()[:, 0]) == {2}


def test_the_end_of_filling_that_comes_twice_forgets_nothing_that_came_between() -> None:
    lab = Lab(3, 1, rules=StandbyRules())
    world = lab.world
    world.linger = 0.0
    address = primary(lab, 0).address
    arrive, copies = world.nodes[address], []

    def watched(method, data, answer) -> None:
        if method == methods.ATTACH:
            copies.append(data)
        arrive(method, data, answer)

    world.nodes[address] = watched
    world.run(lambda: primary(lab, 0).host.feed is not None)
    way = (standby(lab, 0).address, address)
    world.severed.add(way)  # or the standby would follow by then
    lab.do(lab.push(list(range(ROWS))))
    arrive(methods.ATTACH, copies[-1], lambda _: None)
    world.severed.remove(way)
    in_step(lab)
    primary(lab, 0).kill(None)
    assert set(lab.rows()[:, 0]) == {1}


@pytest.mark.parametrize("seed", range(8))
def test_without_waiting_no_more_is_lost_than_the_standby_was_said_to_be_behind(seed: int) -> None:
    lab = lab_in_step(seed, 1, waits=False)
    rng, acked = lab.world.rng, np.zeros((ROWS, WIDTH), np.float32)
    lab.world.weather(rng.choice(["calm", "lossy", "doubling"]))
    for _ in range(2):
        for _ in range(rng.randint(1, 8)):
            lab.do(lab.push(list(range(ROWS))))
            acked += 1
        in_step(lab)
        standby(lab, 0).sleep(rng.uniform(0.1, 0.8))
        lab.do(lab.push(list(range(ROWS))))
        acked += 1
        in_step(lab)
        old, said = primary(lab, 0), pb.StatisticsReply()
        observe(old.host, said)
        old.kill(None)
        rows = lab.rows()
        assert (rows <= acked).all()
        assert (rows >= acked - said.standby_behind).all()
        acked = rows.copy()


def test_standbys_that_are_asked_for_later_take_places_and_those_that_are_not_wanted_end() -> None:
    lab = lab_without(3)
    lab.do(lab.push(list(range(ROWS))))
    assert lab.replicate(1) is None
    assert lab.node.standbys.said() == ["shard 0 has no standby yet", "shard 1 has no standby yet"]
    in_step(lab)
    primary(lab, 0).kill(None)
    lab.do(lab.push(list(range(ROWS))))
    assert lab.node.taken_over == 1
    in_step(lab)
    others = [one.key for one in lab.node.coordinator.state.standbys.values()]
    assert lab.replicate(0) is None
    lab.settle()
    assert not lab.node.coordinator.state.standbys
    assert not any(key in lab.node.shards for key in others)
    lab.do(lab.push(list(range(ROWS))))
    assert set(lab.rows()[:, 0]) == {3}


def test_the_alert_of_missing_standbys_asks_who_is_to_have_one() -> None:
    lab = lab_without(3)
    host = primary(lab, 0).host
    assert not host.process.replicated
    lab.replicate(1)
    in_step(lab)
    assert host.process.replicated
    lab.replicate(0)
    lab.settle()
    observe(host, said := pb.StatisticsReply())
    assert not said.HasField("standby_follows")


def test_a_change_just_after_rows_had_moved_named_standbys_of_the_layout_before() -> None:
    lab = lab_in_step(8, 3)
    assert lab.scale(1) is None
    assert lab.replicate(1) is None  # it raised IndexError, or named one to the server of another epoch
    assert lab.node.coordinator.state.standbys == {}
    in_step(lab)
    primary(lab, 0).kill(None)
    lab.do(lab.push(list(range(ROWS))))
    assert set(lab.rows()[:, 0]) == {1}


@pytest.mark.parametrize("waits", [True, False])
def test_pushes_wait_for_standbys_from_the_moment_on_at_which_the_mode_says_so(waits: bool) -> None:
    lab = lab_in_step(5, 1, waits=not waits)
    assert lab.replicate(1, waits=waits) is None
    assert primary(lab, 0).host.feed.waits == waits
    assert not lab.node.standbys.said()
    lab.do(lab.push(list(range(ROWS))))
    standby(lab, 0).sleep(0.9)
    lab.do(lab.push(list(range(ROWS))))
    feed = primary(lab, 0).host.feed
    assert (feed.end == feed.confirmed) == waits


def test_a_server_that_does_not_hear_of_another_mode_is_named_until_it_does() -> None:
    lab = lab_in_step(5, 1, waits=False)
    post, lost = lab.world.post, [True]

    def without_it(address, method, *rest):
        if method == methods.SET_STANDBY and lost:
            lab.world.at(1.0, rest[2], Unavailable("it did not come"))
        else:
            post(address, method, *rest)

    lab.world.post = without_it
    lab.replicate(1, waits=True)
    assert lab.node.standbys.said() == ["shard 0 has yet to hear that `standby.mode` is sync"]
    lost.clear()
    lab.world.run(lambda: not lab.node.standbys.said())
    assert primary(lab, 0).host.feed.waits


@pytest.mark.parametrize("seed", range(FIRST, FIRST + SEEDS))
def test_histories_with_standbys_lose_nothing_and_apply_nothing_twice(seed: int) -> None:
    history = StandbyHistory(seed)
    history.finish()


@pytest.mark.parametrize("mode", [Mode.PROCESS, Mode.DISK], ids=lambda mode: mode.value)
@pytest.mark.parametrize("seed", range(FIRST, FIRST + SEEDS))
def test_histories_with_standbys_and_logs_lose_nothing_whoever_ends(seed: int, mode: Mode) -> None:
    history = StandbyHistory(seed, mode=mode, waits=bool(seed % 4))
    history.finish()


@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.__name__)
def test_nothing_is_lost_and_nobody_is_told_what_is_no_more_where(scene) -> None:
    scene()


@pytest.mark.parametrize("build", BUILDS, ids=lambda build: build.__name__)
def test_a_broken_standby_is_noticed_that(build, monkeypatch) -> None:
    build(monkeypatch)
    with pytest.raises(AssertionError):
        BUILDS[build]()
