"""What the simulator has done, made by a machine: python tests/simulation/report.py --seeds 10000

Seeds, virtual hours, faults and calls by kind; crash points, how often they were hit and how often all was right
afterwards; then each broken build with the median of the seeds until it is noticed.
"""

import argparse
import logging
import statistics
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from simulation import sabotage
from simulation.histories import History
from simulation.quick import collect, patient, quick
from simulation.shards import POINTS

# Where processes end, as faults are called, beside POINTS.
ENDS = (
    "server killed",
    "all servers killed",
    "server killed in a call of the disk",
    "empty server killed",
    "server killed that had just received its rows",
    "power failed",
    "coordinator died",
)


def histories(first: int, seeds: int) -> int:
    """Run them and print what happened. Returns how many failed."""
    faults: Counter[str] = Counter()
    calls: Counter[str] = Counter()
    recovered: Counter[str] = Counter()
    failed: list[tuple[int, str]] = []
    requests, virtual_s, begin = 0, 0.0, time.process_time()
    for seed in range(first, first + seeds):
        history = History(seed)
        try:
            history.finish()
            recovered.update(history.world.injected)
        except Exception as e:
            failed.append((seed, f"{type(e).__name__}: {e}"))
        collect(seed)
        faults.update(history.world.injected)
        calls.update(history.calls)
        calls.update({"scale": history.scalings})
        requests += history.world.calls
        virtual_s += history.world.now
    seconds = time.process_time() - begin
    print(f"seeds {seeds:,} from {first:,}: {seeds / seconds:.1f} for each second of one core")
    print(f"violations {len(failed)}, requests {requests:,}, virtual hours {virtual_s / 3600:.1f}")
    for seed, error in failed[:20]:
        print(f"  ROWLOOM_FIRST_SEED={seed} ROWLOOM_SEEDS=1 pytest tests/simulation   {error}")
    for title, counts in (("faults", faults), ("calls", calls)):
        print(f"\n{title:50} number")
        for kind, number in counts.most_common():
            print(f"{kind:50} {number:,}")
    print(f"\n{'crash points':50} hit, and all was right afterwards")
    for point in (*(f"server killed: {point}" for point in POINTS), *ENDS):
        print(f"{point:50} {faults[point]:,}, {recovered[point]:,}")
    return len(failed)


def broken_builds(tries: int, first: int) -> None:
    """Print how soon each is noticed."""
    print(f"\n{'broken build':50} seeds until noticed: median of {tries}, most")
    for build in sabotage.BUILDS + sabotage.LOGGED:
        taken = []
        with pytest.MonkeyPatch.context() as patch:
            build(patch)
            for k in range(tries):
                taken.append(sabotage.seeds_until_caught(build, first + 100_000 * k))
        print(f"{build.__name__:50} {statistics.median(taken):.0f}, {max(taken)}", flush=True)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=1000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--tries", type=int, default=5, help="of each broken build; 0: leave them out")
    args = parser.parse_args()
    sys.unraisablehook = lambda _: (
        None
    )  # calls of broken builds may fail once more while they are cleared away
    logging.disable()  # of what is broken on purpose
    with quick(), patient():
        failed = histories(args.first, args.seeds)
        if args.tries:
            broken_builds(args.tries, args.first)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
