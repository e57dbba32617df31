"""A cluster of processes that is killed, stopped, scaled and starved while trainers push, and what becomes of it.

    python tests/chaos/run.py --pushes 1000000 --trainers 4 --kills 500 --seed 7 --history DIR

It starts a coordinator, shards and trainers, each a process. Kills are of shards, of the coordinator, which the
shards outlive, and of all of them at once; some at a call of the system that a log, a snapshot or a commit makes
(needs strace). Beside them: processes that are stopped and go on, scalings, snapshots, disks that are full or fail,
and for half of the trainers a network that resets, loses, delays and repeats. Trainers are never restarted: none of
their calls may fail. Afterwards all tables are compared with what the trainers heard (check.py, which can be run
again on DIR). The seed decides what is pushed and which faults come after how many pushes; the machine, what they
meet.

Exits with 1 if anything is wrong; DIR then has what each trainer heard, the faults, the logs and the tables.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import random
import sys
import tempfile
import time
from collections import Counter
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from bad_network import BadNetwork
from chaos.check import check
from chaos.faults import Nemesis, faults
from chaos.history import History, Plan
from chaos.operated import OperatedCluster
from chaos.trainer import pushing
from free_ports import free_port

from rowloom.client import connect
from rowloom.deploy.config.config import DeployConfig, parse

# By trainer, in turns: what carries its rows, and whether that goes over a bad network.
WAYS = (("auto", False), ("auto", True), ("tcp", False), ("grpc", True))
PROBABILITY = 0.002  # of each kind of fault of the network, at each request
CALL_S = 300.0  # a call waits so long for shards that come back
STUCK_S = 180.0  # without a push that ends, and nothing is done to the cluster


@dataclasses.dataclass(frozen=True)
class Chaos:
    """A run: what it is given.

    Attributes:
        pushes: at least so many, of all trainers together.
        trainers: processes that push.
        kills: how often processes are killed.
        seed: of all that is left to chance.
        durability: of the cluster, as in its config.
        storage: the folder of its logs.
    """

    pushes: int
    trainers: int
    kills: int
    seed: int
    durability: str
    storage: str

    def config(self, plan: Plan) -> DeployConfig:
        """Of the cluster."""
        value = {"name": "chaos", "shards": 2, "storage": self.storage, "durability": self.durability}
        port = free_port(random.Random(self.seed))
        return parse(value | {"port": port, "limits": {"stop_grace_s": 1.0}, "tables": plan.tables()})


def run(chaos: Chaos, history: History) -> dict:
    """All of it. Returns what is to be printed; `good` says whether nothing is wrong."""
    began = time.monotonic()
    plan = Plan(chaos.seed, chaos.trainers)
    history.begin(plan)
    cluster = OperatedCluster(chaos.config(plan), history.folder / "home")
    good = False
    try:
        with BadNetwork(chaos.seed, PROBABILITY) as network:
            ways = [
                (carrier, network.front(cluster.address) if bad else cluster.address) for carrier, bad in WAYS
            ]
            with pushing(history, ways, CALL_S) as jobs:
                nemesis = Nemesis(cluster, history, [job.pid or 0 for job in jobs], chaos.seed)
                _do_all(chaos, nemesis, history, network, jobs)
            ended_with = [job.exitcode for job in jobs]
        cluster.until_healthy()
        with connect(cluster.address, timeout_s=CALL_S) as client:
            for spec in plan.tables():
                history.save_table(spec.name, client.table(spec.name).pull(np.arange(spec.num_embeddings)))
        seconds = time.monotonic() - began
        verdict = check(history)
        good = verdict.good(disk_failed=nemesis.disk_failed) and not any(ended_with)
    finally:
        cluster.down(keep=not good)
    kinds = Counter(event["fault"] for event in history.events() if "fault" in event)
    return {
        "good": good,
        **dataclasses.asdict(verdict),
        "trainers_ended_with": ended_with,
        "kills": nemesis.kills,
        "faults": dict(kinds),
        "network_faults": dict(network.injected),
        "coordinator_ups": cluster.ups,
        "seconds": round(seconds, 1),
        "seed": chaos.seed,
        "history": str(history.folder),
    }


def _do_all(
    chaos: Chaos, nemesis: Nemesis, history: History, network: BadNetwork, jobs: list[BaseProcess]
) -> None:
    """Faults as they come, until there are pushes enough. Raises TimeoutError: no push ends any more."""
    for fault in faults(chaos.seed, chaos.pushes, chaos.kills):
        _until_ended(fault.at, history, jobs)
        nemesis.do(fault)
        if shards := [status.shard.address for status in nemesis.cluster.shards()]:
            network.keep([nemesis.cluster.address, *shards])
    _until_ended(chaos.pushes, history, jobs)
    nemesis.finish()


def _until_ended(pushes: int, history: History, jobs: list[BaseProcess]) -> None:
    last, moved = -1, time.monotonic()
    while (ended := history.ended()) < pushes:
        if ended != last:
            last, moved = ended, time.monotonic()
        if not all(job.is_alive() for job in jobs):
            raise ChildProcessError(f"a trainer ended: exit codes {[job.exitcode for job in jobs]}")
        if time.monotonic() - moved > STUCK_S:
            raise TimeoutError(f"no push has ended for {STUCK_S:g} s, after {ended}")
        time.sleep(0.02)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--pushes", type=int, default=1_000_000)
    parser.add_argument("--trainers", type=int, default=4)
    parser.add_argument("--kills", type=int, default=500)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--durability", choices=("process", "interval", "disk"), default="process")
    parser.add_argument("--storage", help="folder of the logs; none: in DIR")
    parser.add_argument("--history", type=Path, help="DIR; none: a new folder, which stays")
    args = parser.parse_args()
    folder = args.history or Path(tempfile.mkdtemp(prefix="chaos-"))
    chaos = Chaos(
        args.pushes,
        args.trainers,
        args.kills,
        args.seed,
        args.durability,
        args.storage or str(folder.absolute() / "storage"),
    )
    found = run(chaos, History(folder))
    print(json.dumps(found, indent=1))
    return int(not found["good"])


if __name__ == "__main__":
    sys.exit(main())
