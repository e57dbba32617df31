"""Nodes of Ray come and go, and its head is started anew, each in the middle of a move of rows, while trainers push.

    python tests/chaos/on_ray.py --rounds 2 --trainers 2 --seed 7 --history DIR

It starts a head and three raylets on this machine, a cluster of shards with logs on the three, and trainers, each a
process, which know where the cluster is by a function. In each round: a node is drained and used again, a raylet is
killed and replaced, and the head's server is killed and started again from its folder; each while rows move, to another
number of shards, and the killed ones at a state of the move that was drawn. After each the cluster must serve, with as
many servers as it has shards, in the old layout or in the new one. Trainers are never restarted: none of their calls
may fail. The head's server is supervised, as it must be: it is started again when it ends by itself, which is counted.
Afterwards all tables are compared with what the trainers heard (check.py, which can be run again on DIR).

Prints a line for each fault: what became of the move, the longest call of any trainer meanwhile, and how long it took
until all was well. Exits with 1 if anything is wrong.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import random
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from chaos.check import check
from chaos.history import History, Plan
from chaos.operated import HEALTHY_S, OperatedCluster
from chaos.trainer import pushing
from raylets import POOL, Raylets, raylets

from rowloom.client import SGD, RowloomError, TableSpec, Zeros, connect
from rowloom.deploy.config.config import DeployConfig, parse
from rowloom.deploy.operate.remote import Remote
from rowloom.proto import rowloom_pb2 as pb
from rowloom.proto.atomic_file import write_atomic
from rowloom.proto.errors import Unavailable

NAME = "moves"
HEAD, NODES, SPARE = "127.0.0.20", ["127.0.0.21", "127.0.0.22", "127.0.0.23"], "127.0.0.{}"
FIRST_SPARE = 24
CALL_S = 300.0  # a call waits so long for shards that come back
SHARDS = (2, 3, 4)
WAYS = ("auto", "grpc")  # what carries the rows, by trainer in turns
AWAY_S = (1.0, 5.0)  # the head, at least and at most
STATES = ("starting", "moving")  # of a move, when a fault comes
BALLAST, BALLAST_DIM = 400_000, 64  # rows that make a move last


def address_in(file: str) -> str:
    """Where the cluster is, for trainers: whoever runs it writes it there."""
    return Path(file).read_text()


class ClusterOnRay(OperatedCluster):
    """As its operator has it, who asks Ray where the coordinator is.

    Args:
        config: of it.
        told: the file that says where it is.
    """

    def __init__(self, config: DeployConfig, told: Path) -> None:
        self._config, self._told, self.ups = config, told, 0
        self.up()

    @property
    def address(self) -> str:
        """Of the coordinator, as far as known."""
        return address_in(str(self._told))

    def up(self) -> None:
        """Raises RowloomError: it did not start."""
        from rowloom.deploy.operate.ray_clusters import up_ray

        write_atomic(self._told, up_ray(self._config))
        self.ups += 1

    def down(self, *, keep: bool) -> None:
        """End it."""
        from rowloom.deploy.operate.ray_clusters import down_ray

        down_ray(NAME, keep=keep)

    def remote(self) -> Remote:
        """To be closed. Raises Unavailable: Ray has no coordinator that answers."""
        from rowloom.deploy.operate.ray_clusters import find_ray

        address = find_ray(NAME, 3.0)
        if address is None:
            raise Unavailable("Ray is just starting the coordinator again")
        write_atomic(self._told, address)
        return Remote(address, timeout_s=5.0)

    def servers(self) -> int:
        """How many there are, of shards or left over."""
        from rowloom.deploy.launch.ray_actors import actors_of

        return sum("/shard-" in name for name in actors_of(NAME))

    def nodes(self) -> list[str]:
        """By shard, the address of its node."""
        return [shard.shard.address.partition(":")[0] for shard in self.until_settled().shards]


@dataclass(frozen=True)
class Befell:
    """What became of a fault.

    Attributes:
        fault: in words.
        during: what the cluster was doing then.
        said: how the move ended: "done", or why not.
        ended: in the "old" layout or the "new" one, or otherwise: that is wrong.
        stall_s: the longest call of any trainer, from the beginning of the move until all was well.
        well_s: from the fault until all was well.
    """

    fault: str
    during: str
    said: str
    ended: str
    stall_s: float
    well_s: float


class Nemesis:
    """Does it.

    Args:
        ray: the nodes.
        cluster: on them.
        history: where it is noted.
        seed: of what is left to chance.
    """

    def __init__(self, ray: Raylets, cluster: ClusterOnRay, history: History, seed: int) -> None:
        self._ray, self._cluster, self._history = ray, cluster, history
        self._rng = random.Random(f"on ray {seed}")
        self._spare = FIRST_SPARE
        self._undo: Callable[[], object] = lambda: None

    def round(self) -> list[Befell]:
        """One of each, in an order of chance. Raises TimeoutError: all is not well again."""
        faults = [self._drain, self._kill, self._restart_head]
        return [self._meanwhile(fault) for fault in self._rng.sample(faults, len(faults))]

    def _meanwhile(self, fault: Callable[[], str]) -> Befell:
        """A fault while rows move."""
        self._until_pushed()
        began = time.monotonic()
        before = self._cluster.until_settled().layout
        shards = self._rng.choice([n for n in SHARDS if n != len(before.shards)])
        said: list[str] = []
        with self._cluster.remote() as remote:
            change = threading.Thread(target=self._scale, args=(remote, shards, said))
            change.start()
            during = self._until_state(self._rng.choice(STATES), change)
            struck = time.monotonic()
            what = fault()
            change.join()
        after = self._cluster.until_settled().layout
        ended = self._ended(before, shards, after)
        well_s = time.monotonic() - struck
        self._undo()
        self._undo = lambda: None
        self._until_pushed()
        stall_s = self._history.longest_s(began, struck + well_s)
        befell = Befell(
            what,
            f"{len(before.shards)} to {shards}, {during}",
            said[0],
            ended,
            round(stall_s, 2),
            round(well_s, 1),
        )
        self._history.note(**dataclasses.asdict(befell))
        print(f"{befell.fault}: {befell}", file=sys.stderr, flush=True)
        return befell

    def _scale(self, remote: Remote, shards: int, said: list[str]) -> None:
        try:
            remote.scale(shards)
        except RowloomError as e:
            said.append(str(e))
        else:
            said.append("done")

    def _until_state(self, state: str, change: threading.Thread) -> str:
        """Until the move is there, or over. Returns where it is."""
        with self._cluster.remote() as remote:
            while change.is_alive():
                now = remote.status().scaling.state
                if now == state:
                    return now
                time.sleep(0.02)
        return "over"

    def _ended(self, before: pb.Layout, shards: int, after: pb.Layout) -> str:
        """Which layout it is; and there are as many servers, or there will be."""
        until = time.monotonic() + HEALTHY_S
        while self._cluster.servers() != len(after.shards):
            if time.monotonic() > until:
                return f"{self._cluster.servers()} servers run for {len(after.shards)} shards"
            time.sleep(0.1)
        if (len(after.shards), after.epoch) == (len(before.shards), before.epoch):
            return "old"
        if (len(after.shards), after.epoch) == (shards, before.epoch + 1):
            return "new"
        return f"{len(after.shards)} shards of epoch {after.epoch}, after epoch {before.epoch} to be {shards}"

    def _until_pushed(self) -> None:
        """Until each trainer has ended some more pushes. Raises TimeoutError."""
        trainers = range(self._history.plan.trainers)
        before, until = [self._history.ended_of(t) for t in trainers], time.monotonic() + CALL_S
        while any(self._history.ended_of(t) < before[t] + 20 for t in trainers):
            if time.monotonic() > until:
                raise TimeoutError(f"not every trainer has ended 20 pushes more in {CALL_S:g} s")
            time.sleep(0.02)

    # ---------------------------------------------------------------------------------------------------------- faults

    def _some_node(self) -> str:
        """The address of a node that has a shard now."""
        with self._cluster.remote() as remote:
            return self._rng.choice([s.shard.address.partition(":")[0] for s in remote.status().shards])

    def _drain(self) -> str:
        """Asked for while rows move: it waits its turn, as any change does."""
        node = self._some_node()
        with self._cluster.remote() as remote:
            done = remote.drain(node)

        def undo() -> None:
            with self._cluster.remote() as remote:
                remote.undrain(done.node)

        self._undo = undo
        return f"{node} drained: {len(done.shards)} shards left it{' and the coordinator' * done.coordinator}"

    def _kill(self) -> str:
        """Another node takes its place afterwards."""
        node = self._some_node()
        self._ray.kill(node)
        spare, self._spare = SPARE.format(self._spare), self._spare + 1
        self._undo = lambda: self._ray.add(spare)
        return f"raylet {node} killed"

    def _restart_head(self) -> str:
        away_s = self._rng.uniform(*AWAY_S)
        with self._ray.head_away():
            time.sleep(away_s)
        return f"head started anew after {away_s:.1f} s"


def config_of(plan: Plan, storage: Path) -> DeployConfig:
    """Of the cluster."""
    ballast = TableSpec("ballast", BALLAST, dim=BALLAST_DIM, optimizer=SGD(lr=1.0), initializer=Zeros())
    value = {"name": NAME, "shards": 2, "launcher": "ray", "storage": str(storage), "durability": "process"}
    value |= {"ray": {"label_selector": POOL}, "security": {"insecure": True}}
    return parse(value | {"limits": {"stop_grace_s": 1.0}, "tables": [*plan.tables(), ballast]})


def run(rounds: int, trainers: int, seed: int, history: History) -> tuple[dict, list[Befell]]:
    """All of it. Returns what is to be printed, `good` if nothing is wrong, and what became of each fault."""
    began = time.monotonic()
    plan = Plan(seed, trainers)
    history.begin(plan)
    folder = history.folder.absolute()
    done: list[Befell] = []
    good = False
    with raylets(HEAD, NODES, folder / "head") as ray, ray.supervised():
        cluster = ClusterOnRay(config_of(plan, folder / "storage"), folder / "address")
        try:
            _push_ballast(cluster.address)
            find = partial(address_in, str(folder / "address"))
            with pushing(history, [(carrier, find) for carrier in WAYS], CALL_S) as jobs:
                nemesis = Nemesis(ray, cluster, history, seed)
                for _ in range(rounds):
                    done += nemesis.round()
            ended_with = [job.exitcode for job in jobs]
            with connect(cluster.address, timeout_s=CALL_S) as client:
                for spec in plan.tables():
                    rows = client.table(spec.name).pull(np.arange(spec.num_embeddings))
                    history.save_table(spec.name, rows)
                sums = client.table("ballast").pull(np.arange(BALLAST)).sum(axis=1)
            verdict = check(history)
            ballast = bool((sums == -BALLAST_DIM).all())
            good = verdict.good(disk_failed=False) and all(one.ended in ("old", "new") for one in done)
            good = good and ballast and not any(ended_with)
        finally:
            cluster.down(keep=not good)
    found = {
        "good": good,
        **dataclasses.asdict(verdict),
        "ballast": ballast,
        "faults": len(done),
        "head_crashes": ray.crashes,
        "longest_stall_s": max(one.stall_s for one in done),
        "trainers_ended_with": ended_with,
        "seconds": round(time.monotonic() - began, 1),
        "seed": seed,
        "history": str(history.folder),
    }
    return found, done


def _push_ballast(address: str) -> None:
    with connect(address, timeout_s=CALL_S) as client:
        table, rows = client.table("ballast"), 50_000
        for first in range(0, BALLAST, rows):
            table.push(np.arange(first, first + rows), np.ones((rows, BALLAST_DIM), np.float32))


def table(done: list[Befell]) -> str:
    """For people: a line for each fault."""
    lines = [f"{'fault':62}{'during':18}{'ended':>6}{'longest call':>14}{'well after':>12}  said"]
    return "\n".join(
        lines
        + [
            f"{one.fault:62}{one.during:18}{one.ended:>6}{one.stall_s:12.2f} s{one.well_s:10.1f} s  {one.said[:80]}"
            for one in done
        ]
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--trainers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--history", type=Path, help="DIR; none: a new folder, which stays")
    args = parser.parse_args()
    folder = args.history or Path(tempfile.mkdtemp(prefix="on-ray-"))
    # Its path is short: those of Ray's sockets have a limit of 107 bytes.
    with tempfile.TemporaryDirectory(prefix="ray", dir="/tmp", ignore_cleanup_errors=True) as of_ray:
        os.environ["RAY_TMPDIR"] = of_ray
        os.environ.pop("RAY_ADDRESS", None)
        found, done = run(args.rounds, args.trainers, args.seed, History(folder))
    with contextlib.suppress(BrokenPipeError):
        print(table(done))
        print(json.dumps(found, indent=1))
    return int(not found["good"])


if __name__ == "__main__":
    sys.exit(main())
