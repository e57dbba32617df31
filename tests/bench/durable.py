"""What durability costs: pushes and steps of one trainer to two shards in each mode, beside `memory` in the same run.

    python tests/bench/durable.py [--rounds 5] [--rows 1000000] [--carrier auto] [FOLDER]

Prints medians of thousand ids a second, and their share of memory's. FOLDER is where the logs go: it decides `disk`.

A slice of pushes is short, and before each one the logs are cut by a snapshot and the system's writes are done: so it
is what a trainer sees whose pace the disk can follow. Nobody is faster than the disk for long: `sustained` says how
many bytes of log a second were kept up for some seconds, beside the disk's own speed.
"""

import argparse
import contextlib
import os
import shutil
import statistics
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import numpy as np

from rowloom.client import Adagrad, TableSpec, Zeros, connect
from rowloom.client.carriers.transport import CARRIERS
from rowloom.deploy.bench.workload import zipf_ids
from rowloom.deploy.config.config import parse
from rowloom.deploy.coordinator_server import CoordinatorServer
from rowloom.deploy.launch.local_launcher import ProcessLauncher
from rowloom.deploy.operate.remote import Remote

MODES = ("memory", "process", "interval", "disk")
BATCHES = (1_024, 16_384, 65_536)
DIM = 64
SLICE_S = 0.25  # of one measurement
SUSTAINED_S = 6.0
WRITE_BYTES = 1 << 30  # to measure the disk with


def main() -> None:
    """See above."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--carrier", default="auto", choices=CARRIERS, help="as of `connect`")
    parser.add_argument("folder", nargs="?")
    args = parser.parse_args()
    root = Path(tempfile.mkdtemp(prefix="rowloom-bench-", dir=args.folder))
    found: dict[tuple[str, int, str], list[float]] = defaultdict(list)
    try:
        with contextlib.ExitStack() as stack:
            tables = {
                mode: stack.enter_context(_table(mode, args.rows, root, args.carrier)) for mode in MODES
            }
            for k in range(args.rounds + 1):
                for batch in BATCHES:
                    for _, cut in tables.values():
                        cut()
                    for what in ("push", "step"):
                        for mode, (table, _) in tables.items():
                            rate = _rate(table, what, batch, args.rows, SLICE_S)
                            if k:  # at first the files of a log are new, and slower
                                found[what, batch, mode].append(rate)
            _print(found)
            _print_sustained(tables, args.rows, root)
    finally:
        shutil.rmtree(root)


def _print(found: dict[tuple[str, int, str], list[float]]) -> None:
    for what in ("push", "step"):
        for batch in BATCHES:
            said: list[str] = []
            for mode in MODES:
                mine, memory = found[what, batch, mode], found[what, batch, "memory"]
                share = statistics.median(a / b for a, b in zip(mine, memory, strict=True))
                said.append(f"{mode} {statistics.median(mine) / 1e3:8,.0f} ({share:4.0%})")
            print(f"{what} {batch:7,}  {'  '.join(said)}")


def _print_sustained(tables: dict, rows: int, root: Path) -> None:
    batch = BATCHES[1]
    rng = np.random.default_rng(0)
    distinct = np.mean([len(np.unique(zipf_ids(batch, rows, rng))) for _ in range(8)])
    print(f"the disk alone: {_disk_rate(root) / 1e6:,.0f} MB/s")
    for mode in ("process", "disk"):
        table, cut = tables[mode]
        cut()
        rate = _rate(table, "push", batch, rows, SUSTAINED_S)
        log = rate / batch * distinct * (8 + 4 * DIM)
        print(
            f"sustained for {SUSTAINED_S:.0f} s, push {batch:,}: {mode} {rate / 1e3:,.0f}, log {log / 1e6:,.0f} MB/s"
        )


def _disk_rate(root: Path) -> float:
    """Bytes a second, written one after the other and synced."""
    block, began = os.urandom(4 << 20), time.perf_counter()
    with (root / "plain").open("wb") as file:
        for _ in range(WRITE_BYTES // len(block)):
            file.write(block)
        file.flush()
        os.fdatasync(file.fileno())
    return WRITE_BYTES / (time.perf_counter() - began)


@contextlib.contextmanager
def _table(mode: str, rows: int, root: Path, carrier: str):
    spec = TableSpec("t", rows, dim=DIM, optimizer=Adagrad(lr=0.01), initializer=Zeros())
    config = parse(
        {"name": mode, "shards": 2, "storage": str(root / mode), "durability": mode, "tables": [spec]}
    )
    server = CoordinatorServer(config, ProcessLauncher(config, root / mode))
    server.start()
    try:
        with connect(server.address, carrier=carrier) as client:
            table = client.table("t")
            for begin in range(0, rows, 1 << 16):  # every row exists
                ids = np.arange(begin, min(begin + (1 << 16), rows))
                table.push(ids, np.zeros((len(ids), DIM), np.float32))
            yield table, lambda: _cut(server) if mode != "memory" else None
    finally:
        server.stop()


def _cut(server: CoordinatorServer) -> None:
    """Make the logs short, and let the system write what it still has to."""
    with contextlib.closing(Remote(server.address)) as remote:
        for _ in range(2):  # a log goes on from the second newest
            remote.take_snapshot(full=True, keep=2)
    os.sync()


def _rate(table, what: str, batch: int, rows: int, seconds: float) -> float:
    rng = np.random.default_rng(0)
    ids = [zipf_ids(batch, rows, rng) for _ in range(8)]
    grads = np.full((batch, DIM), 1e-3, np.float32)
    count, began = 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        if what == "push":
            table.push(ids[count % 8], grads)
        else:
            table.step(ids[count % 8], grads, ids[(count + 1) % 8])
        count += 1
    return count * batch / (time.perf_counter() - began)


if __name__ == "__main__":
    main()
