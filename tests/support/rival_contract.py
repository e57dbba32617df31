"""What every rival must do before its figures mean anything: `python tests/support/rival_contract.py MODULE:CLASS`."""

import importlib
import os
import sys
from pathlib import Path

import numpy as np

from rowloom.client import InvalidRequest
from rowloom.deploy.bench.rival import Rival

MISSING = 77
IDS = np.array([5, 0, 5, 99])
TIMES = np.array([2, 1, 2, 1])


def moves_rows(rival: Rival) -> None:
    """Rows begin at 1, come in the order of the ids, and become what Adagrad makes of the summed gradients."""
    grads = np.ones((len(IDS), rival.dim), np.float32)
    before = np.array(rival.pull(IDS))
    np.testing.assert_array_equal(before, np.ones((len(IDS), rival.dim), np.float32))
    if "push" not in rival.ops:
        return
    rival.push(IDS, grads)
    after = np.array(rival.pull(IDS))
    expected = 1 - 0.05 * TIMES / np.sqrt(0.1 + TIMES**2)
    np.testing.assert_allclose(after, np.repeat(expected[:, None], rival.dim, 1), rtol=1e-4)
    np.testing.assert_allclose(np.array(rival.step(IDS, grads)), after, rtol=1e-6)
    assert (np.array(rival.pull(IDS)) < after).all()
    assert (np.array(rival.pull(np.array([1, 50]))) == 1).all()


def main() -> None:
    sys.path.insert(0, str(Path(__file__).parents[1] / "bench"))
    module, _, kind = sys.argv[1].partition(":")
    try:
        with getattr(importlib.import_module(module), kind)(100, 8, 2) as rival:
            moves_rows(rival)
            assert rival.version
            assert rival.server_cpu_s() >= 0
            assert rival.server_rss_bytes() > 1_000_000
    except InvalidRequest as e:
        sys.stdout.write(f"{e}\n")
        sys.stdout.flush()
        os._exit(MISSING)
    sys.stdout.flush()
    # Past the threads of C++ libraries that have no way to be told.
    os._exit(0)


if __name__ == "__main__":
    main()
