"""What standbys answer is never older than those agreed to who ask them, and no call fails because of one."""

import os

import pytest
from simulation.broken_nearest import BUILDS
from simulation.nearest_histories import NearestHistory

SEEDS = int(os.environ.get("ROWLOOM_SEEDS", "10"))
FIRST = int(os.environ.get("ROWLOOM_FIRST_SEED", "0"))


@pytest.mark.parametrize("waits", [True, False])
@pytest.mark.parametrize("seed", range(FIRST, FIRST + SEEDS))
def test_histories_with_readers_of_standbys_read_nothing_that_is_too_old(seed: int, waits: bool) -> None:
    history = NearestHistory(seed, waits=waits)
    history.finish()
    print(
        seed, waits, history.bound_s, dict(history.calls), history.by_standbys, dict(history.world.injected)
    )
    assert history.by_standbys


@pytest.mark.parametrize("scene", BUILDS.values(), ids=lambda scene: scene.__name__)
def test_nobody_is_told_what_is_too_old_where(scene) -> None:
    scene()


@pytest.mark.parametrize("build", BUILDS, ids=lambda build: build.__name__)
def test_a_build_is_noticed_whose_standby(build, monkeypatch) -> None:
    build(monkeypatch)
    with pytest.raises(AssertionError, match=r"rows lack|its own push|that a standby lacks"):
        BUILDS[build]()
