"""Seeds through the simulator. A failing seed prints the one line that repeats it.

ROWLOOM_SEEDS=1000000 pytest tests/simulation      a long run
ROWLOOM_FIRST_SEED=85 ROWLOOM_SEEDS=1 pytest ...   one seed again
"""

import os

import numpy as np
import pytest
from simulation.histories import History

SEEDS = int(os.environ.get("ROWLOOM_SEEDS", "500"))
FIRST = int(os.environ.get("ROWLOOM_FIRST_SEED", "0"))
BATCHES = 10


@pytest.mark.timeout(60 if SEEDS <= 500 else 0)
@pytest.mark.parametrize("batch", range(min(BATCHES, SEEDS)))
def test_histories_under_a_bad_network_lose_nothing_and_apply_nothing_twice(batch: int) -> None:
    seen = np.zeros(4, np.int64)
    for seed in range(FIRST + batch, FIRST + SEEDS, min(BATCHES, SEEDS)):
        history = None
        try:
            history = History(seed)
            history.finish()
        except BaseException:
            print(f"repeat with: ROWLOOM_FIRST_SEED={seed} ROWLOOM_SEEDS=1 pytest tests/simulation")
            raise
        seen += (history.pushes, history.pulls, history.unresolved, history.scalings)
    if SEEDS >= 100:  # the histories are worth the name
        assert (seen > 0).all(), seen


def test_the_same_seed_gives_the_same_history() -> None:
    first, second = History(7), History(7)
    first.finish()
    second.finish()
    assert first.world.now == second.world.now
    assert (first.pushes, first.pulls, first.scalings) == (second.pushes, second.pulls, second.scalings)
