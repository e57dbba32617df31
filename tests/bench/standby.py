"""How long a shard is away whose server is killed, and whether anything is lost: trainers push all the time.

    python tests/bench/standby.py --rows 2000000 --kills 20 --stops 3 [--durability process]

With logs (`--durability`, in a folder that is removed) shard and standby are both killed at the end, too: what was
acknowledged is in the log.

A server that is stopped (SIGSTOP) goes on (SIGCONT) as soon as its standby has taken its place.

Each push adds 1 to some rows, each row is counted: what is there at the end is compared with what was acknowledged.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
import time

import numpy as np
from counted import DIM, Trainer, ended, spread

from rowloom.client import SGD, Adagrad, TableSpec, Zeros
from rowloom.deploy import local_cluster


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=200_000, help="that fill the shard, of 512 bytes")
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--stops", type=int, default=0)
    parser.add_argument("--trainers", type=int, default=2)
    parser.add_argument("--mode", choices=["sync", "async"], default="sync")
    parser.add_argument("--durability", choices=["memory", "process", "interval", "disk"], default="memory")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        measure(args, folder if args.durability != "memory" else None)


def measure(args: argparse.Namespace, storage: str | None) -> None:
    with local_cluster(
        shards=1,
        processes=True,
        replicas=1,
        standby={"mode": args.mode},
        storage=storage,
        durability=args.durability,
    ) as cluster:
        coordinator = cluster._server.coordinator
        client = cluster.connect()
        big = client.create_table(
            TableSpec("rows", args.rows, dim=DIM, optimizer=Adagrad(lr=0.1), initializer=Zeros())
        )
        client.create_table(
            TableSpec("counts", args.trainers * 500, dim=DIM, optimizer=SGD(lr=1.0), initializer=Zeros())
        )
        for begin in range(0, args.rows, 20_000):
            ids = np.arange(begin, min(args.rows, begin + 20_000))
            big.push(ids, np.ones((len(ids), DIM), np.float32))
        trainers = [
            Trainer(cluster.connect(), np.arange(number * 500, (number + 1) * 500))
            for number in range(args.trainers)
        ]
        for trainer in trainers:
            trainer.start()
        away_s: dict[str, list[float]] = {"killed": [], "stopped": []}
        filled_s: list[float] = []
        for kind in ["killed"] * args.kills + ["stopped"] * args.stops:
            began = time.perf_counter()
            while coordinator.state.standby_in_step(0) is None:
                time.sleep(0.01)
            filled_s.append(time.perf_counter() - began)
            key = coordinator.state.keys[0]
            pid = cluster.launcher.pid(key)
            began = time.perf_counter()
            if kind == "killed":
                os.kill(pid, signal.SIGKILL)
            else:
                os.kill(pid, signal.SIGSTOP)
                while coordinator.state.keys[0] == key:
                    time.sleep(0.001)
                os.kill(pid, signal.SIGCONT)
            big.pull(np.arange(10))
            away_s[kind].append(time.perf_counter() - began)
            print(f"{kind}: away for {away_s[kind][-1]:.2f} s", file=sys.stderr)
        both_s = 0.0
        if storage is not None:
            while coordinator.state.standby_in_step(0) is None:
                time.sleep(0.01)
            pids = [cluster.launcher.pid(key) for key in coordinator.state.server_keys]
            began = time.perf_counter()
            for pid in pids:
                os.kill(pid, signal.SIGKILL)
            big.pull(np.arange(10))
            both_s = time.perf_counter() - began
            print(f"both killed: away for {both_s:.2f} s", file=sys.stderr)
        calls = ended(trainers)
        print(
            json.dumps(
                {
                    "rows": args.rows,
                    "durability": args.durability,
                    "promotions": args.kills + args.stops,
                    "killed_s": spread(away_s["killed"]),
                    "stopped_s": spread(away_s["stopped"]),
                    "both_killed_s": both_s,
                    "in_step_again_s": spread(filled_s[1:]),
                    **calls,
                }
            )
        )


if __name__ == "__main__":
    main()
