"""How long a shard on Ray is away whose server, or node, is killed, and whether anything is lost.

    python tests/bench/standby_on_ray.py --kills 10 --nodes 3 [--mode async] [--durability process]

A head and three raylets of this machine, a cluster of three shards with standbys, a trainer for each shard that pushes
and pulls all the time. A raylet that is killed is replaced when all standbys are in step on the others.

Each push adds 1 to some rows, and each row is counted: what is there at the end is compared with what was acknowledged.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from counted import DIM, Trainer, ended, spread
from raylets import POOL, raylets

from rowloom.client import SGD, TableSpec, Zeros, connect
from rowloom.deploy import address_of
from rowloom.deploy.config.config import parse
from rowloom.deploy.operate.remote import Remote
from rowloom.deploy.operate.status import summary

NAME, SHARDS = "away", 3
HEAD, NODES = "127.0.0.60", ["127.0.0.61", "127.0.0.62", "127.0.0.63"]
CALL_S = 300.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=3000, help="of 256 bytes")
    parser.add_argument("--kills", type=int, default=10, help="processes")
    parser.add_argument("--nodes", type=int, default=0, help="raylets, with all that is on them")
    parser.add_argument("--mode", choices=["sync", "async"], default="sync")
    parser.add_argument("--durability", choices=["memory", "process", "interval", "disk"], default="memory")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir="/tmp", ignore_cleanup_errors=True) as folder:
        os.environ["RAY_TMPDIR"] = folder
        with raylets(HEAD, NODES, Path(folder) / "gcs") as nodes:
            measure(args, nodes, folder)


def shards() -> list[dict]:
    with Remote(address_of(NAME)) as remote:
        return summary(remote.status())["shards"]


def servers() -> list[dict]:
    return [server for shard in shards() for server in (shard, shard["standby"])]


def are_in_step() -> bool:
    try:
        return all(
            s["health"] == "serving" and s["standby"] and s["standby"]["state"] == "in step" for s in shards()
        )
    except Exception:  # the coordinator is just being started again
        return False


def measure(args: argparse.Namespace, nodes, folder: str) -> None:
    from rowloom.deploy.operate.ray_clusters import down_ray, up_ray

    spec = TableSpec("counts", args.rows, dim=DIM, optimizer=SGD(lr=1.0), initializer=Zeros())
    given = {"name": NAME, "shards": SHARDS, "replicas": 1, "launcher": "ray", "tables": [spec]}
    given |= {"standby": {"mode": args.mode}, "durability": args.durability, "storage": f"{folder}/kept"}
    up_ray(parse({**given, "ray": {"label_selector": POOL}, "security": {"insecure": True}}))
    reader = connect(partial(address_of, NAME), timeout_s=CALL_S).table("counts")
    trainers = [
        Trainer(connect(partial(address_of, NAME), timeout_s=CALL_S), np.arange(shard, args.rows, SHARDS))
        for shard in range(SHARDS)
    ]
    for trainer in trainers:
        trainer.start()
    away_s: dict[str, list[float]] = {"process": [], "node": []}
    filled_s: list[float] = []
    for number, kind in enumerate(["process"] * args.kills + ["node"] * args.nodes):
        began = time.perf_counter()
        while not are_in_step():
            time.sleep(0.05)
        filled_s.append(time.perf_counter() - began)
        shard = shards()[number % SHARDS]
        node = shard["address"].partition(":")[0]
        began = time.perf_counter()
        if kind == "process":
            os.kill(shard["pid"], signal.SIGKILL)
        else:
            there = [server["pid"] for server in servers() if server["address"].startswith(f"{node}:")]
            nodes.kill(node)
            for pid in there:  # a raylet's workers end some time after it; those of a machine do not
                os.kill(pid, signal.SIGKILL)
        reader.pull(np.arange(number % SHARDS, args.rows, SHARDS)[:10])
        away_s[kind].append(time.perf_counter() - began)
        print(f"{kind}: away for {away_s[kind][-1]:.2f} s", file=sys.stderr)
        if kind == "node":
            while not are_in_step():
                time.sleep(0.05)
            nodes.add(node)
    calls = ended(trainers)
    down_ray(NAME)
    print(
        json.dumps(
            {
                "mode": args.mode,
                "durability": args.durability,
                "process_s": spread(away_s["process"]),
                "node_s": spread(away_s["node"]),
                "in_step_again_s": spread(filled_s[1:]),
                **calls,
            }
        )
    )


if __name__ == "__main__":
    main()
