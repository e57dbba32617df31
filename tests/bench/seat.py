"""A trainer process that holds one system, so that no library's threads or allocator stand in another's way."""

import importlib
import multiprocessing
import os
import sys
from contextlib import ExitStack
from pathlib import Path

from rowloom.client import InvalidRequest, RowloomError, connect
from rowloom.deploy.bench.bench import TABLE, Rowloom, Sockets
from rowloom.deploy.bench.rival import Crew
from rowloom.deploy.bench.samples import Sample, fill, take_sample
from rowloom.deploy.bench.workload import make_cases
from rowloom.deploy.bench.yardstick import Yardstick
from rowloom.proto.allocator import keep_freed_memory

RIVALS = {
    "openembedding": "rivals.openembedding:OpenEmbedding",
    "tensorflow": "rowloom.deploy.bench.rival_tensorflow:TensorFlow",
    "ray": "rivals.ray_actors:RayActors",
    "torch": "rivals.torch_rpc:TorchRpc",
    "redis": "rivals.redis_pull:RedisPull",
}
SOCKETS = "sockets"


class Seat:
    """The parent's end of such a process; `measure` gives it turns.

    Args:
        name: of a rival, or "sockets", or "rowloom-" and a carrier.
        plan: rows, dim, servers, batches, ops, seed, and address of rowloom's cluster.

    Raises:
        InvalidRequest: the system cannot be had here; the message says why.
    """

    def __init__(self, name: str, plan: dict, crew: Crew | None = None) -> None:
        context = multiprocessing.get_context("spawn")
        self._end, theirs = context.Pipe()
        self._process = context.Process(target=_sit, args=(name, plan, crew, theirs), daemon=False)
        self._process.start()
        theirs.close()
        self.name = name
        if crew is None:
            self.wait()

    def wait(self) -> None:
        """Until the system is up."""
        try:
            self.version, self._ops, self.keeps = self._answer()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> "Seat":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """End the process and its servers."""
        self._end.close()
        self._process.join(20)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()

    def can(self, op: str) -> bool:
        """Whether the system has the op."""
        return op in self._ops

    def fill(self) -> None:
        """Make every row."""
        self._ask("fill")

    def turn(self, number: int, block_s: float) -> Sample:
        """Let the system take a turn with the case of that number."""
        self.begin(number, block_s)
        return self.end()

    def begin(self, number: int, block_s: float) -> None:
        """Start a turn."""
        self._say("turn", number, block_s)

    def end(self) -> Sample:
        """What it was."""
        return self._answer()

    def server_rss_bytes(self) -> int:
        """Resident memory of the system's servers."""
        return self._ask("rss")

    def _ask(self, *words):
        self._say(*words)
        return self._answer()

    def _say(self, *words) -> None:
        try:
            self._end.send(words)
        except OSError:
            raise self._gone() from None

    def _answer(self):
        try:
            refused, value = self._end.recv()
        except (EOFError, OSError):
            raise self._gone() from None
        if refused:
            raise InvalidRequest(value)
        return value

    def _gone(self) -> RuntimeError:
        return RuntimeError(f"the process of {self.name} is gone")


class Team:
    """Several such processes of one system, which take their turns together.

    Args:
        name, plan: as for Seat.
        trainers: how many.

    Raises:
        InvalidRequest: as Seat; or the system takes one trainer only.
    """

    def __init__(self, name: str, plan: dict, trainers: int) -> None:
        self.name = name
        self._stack = ExitStack()
        crew = [None] if trainers == 1 else Crew.of(trainers, plan["servers"])
        try:
            self._seats = [self._stack.enter_context(Seat(name, plan, one)) for one in crew]
            if trainers > 1:  # all at once: some systems are up when all of them are
                for seat in self._seats:
                    seat.wait()
        except BaseException:
            self._stack.close()
            raise
        first = self._seats[0]
        self.version, self.can, self.fill, self.server_rss_bytes = (
            first.version,
            first.can,
            first.fill,
            first.server_rss_bytes,
        )

    def __enter__(self) -> "Team":
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    def turn(self, number: int, block_s: float) -> Sample:
        """Let all of them take a turn with the case of that number."""
        for seat in self._seats:
            seat.begin(number, block_s)
        turns = [seat.end() for seat in self._seats]
        return Sample(
            [seconds for turn in turns for seconds in turn.times],
            max(turn.seconds for turn in turns),
            sum(turn.client_cpu_s for turn in turns),
            sum(turn.server_cpu_s for turn in turns),
            sum(turn.ids for turn in turns),
        )


def _sit(name: str, plan: dict, crew: Crew | None, end) -> None:
    """The process. Its servers end with it, and it ends with its parent, whose end of the pipe closes then."""
    with ExitStack() as stack:
        try:
            keep_freed_memory()
            system, version, ops, keeps = _enter(stack, name, plan, crew)
            seed = plan["seed"] + (crew.rank if crew else 0)  # batches of its own
            cases = make_cases(plan["batches"], plan["rows"], plan["dim"], seed, plan["ops"])
            end.send((False, (version, ops, keeps)))
            _answer_all(system, cases, plan, end)
        except (InvalidRequest, RowloomError) as e:
            end.send((True, str(e)))
        except (EOFError, BrokenPipeError):
            pass
    sys.stdout.flush()
    sys.stderr.flush()
    # Past the threads of C++ libraries that have no way to be told.
    os._exit(0)


def _answer_all(system, cases, plan: dict, end) -> None:
    while True:
        word, *rest = end.recv()
        value = None
        if word == "fill":
            for _ in fill(system.push, plan["rows"], plan["dim"]):
                pass
        elif word == "turn":
            value = take_sample(system, cases[rest[0]], rest[1])
        else:
            value = system.server_rss_bytes()
        end.send((False, value))


def _enter(stack: ExitStack, name: str, plan: dict, crew: Crew | None) -> tuple:
    """The system, its version, its ops, and the values it keeps for each value of a row."""
    rows, dim, servers = plan["rows"], plan["dim"], plan["servers"]
    if name == SOCKETS:
        yardstick = stack.enter_context(Yardstick(rows, dim, max(plan["batches"])))
        return Sockets(yardstick), "", ("pull", "push", "step"), 1
    if name.startswith("rowloom-"):
        client = stack.enter_context(connect(plan["address"], carrier=name.partition("-")[2]))
        system = Rowloom(client, client.table(TABLE))
        if crew is not None and crew.rank:  # the first one counts for all
            system.server_cpu_s = float
        ops = [op for op in ("pull", "push", "step", "fused") if hasattr(system, op)]
        return system, "", ops, 2
    module, _, kind = RIVALS.get(name, name).partition(":")
    sys.path.insert(0, str(Path(__file__).parent))
    rival = getattr(importlib.import_module(module), kind)(rows, dim, servers, crew)
    stack.enter_context(rival)
    return rival, rival.version, rival.ops, rival.keeps
