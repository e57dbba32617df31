"""What standbys answer is never older than those agreed to who ask them, and no call fails because of one."""

import os
from collections import Counter

import numpy as np
import pytest
from simulation.broken_nearest import BUILDS, waiting
from simulation.broken_standbys import lab_in_step, primary, standby
from simulation.lab import WIDTH
from simulation.nearest_histories import EVERY, NearestHistory, pulled, reader_of

from rowloom.client.calls import operations as ops
from rowloom.client.calls.cutting import RequestSizes
from rowloom.proto import methods

SEEDS = int(os.environ.get("ROWLOOM_SEEDS", "10"))
FIRST = int(os.environ.get("ROWLOOM_FIRST_SEED", "0"))


@pytest.mark.parametrize("waits", [True, False])
@pytest.mark.parametrize("seed", range(FIRST, FIRST + SEEDS))
def test_histories_with_readers_of_standbys_read_nothing_that_is_too_old(seed: int, waits: bool) -> None:
    history = NearestHistory(seed, waits=waits)
    history.finish()
    assert history.by_standbys


def test_what_a_step_pulls_comes_from_the_shards_that_have_its_push() -> None:
    """Also where the pull goes by itself: with pushes in several pieces, and to shards that get none."""
    lab = lab_in_step(3, 3)
    lab.session = session = reader_of(lab, 2, 5.0)
    session.sizes = RequestSizes(whole=100, piece=60)
    for _ in range(20):
        pulled(lab, session)
        waiting(lab, 0.05)
    assert all(standby(lab, index).host.process.reads.pulls for index in range(3))
    asked: Counter[str] = Counter()
    post = lab.world.post

    def watched(address, method, *rest):
        asked[address] += method in methods.ROWS
        post(address, method, *rest)

    lab.world.post = watched
    ids = EVERY[EVERY % 3 > 0]
    given = [(lab.entry, ids, -np.ones((len(ids), WIDTH), np.float32))]
    for count in range(1, 21):
        (rows,) = lab.do(ops.step(session, given, [(lab.entry, EVERY)], lab.world.now + 60))
        assert (rows[ids] == count).all()
    assert set(+asked) == {shard.address for shard in session.layout.shards}


@pytest.mark.parametrize("scene", BUILDS.values(), ids=lambda scene: scene.__name__)
def test_nobody_is_told_what_is_too_old_where(scene) -> None:
    scene()


@pytest.mark.parametrize("build", BUILDS, ids=lambda build: build.__name__)
def test_a_build_is_noticed_whose_standby(build, monkeypatch) -> None:
    build(monkeypatch)
    with pytest.raises(AssertionError, match=r"rows lack|its own push|that a standby lacks"):
        BUILDS[build]()


def test_a_standby_that_has_ended_may_answer_nobody_and_is_waited_for_no_longer_than_without_readers() -> (
    None
):
    lab = lab_in_step(3, 1)
    reader = reader_of(lab, 2, 5.0)
    for _ in range(20):
        pulled(lab, reader)
        waiting(lab, 0.05)
    other = standby(lab, 0)
    assert primary(lab, 0).host.feed.reads_left_s(lab.world.now) > 0.5
    other.kill(None)
    began = lab.world.now
    lab.do(lab.push(EVERY))
    assert lab.world.now - began < 0.5
