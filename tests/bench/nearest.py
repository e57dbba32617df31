"""What pulls cost that standbys may answer: rows per second of several readers, with and without `read_from="nearest"`.

    python tests/bench/nearest.py --readers 4 --seconds 10

Readers are processes, and so are the shard and its standby: on a machine with few cores they take them from each other.
With --pushes a trainer pushes meanwhile, so many rows at a time.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import threading
import time

import numpy as np

from rowloom.client import Adagrad, TableSpec, Zeros, connect
from rowloom.deploy import local_cluster
from rowloom.proto import rowloom_pb2 as pb

DIM = 64
WARM_S = 2.0


def read(address: str, read_from: str, ids: int, rows: int, seconds: float, told) -> None:
    """One reader: puts how many pulls it had answered, and the times of the quickest half and of 99 of 100."""
    with connect(address, read_from=read_from) as client:
        table, rng = client["rows"], np.random.default_rng()
        until = time.perf_counter() + WARM_S
        while time.perf_counter() < until:
            table.pull(rng.integers(0, rows, ids))
        took: list[float] = []
        until = time.perf_counter() + seconds
        while (began := time.perf_counter()) < until:
            table.pull(rng.integers(0, rows, ids))
            took.append(time.perf_counter() - began)
    told.put((len(took), *np.quantile(took, [0.5, 0.99]).tolist()))


def push(cluster, rows: int, count: int, ending: threading.Event) -> None:
    """One trainer, as fast as it goes."""
    table, rng = cluster.connect()["rows"], np.random.default_rng()
    while not ending.is_set():
        table.push(rng.integers(0, rows, count), np.ones((count, DIM), np.float32))


def measure(cluster, read_from: str, args: argparse.Namespace) -> dict[str, float]:
    """All readers at once."""
    context = multiprocessing.get_context("spawn")
    told, before = context.Queue(), by_standby(cluster)
    given = cluster.address, read_from, args.ids, args.rows, args.seconds, told
    readers = [context.Process(target=read, args=given) for _ in range(args.readers)]
    for one in readers:
        one.start()
    found = np.array([told.get() for _ in readers])
    for one in readers:
        one.join()
    return {
        "rows_per_s": round(found[:, 0].sum() * args.ids / args.seconds),
        "median_ms": round(1e3 * float(np.median(found[:, 1])), 3),
        "p99_ms": round(1e3 * float(found[:, 2].max()), 3),
        "by_standby": by_standby(cluster) - before,
    }


def by_standby(cluster) -> int:
    """Pulls that standbys have answered."""
    time.sleep(0.5)  # the coordinator asks them four times a second
    return sum(s.standby.pulls for s in cluster._server._handlers.status(pb.StatusRequest()).shards)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--ids", type=int, default=4096, help="of a pull")
    parser.add_argument("--readers", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument(
        "--pushes", type=int, default=0, help="rows of each push that comes meanwhile; 0: none does"
    )
    parser.add_argument("--mode", choices=["sync", "async"], default="sync")
    args = parser.parse_args()
    found: dict[str, dict[str, float]] = {}
    with local_cluster(shards=1, processes=True, replicas=1, standby={"mode": args.mode}) as cluster:
        spec = TableSpec("rows", args.rows, dim=DIM, optimizer=Adagrad(lr=0.1), initializer=Zeros())
        table = cluster.connect().create_table(spec)
        for ids in np.array_split(np.arange(args.rows), max(1, args.rows // 20_000)):
            table.push(ids, np.ones((len(ids), DIM), np.float32))
        while cluster._server.coordinator.state.standby_in_step(0) is None:
            time.sleep(0.05)
        for read_from in ("primary", "nearest"):
            ending = threading.Event()
            trainer = threading.Thread(target=push, args=(cluster, args.rows, args.pushes, ending))
            if args.pushes:
                trainer.start()
            found[read_from] = measure(cluster, read_from, args)
            ending.set()
            if args.pushes:
                trainer.join()
    print(json.dumps({"readers": args.readers, "ids": args.ids, "mode": args.mode, **found}))


if __name__ == "__main__":
    main()
