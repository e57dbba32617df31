"""The steps of a move at which a process can be killed or stopped, and the folder through which it is told to.

The process does it itself, at that very place: see `at_steps/sitecustomize.py`, which looks at real servers and a real
coordinator from outside of their code.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import random
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

from rowloom.proto.atomic_file import write_atomic

HOOK = Path(__file__).parent / "at_steps"
STEPS_IN = "ROWLOOM_CHAOS_STEPS"
FAULT, CAME, HIT = "fault.json", "came", "hit"
# Of the shards: which of these come to it, of n shards that become m. 0: none of them in such a move.
SHARD_STEPS = {
    "start": lambda n, m: max(0, m - n),
    "prepare": lambda n, m: m,
    "read pass": lambda n, m: n * m,
    "take rows": lambda n, m: n * m,
    "progress": lambda n, m: m,
    "freeze": lambda n, m: n,
    "read last pass": lambda n, m: n * m,
    "settle": lambda n, m: m,
    "adopt": lambda n, m: m,
    "retire": lambda n, m: max(0, n - m),
}
# Of the coordinator, in order: whether it comes to it.
COORDINATOR_STEPS = {
    "note servers": lambda n, m: int(m > n),
    "launch": lambda n, m: int(m > n),
    "look": lambda n, m: 1,
    "prepare": lambda n, m: 1,
    "progress": lambda n, m: 1,
    "freeze": lambda n, m: 1,
    "last progress": lambda n, m: 1,
    "commit": lambda n, m: 1,
    "adopt": lambda n, m: 1,
    "retire": lambda n, m: int(m < n),
    "stop": lambda n, m: int(m < n),
    "forget servers": lambda n, m: int(m < n),
}
STEPS = {"shard": SHARD_STEPS, "coordinator": COORDINATOR_STEPS}
WHENS, ACTIONS = ("before", "after"), ("kill", "stop")


@dataclass(frozen=True, order=True)
class Place:
    """Where something is done, and what.

    Attributes:
        role: "shard" or "coordinator".
        step: one of the above.
        when: "before" the step does what it does, or "after": then nobody has been told of it yet.
        action: "kill", or "stop": it goes on later.
    """

    role: str
    step: str
    when: str
    action: str

    def come(self, n: int, m: int) -> int:
        """How many processes come there, at least, when n shards become m."""
        return STEPS[self.role][self.step](n, m)


PLACES = [
    Place(role, step, when, action)
    for role, steps in STEPS.items()
    for step in steps
    for when in WHENS
    for action in ACTIONS
]


class PlacesInTurn:
    """All places, in an order of chance, then all of them again. Those that a layout has none of come later."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._left: list[Place] = []

    def draw(self, n: int, most: int) -> Place:
        """The next one that some move from n shards, to at most `most`, comes to."""
        for _ in range(2):
            for place in self._left:
                if any(place.come(n, m) for m in range(1, most + 1)):
                    self._left.remove(place)
                    return place
            self._left += self._rng.sample(PLACES, len(PLACES))
        raise AssertionError("there is always a place")


class Steps:
    """The folder that all processes look into."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True)

    @contextlib.contextmanager
    def followed(self) -> Generator[None]:
        """What this process starts meanwhile, and what that starts, does as it is told here."""
        path = os.pathsep.join(filter(None, [str(HOOK), os.environ.get("PYTHONPATH", "")]))
        before = {name: os.environ.get(name) for name in ("PYTHONPATH", STEPS_IN)}
        os.environ.update({"PYTHONPATH": path, STEPS_IN: str(self._folder)})
        try:
            yield
        finally:
            for name, value in before.items():
                os.environ.pop(name)
                if value is not None:
                    os.environ[name] = value

    def arm(self, place: Place, nth: int) -> None:
        """From now on the nth process that comes there does it; only one, and once."""
        for name in (CAME, HIT):
            (self._folder / name).unlink(missing_ok=True)
        write_atomic(self._folder / FAULT, json.dumps({**dataclasses.asdict(place), "nth": nth}))

    def disarm(self) -> bool:
        """Nothing is to be done any more. Returns False: it was done meanwhile, or is being done."""
        try:
            (self._folder / FAULT).unlink()
        except FileNotFoundError:
            return False
        return True

    def hit(self) -> int:
        """The process that did it; 0: none has yet."""
        try:
            return int((self._folder / HIT).read_text())
        except FileNotFoundError:
            return 0

    def processes(self) -> list[int]:
        """The shard servers that do as they are told here, all that run."""
        wanted, found = f"{STEPS_IN}={self._folder}".encode(), []
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):  # it ended
                serves = b"rowloom.server.serve" in (process / "cmdline").read_bytes().split(b"\0")
                if serves and wanted in (process / "environ").read_bytes().split(b"\0"):
                    found.append(int(process.name))
        return found
