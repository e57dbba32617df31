"""What a chaos run does to a cluster: a method for each kind of fault, and in which order a seed has them come."""

from __future__ import annotations

import contextlib
import os
import random
import resource
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from chaos.history import History
from chaos.operated import OperatedCluster

from rowloom.client import RowloomError
from rowloom.deploy.launch.processes import started
from rowloom.proto.spec import Dealing

# Faults that kill, and how many in a hundred are of each kind.
KILLS = {
    "kill shard": 50,
    "kill shard at": 20,
    "kill shards": 8,
    "kill coordinator": 8,
    "kill coordinator at": 10,
    "kill all": 4,
}
# Others, for a hundred kills.
OTHERS = {
    "stop shard": 15,
    "stop coordinator": 8,
    "stop trainer": 8,
    "scale": 20,
    "snapshot": 20,
    "full disk": 4,
    "failing disk": 4,
}
SHARDS = (1, 2, 3, 4)
STRATEGIES = ("mod", "div")
# Where a server is killed: in the middle of a record, of a sync, of a segment, of a commit.
# A call of the system, as Python makes it; those of the second line come with a scaling or a snapshot only.
PUSH_POINTS = ("pwritev2", "sendmsg", "sendto")
CHANGE_POINTS = ("pwritev2", "fsync", "fdatasync", "rename", "openat", "unlinkat", "sendmsg")
COORDINATOR_POINTS = ("rename", "fsync", "openat", "sendmsg")
POINT_S = 2.0  # until it comes there; then it is killed where it is


@dataclass(frozen=True)
class Fault:
    """One that is to come.

    Attributes:
        at: when so many pushes have ended.
        kind: one of the above.
    """

    at: int
    kind: str


def faults(seed: int, pushes: int, kills: int) -> list[Fault]:
    """All faults of a run, in order: so many kills, and others in proportion; several may come at once."""
    rng = random.Random(seed)
    kinds = rng.choices([*KILLS], [*KILLS.values()], k=kills)
    for kind, share in OTHERS.items():
        whole, rest = divmod(share * kills, 100)
        kinds += [kind] * (whole + (rng.random() * 100 < rest))
    rng.shuffle(kinds)
    ends = sorted(rng.uniform(0.01, 0.97) for _ in kinds)
    return [Fault(int(at * pushes), kind) for at, kind in zip(ends, kinds, strict=True)]


