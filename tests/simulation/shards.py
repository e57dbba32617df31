"""The made-up processes of shard servers: hosts behind the made-up network, logs that take time, and how they end."""

from __future__ import annotations

from collections.abc import Callable, Generator
from functools import partial
from typing import TYPE_CHECKING, Any

from simulation.logs import NodeLog, NodeLogs, Storage
from simulation.world import Ended, Outcome, World
from virtual_disk import Crash

from rowloom.deploy.launch.launcher import Launched
from rowloom.proto import methods
from rowloom.proto.errors import PushUnresolved, Rerouted, RowloomError, Unavailable, in_words
from rowloom.proto.framing import joined
from rowloom.server.call import Answer, Call, Caller, WaitFor
from rowloom.server.durable.records import Kind
from rowloom.server.holder import Incoming, Process, Recovery
from rowloom.server.host import Host
from rowloom.server.moving.receive import PEER_ATTEMPTS, peer_pause_s
from rowloom.server.serve import may_recover, unsafe

if TYPE_CHECKING:
    from simulation.cluster import Disk

# Where a server that has a log may end, at the worst moments. See `ShardNode.lurking`.
POINTS = (
    "noted",  # a change is applied; nothing of it is written
    "written",  # and nobody has heard of it
    "covered",  # safe, and nobody has heard of it
    "answered",
    "received a piece",
    "received all",  # and not all of it is safe
    "received all safely",  # and it is not adopted
    "recovering",
    "recovered",
)


