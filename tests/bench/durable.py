"""What durability costs: pushes and steps of one trainer to two shards in each mode, beside `memory` in the same run.

    python tests/bench/durable.py [--rounds 5] [--rows 2000000] [FOLDER]

Prints medians of thousand ids a second, and their share of memory's. FOLDER is where the logs go: it decides `disk`.
"""

import argparse
import contextlib
import shutil
import statistics
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import numpy as np

from rowloom.client import Adagrad, TableSpec, Zeros, connect
from rowloom.deploy.bench.workload import zipf_ids
from rowloom.deploy.config.config import parse
from rowloom.deploy.coordinator_server import CoordinatorServer
from rowloom.deploy.launch.local_launcher import ProcessLauncher

MODES = ("memory", "process", "interval", "disk")
BATCHES = (1_024, 16_384, 65_536)
DIM = 64
SLICE_S = 0.5  # of one measurement


def main() -> None:
    """See above."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rows", type=int, default=2_000_000)
    parser.add_argument("folder", nargs="?")
    args = parser.parse_args()
    root = Path(tempfile.mkdtemp(prefix="rowloom-bench-", dir=args.folder))
    found: dict[tuple[str, int, str], list[float]] = defaultdict(list)
    try:
        with contextlib.ExitStack() as stack:
            tables = {mode: stack.enter_context(_table(mode, args.rows, root)) for mode in MODES}
            for _ in range(args.rounds):
                for batch in BATCHES:
                    for what in ("push", "step"):
                        for mode in MODES:
                            found[what, batch, mode].append(_rate(tables[mode], what, batch, args.rows))
    finally:
        shutil.rmtree(root)
    for what in ("push", "step"):
        for batch in BATCHES:
            said: list[str] = []
            for mode in MODES:
                mine, memory = found[what, batch, mode], found[what, batch, "memory"]
                share = statistics.median(a / b for a, b in zip(mine, memory, strict=True))
                said.append(f"{mode} {statistics.median(mine) / 1e3:8,.0f} ({share:4.0%})")
            print(f"{what} {batch:7,}  {'  '.join(said)}")


@contextlib.contextmanager
def _table(mode: str, rows: int, root: Path):
    spec = TableSpec("t", rows, dim=DIM, optimizer=Adagrad(lr=0.01), initializer=Zeros())
    config = parse(
        {"name": mode, "shards": 2, "storage": str(root / mode), "durability": mode, "tables": [spec]}
    )
    server = CoordinatorServer(config, ProcessLauncher(config, root / mode))
    server.start()
    try:
        with connect(server.address) as client:
            table = client.table("t")
            for begin in range(0, rows, 1 << 16):  # every row exists
                ids = np.arange(begin, min(begin + (1 << 16), rows))
                table.push(ids, np.zeros((len(ids), DIM), np.float32))
            yield table
    finally:
        server.stop()


def _rate(table, what: str, batch: int, rows: int) -> float:
    rng = np.random.default_rng(0)
    ids = [zipf_ids(batch, rows, rng) for _ in range(8)]
    grads = np.full((batch, DIM), 1e-3, np.float32)
    count, began = 0, time.perf_counter()
    while time.perf_counter() - began < SLICE_S:
        if what == "push":
            table.push(ids[count % 8], grads)
        else:
            table.step(ids[count % 8], grads, ids[(count + 1) % 8])
        count += 1
    return count * batch / (time.perf_counter() - began)


if __name__ == "__main__":
    main()
