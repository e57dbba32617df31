"""How long calls of a trainer take while a snapshot is taken: `python tests/bench/pauses.py [--rows 2000000] [FOLDER]`.

One trainer, a process of its own, steps on two shards with durability `process`: without a pause (full load), then with
a pause after each step as long as the step (half load). Snapshots are taken meanwhile, whole ones. One line of JSON for
each load: milliseconds of a step, p50, p99 and the longest, outside of snapshots and while one was taken.
"""

import argparse
import json
import multiprocessing
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np

from rowloom.client import Adagrad, TableSpec, Zeros, connect
from rowloom.deploy.bench.workload import zipf_ids
from rowloom.deploy.config.config import parse
from rowloom.deploy.operate.clusters import down, up
from rowloom.deploy.operate.directory import ClusterDirectory
from rowloom.deploy.operate.remote import Remote

DIM, BATCH = 64, 4096
QUIET_S, SNAPSHOTS = 4.0, 3


def train(address: str, rows: int, half: bool, begun, stop, results) -> None:
    """Steps until told to stop. Reports (begin, end) of each, on the system's monotonic clock."""
    rng = np.random.default_rng(0)
    batches = [zipf_ids(BATCH, rows, rng) for _ in range(16)]
    grads = np.full((BATCH, DIM), 1e-3, np.float32)
    times: list[tuple[float, float]] = []
    with connect(address) as client:
        table = client.table("t")
        table.step(batches[0], grads, batches[1])
        begun.set()
        while not stop.is_set():
            began = time.monotonic()
            table.step(batches[len(times) % 16], grads, batches[(len(times) + 1) % 16])
            ended = time.monotonic()
            times.append((began, ended))
            if half:
                time.sleep(ended - began)
    results.put(times)


def main() -> None:
    """See above."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=2_000_000)
    parser.add_argument("folder", nargs="?")
    args = parser.parse_args()
    root = Path(tempfile.mkdtemp(prefix="rowloom-bench-", dir=args.folder))
    home = ClusterDirectory(root / "home")
    spec = TableSpec("t", args.rows, dim=DIM, optimizer=Adagrad(lr=0.01), initializer=Zeros())
    storage = str(root / "storage")
    config = parse({"name": "p", "shards": 2, "storage": storage, "durability": "process", "tables": [spec]})
    record = up(config, home).record
    address = record.address
    try:
        with connect(address) as client:
            for begin in range(0, args.rows, 1 << 16):  # every row exists
                ids = np.arange(begin, min(begin + (1 << 16), args.rows))
                client.table("t").push(ids, np.zeros((len(ids), DIM), np.float32))
        for load in ("full", "half"):
            print(json.dumps(measure(address, args.rows, load)), flush=True)
    finally:
        down(record, home)
        shutil.rmtree(root)


def measure(address: str, rows: int, load: str) -> dict:
    """See above."""
    context = multiprocessing.get_context("spawn")
    begun, stop, results = context.Event(), context.Event(), context.Queue()
    trainer = context.Process(target=train, args=(address, rows, load == "half", begun, stop, results))
    trainer.start()
    assert begun.wait(60)
    taken: list[tuple[float, float, float]] = []
    with Remote(address) as remote:
        for _ in range(SNAPSHOTS):
            stop.wait(QUIET_S)
            began = time.monotonic()
            pause_s = remote.take_snapshot().pause_s
            taken.append((began, time.monotonic(), pause_s))
    stop.set()
    times = results.get(timeout=60)
    trainer.join()
    inside = [any(b < end and e > begin for begin, end, _ in taken) for b, e in times]
    durations = 1e3 * np.array([e - b for b, e in times])
    meanwhile = np.array(inside)
    return {
        "load": load,
        "snapshot_s": round(float(np.median([end - begin for begin, end, _ in taken])), 2),
        "pause_ms": [round(1e3 * pause, 1) for *_, pause in taken],
        "without": spread(durations[~meanwhile]),
        "meanwhile": spread(durations[meanwhile]),
    }


def spread(durations: np.ndarray) -> dict[str, float]:
    """p50, p99 and the longest."""
    p50, p99, longest = np.percentile(durations, [50, 99, 100])
    return {"p50": round(p50, 2), "p99": round(p99, 2), "max": round(longest, 1), "count": len(durations)}


if __name__ == "__main__":
    main()
