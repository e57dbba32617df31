"""What trainers of a chaos run push, and what they heard of it: written as it happens, read by whoever checks it.

Why it is so. The checker must not believe the run: so a push is a function of (seed, trainer, its number), and a
history is a byte for each thing that a trainer heard. Both are enough to say what every row must be, in another
process, on another day. A push that is unresolved may have been applied or not; its rows are left alone from then on,
so that each has two values that are right, and not one more with every push.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from rowloom.client import SGD, Adagrad, TableSpec, Uniform, Zeros

BEGUN, ACKED, UNRESOLVED, FAILED, WRONG = b"b", b"a", b"u", b"f", b"w"
COUNTERS = "counters"
MOST_IDS = 40  # in a push of the counters
OWN_IDS = 4  # of the trainer's own table; an id may come twice
SLOW_S = 0.05  # calls that take longer are remembered
STEPS = 0.25  # of the pushes also pull what they pushed


@dataclass(frozen=True)
class Push:
    """One call, to two tables at once.

    Attributes:
        ids: [N] int64, distinct; rows of the counters.
        amounts: [N] integers, none of them 0: what is added to the trainer's column.
        own_ids: [M] int64, may repeat; rows of the trainer's own table.
        own_grads: [M, 2] float32.
        pulls: the call pulls those rows of the counters, too.
    """

    ids: np.ndarray
    amounts: np.ndarray
    own_ids: np.ndarray
    own_grads: np.ndarray
    pulls: bool

    def without(self, left: Left) -> Push:
        """What remains without the rows that are left alone."""
        keep, own = ~np.isin(self.ids, left.ids), ~np.isin(self.own_ids, left.own_ids)
        return Push(self.ids[keep], self.amounts[keep], self.own_ids[own], self.own_grads[own], self.pulls)


@dataclass
class Left:
    """Rows that a trainer leaves alone, because nobody knows whether they have its last push."""

    ids: list[int] = field(default_factory=list)
    own_ids: list[int] = field(default_factory=list)

    def add(self, push: Push) -> None:
        """Those of a push that is unresolved."""
        self.ids += push.ids.tolist()
        self.own_ids += push.own_ids.tolist()


@dataclass(frozen=True)
class Plan:
    """What all trainers do, for ever. Each adds to its own column of one table, and trains a table of its own.

    The counters are integers in float32, so their sums are exact in any order. A trainer's own table is Adagrad's, and
    is equal to the bit only if each push was applied once and in order.

    Attributes:
        seed: of everything.
        trainers: how many.
        rows: of the counters.
        own_rows: of each trainer's own table.
        together: ids of one remainder by this are on one shard, in each layout that the run comes to, so a push is on
            all of them or on none. By itself for 1 to 4 shards.
    """

    seed: int
    trainers: int
    rows: int = 6000
    own_rows: int = 600
    together: int = 12

    def push(self, trainer: int, number: int) -> Push:
        """A trainer's push of that number, from 0."""
        rng = np.random.default_rng([self.seed, trainer, number])
        ids = rng.choice(self.rows, rng.integers(1, MOST_IDS), replace=False)
        amounts = rng.integers(1, 4, len(ids)) * rng.choice([-1, 1], len(ids))
        own_ids = rng.integers(0, self.own_rows, OWN_IDS)
        own_grads = rng.standard_normal((OWN_IDS, 2), np.float32)
        return Push(ids, amounts, own_ids, own_grads, bool(rng.random() < STEPS))

    def tables(self) -> list[TableSpec]:
        """The counters, then each trainer's own."""
        counters = TableSpec(
            COUNTERS, self.rows, dim=self.trainers, optimizer=SGD(lr=1.0), initializer=Zeros()
        )
        return [counters, *(self.own(trainer) for trainer in range(self.trainers))]

    def own(self, trainer: int) -> TableSpec:
        """A trainer's own table."""
        return TableSpec(
            f"own-{trainer}",
            self.own_rows,
            dim=2,
            optimizer=Adagrad(lr=0.1),
            initializer=Uniform(seed=trainer),
        )


class History:
    """The folder of a run: its plan, what each trainer heard, what was done to the cluster, the tables at the end."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def begin(self, plan: Plan) -> None:
        """Raises FileExistsError: there is a history already."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with open(self.folder / "plan.json", "x") as file:
            json.dump(dataclasses.asdict(plan), file)

    @property
    def plan(self) -> Plan:
        """Of the run."""
        return Plan(**json.loads((self.folder / "plan.json").read_text()))

    def heard(self, trainer: int) -> Path:
        """The file of what a trainer heard, a byte for each thing."""
        return self.folder / f"trainer-{trainer}.heard"

    def reasons(self, trainer: int) -> Path:
        """The file of why its pushes were not acknowledged, a line for each."""
        return self.folder / f"trainer-{trainer}.log"

    def slow(self, trainer: int) -> Path:
        """The file of its calls that took long: a line for each, when it began and how many seconds it took."""
        return self.folder / f"trainer-{trainer}.slow"

    def longest_s(self, begin: float, end: float) -> float:
        """Of calls of trainers that were under way between two moments of the monotonic clock, at least `SLOW_S`."""
        longest = SLOW_S
        for trainer in range(self.plan.trainers):
            lines = self.slow(trainer).read_text().splitlines() if self.slow(trainer).exists() else []
            calls = (tuple(map(float, line.split())) for line in lines)
            longest = max([longest, *(took for began, took in calls if began < end and began + took > begin)])
        return longest

    def ended(self) -> int:
        """About how many pushes have ended so far."""
        return sum(map(self.ended_of, range(self.plan.trainers)))

    def ended_of(self, trainer: int) -> int:
        """The same, of one trainer."""
        file = self.heard(trainer)
        return os.path.getsize(file) // 2 if file.exists() else 0

    def outcomes(self, trainer: int) -> Iterator[tuple[Push, bytes]]:
        """Each push as it was sent, and what became of it. One that was begun and not ended is unresolved."""
        plan, left = self.plan, Left()
        events = self.heard(trainer).read_bytes().replace(WRONG, b"")
        for number, place in enumerate(range(0, len(events), 2)):
            assert events[place : place + 1] == BEGUN, f"trainer {trainer}: a push ended twice, byte {place}"
            outcome = events[place + 1 : place + 2] or UNRESOLVED
            push = plan.push(trainer, number).without(left)
            if outcome == UNRESOLVED:
                left.add(push)
            yield push, outcome

    def wrong_reads(self, trainer: int) -> int:
        """How often a trainer pulled something else than what it had pushed."""
        return self.heard(trainer).read_bytes().count(WRONG)

    def save_table(self, name: str, rows: np.ndarray) -> None:
        """As it was at the end: [V, dim] float32."""
        np.save(self.folder / f"{name}.npy", rows)

    def table(self, name: str) -> np.ndarray:
        """As `save_table` was given it."""
        return np.load(self.folder / f"{name}.npy")

    def note(self, **event: object) -> None:
        """Something that was done to the cluster."""
        with open(self.folder / "events.jsonl", "a") as file:
            file.write(json.dumps(event) + "\n")

    def events(self) -> list[dict]:
        """All of them, in order."""
        path = self.folder / "events.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
