"""The made-up processes of shard servers: hosts behind the made-up network, logs that take time, and how they end."""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any

from simulation.logs import NodeLog, NodeLogs, Storage
from simulation.receiving import Receiving
from simulation.standing import Standing
from simulation.world import Ended, World
from virtual_disk import Crash

from rowloom.deploy.launch.launcher import Launched
from rowloom.proto import methods
from rowloom.proto import rowloom_pb2 as pb
from rowloom.proto.errors import PushUnresolved, RowloomError, Unconfirmed, in_words
from rowloom.proto.framing import joined
from rowloom.server.call import Answer, Call, Caller, WaitFor
from rowloom.server.durable.segments import LogInUse
from rowloom.server.durable.shard_log import may_recover
from rowloom.server.durable.succession import Succession
from rowloom.server.holder import Incoming, Process, Recovery
from rowloom.server.host import Host
from rowloom.server.journal import Journal
from rowloom.server.running.succeeding import succeed
from rowloom.server.serve import unsafe
from rowloom.server.snapshots.writing import write_cut
from rowloom.server.standby.following import Following
from rowloom.server.standby.waiting import CONFIRMED_S
from rowloom.server.taking import Taking

if TYPE_CHECKING:
    from simulation.cluster import Disk


class Worst(random.Random):
    """Of what a loss of power may leave, nothing is left."""

    def choice(self, seq: Any) -> Any:
        return seq[0]

    def randint(self, a: int, b: int) -> int:
        return a


WORST = Worst()

