"""How long a shard is away that ends by SIGKILL: `python tests/bench/recovery.py [--gigabytes 1 4] [FOLDER]`.

One shard with durability `process`, its rows in a snapshot and a quarter as many bytes of log behind it. A pull begins
when the signal is sent; how long it takes is printed, one line of JSON for each size. FOLDER is where log and snapshots
lie.
"""

import argparse
import json
import os
import shutil
import signal
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

from rowloom.client import Adagrad, TableSpec, Zeros, connect
from rowloom.deploy.config.config import parse
from rowloom.deploy.coordinator_server import CoordinatorServer
from rowloom.deploy.launch.local_launcher import ProcessLauncher
from rowloom.deploy.operate.remote import Remote

DIM, BATCH = 64, 1 << 16
ROW_BYTES = 2 * 4 * DIM  # with Adagrad's slot


def main() -> None:
    """See above."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gigabytes", type=float, nargs="+", default=[1, 4])
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("folder", nargs="?")
    args = parser.parse_args()
    for gigabytes in args.gigabytes:
        root = Path(tempfile.mkdtemp(prefix="rowloom-bench-", dir=args.folder))
        try:
            print(json.dumps(measure(root, int(gigabytes * 1e9) // ROW_BYTES, args.kills)), flush=True)
        finally:
            shutil.rmtree(root)


def measure(root: Path, rows: int, kills: int) -> dict:
    """See above."""
    spec = TableSpec("t", rows, dim=DIM, optimizer=Adagrad(lr=0.01), initializer=Zeros())
    config = parse(
        {"name": "r", "shards": 1, "storage": str(root), "durability": "process", "tables": [spec]}
    )
    launcher = ProcessLauncher(config, root)
    server = CoordinatorServer(config, launcher)
    server.start()
    try:
        with connect(server.address, timeout_s=300.0) as client, Remote(server.address) as remote:
            table = client.table("t")

            def push(count: int) -> None:
                for begin in range(0, count, BATCH):
                    ids = np.arange(begin, min(begin + BATCH, count))
                    table.push(ids, np.full((len(ids), DIM), 1e-3, np.float32))

            push(rows)
            for _ in range(2):  # a log goes on from the second newest
                remote.take_snapshot()
            push(rows // 4 * ROW_BYTES // (4 * DIM + 8))
            os.sync()
            away = []
            for _ in range(kills):
                before = table.pull(np.arange(BATCH))
                began = time.monotonic()
                os.kill(launcher.pid(server.coordinator.state.keys[0]), signal.SIGKILL)
                after = table.pull(np.arange(BATCH))
                away.append(round(time.monotonic() - began, 2))
                assert np.array_equal(before, after), "the shard came back with other rows"
    finally:
        server.stop()
    return {"GB": round(rows * ROW_BYTES / 1e9, 1), "away_s": statistics.median(away), "all": away}


if __name__ == "__main__":
    main()
