"""The coordinator's port: answers its RPCs, starts the cluster, takes it up again, and ends it."""

from __future__ import annotations

import dataclasses
import logging
import os
import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from typing import Any

from ..proto import methods
from ..proto import rowloom_pb2 as pb
from ..proto.errors import InvalidRequest, RowloomError, StateLost, in_words
from ..proto.spec import Dealing, TableSpec
from ..server import call as server_call
from ..server.access.gate import gate_of
from ..server.access.in_flight import CallsInFlight
from ..server.access.named import check_call, owner_of
from ..server.carriers.grpc_server import GrpcServer
from .config.changes import running_config
from .config.config import DeployConfig, environment_from, policy_from, quotas_from
from .config.quotas import QuotasConfig
from .config.sections import Autoscale
from .control.coordinator import CHANGE_LIMIT_S, Coordinator
from .control.loss import accept_loss
from .control.quoting import set_quotas
from .control.restoring import Restoring, merged_tables
from .control.revival import revive
from .control.state import ClusterState
from .launch.launcher import Launcher
from .nodes.draining import Draining
from .nodes.nodes import Nodes
from .observe.endpoint import observed
from .performer import Performer
from .scaling import Autoscaling, Scalings
from .snapshots.kept import check_nothing_kept, forget_begun, forget_kept
from .snapshots.requests import SnapshotRequests
from .snapshots.restorable import restorable
from .snapshots.snapshots import Snapshots
from .standby.standbys import Sighting, StandbyRules, Standbys
from .storage import StateFile
from .watcher import Watcher

log = logging.getLogger(__name__)
START_LIMIT_S = 30.0  # for new shards to take their tables
NOTHING_KEPT = (
    "rows of this cluster are in memory only, so none can be kept: `durability: memory`. `rowloom export TABLE FILE` "
    "keeps those of a table; nothing was ended"
)