class ShardNode:
    """One server process after the other, behind the made-up network.

    Attributes:
        address: of the process of the moment. One that has a log comes back at another one, as processes and actors do.
        alive: whether there is a process.
        returns: whether another one follows by itself, as on Ray; or it takes the coordinator.
        lurking: at which of POINTS this process ends; next_lurks: the next one.
        doom: before which of its next calls of the disk it ends; None: never.
        journal: the log that the last process wrote.
    """

    def __init__(self, world: World, key: int, disk: Disk, storage: Storage | None = None) -> None:
        self.world = world
        self.key = key
        self.storage = storage
        self.address = f"shard-{key}:1"
        self._disk = disk
        self.next_lurks: str | None = None
        self._lives = 0
        self._stopped = False
        self.start()

    def start(self) -> None:
        """A new, empty process."""
        if self._stopped:
            return
        world = self.world
        self._lives += 1
        self._held: list[Callable[[], None]] = []  # tries of calls again, once the host has changed
        self.incarnation = world.rng.getrandbits(62) | 1
        self.alive = self.returns = True
        self.lurking, self.next_lurks = self.next_lurks, None
        self.doom: int | None = None
        self.journal: NodeLog | None = None
        self.logs: NodeLogs | None = None
        if self.storage is not None:
            self.address = f"shard-{self.key}:{self._lives}"
            self._files = self.storage.disk.beside()
            self._files.before = self._before
            self.logs = NodeLogs(
                self.storage, self._files, self._at, lambda: self.alive and host is self.host
            )
        process = Process(
            incarnation=self.incarnation,
            now=world.clock,
            max_clients=world.max_clients,
            journals=self.logs,
        )
        self.host = host = Host(process)
        world.nodes[self.address] = self._arrive

    def kill(self, away_s: float | None, *, power: bool = False) -> None:
        """End the process; another one takes its place after a while. None: none does by itself.

        power: with its machine.
        """
        if not self.alive:
            return
        self._end()
        self.returns = away_s is not None
        if power and self.storage is not None and self.logs is not None:
            self.world.injected["power failed"] += 1
            for folder in sorted(self.logs.folders):
                self.storage.disk.without_power(self.world.rng, folder)
        if away_s is not None:
            self.world.at(away_s, self.start)

    def stop(self) -> None:
        """End it for good."""
        self._stopped = True
        if self.alive:
            self._end()
        self.returns = False

    def _end(self) -> None:
        self.alive = False
        self.world.nodes.pop(self.address, None)
        if self.logs is not None:
            journal = self.host.journal
            self.journal = journal if isinstance(journal, NodeLog) else None
            self._files.killed()

    @property
    def launched(self) -> Launched:
        return Launched(self.address, self.incarnation)

    # --------------------------------------------------------------------------------------- its life, and its end

    def _at(self, delay_s: float, do: Callable[..., object], *args: Any) -> None:
        """As `World.at`, if the process lives then."""
        self.world.at(delay_s, self._run, self.host, do, *args)

    def _run(self, host: Host, do: Callable[..., object], *args: Any) -> None:
        """Do something as this process; a crash within it ends that."""
        if host is self.host and self.alive:
            try:
                do(*args)
            except Crash:
                self.world.injected["server killed in a call of the disk"] += 1
                self.die()

    def die(self, *, returns: bool = False) -> None:
        """End this process in one of the ways that its rows survive. returns: another one surely follows by itself."""
        assert self.storage is not None
        rng = self.world.rng
        power = self.storage.loses_power and rng.random() < 0.5
        away_s = rng.uniform(0.0, 2.0)
        self.kill(away_s if returns or rng.random() < 0.5 else None, power=power)

    def _before(self, method: str, name: str) -> int | None:
        assert self.storage is not None
        if self.doom is not None:
            self.doom -= 1
            if self.doom <= 0:
                self.doom = None
                if method == "pwritev":
                    return self.world.rng.randrange(1 + 200)
                raise Crash
        self.storage.refuse(self.key, method, name)
        return None

    def _ends_at(self, point: str) -> bool:
        """Whether this is the point where this process ends; then it has."""
        if self.lurking != point:
            return False
        self.lurking = None
        self.world.injected[f"server killed: {point}"] += 1
        self.die()
        return True

    # ---------------------------------------------------------------------------------------------------- requests

    def _arrive(self, method: str, data: bytes, answer: Ended) -> None:
        self._run(self.host, self._handle, Call(method, data, Caller("simulator")), answer, None)

    def _handle(self, call: Call, answer: Ended, until: float | None) -> None:
        """One request: the one place that knows how a host is called."""
        host, changes = self.host, self.host.changes
        said: Answer | RowloomError
        try:
            said = host.handle(call)
        except RowloomError as e:
            said = e
        if call.method in (methods.PUSH, methods.STEP) and isinstance(said, Answer) and said.wait_for is None:
            self._check_epoch()
        if host.tasks:
            self._start_tasks()
        if self.logs is not None:
            self._log(call, said, answer, until)
        else:
            self._reply(call, said, answer, until)
        if host.changes != changes and host is self.host and self.alive:
            self._wake()

    def _log(self, call: Call, said: Answer | RowloomError, answer: Ended, until: float | None) -> None:
        """Write what was noted, then answer when the log covers it."""
        self._drop_logs()
        journal = self.host.journal
        assert journal is None or isinstance(journal, NodeLog)
        noted = journal.take() if journal is not None else []
        if noted:
            assert journal is not None
            if self._ends_at("noted"):
                return
            journal.write_later(noted, partial(self._covered, journal, call, said, answer, until))
        else:
            self._covered(journal, call, said, answer, until, None)

    def _covered(
        self,
        journal: NodeLog | None,
        call: Call,
        said: Answer | RowloomError,
        answer: Ended,
        until: float | None,
        error: PushUnresolved | None,
    ) -> None:
        if error is not None:
            answer(unsafe(call.method, error))
        elif isinstance(said, RowloomError) or not said.after or journal is None:
            self._reply(call, said, answer, until)
        elif not self._ends_at("written"):

            def safe(error: PushUnresolved | None) -> None:
                if self._ends_at("covered"):
                    return
                if error is not None and journal is not self.host.journal:
                    self._reply(call, said, answer, until)  # the next layout has it
                else:
                    self._reply(call, unsafe(call.method, error) if error else said, answer, until)

            journal.wait_later(said.after, safe)

    def _reply(self, call: Call, said: Answer | RowloomError, answer: Ended, until: float | None) -> None:
        if isinstance(said, RowloomError):
            answer(said)
        elif said.wait_for is not None:
            self._hold(call, answer, said.wait_for, until or self.world.now + said.wait_for.limit_s)
        else:
            answer(joined(said.buffers))
            if call.method in (methods.PUSH, methods.STEP):
                self._ends_at("answered")

    def _hold(self, call: Call, answer: Ended, wait: WaitFor, until: float) -> None:
        """Handle a call again when the host has changed; answer otherwise when time is up."""
        host, ended = self.host, []

        def again() -> None:
            if not ended:
                ended.append(True)
                self._handle(call, answer, until)

        def give_up() -> None:
            if host is self.host and self.alive and not ended:
                ended.append(True)
                answer(wait.otherwise)

        self._held.append(again)
        self.world.at(until - self.world.now, give_up)

    def _wake(self) -> None:
        """The host has changed."""
        held, self._held = self._held, []
        for again in held:
            again()

    def _check_epoch(self) -> None:
        """No push is taken in an epoch when the next one is stored: the next coordinator would not find it."""
        stored, shard = self._disk.stored, self.host.shard
        if stored is not None and stored.layout is not None and shard is not None:
            assert shard.layout.epoch >= stored.layout.epoch, (
                f"{self.address} takes pushes of an epoch that is over"
            )

    # -------------------------------------------------------------------------------------- what takes the host long

    def _start_tasks(self) -> None:
        tasks, self.host.tasks = self.host.tasks, []
        for task in tasks:
            if isinstance(task, Recovery):
                self._at(self.world.rng.uniform(0.0, 0.3), self._recover, task)
            else:
                self._receive(task, task.receive.run(), None)

    def _drop_logs(self) -> None:
        dropped, self.host.discarded = self.host.discarded, []
        for journal in dropped:
            assert self.logs is not None
            self._at(self.world.rng.choice([0.0, 0.1, 3.0]), self.logs.drop_later, journal)

    def _recover(self, task: Recovery) -> None:
        assert self.logs is not None
        if self._ends_at("recovering"):
            return
        self.world.injected["shard read from its log"] += 1
        try:
            shard, journal = self.logs.recover(task.owner, task.make, task.snapshots)
        except Exception as e:  # as the shell does
            self.world.injected["shard not read from its log"] += 1
            self.host.not_recovered(in_words(e), again=may_recover(e))
        else:
            self.logs.drop_older(task.owner)
            self.host.recovered(shard, journal)
        if not self._ends_at("recovered"):
            self._wake()

    def _receive(self, incoming: Incoming, run: Generator[Any, bytes, None], reply: bytes | None) -> None:
        if self.host.incoming is not incoming:
            self._received(incoming, "")
            return
        call: Any = None
        try:
            call = run.send(reply)
        except StopIteration:
            pass
        except Exception as e:  # as the shell does
            self._received(incoming, f"{type(e).__name__}: {e}")
            return
        journal = incoming.journal
        if journal is None or reply is None:
            self._go_on(incoming, run, call)
            return
        assert isinstance(journal, NodeLog)
        if self._ends_at("received a piece" if call is not None else "received all"):
            return
        try:
            end = journal.note(Kind.RECEIVED, reply)
        except PushUnresolved as e:
            self._received(incoming, f"{type(e).__name__}: {e}")
            return

        def written(error: PushUnresolved | None) -> None:
            if error is not None:
                self._received(incoming, f"{type(error).__name__}: {error}")
            elif call is not None:
                self._go_on(incoming, run, call)
            else:
                journal.wait_later(end, safe)

        def safe(error: PushUnresolved | None) -> None:
            self._received(incoming, f"{type(error).__name__}: {error}" if error else "")

        journal.write_later(journal.take(), written)

    def _go_on(self, incoming: Incoming, run: Generator[Any, bytes, None], call: Any) -> None:
        if call is None:
            self._received(incoming, "")
        else:
            self._ask(incoming, run, call, 0)

    def _received(self, incoming: Incoming, error: str) -> None:
        """A receive is driven no more."""
        self.host.ended(incoming, error)
        if self.logs is not None:
            self._drop_logs()
            if not error and self.host.incoming is incoming:
                self._ends_at("received all safely")

    def _ask(self, incoming: Incoming, run: Generator[Any, bytes, None], call: Any, attempt: int) -> None:
        host = self.host

        def ended(outcome: Outcome) -> None:
            self._run(host, answered, outcome)

        def answered(outcome: Outcome) -> None:
            if not isinstance(outcome, RowloomError):
                self._receive(incoming, run, outcome)
            elif isinstance(outcome, Unavailable | Rerouted) and attempt < PEER_ATTEMPTS - 1:
                self._at(peer_pause_s(attempt), self._ask, incoming, run, call, attempt + 1)
            else:
                self._received(incoming, f"{type(outcome).__name__}: {outcome}")

        self.world.post(call.address, call.method, call.data, 5.0, ended)
