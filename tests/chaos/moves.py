"""A process is killed or stopped at a step of each move of rows, at every step in turn, while trainers push.

    python tests/chaos/moves.py --moves 200 --seed 7 --history DIR

It starts a coordinator, shards and trainers, each a process. The cluster goes from 1 to 5 shards and back, and deals
the ids of a table anew; in each move one process comes to the place that was drawn (`steps.py`) and ends or stands
still there: a shard before or after it answers, the coordinator before or after it asks, launches, stops or commits.
After each the cluster must be in the old layout or in the new one, with as many servers as it has shards, and nobody
helps it but by starting a coordinator again that was killed. Trainers are never restarted: none of their calls may
fail. Afterwards all tables are compared with what the trainers heard (check.py, which can be run again on DIR).

Prints a line for each place: how often it was hit, in which layout the move ended, and how long it took at most until
all was well. Exits with 1 if anything is wrong, or a place was drawn and not reached.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import random
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from chaos.check import check
from chaos.history import History, Plan
from chaos.operated import HEALTHY_S, OperatedCluster
from chaos.steps import Place, PlacesInTurn, Steps
from chaos.trainer import pushing
from free_ports import free_port
from stopping import until_stopped

from rowloom.client import RowloomError, connect
from rowloom.deploy.config.config import DeployConfig, parse
from rowloom.deploy.launch.processes import started, wait_for_end
from rowloom.proto import rowloom_pb2 as pb
from rowloom.proto.spec import Dealing, TableEntry

MOST_SHARDS = 5
TOGETHER = 60  # ids of one remainder are on one shard in each layout of 1 to 5
CALL_S = 300.0  # a call waits so long for shards that come back
WAYS = ("auto", "grpc")  # what carries the rows, by trainer in turns
STRATEGIES = ("mod", "div")
PUSHES = 20  # that each trainer ends between two moves, at least
LATE_S = 1.0  # for the last step of a move that is done
# Stops, and how many in ten are so long: less than an attempt of the coordinator, more, more than a step may take.
STOPS_S = {0.3: 4, 3.0: 4, 12.0: 2}


@dataclass(frozen=True)
class Moved:
    """What became of a move.

    Attributes:
        place: that was drawn for it.
        hit: a process came there.
        ended: in the "old" layout, in the "new" one, or otherwise: in words, and that is wrong.
        took_s: from the fault until all was well.
    """

    place: Place
    hit: bool
    ended: str
    took_s: float

    @property
    def good(self) -> bool:
        """Whether it is as it must be."""
        return self.hit and self.ended in ("old", "new")


class Mover:
    """Moves rows, and has a process end or stop meanwhile.

    Args:
        cluster: whose.
        steps: through which its processes are told.
        history: where all is noted.
        seed: of what is left to chance.
        most: shards that there may be.
    """

    def __init__(
        self, cluster: OperatedCluster, steps: Steps, history: History, seed: int, most: int = MOST_SHARDS
    ) -> None:
        self._cluster, self._steps, self._history = cluster, steps, history
        self._rng, self._most = random.Random(f"moves {seed}"), most
        self._places = PlacesInTurn(self._rng)

    def move(self, place: Place | None = None) -> Moved:
        """One move. place: of the fault; none: the next one in turn. Raises TimeoutError: all is not well again."""
        self._until_pushed()
        status, rng = self._cluster.until_settled(), self._rng
        before, n = status.layout, len(status.layout.shards)
        drawn = self._places.draw(n, self._most) if place is None else place
        m = rng.choice([m for m in range(1, self._most + 1) if drawn.come(n, m)])
        own = self._history.plan.own(rng.randrange(self._history.plan.trainers)).name
        dealt = rng.choice(STRATEGIES) if m != n else _other(own, status)  # or there is nothing to move
        self._steps.arm(drawn, rng.randint(1, drawn.come(n, m)))
        said: list[str] = []
        change = threading.Thread(target=self._change, args=(m, own, dealt, said))
        change.start()
        what = self._see_to(drawn, change)
        began = time.monotonic()
        change.join()
        after = self._cluster.until_settled().layout
        ended = self._ended((n, before.epoch), m, (len(after.shards), after.epoch))
        moved = Moved(drawn, what != "", ended, round(time.monotonic() - began, 2))
        self._history.note(
            move=f"{n} to {m}, {own} by {dealt}", said=said[0], what=what, **dataclasses.asdict(moved)
        )
        return moved

    def _until_pushed(self) -> None:
        """Until each trainer has ended some more pushes. Raises TimeoutError."""
        before, until = self._ended_pushes(), time.monotonic() + CALL_S
        while min(np.subtract(self._ended_pushes(), before)) < PUSHES:
            if time.monotonic() > until:
                raise TimeoutError(
                    f"{CALL_S:g} s after a move not every trainer has ended {PUSHES} pushes more"
                )
            time.sleep(0.02)

    def _ended_pushes(self) -> list[int]:
        return [self._history.ended_of(trainer) for trainer in range(self._history.plan.trainers)]

    def _change(self, shards: int, table: str, strategy: str, said: list[str]) -> None:
        try:
            with self._cluster.remote() as remote:
                remote.scale(shards, dealings={table: Dealing(strategy)})
        except RowloomError as e:
            said.append(str(e))
        else:
            said.append("done")

    def _see_to(self, place: Place, change: threading.Thread) -> str:
        """Wait for the fault, and end it. Returns what was done, in words; empty: nobody came there."""
        over_s = float(
            "inf"
        )  # when all was well after the move: a caller hears of it before old servers have ended
        while not (pid := self._steps.hit()):
            if over_s == float("inf") and not change.is_alive() and self._cluster.settled()[0]:
                over_s = time.monotonic()
            if time.monotonic() > over_s + LATE_S and self._steps.disarm():
                return ""
            time.sleep(0.01)
        if place.action == "stop":
            seconds = self._rng.choices([*STOPS_S], [*STOPS_S.values()])[0]
            began = started(pid)
            until_stopped(pid)
            time.sleep(seconds)
            if started(pid) == began:
                with contextlib.suppress(ProcessLookupError):  # it was taken for dead, and ended
                    os.kill(pid, signal.SIGCONT)
            return f"stopped {pid} for {seconds:g} s"
        wait_for_end(pid, started(pid), HEALTHY_S)
        return f"killed {pid}" + (self._cluster.come_back() if place.role == "coordinator" else "")

    def _ended(self, before: tuple[int, int], shards: int, after: tuple[int, int]) -> str:
        """Which layout it is; each is a number of shards and an epoch."""
        until = time.monotonic() + HEALTHY_S
        while len(running := self._steps.processes()) != after[0]:
            if time.monotonic() > until:
                return f"{len(running)} servers run for {after[0]} shards"
            time.sleep(0.1)
        if after == before:
            return "old"
        if after == (shards, before[1] + 1):
            return "new"
        return f"{after[0]} shards of epoch {after[1]}, after {before[0]} of epoch {before[1]} to be {shards}"


def _other(table: str, status: pb.StatusReply) -> str:
    """The strategy by which a table's ids are not dealt now."""
    (entry,) = [entry for entry in map(TableEntry.from_message, status.tables) if entry.spec.name == table]
    return STRATEGIES[entry.spec.dealing.partition == "mod"]


