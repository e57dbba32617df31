"""A whole cluster in one thread: virtual time, one seed, and a network that loses, doubles, delays and reorders.

The client's operations, the shard hosts and the coordinator's programs are the real ones. Only what lies around them -
clock, wires, processes, disk - is made up here.
"""

import heapq
import itertools
import random
from collections.abc import Callable, Generator
from contextlib import nullcontext
from typing import Any

from rowloom.client.calls.session import Event, Operation, Session
from rowloom.deploy.control.coordinator import Coordinator
from rowloom.deploy.control.effects import Calls, Commit, Launch, Program, Sleep, Stop
from rowloom.deploy.control.reshard import Reshard
from rowloom.deploy.control.state import ClusterState
from rowloom.deploy.launch.launcher import Launched
from rowloom.proto import rowloom_pb2 as pb
from rowloom.proto.errors import NoAnswer, RetryLater, RowloomError, Unavailable
from rowloom.proto.framing import joined
from rowloom.proto.spec import TableSpec
from rowloom.server.call import Call, Caller, WaitFor
from rowloom.server.host import Host, Incoming, Process

Ended = Callable[[bytes | RowloomError], None]


class World:
    """Clock, network and nodes. Everything random comes from one seed."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.now = 0.0
        self._order = itertools.count()
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self.nodes: dict[str, Callable[[str, bytes, Ended], None]] = {}
        self.weather("calm")

    def weather(self, kind: str) -> None:
        """How bad the network is."""
        self.lose = {"lossy": 0.15, "stormy": 0.1}.get(kind, 0.0)
        self.double = {"doubling": 0.3, "stormy": 0.2}.get(kind, 0.0)
        self.slow = {"calm": 0.001, "lossy": 0.005}.get(kind, 0.05)

    def clock(self) -> float:
        return self.now

    def at(self, delay_s: float, do: Callable[[], None]) -> None:
        heapq.heappush(self._events, (self.now + max(0.0, delay_s), next(self._order), do))

    def run(self, until: Callable[[], bool], limit_s: float = 10_000.0) -> None:
        """Let time pass until a condition holds."""
        while not until():
            assert self._events, "nothing will happen any more"
            self.now, _, do = heapq.heappop(self._events)
            assert self.now < limit_s, "it goes on for ever"
            do()

    def _delay(self) -> float:
        if self.rng.random() < 0.02:
            return self.rng.uniform(
                0, 12.0
            )  # longer than an attempt waits: an answer nobody expects any more
        return self.rng.expovariate(1 / self.slow)

    def post(self, address: str, method: str, data: bytes, timeout_s: float, ended: Ended) -> None:
        """A call: `ended` is called once, with the reply, an error, or NoAnswer when time is up."""
        open_ = [True]

        def end(outcome: bytes | RowloomError) -> None:
            if open_[0]:
                open_[0] = False
                ended(outcome)

        def answer(outcome: bytes | RowloomError) -> None:
            if self.rng.random() >= self.lose:
                self.at(self._delay(), lambda: end(outcome))

        def arrive() -> None:
            node = self.nodes.get(address)
            if node is None:
                answer(NoAnswer(f"nobody listens at {address}"))
            else:
                node(method, data, answer)

        self.at(timeout_s, lambda: end(NoAnswer(f"{address} did not answer in time")))
        for _ in range(2 if self.rng.random() < self.double else 1):
            if self.rng.random() >= self.lose:
                self.at(self._delay(), arrive)

    # ------------------------------------------------------------------------------------------------------ clients

    def operate(self, session: Session, operation: Operation, ended: Callable[[Any], None]) -> None:
        """Drive one operation of a session; `ended` gets its result or its RowloomError."""
        asleep = [0]

        def step(event: Event | None) -> None:
            asleep[0] += 1
            try:
                turn = operation.send(event) if started[0] else next(operation)
            except StopIteration as end:
                ended(end.value)
                return
            except RowloomError as e:
                ended(e)
                return
            finally:
                started[0] = True
            for send in turn.sends:
                data = joined(send.buffers)
                self.post(
                    send.address, send.method, data, send.timeout_s, lambda o, t=send.tag: deliver(t, o)
                )
            turn_number = asleep[0]
            self.at(turn.wake_at - self.now, lambda: step(None) if asleep[0] == turn_number else None)

        def deliver(tag: int, outcome: bytes | RowloomError) -> None:
            if operation.gi_frame is not None:  # type: ignore[attr-defined]
                failed = isinstance(outcome, RowloomError)
                step(Event(tag, error=outcome) if failed else Event(tag, outcome))

        started = [False]
        step(None)

    def session(self, seeds: list[str], client_id: int) -> Session:
        rng = random.Random(self.rng.getrandbits(32))
        return Session(seeds, client_id, rng, self.clock, nullcontext())


class ShardNode:
    """A host behind the made-up network."""

    def __init__(self, world: World, address: str) -> None:
        self.world = world
        self.address = address
        self.incarnation = world.rng.getrandbits(62) | 1
        self.host = Host(Process(incarnation=self.incarnation, now=world.clock))
        self._held: list[Callable[[], None]] = []  # tries of calls again, once the host has changed
        self._unsafe: list[tuple[int, Callable[[], None]]] = []  # replies, after what the log must be durable
        world.nodes[address] = self._arrive

    def _arrive(self, method: str, data: bytes, answer: Ended) -> None:
        self._handle(Call(method, data, Caller("simulator")), answer, None)

    def _handle(self, call: Call, answer: Ended, until: float | None) -> None:
        changes = self.host.changes
        try:
            said = self.host.handle(call)
        except RowloomError as e:
            answer(e)
        else:
            if said.wait_for is not None:
                self._hold(call, answer, said.wait_for, until or self.world.now + said.wait_for.limit_s)
            else:
                reply = joined(said.buffers)
                self._unsafe.append((said.after, lambda: answer(reply)))
                self.release()
        tasks, self.host.tasks = self.host.tasks, []
        for task in tasks:
            self._receive(task, task.receive.run(), None)
        if self.host.changes != changes:
            held, self._held = self._held, []
            for again in held:
                again()

    def release(self) -> None:
        """Send the replies that the log covers by now."""
        safe = [send for after, send in self._unsafe if after <= self.host.durable]
        self._unsafe = [pair for pair in self._unsafe if pair[0] > self.host.durable]
        for send in safe:
            send()

    def _hold(self, call: Call, answer: Ended, wait: WaitFor, until: float) -> None:
        """Handle a call again when the host has changed; answer otherwise when time is up."""

        def again() -> None:
            if not ended:
                ended.append(True)
                self._handle(call, answer, until)

        def give_up() -> None:
            if not ended:
                ended.append(True)
                answer(wait.otherwise)

        ended: list[bool] = []
        self._held.append(again)
        self.world.at(until - self.world.now, give_up)

    def _receive(self, incoming: Incoming, run: Generator, reply: bytes | None) -> None:
        if self.host.incoming is not incoming:
            return
        try:
            call = run.send(reply)
        except StopIteration:
            return

        def ended(outcome: bytes | RowloomError) -> None:
            if not isinstance(outcome, RowloomError):
                self._receive(incoming, run, outcome)
            elif isinstance(outcome, Unavailable):
                self.world.post(call.address, call.method, call.data, 5.0, ended)
            else:
                incoming.error = str(outcome)

        self.world.post(call.address, call.method, call.data, 5.0, ended)


class CoordinatorNode:
    """The coordinator's programs behind the made-up network, one at a time."""

    ADDRESS = "coordinator:1"

    def __init__(self, world: World) -> None:
        self.world = world
        self.shards: dict[int, ShardNode] = {}
        self.stored = ""
        self.busy = False
        self.coordinator = Coordinator(ClusterState("sim"), world.clock, world.rng, self.ADDRESS)
        world.nodes[self.ADDRESS] = self._arrive

    def perform(self, program: Program, ended: Callable[[Any], None]) -> None:
        """Run a program; `ended` gets its result or its RowloomError."""
        self.busy = True

        def step(outcome: Any) -> None:
            try:
                effect = (
                    program.throw(outcome) if isinstance(outcome, RowloomError) else program.send(outcome)
                )
            except StopIteration as end:
                self.busy = False
                ended(end.value)
                return
            except RowloomError as e:
                self.busy = False
                ended(e)
                return
            self._perform(effect, step)

        step(None)

    def _perform(self, effect: Any, step: Callable[[Any], None]) -> None:
        world = self.world
        if isinstance(effect, Calls):
            outcomes: dict[int, Any] = {}

            def ended(i: int, outcome: Any) -> None:
                outcomes[i] = outcome
                if len(outcomes) == len(effect.calls):
                    step([outcomes[k] for k in range(len(effect.calls))])

            for i, call in enumerate(effect.calls):
                world.post(call.address, call.method, call.data, effect.timeout_s, lambda o, i=i: ended(i, o))
        elif isinstance(effect, Launch):
            for key in effect.keys:
                self.shards[key] = ShardNode(world, f"shard-{key}:1")
            launched = [Launched(self.shards[k].address, self.shards[k].incarnation) for k in effect.keys]
            world.at(0.5, lambda: step(launched))
        elif isinstance(effect, Stop):
            for key in effect.keys:
                node = self.shards.pop(key, None)
                if node is not None:
                    del world.nodes[node.address]
            step(None)
        elif isinstance(effect, Commit):
            self.stored = self.coordinator.state.to_json()
            step(None)
        else:
            assert isinstance(effect, Sleep)
            world.at(effect.seconds, lambda: step(None))

    def _arrive(self, method: str, data: bytes, answer: Ended) -> None:
        name = method.rpartition("/")[2]
        if name == "DescribeLayout":
            answer(self.coordinator.describe().SerializeToString())
            return
        if self.busy:
            answer(RetryLater("busy", retry_after_s=0.1))
            return
        if name == "CreateTable":
            spec = TableSpec.from_message(pb.DefineTableRequest.FromString(data).spec)
            program, wrap = self.coordinator.create_table(spec), _entry_reply
        elif name == "DropTable":
            program, wrap = self.coordinator.drop_table(pb.RemoveTableRequest.FromString(data).name), _done
        else:
            request = pb.AdjustTableRequest.FromString(data)
            program, wrap = self.coordinator.set_lr(request.name, request.lr), _done
        self.perform(program, lambda out: answer(out if isinstance(out, RowloomError) else wrap(out)))

    def scale(self, shards: int, ended: Callable[[Any], None]) -> None:
        """Scale when nothing else changes."""
        if self.busy:
            self.world.at(0.1, lambda: self.scale(shards, ended))
        elif shards == self.coordinator.layout.n:
            ended(None)
        else:
            self.perform(Reshard(self.coordinator, shards).run(), ended)


def _entry_reply(entry: Any) -> bytes:
    return pb.DefineTableReply(table=entry.to_message()).SerializeToString()


def _done(_: Any) -> bytes:
    return b""
