"""The made-up coordinator and its disk, who starts and watches shard servers, and how they fail."""

import dataclasses
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from simulation.logs import Storage
from simulation.shards import ShardNode
from simulation.world import Ended, World

from rowloom.deploy.config.config import DeployConfig, with_replicas
from rowloom.deploy.control.coordinator import Coordinator
from rowloom.deploy.control.effects import (
    Calls,
    Commit,
    Launch,
    Look,
    Program,
    Sleep,
    Stop,
    Stored,
    WriteManifest,
)
from rowloom.deploy.control.handover import Restart, these_shards
from rowloom.deploy.control.reshard import Reshard
from rowloom.deploy.control.revival import moved, revive, take_up
from rowloom.deploy.control.snapshotting import Snapshotting
from rowloom.deploy.control.state import ClusterState
from rowloom.deploy.launch.launcher import ServerProcess
from rowloom.deploy.snapshots.manifests import write_manifest
from rowloom.deploy.standby.changing import rules_of, set_replicas
from rowloom.deploy.standby.rules import StandbyRules
from rowloom.deploy.standby.standbys import Standbys
from rowloom.deploy.standby.status import standbys_in_step
from rowloom.proto import methods
from rowloom.proto import rowloom_pb2 as pb
from rowloom.proto.errors import InvalidRequest, RetryLater, RowloomError, Unavailable
from rowloom.proto.spec import Dealing, TableSpec
from rowloom.server.states import Moving

WATCH_S = 1.0
STANDBY_WATCH_S = 0.25
AS_JSON = 8  # of so many states that are read, one is read from JSON
HANDOVER_S = 10.0  # for servers to read their logs
BUSY_S = 0.5  # until an operator tries again
CHANGES: dict[str, Any] = {
    methods.CREATE_TABLE: pb.DefineTableRequest,
    methods.DROP_TABLE: pb.RemoveTableRequest,
    methods.SET_LEARNING_RATE: pb.AdjustTableRequest,
}


class Died(Exception):
    """The coordinator ended in the middle of a program."""