@dataclass(frozen=True)
class Moves:
    """A run: what it is given.

    Attributes:
        moves: how many.
        trainers: processes that push.
        seed: of all that is left to chance.
        places: of the faults of the first moves; then all places in turn.
        most: shards that there may be, at least 2.
    """

    moves: int
    trainers: int
    seed: int
    places: tuple[Place, ...] = ()
    most: int = MOST_SHARDS

    def config(self, plan: Plan, storage: Path) -> DeployConfig:
        """Of the cluster."""
        value = {"name": "moves", "shards": 2, "storage": str(storage), "durability": "process"}
        port = free_port(random.Random(self.seed))
        return parse(value | {"port": port, "limits": {"stop_grace_s": 1.0}, "tables": plan.tables()})


def run(moves: Moves, history: History, until_s: float = float("inf")) -> tuple[dict, list[Moved]]:
    """All of it. Returns what is to be printed, `good` if nothing is wrong, and what became of each move.

    until_s: on the monotonic clock; no move begins later.
    """
    began = time.monotonic()
    plan = Plan(moves.seed, moves.trainers, together=TOGETHER)
    history.begin(plan)
    folder = history.folder.absolute()
    steps = Steps(folder / "steps")
    done: list[Moved] = []
    good = False
    with steps.followed():
        cluster = OperatedCluster(moves.config(plan, folder / "storage"), folder / "home")
        try:
            with pushing(history, [(carrier, cluster.address) for carrier in WAYS], CALL_S) as jobs:
                mover = Mover(cluster, steps, history, moves.seed, moves.most)
                for number in range(moves.moves):
                    if time.monotonic() > until_s:
                        break
                    done.append(mover.move(moves.places[number] if number < len(moves.places) else None))
                    if not all(job.is_alive() for job in jobs):
                        raise ChildProcessError(f"a trainer ended: exit codes {[j.exitcode for j in jobs]}")
            ended_with = [job.exitcode for job in jobs]
            with connect(cluster.address, timeout_s=CALL_S) as client:
                for spec in plan.tables():
                    history.save_table(
                        spec.name, client.table(spec.name).pull(np.arange(spec.num_embeddings))
                    )
            verdict, unexpected = check(history), _tracebacks(folder)
            good = verdict.good(disk_failed=False) and all(one.good for one in done)
            good = good and not unexpected and not any(ended_with)
        finally:
            cluster.down(keep=not good)
    found = {
        "good": good,
        **dataclasses.asdict(verdict),
        "moves": len(done),
        "not_reached": sum(not one.hit for one in done),
        "not_well": [one.ended for one in done if one.ended not in ("old", "new")],
        "tracebacks": unexpected,
        "places": len({one.place for one in done if one.hit}),
        "trainers_ended_with": ended_with,
        "coordinator_ups": cluster.ups,
        "seconds": round(time.monotonic() - began, 1),
        "seed": moves.seed,
        "history": str(history.folder),
    }
    return found, done


