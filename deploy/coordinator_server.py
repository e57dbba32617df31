"""The coordinator's port and its life: starts the cluster, takes it up again, and ends it."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Sequence

from ..proto import rowloom_pb2 as pb
from ..proto.errors import RowloomError, StateLost, in_words
from ..server.access.gate import gate_of
from ..server.access.in_flight import CallsInFlight
from ..server.call import Call
from ..server.carriers.grpc_server import GrpcServer
from .config.config import DeployConfig, environment_from
from .control.coordinator import Coordinator
from .control.restoring import Restoring, merged_tables
from .control.revival import revive, take_up
from .launch.launcher import Launcher
from .nodes.nodes import Nodes
from .observe.endpoint import observed
from .requests.handlers import Handlers
from .requests.parts import Parts
from .snapshots.kept import check_nothing_kept, forget_begun, forget_kept, id_of_another
from .snapshots.restorable import restorable
from .standby.sighting import Sighting
from .storage import StateFile

log = logging.getLogger(__name__)
START_LIMIT_S = 30.0  # for new shards to take their tables


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
        self.launcher = launcher
        self._grace_s = config.limits.stop_grace_s
        self._file = StateFile(storage if storage is not None else config.storage)
        security = config.security.settings()
        gate = gate_of(security, host)
        in_flight = CallsInFlight()
        self._grpc = GrpcServer(
            self._handles, self._answer, host=host, port=port, gate=gate, in_flight=in_flight
        )
        self.address = f"{advertise or host}:{self._grpc.port}"
        self._observed = observed(
            config, lambda: self._handlers.status(pb.StatusRequest()), advertise or host, gate
        )
        self._parts = Parts(
            config,
            launcher,
            self._file,
            address=self.address,
            in_flight=in_flight,
            credentials=security.credentials(),
            nodes=nodes,
            leave=leave,
        )
        self._performer = self._parts.performer
        self._stopping = threading.Event()
        self._stopped = threading.Event()
        self._handlers = Handlers(
            self._parts,
            log_file=log_file,
            metrics_address=self._observed.address if self._observed is not None else "",
            stopping=self._stopping.is_set,
            stop=self._stop_soon,
        )

    def __repr__(self) -> str:
        return f"<CoordinatorServer {self.config.name!r} {self.address} {self.coordinator.state.layout}>"

    def _handles(self, method: str) -> bool:
        return method in self._handlers.methods

    def _answer(self, call: Call) -> list[bytes]:
        return self._handlers.answer(call)

    @property
    def config(self) -> DeployConfig:
        """What the cluster is to be now: requests change it."""
        return self._parts.config

    @property
    def coordinator(self) -> Coordinator:
        """What decides; another one when a cluster is taken up."""
        return self._parts.coordinator

    def start(self) -> None:
        """Start the shards, make the tables, open the port. Raises RowloomError; then nothing of it is left."""
        try:
            with self._performer.alone("the start of the cluster"):
                self._performer.run(self.coordinator.up(self.config.shards, self.config.tables))
                self._performer.run(self.coordinator.make_begun(START_LIMIT_S))
                if self.config.replicas:
                    self._performer.run(self._parts.standbys.keep(Sighting()))
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
                f"({self._file!r}): `rowloom down --name {self.config.name}`, then `rowloom up` with its "
                "config, starts from initial values"
            )
        self._parts.decide(stored)
        with self._performer.alone("taking up the cluster"):
            self._performer.run(take_up(self.coordinator, self._parts.watcher.locate(stored.keys)))
            if self._parts.revives:
                if self._parts.standbys.kept:
                    self._performer.run(self._parts.standbys.take_up())
                self._performer.run(revive(self.coordinator, self.config.limits.start_timeout_s))
        self._open()

    def _open(self) -> None:
        self._parts.begin()
        self._grpc.start()
        self._parts.watcher.start()
        self._parts.draining.start()
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
            self._parts.watcher.stop,
            self._parts.draining.stop,
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
        return self._parts.revives

    def _forget(self) -> None:
        """Nobody goes on from here. What is there of another cluster, as below a disk that is not mounted, stays."""
        state = self.coordinator.state
        try:
            forget_kept(self.config.storage, state)
        finally:
            if not id_of_another(self._file, state.layout.cluster_id if state.layout is not None else ""):
                self._file.clear()

    def wait(self, timeout_s: float | None = None) -> bool:
        """Until the coordinator has stopped."""
        return self._stopped.wait(timeout_s)

    def _stop_soon(self, keep: bool) -> None:
        kept = {"keep": keep}
        threading.Thread(target=self._stop_quietly, kwargs=kept, name="rowloom-stop", daemon=True).start()

    def _stop_quietly(self, keep: bool) -> None:
        try:
            self.stop(keep=keep)
        except Exception as e:  # logged where it happened
            log.error("the cluster did not end in order: %s", e)

    def offer(self, runtime_env: str) -> None:
        """An environment, as JSON, that `Upgrade` may name. Raises InvalidConfig. Never called by the network."""
        self._parts.draining.offer(environment_from(runtime_env))
