"""The coordinator's port: answers its RPCs, starts the cluster, takes it up again, and ends it."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable
from typing import Any

from ..proto import methods
from ..proto import rowloom_pb2 as pb
from ..proto.errors import InvalidRequest, StateLost
from ..proto.spec import TableSpec
from ..server import call as server_call
from ..server.carriers.grpc_server import GrpcServer
from .config.changes import running_config
from .config.config import DeployConfig
from .control.coordinator import Coordinator
from .control.loss import accept_loss
from .control.revival import revive
from .control.state import ClusterState
from .launch.launcher import Launcher
from .performer import Performer
from .scaling import Scalings
from .snapshots.kept import forget_kept
from .snapshots.snapshots import Snapshots
from .storage import StateFile
from .watcher import Watcher

log = logging.getLogger(__name__)
START_LIMIT_S = 30.0  # for new shards to take their tables


class CoordinatorServer:
    """A running coordinator.

    Args:
        config: what the cluster is to be.
        launcher: starts its shard servers.
        host, port, advertise: where to listen; port 0 picks a free one; what others call this machine.
        storage: URL under which the layout is kept; the config's by default.

    Raises:
        InvalidConfig: the storage cannot be used.
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
    ) -> None:
        self.config = config
        self.launcher = launcher
        self._grace_s = config.limits.stop_grace_s
        self._revives = config.durability != "memory"
        self._file = StateFile(storage if storage is not None else config.storage)
        self._methods = self._table_of_methods()
        self._grpc = GrpcServer(self._methods.__contains__, self._answer, host=host, port=port)
        self.address = f"{advertise or host}:{self._grpc.port}"
        self.coordinator = self._coordinator(ClusterState(config.name))
        self._performer = Performer(self._file, launcher, self._grace_s)
        self._scalings = Scalings(lambda: self.coordinator, self._performer, self._scaled)
        self._snapshots = Snapshots(lambda: self.coordinator, self._performer, config.storage)
        self._watcher = Watcher(
            lambda: self.coordinator,
            self._performer,
            launcher,
            self._file,
            revives=self._revives,
            on_logs=self._snapshots.keep_short,
        )
        self._stopping = threading.Event()
        self._stopped = threading.Event()
        self._started_s = time.monotonic()

    def __repr__(self) -> str:
        return f"<CoordinatorServer {self.config.name!r} {self.address} {self.coordinator.state.layout}>"

    def _coordinator(self, state: ClusterState) -> Coordinator:
        rng = random.SystemRandom()
        return Coordinator(state, time.monotonic, rng, self.address, revives=self._revives)

    def start(self) -> None:
        """Start the shards, make the tables, open the port. Raises RowloomError; then nothing is left running."""
        try:
            with self._performer.alone("the start of the cluster"):
                self._performer.run(self.coordinator.up(self.config.shards))
                for spec in self.config.tables:
                    self._performer.run(self.coordinator.create_table(spec, START_LIMIT_S))
        except BaseException:
            self._performer.close()
            self.launcher.close()
            raise
        self._open()

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

    def _open(self) -> None:
        self._grpc.start()
        self._watcher.start()

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
        self._stopping.set()
        failed: list[Exception] = []
        for step in (
            self._performer.interrupt,
            self._watcher.stop,
            self.launcher.close,
            *([] if keep else [self._forget]),
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
            methods.CREATE_TABLE: self._meant(pb.DefineTableRequest, self._create_table),
            methods.DROP_TABLE: self._meant(pb.RemoveTableRequest, self._drop_table),
            methods.SET_LEARNING_RATE: self._meant(pb.AdjustTableRequest, self._set_lr),
            methods.SCALE: self._meant(pb.ScaleRequest, self._scale),
            methods.SCALE_PROGRESS: self._meant(pb.ScaleProgressRequest, self._scale_progress),
            methods.ACCEPT_LOSS: self._meant(pb.AcceptLossRequest, self._accept_loss),
            methods.TAKE_SNAPSHOT: self._meant(pb.TakeSnapshotRequest, self._take_snapshot),
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
        return [self._methods[call.method](bytes(call.data))]

    def _describe_layout(self, request: pb.DescribeLayoutRequest) -> pb.DescribeLayoutReply:
        return self.coordinator.describe()

    def _health(self, request: pb.HealthRequest) -> pb.HealthReply:
        layout = self.coordinator.state.layout
        state = "serving" if layout else "waiting"
        return pb.HealthReply(
            role="coordinator",
            state="stopping" if self._stopping.is_set() else state,
            epoch=layout.epoch if layout else 0,
            cluster_id=layout.cluster_id if layout else "",
            uptime_s=time.monotonic() - self._started_s,
        )

    def _create_table(self, request: pb.DefineTableRequest) -> pb.DefineTableReply:
        spec = TableSpec.from_message(request.spec)
        with self._performer.alone(f"creating table {spec.name!r}"):
            entry = self._performer.run(self.coordinator.create_table(spec))
        return pb.DefineTableReply(table=entry.to_message())

    def _drop_table(self, request: pb.RemoveTableRequest) -> None:
        with self._performer.alone(f"dropping table {request.name!r}"):
            self._performer.run(self.coordinator.drop_table(request.name))

    def _set_lr(self, request: pb.AdjustTableRequest) -> None:
        with self._performer.alone(f"setting the learning rate of {request.name!r}"):
            self._performer.run(self.coordinator.set_lr(request.name, request.lr))

    def _scale(self, request: pb.ScaleRequest) -> pb.ScaleReply:
        return self._scalings.start(request.shards)

    def _scale_progress(self, request: pb.ScaleProgressRequest) -> pb.ScaleReply:
        return self._scalings.progress(request.scaling)

    def _accept_loss(self, request: pb.AcceptLossRequest) -> None:
        with self._performer.alone(f"making shard {request.shard} anew"):
            self._performer.run(accept_loss(self.coordinator, request.shard, force=request.force))
        log.warning("shard %d was made anew, as asked: the rows that it held are lost", request.shard)

    def _take_snapshot(self, request: pb.TakeSnapshotRequest) -> pb.TakeSnapshotReply:
        known, pause_s = self._snapshots.take(request.extra)
        return pb.TakeSnapshotReply(
            id=known.id, url=known.url, rows=known.rows, bytes=known.bytes, pause_s=pause_s
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
            unfinished=self.coordinator.waiting(),
        )
        reply.config_hash = running_config(reply).hash
        return reply

    def _shutdown(self, request: pb.ShutdownRequest) -> None:
        if request.keep and not self._revives:
            raise InvalidRequest(
                "rows of this cluster are in memory only, so none can be kept: `durability: memory`"
            )
        threading.Thread(
            target=self._stop_quietly, args=(request.keep,), name="rowloom-stop", daemon=True
        ).start()

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