def _tracebacks(folder: Path) -> list[str]:
    """Lines of all logs that tell of an error which nobody had thought of."""
    lines = [line for log in folder.glob("home/**/*.log") for line in log.read_text().splitlines()]
    return [line for line in lines if "Traceback (most recent call last)" in line]


def table(done: Iterable[Moved]) -> str:
    """For people: a line for each place."""
    by_place: dict[Place, list[Moved]] = {}
    for one in done:
        by_place.setdefault(one.place, []).append(one)
    lines = [
        f"{'role':12}{'step':16}{'when':8}{'action':8}{'drawn':>6}{'hit':>5}{'old':>5}{'new':>5}  well after"
    ]
    for place, all_of_it in sorted(by_place.items()):
        ends = [one.ended for one in all_of_it]
        lines.append(
            f"{place.role:12}{place.step:16}{place.when:8}{place.action:8}{len(ends):6}"
            f"{sum(one.hit for one in all_of_it):5}{ends.count('old'):5}{ends.count('new'):5}"
            f"{max(one.took_s for one in all_of_it):10.1f} s"
        )
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--moves", type=int, default=200)
    parser.add_argument("--trainers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="no move begins later")
    parser.add_argument("--history", type=Path, help="DIR; none: a new folder, which stays")
    args = parser.parse_args()
    folder = args.history or Path(tempfile.mkdtemp(prefix="moves-"))
    until_s = time.monotonic() + args.seconds
    found, done = run(Moves(args.moves, args.trainers, args.seed), History(folder), until_s)
    print(table(done))
    print(json.dumps(found, indent=1))
    return int(not found["good"])


if __name__ == "__main__":
    sys.exit(main())