# Where a server that has a log may end, at the worst moments. See `ShardNode.lurking`.
POINTS = (
    "noted",  # a change is applied; nothing of it is written
    "written",  # and nobody has heard of it
    "covered",  # safe, and nobody has heard of it
    "answered",  # with something on the disk that is not synced
    "answered again",  # a push that had come before
    "received a piece",
    "received all",  # and not all of it is safe
    "received all safely",  # and it is not adopted
    "adopted",  # in the next layout, whose log it has just begun
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
        replicated: its processes were started with it.
    """

    def __init__(
        self, world: World, key: int, disk: Disk, storage: Storage | None = None, *, replicated: bool = False
    ) -> None:
        self.replicated = replicated
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
        self._unconfirmed: list[Callable[[], None]] = []  # tries to answer, once the standby has something
        self._asleep: list[Callable[[], None]] | None = None  # what comes while the process stands still
        self.incarnation = world.rng.getrandbits(62) | 1
        self.alive = self.returns = True
        self.lurking, self.next_lurks = self.next_lurks, None
        self.doom: int | None = None
        self.journal: NodeLog | None = None
        self._began: Journal | None = None  # the log that this process had when it was adopted
        self.logs: NodeLogs | None = None
        if self.storage is not None:
            self.address = f"shard-{self.key}:{self._lives}"
            self._files = self.storage.disk.beside()
            self._files.before = self._before
            self.logs = NodeLogs(self.storage, self._files, self.at, lambda: self.alive and host is self.host)
        process = Process(
            incarnation=self.incarnation,
            now=world.clock,
            number=lambda: world.rng.getrandbits(62) | 1,
            max_clients=world.max_clients,
            block_bytes=world.block_bytes,
            journals=self.logs,
            snapshots=world.snapshots,
            replicated=self.replicated,
        )
        self.host = host = Host(process)
        world.nodes[self.address] = self._arrive

    def kill(self, away_s: float | None, *, power: random.Random | None = None) -> None:
        """End the process; another one takes its place after a while. None: none does by itself.

        power: with its machine; says what is left of what was not synced.
        """
        if not self.alive:
            return
        self._end()
        self.returns = away_s is not None
        if power is not None and self.storage is not None and self.logs is not None:
            self.world.injected["power failed"] += 1
            for folder in sorted(self.logs.folders):
                self.storage.disk.without_power(power, folder)
        if away_s is not None:
            self.world.at(away_s, self.start)

    def close(self, away_s: float) -> None:
        """End the process as SIGTERM does, when nothing is under way: its log is closed. Another one comes."""
        journal = self.host.journal
        assert isinstance(journal, NodeLog)
        assert not journal.users
        self.run(self.host, journal.close)
        self.kill(away_s)

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

    def at(self, delay_s: float, do: Callable[..., object], *args: Any) -> None:
        """As `World.at`, if the process lives then."""
        self.world.at(delay_s, self.run, self.host, do, *args)

    def run(self, host: Host, do: Callable[..., object], *args: Any) -> None:
        """Do something as this process; a crash within it ends that."""
        if host is self.host and self._asleep is not None:
            self._asleep.append(partial(self.run, host, do, *args))
        elif host is self.host and self.alive:
            try:
                do(*args)
            except Crash:
                self.world.injected["server killed in a call of the disk"] += 1
                self.die()

    def sleep(self, seconds: float) -> None:
        """The process stands still, as by SIGSTOP; what comes is taken when it goes on."""
        if self.alive and self._asleep is None:
            self._asleep = []
            self.world.at(seconds, self._go_on, self.host)

    def _go_on(self, host: Host) -> None:
        if host is self.host and self._asleep is not None:
            came, self._asleep = self._asleep, None
            for do in came:
                do()

    def wake_up(self) -> None:
        """It goes on, if it stood still."""
        self._go_on(self.host)

    @property
    def sleeps(self) -> bool:
        return self._asleep is not None

    def die(self, *, returns: bool = False) -> None:
        """End this process in one of the ways that its rows survive. returns: another one surely follows by itself."""
        assert self.storage is not None
        rng = self.world.rng
        power = rng.choice([None, rng, WORST, WORST]) if self.storage.loses_power else None
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

    def ends_at(self, point: str) -> bool:
        """Whether this is the point where this process ends; then it has."""
        storage = self.storage
        if storage is not None and storage.lurking == point:
            storage.lurking = None
        elif self.lurking == point:
            self.lurking = None
        else:
            return False
        self.world.injected[f"server killed: {point}"] += 1
        self.die()
        return True

    # ---------------------------------------------------------------------------------------------------- requests

    def _arrive(self, method: str, data: bytes, answer: Ended) -> None:
        self.run(self.host, self._handle, Call(method, data, Caller("simulator")), answer, None)

    def _handle(self, call: Call, answer: Ended, until: float | None) -> None:
        """One request: the one place that knows how a host is called."""
        host, moves = self.host, self.host.moves
        said: Answer | RowloomError
        try:
            said = host.handle(call)
        except RowloomError as e:
            said = e
        if call.method in (methods.PUSH, methods.STEP) and isinstance(said, Answer) and said.wait_for is None:
            self._check_epoch()
        host.outlived.clear()
        if host.tasks:
            self._start_tasks()
        if self.logs is not None:
            self._log(call, said, answer, until)
        else:
            self._reply(call, said, answer, until)
        if host.moves != moves and host is self.host and self.alive:
            self._wake()

    def _log(self, call: Call, said: Answer | RowloomError, answer: Ended, until: float | None) -> None:
        """Write what was noted, then answer when the log covers it."""
        self._drop_logs()
        journal = self.host.journal
        assert journal is None or isinstance(journal, NodeLog)
        noted = journal.take() if journal is not None else []
        if noted:
            assert journal is not None
            if self.ends_at("noted"):
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
        elif not self.ends_at("written"):

            def safe(error: PushUnresolved | None) -> None:
                if self.ends_at("covered"):
                    return
                if error is not None and journal is not self.host.journal:
                    self._reply(call, said, answer, until)  # the next layout has it
                else:
                    self._reply(call, unsafe(call.method, error) if error else said, answer, until)

            journal.wait_later(said.after, safe)

    def _reply(self, call: Call, said: Answer | RowloomError, answer: Ended, until: float | None) -> None:
        if isinstance(said, Answer) and said.fed is not None and not said.fed.is_safe:
            self._confirm(call, said, answer)
        elif isinstance(said, RowloomError):
            answer(said)
        elif said.wait_for is not None:
            self._hold(call, answer, said.wait_for, until or self.world.now + said.wait_for.limit_s)
        else:
            reply = joined(said.buffers)
            answer(reply)
            if call.method in (methods.PUSH, methods.STEP) and self.logs is not None:
                self._answered(call.method, reply)
            elif call.method == methods.ADOPT and self._began is not self.host.journal:
                self._began = self.host.journal
                self.ends_at("adopted")

    def _answered(self, method: str, reply: bytes) -> None:
        if self.lurking == "answered again":
            again = (
                pb.PushReply.FromString(reply)
                if method == methods.PUSH
                else pb.StepReply.FromString(reply).push
            )
            if again.duplicate:
                self.ends_at("answered again")
        elif self.lurking == "answered":
            assert self.storage is not None
            assert self.logs is not None
            if not self.storage.loses_power or self.storage.unsynced(self.logs.folders):
                self.ends_at("answered")

    def _hold(self, call: Call, answer: Ended, wait: WaitFor, until: float) -> None:
        """Handle a call again when the host has changed; answer otherwise when time is up."""
        host, ended = self.host, []

        def again() -> None:
            if not ended:
                ended.append(True)
                self._handle(call, answer, None if wait.again else until)

        def give_up() -> None:
            if host is self.host and self.alive and not ended:
                ended.append(True)
                if wait.again:
                    self.run(host, self._handle, call, answer, None)
                else:
                    answer(wait.otherwise)

        self._held.append(again)
        self.world.at(until - self.world.now, give_up)

    def _confirm(self, call: Call, said: Answer, answer: Ended) -> None:
        """Answer when the standby has what was done; or that it has not said so."""
        host, ended, fed = self.host, [], said.fed
        assert fed is not None

        def again() -> None:
            if not ended and fed.is_safe:
                ended.append(True)
                self._reply(call, said, answer, None)
            elif not ended:
                self._unconfirmed.append(again)

        def give_up() -> None:
            if not ended:
                ended.append(True)
                answer(Unconfirmed("the standby has not said yet that it has this", retry_after_s=0.02))

        self._unconfirmed.append(again)
        self.world.at(CONFIRMED_S, self.run, host, give_up)

    def _wake(self) -> None:
        """The host has changed."""
        unconfirmed, self._unconfirmed = self._unconfirmed, []
        for again in unconfirmed:
            again()
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
                self.at(self.world.rng.uniform(0.0, 0.3), self._recover, task)
            elif isinstance(task, Succession):
                self.at(self.world.rng.uniform(0.0, 0.1), self._succeed, task)
            elif isinstance(task, Following):
                Standing(self, task).start()
            elif isinstance(task, Taking):
                self.at(self.world.rng.uniform(0.0, 0.5), self._take, task)
            else:
                Receiving(self, task).start()

    def _drop_logs(self) -> None:
        dropped, self.host.discarded = self.host.discarded, []
        for journal in dropped:
            assert self.logs is not None
            self.at(self.world.rng.choice([0.0, 0.1, 3.0]), self.logs.drop_later, journal)

    def _recover(self, task: Recovery) -> None:
        assert self.logs is not None
        if self.ends_at("recovering"):
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
        if not self.ends_at("recovered"):
            self._wake()

    def _succeed(self, task: Succession) -> None:
        """As the shell does, but for a disk that is never given up."""
        assert self.logs is not None
        if self.ends_at("succeeding"):
            return
        try:
            shard, journal = succeed(self.logs, task, patient=True)
        except LogInUse:
            self.world.injected["log of a server before that lives"] += 1
            self.at(0.1, self._succeed, task)
        except OSError:
            self.world.injected["log not read by a standby"] += 1
            self.at(0.5, self._succeed, task)
        else:
            self.world.injected["log taken by a standby"] += 1
            self.world.injected["log read anew by a standby"] += shard is not task.shard
            self.logs.drop_older(task.owner)
            self.host.recovered(shard, journal)
            if not self.ends_at("succeeded"):
                self._wake()

    def _take(self, taking: Taking) -> None:
        """Write a shard's part of a snapshot, all of it at one moment."""
        try:
            stored = write_cut(taking, nullcontext)
        except (RowloomError, OSError) as e:  # as the shell does
            if taking.under_way:
                self.host.taken(taking, error=in_words(e))
            return

        def settled(error: PushUnresolved | None) -> None:
            if taking.under_way:
                self.host.taken(taking, b"" if error else stored, in_words(error) if error else "")

        journal = self.host.journal
        if isinstance(journal, NodeLog) and taking.under_way:
            journal.wait_later(taking.end, settled)
        else:
            settled(None)

    def received(self, incoming: Incoming, error: str) -> None:
        """A receive is driven no more."""
        self.host.ended(incoming, error)
        if self.logs is not None:
            self._drop_logs()
            if not error and self.host.incoming is incoming:
                self.ends_at("received all safely")