@dataclass
class Nemesis:
    """Does what is to be done, and notes it.

    Attributes:
        cluster: to whom.
        history: where it is noted.
        trainers: pids of the trainers.
        seed: of what is left to chance: which shard, how long.
        kills: how many processes were killed so far, or sets of them.
        disk_failed: pushes may be unresolved.
    """

    cluster: OperatedCluster
    history: History
    trainers: list[int]
    seed: int
    kills: int = 0
    disk_failed: bool = False
    _changes: list[threading.Thread] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._rng = random.Random(f"nemesis {self.seed}")
        self._began = time.monotonic()
        self._strace = shutil.which("strace")

    def do(self, fault: Fault) -> None:
        """One fault. Returns when it is over; a scaling or a snapshot goes on by itself."""
        method: Callable[[], str] = getattr(self, "_" + fault.kind.replace(" ", "_"))
        seconds = round(time.monotonic() - self._began, 2)
        what = method()
        took = round(time.monotonic() - self._began - seconds, 2)
        self.history.note(s=seconds, ended=self.history.ended(), fault=fault.kind, what=what, took_s=took)
        self.kills += fault.kind in KILLS

    def finish(self) -> None:
        """Wait until nothing that was begun here is under way."""
        for thread in self._changes:
            thread.join()

    # ----------------------------------------------------------------------------------------------------------- kills

    def _kill_shard(self) -> str:
        return self._kill([self._rng.choice(self.cluster.pids())])

    def _kill_shards(self) -> str:
        shards = self.cluster.pids()
        return self._kill(self._rng.sample(shards, self._rng.randint(1, len(shards))))

    def _kill_shard_at(self) -> str:
        change = self._begin_change()
        points = PUSH_POINTS if change == "nothing" else CHANGE_POINTS
        where = self._kill_at(self._rng.choice(self.cluster.pids()), self._rng.choice(points))
        return f"{where} during {change}"

    def _kill_coordinator(self) -> str:
        return self._kill([self.cluster.coordinator]) + self._come_back()

    def _kill_coordinator_at(self) -> str:
        change = self._begin_change()
        where = self._kill_at(self.cluster.coordinator, self._rng.choice(COORDINATOR_POINTS))
        return f"{where} during {change}{self._come_back()}"

    def _kill_all(self) -> str:
        """As when the machine ends: the coordinator first, so that it starts no shard again."""
        return self._kill([self.cluster.coordinator, *self.cluster.pids()]) + self._come_back()

    def _kill(self, pids: list[int]) -> str:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return f"killed {pids}"

    def _kill_at(self, pid: int, point: str) -> str:
        """Kill a process when it enters a call of the system for the n-th time, in any of its threads."""
        when = self._rng.randint(1, 5)
        came = self._inject(pid, f"{point}:signal=SIGKILL:when={when}", POINT_S)
        self._kill([pid])
        return (
            f"killed {pid} at {point} {when}"
            if came
            else f"killed {pid}, which did not come to {point} {when}"
        )

    def _come_back(self) -> str:
        """A coordinator is started again by whoever supervises it: not always at once, and again if it fails."""
        time.sleep(self._rng.choice([0.0, 0.0, 0.2, 1.0]))
        return self.cluster.come_back()

    # ---------------------------------------------------------------------------------------------------------- others

    def _stop_shard(self) -> str:
        return self._stop(self._rng.choice(self.cluster.pids()), self._rng.uniform(0.05, 3.0))

    def _stop_coordinator(self) -> str:
        return self._stop(self.cluster.coordinator, self._rng.uniform(0.05, 3.0))

    def _stop_trainer(self) -> str:
        return self._stop(self._rng.choice(self.trainers), self._rng.uniform(0.05, 1.0))

    def _stop(self, pid: int, seconds: float) -> str:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
            time.sleep(seconds)
            os.kill(pid, signal.SIGCONT)
        return f"stopped {pid} for {seconds:.2f} s"

    def _scale(self) -> str:
        """To another number of shards, or a table's ids dealt otherwise, or both.

        Of the counters they stay as they are: the checker goes by that to tell what is on one shard.
        """
        shards, strategy = self._rng.choice(SHARDS), self._rng.choice(STRATEGIES)
        own = self.history.plan.own(self._rng.randrange(self.history.plan.trainers)).name
        what = f"scale to {shards}, {own} by {strategy}"
        self._change(what, lambda remote: remote.scale(shards, dealings={own: Dealing(strategy)}))
        return what

    def _snapshot(self) -> str:
        self._change("snapshot", lambda remote: remote.take_snapshot())
        return "snapshot"

    def _begin_change(self) -> str:
        return self._rng.choice([self._scale, self._snapshot, lambda: "nothing"])()

    def _change(self, what: str, call: Callable) -> None:
        """A change that goes on while other faults come: it may fail, and what it did then is not asked for."""

        def change() -> None:
            said = "done"
            try:
                with self.cluster.remote() as remote:
                    call(remote)
            except RowloomError as e:
                said = str(e)
            self.history.note(s=round(time.monotonic() - self._began, 2), change=what, said=said)

        self._changes = [thread for thread in self._changes if thread.is_alive()]
        self._changes.append(threading.Thread(target=change))
        self._changes[-1].start()

    def _full_disk(self) -> str:
        """No file of a shard may grow. Then there is room again, and its operator ends it, as the manual says."""
        self.disk_failed = True
        pid = self._rng.choice(self.cluster.pids())
        unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
        with contextlib.suppress(ProcessLookupError):
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (1, resource.RLIM_INFINITY))
            time.sleep(self._rng.uniform(0.1, 1.0))
            resource.prlimit(pid, resource.RLIMIT_FSIZE, unlimited)
        return f"no file of {pid} could grow; " + self._kill([pid])

    def _failing_disk(self) -> str:
        self.disk_failed = True
        pid, point = (
            self._rng.choice(self.cluster.pids()),
            self._rng.choice(["pwritev2", "fsync", "rename"]),
        )
        self._inject(pid, f"{point}:error=EIO", self._rng.uniform(0.3, 1.5))
        return f"EIO at each {point} of {pid}; " + self._kill([pid])

    # --------------------------------------------------------------------------------------------------------- helpers

    def _inject(self, pid: int, fault: str, seconds: float) -> bool:
        """Have strace inject a fault into a process for that long at most. Whether the process ended meanwhile."""
        if self._strace is None:
            return False
        call = fault.partition(":")[0]
        command = [self._strace, "-f", "-qq", "-o", "/dev/null", "-p", str(pid)]
        command += ["-e", f"trace={call}", "-e", f"inject={fault}"]
        with subprocess.Popen(command, stderr=subprocess.DEVNULL) as tracer:
            for end in (
                lambda: None,
                tracer.terminate,
                tracer.kill,
            ):  # it hangs at times on a process that is gone
                end()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    tracer.wait(seconds)
                    break
        return not started(pid)