class CoordinatorServer:
    """A running coordinator.

    Args:
        config: what the cluster is to be.
        launcher: starts its shard servers.
        host, port, advertise: where to listen; port 0 picks a free one; what others call this machine.
        storage: URL under which the layout is kept; the config's by default.
        log_file: where this process logs, for those who ask.
        nodes: of the launcher; None: it has only this machine.
        leave: ends this coordinator and starts another one that takes the cluster up, not on these nodes.

    Raises:
        InvalidConfig: the storage cannot be used.
        InvalidRequest: a file of `security` cannot be used, or `host` is for others and nothing protects it.
        Unavailable: the port is taken.
    """

    def __init__(
        self,
        config: DeployConfig,
        launcher: Launcher,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        advertise: str | None = None,
        storage: str | None = None,
        log_file: str = "",
        nodes: Nodes | None = None,
        leave: Callable[[Sequence[str]], None] = lambda avoided: None,
    ) -> None:
        self.config = config
        self.launcher = launcher
        self._grace_s = config.limits.stop_grace_s
        self._revives = config.durability != "memory"
        self._file = StateFile(storage if storage is not None else config.storage)
        self._asked = SnapshotRequests(
            lambda asked: self._snapshots.take(asked.extra, full=asked.full, keep=asked.keep)
        )
        self._methods = self._table_of_methods()
        security = config.security.settings()
        gate = gate_of(security, host)
        self._in_flight = CallsInFlight()
        handles = self._methods.__contains__
        self._grpc = GrpcServer(
            handles, self._answer, host=host, port=port, gate=gate, in_flight=self._in_flight
        )
        self.address = f"{advertise or host}:{self._grpc.port}"
        self._log_file, self._version = log_file, version("rowloom")
        self._observed = observed(config, lambda: self._status(pb.StatusRequest()), advertise or host)
        self.coordinator = self._coordinator(ClusterState(config.name))
        self._performer = Performer(self._file, launcher, self._grace_s, security.credentials())
        self._scalings = Scalings(self._current, self._performer, self._scaled, self._most_extra)
        self._draining = Draining(
            self._current,
            self._performer,
            self._scalings,
            nodes,
            limit_s=config.limits.start_timeout_s,
            environment=lambda: self.config.ray.runtime_env,
            renewed=self._renewed,
            leave=leave,
        )
        self._snapshots = Snapshots(self._current, self._performer, config.storage, config.snapshots)
        self._watcher = Watcher(
            self._current,
            self._performer,
            launcher,
            self._file,
            revives=self._revives,
            on_look=self._looked,
            standbys=lambda: self._standbys if config.replicas else None,
        )
        self._autoscaling = Autoscaling(self._scalings, self._watcher.statuses)
        self._stopping = threading.Event()
        self._stopped = threading.Event()
        self._started_s = time.monotonic()

    def __repr__(self) -> str:
        return f"<CoordinatorServer {self.config.name!r} {self.address} {self.coordinator.state.layout}>"

    def _current(self) -> Coordinator:
        return self.coordinator

    def _most_extra(self) -> int:
        return self.config.limits.max_extra_memory or 0

    def _coordinator(self, state: ClusterState) -> Coordinator:
        made = Coordinator(state, time.monotonic, random.SystemRandom(), self.address, revives=self._revives)
        rules = StandbyRules(waits=self.config.standby.mode == "sync", after_s=self.config.standby.after)
        self._standbys = Standbys(made, rules, wanted=bool(self.config.replicas))
        made.quotas = self._quote(self.config.quotas if state.quotas is None else quotas_from(state.quotas))
        return made

    def start(self) -> None:
        """Start the shards, make the tables, open the port. Raises RowloomError; then nothing of it is left."""
        try:
            with self._performer.alone("the start of the cluster"):
                self._performer.run(self.coordinator.up(self.config.shards, self.config.tables))
                for spec in self.config.tables:
                    self._performer.run(self.coordinator.create_table(spec, START_LIMIT_S, later=False))
                if self.config.replicas:
                    self._performer.run(self._standbys.keep(Sighting()))
        except BaseException:
            self._undo()
            raise
        self._open()

    def restore(
        self,
        url: str | os.PathLike[str],
        on_rows: Callable[[int, int], None] = lambda rows, total: None,
    ) -> None:
        """Start the shards with what a snapshot holds, make the config's other tables, open the port.

        Args:
            url: the snapshot's folder.
            on_rows: called with (rows that have arrived, rows in all).

        Raises:
            SnapshotCorrupt: a file of it is not right; the message names it and the block.
            InvalidRequest: the config contradicts it, or the storage has a cluster that can go on.
            RowloomError: the restore failed. In each case nothing is left running or in logs.
        """
        check_nothing_kept(self.config.storage, self._file.load())
        try:
            source = restorable(url, self.config)
            tables = merged_tables(source, self.config.tables)
            restoring = Restoring(self.coordinator, source, tables, self.config.shards, on_rows)
            with self._performer.alone("the restore of a snapshot"):
                self._forget_begun()
                self._performer.run(restoring.run())
        except BaseException:
            self._undo()
            raise
        log.info("%s was restored: %d rows", source.about.url, source.about.rows)
        self._open()

    def _forget_begun(self) -> None:
        """What an earlier restore has left whose coordinator was killed."""
        stored = self._file.load()
        if stored is not None:
            forget_begun(self.config.storage, stored)

    def _undo(self) -> None:
        """End, and remove, what a start or a restore that failed has made: nobody was let in, so no row is lost."""
        self._performer.close()
        self.launcher.close()
        state = self.coordinator.state
        if state.beginning or state.layout is not None:
            try:
                self._forget()
            except (RowloomError, OSError) as e:  # why it failed is more important
                log.warning("what was begun cannot be removed: %s", in_words(e))

    def take_up(self) -> None:
        """Go on where a coordinator of this cluster ended. Raises StateLost if nothing is known of it."""
        stored = self._file.load()
        if stored is None or stored.layout is None:
            raise StateLost(
                f"the coordinator of {self.config.name!r} started anew and finds no layout in storage "
                f"({self._file!r}): `rowloom down --name {self.config.name}`, then `rowloom up`, "
                "starts from initial values"
            )
        self.coordinator = self._coordinator(stored)
        with self._performer.alone("taking up the cluster"):
            self._performer.run(self.coordinator.recover(self._watcher.locate(stored.keys)))
            if self._revives:
                self._performer.run(revive(self.coordinator, self.config.limits.start_timeout_s))
        self._open()

    def _looked(self, log_bytes: int, failed: bool) -> None:
        self._snapshots.look(log_bytes, failed)
        self._autoscaling.look()

    def _open(self) -> None:
        kept = self.coordinator.state.autoscale
        self._follow(self.config.autoscale if kept is None else policy_from(kept))
        if self.coordinator.state.max_extra_bytes is not None:
            self._bound(self.coordinator.state.max_extra_bytes)
        self._snapshots.find_earlier()
        self._grpc.start()
        self._watcher.start()
        self._draining.start()
        if self._observed is not None:
            self._observed.start()

    def stop(self, *, keep: bool = False) -> None:
        """End the shards and close the port. Rows are gone.

        What fails on the way does not keep the rest from ending.
        keep: rows that are in logs stay there, and `take_up` goes on from them.

        Raises:
            Exception: the first thing that failed; something of the cluster may be left. Only to the first caller.
        """
        if self._stopping.is_set():
            self._stopped.wait()
            return
        self._end(self.launcher.close, *([] if keep else [self._forget]))

    def leave(self) -> None:
        """Close the port; shards go on without a coordinator, and `take_up` finds them. No error if it has ended."""
        if not self._stopping.is_set():
            self._end()

    def _end(self, *steps: Callable[[], object]) -> None:
        """End what is of this process, and take these steps as soon as nothing changes any more."""
        self._stopping.set()
        failed: list[Exception] = []
        for step in (
            self._performer.interrupt,
            self._watcher.stop,
            self._draining.stop,
            *([self._observed.stop] if self._observed is not None else []),
            *steps,
            lambda: self._grpc.stop(self._grace_s),
            self._performer.close,
        ):
            try:
                step()
            except Exception as e:
                log.exception("ending the cluster: a step failed")
                failed.append(e)
        self._stopped.set()
        if failed:
            raise failed[0]

    @property
    def keeps(self) -> bool:
        """Whether rows are in logs, for a cluster that goes on."""
        return self._revives

    def _forget(self) -> None:
        """Nobody goes on from here."""
        try:
            forget_kept(self.config.storage, self.coordinator.state)
        finally:
            self._file.clear()

    def wait(self, timeout_s: float | None = None) -> bool:
        """Until the coordinator has stopped."""
        return self._stopped.wait(timeout_s)

    # ------------------------------------------------------------------------------------------------------- RPCs

    def _table_of_methods(self) -> dict[str, Callable[[bytes], bytes]]:
        return {
            methods.DESCRIBE_LAYOUT: _on(pb.DescribeLayoutRequest, self._describe_layout),
            methods.HEALTH: _on(pb.HealthRequest, self._health),
            methods.CREATE_TABLE: self._creating(""),
            methods.DROP_TABLE: self._meant(pb.RemoveTableRequest, self._drop_table),
            methods.SET_LEARNING_RATE: self._meant(pb.AdjustTableRequest, self._set_lr),
            methods.SCALE: self._meant(pb.ScaleRequest, self._scale),
            methods.SCALE_PROGRESS: self._meant(pb.ScaleProgressRequest, self._scale_progress),
            methods.CANCEL_SCALE: self._meant(pb.CancelScaleRequest, lambda _: self._scalings.cancel()),
            methods.DRAIN: self._meant(pb.DrainRequest, lambda asked: self._draining.answer(asked)),
            methods.UPGRADE: self._meant(pb.UpgradeRequest, self._upgrade),
            methods.SET_AUTOSCALE: self._meant(pb.SetAutoscaleRequest, self._set_autoscale),
            methods.SET_QUOTAS: self._meant(pb.SetQuotasRequest, self._set_quotas),
            methods.ACCEPT_LOSS: self._meant(pb.AcceptLossRequest, self._accept_loss),
            methods.TAKE_SNAPSHOT: self._meant(pb.TakeSnapshotRequest, self._asked.answer),
            methods.DESCRIBE_RESTORED: self._meant(pb.DescribeRestoredRequest, self._describe_restored),
            methods.STATUS: _on(pb.StatusRequest, self._status),
            methods.SHUT_DOWN: self._meant(pb.ShutdownRequest, self._shutdown),
        }

    def _meant(self, cls: type[Any], answer: Callable[[Any], Any]) -> Callable[[bytes], bytes]:
        """A method whose requests say which cluster they are meant for."""

        def checked(request: Any) -> Any:
            self.coordinator.check_cluster(request.cluster_id)
            return answer(request)

        return _on(cls, checked)

    def _answer(self, call: server_call.Call) -> list[bytes]:
        check_call(call)
        method = self._methods[call.method]
        if call.method == methods.CREATE_TABLE:
            method = self._creating(owner_of(call.caller))
        return [method(bytes(call.data))]

    def _creating(self, owner: str) -> Callable[[bytes], bytes]:
        return self._meant(pb.DefineTableRequest, lambda asked: self._create_table(asked, owner))

    def _describe_layout(self, request: pb.DescribeLayoutRequest) -> pb.DescribeLayoutReply:
        reply = self.coordinator.describe()
        reply.durability = self.config.durability
        reply.dead.extend(self._watcher.dead_of(reply.layout))
        return reply

    def _health(self, request: pb.HealthRequest) -> pb.HealthReply:
        layout = self.coordinator.state.layout
        return pb.HealthReply(
            role="coordinator",
            state="stopping" if self._stopping.is_set() else "serving" if layout else "waiting",
            epoch=layout.epoch if layout else 0,
            cluster_id=layout.cluster_id if layout else "",
            uptime_s=time.monotonic() - self._started_s,
            wall_s=time.time(),
        )

    def _create_table(self, request: pb.DefineTableRequest, owner: str) -> pb.DefineTableReply:
        spec = TableSpec.from_message(request.spec)
        with self._performer.alone(f"creating table {spec.name!r}"):
            entry = self._performer.run(self.coordinator.create_table(spec, owner=owner))
        return pb.DefineTableReply(table=entry.to_message())

    def _drop_table(self, request: pb.RemoveTableRequest) -> None:
        with self._performer.alone(f"dropping table {request.name!r}"):
            self._performer.run(self.coordinator.drop_table(request.name))

    def _set_lr(self, request: pb.AdjustTableRequest) -> None:
        with self._performer.alone(f"setting the learning rate of {request.name!r}"):
            self._performer.run(self.coordinator.set_lr(request.name, request.lr))

    def _scale(self, request: pb.ScaleRequest) -> pb.ScaleReply:
        dealings = {one.name: Dealing.from_message(one) for one in request.dealings}
        if request.HasField("max_extra_bytes"):
            self._bound_moves(request.max_extra_bytes)
            if not request.shards and not dealings:
                return pb.ScaleReply(state="done", epoch=self.coordinator.layout.epoch)
        return self._scalings.start(request.shards, dealings)

    def _bound_moves(self, max_extra_bytes: int) -> None:
        """Rows that move may take so much from now on, also after a restart."""
        if max_extra_bytes != (self.config.limits.max_extra_memory or 0):
            with self._performer.alone("another bound of what moves may take"):
                state = dataclasses.replace(self.coordinator.state, max_extra_bytes=max_extra_bytes)
                self._performer.run(self.coordinator.commit(state))
            self._bound(max_extra_bytes)

    def _bound(self, max_extra_bytes: int) -> None:
        limits = self.config.limits.model_copy(update={"max_extra_memory": max_extra_bytes or None})
        self.config = self.config.model_copy(update={"limits": limits})

    def _scale_progress(self, request: pb.ScaleProgressRequest) -> pb.ScaleReply:
        return self._scalings.progress(request.scaling)

    def _set_autoscale(self, request: pb.SetAutoscaleRequest) -> None:
        policy = policy_from(request.policy)
        with self._performer.alone("another policy of autoscale"):
            state = dataclasses.replace(self.coordinator.state, autoscale=request.policy)
            self._performer.run(self.coordinator.commit(state))
        self._follow(policy)

    def _set_quotas(self, request: pb.SetQuotasRequest) -> None:
        quotas = quotas_from(request.quotas)
        if not self.config.security.tokens:
            raise InvalidRequest(
                "this cluster has no principals that could have quotas: no `security.tokens`"
            )
        said = quotas.to_json()
        with self._performer.alone("other quotas"):
            try:
                self._performer.run(set_quotas(self.coordinator, said, CHANGE_LIMIT_S))
            finally:
                if self.coordinator.quotas == said:  # recorded, whether or not every shard has heard of it
                    self._quote(quotas)

    def _quote(self, quotas: QuotasConfig) -> str:
        """Principals have these quotas from now on; returns them as JSON."""
        self.config = self.config.model_copy(update={"quotas": quotas})
        self._in_flight.quotas = quotas.values()
        return quotas.to_json()

    def _upgrade(self, request: pb.UpgradeRequest) -> pb.ScaleReply:
        return self._draining.upgrade(request.environment)

    def offer(self, runtime_env: str) -> None:
        """An environment, as JSON, that `Upgrade` may name. Raises InvalidConfig. Never called by the network."""
        self._draining.offer(environment_from(runtime_env))

    def _renewed(self, env: Mapping[str, Any]) -> None:
        ray = self.config.ray.model_copy(update={"runtime_env": dict(env)})
        self.config = self.config.model_copy(update={"ray": ray})

    def _follow(self, policy: Autoscale | None) -> None:
        self.config = self.config.model_copy(update={"autoscale": policy})
        self._autoscaling.follow(policy)

    def _accept_loss(self, request: pb.AcceptLossRequest) -> None:
        with self._performer.alone(f"making shard {request.shard} anew"):
            self._performer.run(accept_loss(self.coordinator, request.shard, force=request.force))
        self._snapshots.soon()  # logs that failed may have waited for this shard
        log.warning("shard %d was made anew, as asked: the rows that it held are lost", request.shard)

    def _describe_restored(self, request: pb.DescribeRestoredRequest) -> pb.DescribeRestoredReply:
        restored = self.coordinator.state.restored
        return (
            pb.DescribeRestoredReply(**vars(restored)) if restored is not None else pb.DescribeRestoredReply()
        )

    def _scaled(self, shards: int) -> None:
        self.config = self.config.model_copy(update={"shards": shards})

    def _status(self, request: pb.StatusRequest) -> pb.StatusReply:
        described = self.coordinator.describe()
        reply = pb.StatusReply(
            layout=described.layout,
            tables=described.tables,
            shards=self._watcher.statuses(),
            name=self.config.name,
            launcher=self.config.launcher,
            config=self.config.to_json(),
            unfinished=[*self._watcher.waiting(), *self._snapshots.waiting(), *self._standbys.said()],
            durability=self.config.durability,
            metrics_address=self._observed.address if self._observed is not None else "",
            log_file=self._log_file,
            version=self._version,
            scaling=self._scalings.running,
            autoscale=self._autoscaling.said,
            drained=self.coordinator.state.drained,
        )
        self._snapshots.show(reply)
        reply.config_hash = running_config(reply).hash
        return reply

    def _shutdown(self, request: pb.ShutdownRequest) -> None:
        if request.keep and not self._revives:
            raise InvalidRequest(NOTHING_KEPT)
        kept = {"keep": request.keep}
        threading.Thread(target=self._stop_quietly, kwargs=kept, name="rowloom-stop", daemon=True).start()

    def _stop_quietly(self, keep: bool) -> None:
        try:
            self.stop(keep=keep)
        except Exception as e:  # logged where it happened
            log.error("the cluster did not end in order: %s", e)


def _on(cls: type[Any], answer: Callable[[Any], Any]) -> Callable[[bytes], bytes]:
    """A method from bytes to bytes; an answer of None is an empty message."""

    def method(data: bytes) -> bytes:
        try:
            request = cls.FromString(data)  # type: ignore[attr-defined]
        except Exception as e:
            raise InvalidRequest(f"malformed message: {cls.__name__} does not parse") from e
        reply = answer(request)
        return (reply if reply is not None else pb.Done()).SerializeToString()

    return method
