"""Seeds through the simulator. A failing seed prints the one line that repeats it.

ROWLOOM_SEEDS=1000000 pytest tests/simulation      a long run
ROWLOOM_FIRST_SEED=85 ROWLOOM_SEEDS=1 pytest ...   one seed again
python tests/simulation/report.py --seeds 10000    what was done, what was broken on the way, what would be noticed
"""

import os
from collections import Counter

import pytest
from simulation.histories import KINDS, History
from simulation.lab import Lab
from simulation.quick import collect

SEEDS = int(os.environ.get("ROWLOOM_SEEDS", "300"))
FIRST = int(os.environ.get("ROWLOOM_FIRST_SEED", "0"))
BATCHES = 5
TWICE = 100  # every so many seeds one is run twice


@pytest.mark.timeout(300 if SEEDS <= 1000 else 0)
@pytest.mark.parametrize("batch", range(min(BATCHES, SEEDS)))
def test_histories_under_all_kinds_of_faults_lose_nothing_and_apply_nothing_twice(batch: int) -> None:
    done: Counter[str] = Counter()
    for seed in range(FIRST + batch, FIRST + SEEDS, min(BATCHES, SEEDS)):
        try:
            history = History(seed)
            history.finish()
        except BaseException:
            print(f"repeat with: ROWLOOM_FIRST_SEED={seed} ROWLOOM_SEEDS=1 pytest tests/simulation")
            raise
        collect(seed)
        done.update(history.calls)
        done.update(history.world.injected)
        done.update({"scaling": history.scalings, "unresolved push": history.unresolved})
    if SEEDS >= 300:  # the histories are worth the name
        assert len(done) >= 28, sorted(done)
        assert min(done.values()) >= 1, done


@pytest.mark.parametrize("seed", range(FIRST, FIRST + SEEDS, TWICE))
def test_the_same_seed_gives_the_same_history(seed: int) -> None:
    first, second = History(seed, traced=True), History(seed, traced=True)
    first.finish()
    second.finish()
    assert first.digest() == second.digest()


def test_another_seed_gives_another_history() -> None:
    first, second = History(1, traced=True), History(2, traced=True)
    first.finish()
    second.finish()
    assert first.digest() != second.digest()


def test_a_seed_has_half_of_the_kinds_of_faults() -> None:
    kinds = Counter(kind for seed in range(100) for kind in History(seed).on)
    assert set(kinds) == set(KINDS)
    assert sum(kinds.values()) == 100 * (len(KINDS) // 2)


def test_a_server_that_had_handed_its_shard_over_was_expected_to_show_what_was_pushed_since() -> None:
    lab = Lab(1, 1)
    node, ended = lab.node, []
    first, epoch = node.coordinator.state.keys, node.one_epoch()
    assert epoch is not None
    node.move(1, ended.append, {})
    lab.world.run(lambda: node.disk.stored.keys != first)
    assert node.one_epoch() is None  # both answer pulls, in the same epoch
    assert lab.shards()[0].layout.epoch == epoch
    lab.world.run(lambda: bool(ended))
    assert node.one_epoch() == epoch
