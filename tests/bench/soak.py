"""Two trainers on two shards for a while: `python tests/bench/soak.py --seconds 60`. Prints one JSON object.

Each trainer pulls and pushes batches of Zipf ids. Columns of its own count its pushes of every row, so that at the end
every push can be accounted for; they take turns, because float32 counts to 2**24 only. Memory of the shards is sampled
all along.
"""

import argparse
import itertools
import json
import multiprocessing
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from rowloom.client import SGD, TableSpec, Zeros, connect
from rowloom.deploy.bench.workload import zipf_ids
from rowloom.deploy.config.config import parse
from rowloom.deploy.operate.clusters import down, up
from rowloom.deploy.operate.directory import ClusterDirectory

ROWS, COLUMNS, BATCH = 200_000, 64, 4096


def train(address: str, columns: range, seconds: float, results) -> None:
    """One trainer. Reports how often it pushed each id, its calls' times, and its errors."""
    rng = np.random.default_rng(columns.start)
    counts, times, errors = np.zeros(ROWS, np.int64), [], []
    with connect(address) as client:
        table = client.table("soak")
        grads = np.zeros((BATCH, COLUMNS), np.float32)
        until = time.monotonic() + seconds
        for step in itertools.count():
            if time.monotonic() >= until:
                break
            grads[:, columns[(step - 1) % len(columns)]] = 0
            grads[:, columns[step % len(columns)]] = -1
            ids = zipf_ids(BATCH, ROWS, rng)
            began = time.monotonic()
            try:
                table.pull(ids)
                table.push(ids, grads)
            except Exception as e:
                errors.append(f"{type(e).__name__}: {e}")
                continue
            times.append(time.monotonic() - began)
            np.add.at(counts, ids, 1)
    results.put((columns, counts, times, errors))


def soak(address: str, seconds: float, trainers: int) -> dict:
    """Run the trainers and watch the shards."""
    context = multiprocessing.get_context("spawn")
    with connect(address) as client:
        spec = TableSpec("soak", ROWS, dim=COLUMNS, optimizer=SGD(lr=1.0), initializer=Zeros())
        table = client.create_table(spec)
        table.assign(np.arange(ROWS), np.zeros((ROWS, COLUMNS), np.float32))
        results = context.Queue()
        theirs = [range(c, COLUMNS, trainers) for c in range(trainers)]
        jobs = [context.Process(target=train, args=(address, c, seconds, results)) for c in theirs]
        for job in jobs:
            job.start()
        memory, began = [], time.monotonic()
        while time.monotonic() - began < seconds:
            memory.append([s["resident_bytes"] for s in client.statistics()])
            time.sleep(min(1.0, seconds / 20))
        reports = [results.get(timeout=120) for _ in jobs]
        for job in jobs:
            job.join(30)
        rows = table.pull(np.arange(ROWS))
        exact = all(np.array_equal(rows[:, c].sum(axis=1, dtype=np.float64), n) for c, n, _, _ in reports)
    times = np.sort(np.concatenate([t for _, _, t, _ in reports]))
    settled = memory[len(memory) // 3]
    return {
        "seconds": seconds,
        "trainers": trainers,
        "steps": len(times),
        "rows_per_s": len(times) * BATCH / seconds,
        "step_p50_ms": float(times[len(times) // 2] * 1000),
        "step_p99_ms": float(times[int(len(times) * 0.99)] * 1000),
        "errors": [e for _, _, _, errors in reports for e in errors],
        "every_push_exactly_once": exact,
        "resident_mb_after_a_third": [round(m / 1e6, 1) for m in settled],
        "resident_mb_at_the_end": [round(m / 1e6, 1) for m in memory[-1]],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--launcher", choices=("ray", "local"), default="ray")
    parser.add_argument("--shards", type=int, default=2)
    parser.add_argument("--trainers", type=int, default=2)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        directory = ClusterDirectory(Path(folder))
        config = {
            "name": "soak",
            "shards": args.shards,
            "launcher": args.launcher,
            "storage": f"file://{folder}/state",
        }
        ray = {"ray": {"address": "local", "num_cpus_per_shard": 0.5}} if args.launcher == "ray" else {}
        record = up(parse(config | ray), directory).record
        try:
            result = soak(record.address, args.seconds, args.trainers)
        finally:
            down(record, directory)
    sys.stdout.write(json.dumps(result | {"launcher": args.launcher, "shards": args.shards}) + "\n")
    sys.exit(bool(result["errors"]) or not result["every_push_exactly_once"])


if __name__ == "__main__":
    main()