class Disk:
    """Where the coordinator's state is kept.

    Attributes:
        stored: the state that the next coordinator finds.
        fail_before, fail_after: how often a commit fails before anything was stored, and after it was.
        full: commits fail until it is healed. broken: reading fails too.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self.stored: ClusterState | None = None
        self.fail_before = self.fail_after = 0.0
        self.full = self.broken = False
        self._read: tuple[ClusterState, ClusterState] | None = None
        self._reads = 0

    def commit(self, state: ClusterState) -> RowloomError | None:
        chance = self._world.rng.random()
        if self.full or self.broken:
            self._world.injected["commit on a full or broken disk"] += 1
            return Unavailable("storage: no space left")
        if chance < self.fail_before:
            self._world.injected["commit failed, nothing stored"] += 1
            return Unavailable("storage: the write failed")
        self.stored = dataclasses.replace(
            state
        )  # a state is a value: its lists and dicts are never written to
        if chance > 1 - self.fail_after:
            self._world.injected["commit failed, but stored"] += 1
            return Unavailable("storage: fsync of the folder failed")
        return None

    def load(self) -> ClusterState | RowloomError | None:
        if self.broken:
            return Unavailable("storage: input/output error")
        if self.stored is None:
            return None
        if self._read is None or self._read[0] is not self.stored:  # it is read more often than written
            kept = self.stored
            if not self._reads % AS_JSON:  # which takes as long as all else that a coordinator does
                kept = ClusterState.from_json(kept.to_json())
            self._reads += 1
            self._read = self.stored, kept
        return dataclasses.replace(self._read[1])


class CoordinatorNode:
    """The coordinator's programs behind the made-up network, one at a time.

    Attributes:
        busy: a program runs.
        alive: it listens.
        doom: after how many more effects it dies; None: never.
        launch_fails, launch_waits: how often a launch fails, or takes long.
        empty_dies: how often a new server ends that has no rows yet, or has just received them and serves none.
        killed: addresses of those that had received rows.
        dies_after_failed_commit: how often it ends soon after a commit failed.
    """

    ADDRESS = "coordinator:1"

    def __init__(
        self,
        world: World,
        storage: Storage | None = None,
        rules: StandbyRules | None = None,
        *,
        wanted: bool = True,
    ) -> None:
        self.world = world
        self.storage = storage
        self.rules, self._wanted = rules, wanted
        self.shards: dict[int, ShardNode] = {}
        self.disk = Disk(world)
        self.busy = False
        self.alive = True
        self.doom: int | None = None
        self.launch_fails = self.launch_waits = self.empty_dies = self.dies_after_failed_commit = 0.0
        self.killed: set[str] = set()
        self.taken_over = 0
        self.moving: Reshard | Restart | None = None
        self._life = 0
        self._starting: Launch | None = None  # what takes long
        self._asked = 0  # so often it is still to be waited for
        self._watching = False
        self.coordinator = self._new(ClusterState("sim"))
        world.nodes[self.ADDRESS] = self._arrive

    def _new(self, state: ClusterState) -> Coordinator:
        world = self.world
        made = Coordinator(state, world.clock, world.rng, self.ADDRESS, revives=self.storage is not None)
        self.standbys = Standbys(made, self.rules, wanted=self._wanted) if self.rules is not None else None
        if self.standbys is not None and state.replicas is not None:
            applied = with_replicas(DeployConfig(), state.replicas)
            rules = dataclasses.replace(rules_of(applied.standby), lease_s=self.standbys.rules.lease_s)
            self.standbys.rules, self.standbys.wanted = rules, bool(applied.replicas)
        return made

    # --------------------------------------------------------------------------------------------------- programs

    def perform(self, program: Program, ended: Ended) -> None:
        """Run a program; `ended` gets its result, its RowloomError, or Died."""
        self.busy = True
        life = self._life

        def step(outcome: Any) -> None:
            if life != self._life:
                return  # of a coordinator that has ended
            failed = isinstance(outcome, RowloomError)
            try:
                effect = program.throw(outcome) if failed else program.send(outcome)
            except StopIteration as end:
                over(end.value)
                return
            except RowloomError as e:
                over(e)
                return
            self.world.log("effect", type(effect).__name__, "", 0)
            if self.doom is not None:
                self.doom -= 1
                if self.doom <= 0:
                    if self.world.rng.random() < 0.5:  # what it asked for happens, and nobody hears of it
                        self._perform(effect, lambda _: None)
                    self._die()
                    program.close()
                    ended(Died())
                    return
            self._perform(effect, step)

        def over(outcome: Any) -> None:
            self.busy = False
            self._watch()
            ended(outcome)

        step(None)

    def _perform(self, effect: Any, step: Callable[[Any], None]) -> None:
        world = self.world
        if isinstance(effect, Calls):
            self._call(effect, step)
        elif isinstance(effect, Launch):
            self._launch(effect, step)
        elif isinstance(effect, Stop):
            for key in effect.keys:
                node = self.shards.pop(key, None)
                if node is not None:
                    self._stop(node)
            world.at(0.01, step, None)
        elif isinstance(effect, Commit):
            error = self.disk.commit(effect.state)
            if error is not None and world.rng.random() < self.dies_after_failed_commit:
                self.doom = world.rng.randint(1, 4)
            world.at(0.002, step, error)
        elif isinstance(effect, Stored):
            world.at(0.002, step, self.disk.load())
        elif isinstance(effect, Look):
            world.at(0.01, step, [self._process(key) for key in effect.keys])
        elif isinstance(effect, WriteManifest):
            try:
                made: Any = write_manifest(effect)
            except RowloomError as e:
                made = e
            world.at(0.01, step, made)
        else:
            assert isinstance(effect, Sleep)
            world.at(effect.seconds, step, None)

    def _stop(self, node: ShardNode) -> None:
        """A server that nobody here reaches goes on until somebody does."""
        if (self.ADDRESS, node.address) in self.world.severed:
            self.world.at(0.2, self._stop, node)
        else:
            node.stop()

    def _call(self, effect: Calls, step: Callable[[Any], None]) -> None:
        calls, outcomes = effect.calls, {}
        if not calls:
            step([])

        def ended(i: int, outcome: Any) -> None:
            outcomes[i] = outcome
            if len(outcomes) == len(calls):
                step([outcomes[k] for k in range(len(calls))])

        for i, call in enumerate(calls):
            self.world.post(
                *(call.address, call.method, call.data, effect.timeout_s),
                lambda o, i=i: ended(i, o),
                self.ADDRESS,
            )

    def _launch(self, effect: Launch, step: Callable[[Any], None]) -> None:
        """Servers are there after a moment, or when the program has said some times that it still waits."""
        world = self.world
        if self.launch_waits and self._starting != effect and world.rng.random() < self.launch_waits:
            self._starting = effect
            self._asked = world.rng.randint(1, 12)
        if self._starting == effect and self._asked > 0:
            self._asked -= 1
            world.injected["launch that takes long"] += 1
            world.at(0.5, step, None)
            return
        self._starting = None
        if world.rng.random() < self.launch_fails:
            world.injected["launch failed"] += 1
            world.at(0.5, step, Unavailable("no machine has room for another server"))
            return
        for key in effect.keys:
            node = self.shards[key] = ShardNode(
                world, key, self.disk, self.storage, replicated=bool(self.standbys and self.standbys.wanted)
            )
            if world.rng.random() < self.empty_dies:
                world.at(world.rng.uniform(0.0, 1.5), self._kill_empty, node)
        launched = [self.shards[k].launched for k in effect.keys]
        world.at(0.5, step, launched)

    def _kill_empty(self, node: ShardNode) -> None:
        incoming = node.host.incoming
        following = (
            node.host.following
        )  # standbys in step end otherwise, and not together with their primaries
        if node.host.shard is not None or not node.alive or (following is not None and following.in_step):
            return
        if incoming is not None and incoming.receive.done:
            self.world.injected["server killed that had just received its rows"] += 1
            if self.storage is None:
                self.killed.add(node.address)
        else:
            self.world.injected["empty server killed"] += 1
        node.kill(self.world.rng.uniform(0.0, 1.0))

    def _process(self, key: int) -> ServerProcess:
        """What the launcher knows."""
        node = self.shards.get(key)
        if self.rules is not None and (node is None or not node.alive) and self.world.rng.random() < 0.5:
            return ServerProcess("ended")
        if self.storage is None or (node is not None and node.returns and not node.alive):
            return ServerProcess("unknown")  # as on Ray: what does not answer may yet
        return ServerProcess("running" if node is not None and node.alive else "ended")

    @property
    def lost(self) -> bool:
        """Whether a server ended with rows that the stored layout has nowhere else."""
        stored = self.disk.stored
        shards = stored.layout.shards if stored is not None and stored.layout is not None else ()
        return any(shard.address in self.killed for shard in shards)

    def one_epoch(self) -> int | None:
        """That of the stored layout; None while a server of another one serves, or one that handed its shard over."""
        stored = self.disk.stored
        assert stored is not None
        epoch = stored.layout.epoch
        hosts = [(key, node.host) for key, node in self.shards.items() if node.alive]
        older = any(host.shard is not None and host.shard.layout.epoch != epoch for _, host in hosts)
        older |= any(key not in stored.keys and isinstance(host.state, Moving) for key, host in hosts)
        return None if older else epoch

    # -------------------------------------------------------------------------------------------------------- death

    def _die(self) -> None:
        self.world.injected["coordinator died"] += 1
        self.doom = None
        self._life += 1
        self.alive = False
        self.world.nodes.pop(self.ADDRESS, None)
        self.world.at(self.world.rng.uniform(0.05, 3.0), self._take_up)

    def _take_up(self) -> None:
        """A new coordinator goes on from what is stored."""
        stored = self.disk.load()
        if isinstance(stored, RowloomError):
            self.world.at(1.0, self._take_up)
            return
        assert stored is not None
        self.coordinator = self._new(stored)
        found = [self.shards[key].launched if key in self.shards else None for key in stored.keys]

        def ended(outcome: Any) -> None:
            if isinstance(outcome, RowloomError):
                self.world.at(1.0, self._take_up)
            elif not isinstance(outcome, Died):
                self.alive = True
                self.world.nodes[self.ADDRESS] = self._arrive

        self.perform(take_up(self.coordinator, found), ended)

    def _watch(self) -> None:
        """What is unfinished is tried again every now and then."""

        def look() -> None:
            self._watching = False
            if self.alive and not self.busy and self.storage is not None:
                self._look_at_shards()
            if self.alive and not self.busy and self.standbys is not None and self.coordinator.state.layout:
                self.perform(self._keep_standbys(self.standbys), lambda _: None)
            elif self.alive and self.busy and self.standbys is not None and self.coordinator.state.layout:
                self._look_beside(self.standbys.look())
            elif self.alive and not self.busy and self.coordinator.unfinished:
                self.perform(self.coordinator.converge(), lambda _: None)
            else:
                self._watch()

        wanted = self.storage is not None or self.coordinator.unfinished or self.standbys is not None
        if wanted and not self._watching:
            self._watching = True
            self.world.at(WATCH_S if self.standbys is None else STANDBY_WATCH_S, look)

    def _look_beside(self, program: Program) -> None:
        """Run a program that changes nothing, while another one runs; then watch again."""
        life = self._life

        def step(outcome: Any) -> None:
            if life != self._life:
                return
            try:
                effect = program.send(outcome)
            except StopIteration:
                self._watch()
            else:
                self._perform(effect, step)

        step(None)

    def _keep_standbys(self, standbys: Standbys) -> Program:
        """As `Watcher` does."""
        seen = yield from standbys.look()
        with suppress(RowloomError):
            if standbys.has_work(seen):
                taken = yield from standbys.keep(seen)
                self.taken_over += len(taken)
                self.world.injected["standby took over"] += len(taken)
        if self.coordinator.unfinished:
            yield from self.coordinator.converge(0.0)

    def _look_at_shards(self) -> None:
        """As `Watcher.look`: who came back elsewhere is told who it is; who has ended is started again."""
        coordinator = self.coordinator
        for index, key in enumerate(coordinator.state.keys if coordinator.state.layout else ()):
            node = self.shards.get(key)
            if node is not None and node.alive:
                layout = coordinator.layout
                if moved(coordinator, index, node.launched):
                    coordinator.doubt()
                    if self.disk.commit(coordinator.state) is not None:
                        coordinator.state.layout = layout
            elif self._process(key).state == "ended" and not coordinator.state.standby_in_step(index):
                self.world.injected["shard started again"] += 1
                self.perform(revive(coordinator, index), lambda _: None)
                return

    # --------------------------------------------------------------------------------------------------------- RPCs

    def _arrive(self, method: str, data: bytes, answer: Ended) -> None:
        if method == methods.DESCRIBE_LAYOUT:
            reply = self.coordinator.describe()
            reply.standbys.extend(standbys_in_step(self.coordinator.state))
            reply.has_standbys = True
            answer(reply.SerializeToString())
            return
        if self.busy:
            answer(RetryLater("busy", retry_after_s=0.1))
            return
        try:
            program, wrap = self._program(method, data)
        except RowloomError as e:
            answer(e)
            return

        def ended(outcome: Any) -> None:
            if not isinstance(outcome, Died):
                answer(outcome if isinstance(outcome, RowloomError) else wrap(outcome))

        self.perform(program, ended)

    def _program(self, method: str, data: bytes) -> tuple[Program, Callable[[Any], bytes]]:
        """What a call starts, and how its result is answered."""
        coordinator, kind = self.coordinator, CHANGES.get(method)
        if kind is None:
            raise InvalidRequest(f"the simulated coordinator has no {method}")
        request = kind.FromString(data)
        coordinator.check_cluster(request.cluster_id)
        if method == methods.CREATE_TABLE:
            return coordinator.create_table(TableSpec.from_message(request.spec)), _entry_reply
        if method == methods.DROP_TABLE:
            return coordinator.drop_table(request.name), _done
        return coordinator.set_lr(request.name, request.lr), _done

    def scale(self, shards: int, ended: Ended, dealings: Mapping[str, Dealing] | None = None) -> None:
        """Scale when nothing else changes. dealings: of tables, where they are to be dealt otherwise."""
        if self.busy or not self.alive:
            self.world.at(BUSY_S, self.scale, shards, ended, dealings)
            return
        tables = self.coordinator.state.tables
        anew = {n: d for n, d in (dealings or {}).items() if n in tables and tables[n].spec.dealing != d}
        if shards == self.coordinator.layout.n and not anew:
            ended(None)
        else:
            self.moving = Reshard(self.coordinator, shards, anew)
            self.perform(self.moving.run(), ended)

    def move(self, shards: int, ended: Ended, dealings: Mapping[str, Dealing]) -> None:
        """Scale, as `scale` does; or, where nothing is to be otherwise, hand some shards over to other servers."""
        if self.busy or not self.alive:
            self.world.at(BUSY_S, self.move, shards, ended, dealings)
        elif shards != self.coordinator.layout.n or dealings:
            self.scale(shards, ended, dealings)
        else:
            some = self.world.rng.sample(range(shards), self.world.rng.randint(1, shards))
            self.moving = these_shards(self.coordinator, some, HANDOVER_S)
            self.world.injected[f"handover: {type(self.moving).__name__}"] += 1
            self.perform(self.moving.run(), ended)

    def replicate(self, replicas: str, ended: Ended) -> None:
        """Have other standbys when nothing else changes. replicas: as `SetReplicas` takes it."""
        if self.busy or not self.alive or self.coordinator.state.layout is None:
            self.world.at(BUSY_S, self.replicate, replicas, ended)
            return
        assert self.standbys is not None
        wanted = with_replicas(DeployConfig(), replicas)
        self.perform(set_replicas(self.coordinator, self.standbys, wanted), ended)

    def snapshot(self, ended: Ended, began: Callable[[], None] = lambda: None) -> None:
        """Take one when nothing else changes. began: is called when it is asked for."""
        if self.busy or not self.alive:
            self.world.at(BUSY_S, self.snapshot, ended, began)
            return
        began()
        id = f"{self.world.rng.getrandbits(32):08x}"
        url = f"{self.world.snapshots}/{id}"
        self.perform(Snapshotting(self.coordinator, id, url, self.world.now).run(), ended)


def _entry_reply(entry: Any) -> bytes:
    return pb.DefineTableReply(table=entry.to_message()).SerializeToString()


def _done(_: Any) -> bytes:
    return b""
