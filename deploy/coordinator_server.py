"""The coordinator's process: performs the effects of its programs, answers its RPCs, watches the shards."""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from ..proto import methods
from ..proto import rowloom_pb2 as pb
from ..proto.channel import Channels
from ..proto.errors import InvalidRequest, RetryLater, RowloomError, StateLost, Unavailable
from ..proto.spec import TableSpec
from ..server import call as server_call
from ..server.carriers.grpc_server import GrpcServer
from .config.config import DeployConfig, from_json
from .control.coordinator import Coordinator
from .control.effects import Call, Calls, Commit, Effect, Launch, Program, Sleep, Stop, Stored
from .control.reshard import Progress, Reshard
from .control.state import ClusterState, StateFile
from .launch.launcher import Launched, Launcher

log = logging.getLogger(__name__)
WATCH_S = 1.0  # how often shards are asked for their health
BUSY_WAIT_S = 2.0  # how long a change waits for the one before it, until the caller is told to come again
STOP_GRACE_S = 2.0


class CoordinatorServer:
    """A running coordinator.

    Args:
        config: what the cluster is to be.
        launcher: starts its shard servers.
        host, port, advertise: where to listen; port 0 picks a free one; what others call this machine.
        storage: URL under which the layout is kept; the config's by default.
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
        self._launcher = launcher
        self._methods = self._table_of_methods()
        self._grpc = GrpcServer(self._methods.__contains__, self._answer, host=host, port=port)
        self.address = f"{advertise or host}:{self._grpc.port}"
        self._file = StateFile(storage if storage is not None else config.storage)
        self.coordinator = self._coordinator(ClusterState(config.name))
        self._change = threading.Lock()  # held by the one change that runs
        self._scaling: Progress | None = None
        self._health: dict[int, str] = {}
        self._stopping = threading.Event()
        self._stopped = threading.Event()
        self._pool = ThreadPoolExecutor(32, thread_name_prefix="rowloom-coordinator")
        self._channels = Channels()
        self._started_s = time.monotonic()

    def __repr__(self) -> str:
        return f"<CoordinatorServer {self.config.name!r} {self.address} {self.coordinator.state.layout}>"

    def _coordinator(self, state: ClusterState) -> Coordinator:
        return Coordinator(state, time.monotonic, random.SystemRandom(), self.address)

    def start(self) -> None:
        """Start the shards, make the tables, open the port. Raises Unavailable."""
        try:
            with self._change:
                self.perform(self.coordinator.up(self.config.shards))
                for spec in self.config.tables:
                    self.perform(self.coordinator.create_table(spec))
        except BaseException:
            self._launcher.close()
            raise
        self._open()

    def take_up(self) -> None:
        """Go on where a coordinator of this cluster ended. Raises StateLost if nothing is known of it."""
        stored = self._file.load()
        if stored is None or stored.layout is None:
            raise StateLost(
                f"the coordinator of {self.config.name!r} started anew and finds no layout in storage "
                f"({self._file!r}): `rowloom down` and `rowloom up` start from initial values"
            )
        self.coordinator = self._coordinator(stored)
        with self._change:
            found = [self._launcher.find(key) for key in stored.keys]
            for index, outcome in enumerate(self.perform(self.coordinator.recover(found))):
                self._health[index] = "lost" if isinstance(outcome, StateLost) else "serving"
        self._open()

    def _open(self) -> None:
        self._grpc.start()
        threading.Thread(target=self._watch, name="rowloom-watch", daemon=True).start()

    def stop(self) -> None:
        """End the shards and close the port. Rows are gone."""
        if self._stopping.is_set():
            self._stopped.wait()
            return
        self._stopping.set()
        self._launcher.close()
        self._file.clear()
        self._grpc.stop(STOP_GRACE_S)
        self._channels.close()
        self._pool.shutdown(wait=False)
        self._stopped.set()

    def wait(self, timeout_s: float | None = None) -> bool:
        """Until the coordinator has stopped."""
        return self._stopped.wait(timeout_s)

    # ---------------------------------------------------------------------------------------------------- effects

    def perform(self, program: Program) -> Any:
        """Run a program to its end."""
        outcome: Any = None
        error: BaseException | None = None
        while True:
            try:
                effect = program.send(outcome) if error is None else program.throw(error)
            except StopIteration as end:
                return end.value
            outcome, error = None, None
            try:
                outcome = self._perform(effect)
            except (RowloomError, OSError) as e:
                error = e if isinstance(e, RowloomError) else Unavailable(f"storage: {e}")

    def _perform(self, effect: Effect) -> Any:
        if isinstance(effect, Calls):
            return list(self._pool.map(lambda call: self._call(call, effect.timeout_s), effect.calls))
        if isinstance(effect, Launch):
            return self._launch(list(effect.keys))
        if isinstance(effect, Stop):
            list(self._pool.map(lambda key: self._launcher.stop(key, STOP_GRACE_S), effect.keys))
        elif isinstance(effect, Commit):
            self._file.save(effect.state)
        elif isinstance(effect, Stored):
            return self._file.load()
        elif isinstance(effect, Sleep):
            self._stopping.wait(effect.seconds)
        return None

    def _launch(self, keys: list[int]) -> list[Launched]:
        self._launcher.reserve(keys)
        futures = [self._pool.submit(self._launcher.start, key) for key in keys]
        errors = [e for f in futures if (e := f.exception()) is not None]
        if errors:
            for key in keys:
                self._launcher.stop(key, 0.0)
            raise errors[0]
        return [f.result() for f in futures]

    def _call(self, call: Call, timeout_s: float) -> bytes | RowloomError:
        try:
            return self._channels.call(call.address, call.method, call.data, timeout_s)
        except RowloomError as e:
            return e

    # --------------------------------------------------------------------------------------------------- watching

    def _watch(self) -> None:
        """Ask shards for their health; look for those that do not answer where the launcher has them now."""
        while not self._stopping.wait(WATCH_S):
            with contextlib.suppress(RowloomError, OSError):
                self._look()

    def _look(self) -> None:
        layout = self.coordinator.layout
        ask = pb.HealthRequest().SerializeToString()
        calls = [Call(s.address, methods.HEALTH, ask) for s in layout.shards]
        outcomes = self._perform(Calls(calls, timeout_s=2.0))
        for shard, outcome in zip(layout.shards, outcomes, strict=True):
            health = _health_of(outcome, shard.incarnation)
            if health == "unreachable":
                self._find(shard.index)
            self._health[shard.index] = health

    def _find(self, index: int) -> None:
        """A shard that came back elsewhere came back empty: tell clients where, so that they hear StateLost soon."""
        if not self._change.acquire(blocking=False):
            return
        try:
            state = self.coordinator.state
            if index < len(state.keys):
                launched = self._launcher.find(state.keys[index])
                if launched is not None and self.coordinator.moved(index, launched):
                    self._file.save(state)
        finally:
            self._change.release()

    # ------------------------------------------------------------------------------------------------------- RPCs

    def _table_of_methods(self) -> dict[str, Callable[[bytes], bytes]]:
        return {
            methods.DESCRIBE_LAYOUT: _on(pb.DescribeLayoutRequest, self._describe_layout),
            methods.HEALTH: _on(pb.HealthRequest, self._own_health),
            methods.CREATE_TABLE: _on(pb.DefineTableRequest, self._create_table),
            methods.DROP_TABLE: _on(pb.RemoveTableRequest, self._drop_table),
            methods.SET_LEARNING_RATE: _on(pb.AdjustTableRequest, self._set_lr),
            methods.SCALE: _on(pb.ScaleRequest, self._scale),
            methods.STATUS: _on(pb.StatusRequest, self._status),
            methods.SHUT_DOWN: _on(pb.ShutdownRequest, self._shutdown),
        }

    def _answer(self, call: server_call.Call) -> list[bytes]:
        return [self._methods[call.method](bytes(call.data))]

    @contextlib.contextmanager
    def _changing(self):
        if not self._change.acquire(timeout=BUSY_WAIT_S):
            raise RetryLater("another change of the cluster is in progress", retry_after_s=0.2)
        try:
            yield self.coordinator
        finally:
            self._change.release()

    def _describe_layout(self, request: pb.DescribeLayoutRequest) -> pb.DescribeLayoutReply:
        return self.coordinator.describe()

    def _own_health(self, request: pb.HealthRequest) -> pb.HealthReply:
        layout = self.coordinator.state.layout
        return pb.HealthReply(
            role="coordinator",
            state="serving" if layout else "waiting",
            epoch=layout.epoch if layout else 0,
            cluster_id=layout.cluster_id if layout else "",
            uptime_s=time.monotonic() - self._started_s,
        )

    def _create_table(self, request: pb.DefineTableRequest) -> pb.DefineTableReply:
        spec = TableSpec.from_message(request.spec)
        with self._changing() as coordinator:
            return pb.DefineTableReply(table=self.perform(coordinator.create_table(spec)).to_message())

    def _drop_table(self, request: pb.RemoveTableRequest) -> None:
        with self._changing() as coordinator:
            self.perform(coordinator.drop_table(request.name))

    def _set_lr(self, request: pb.AdjustTableRequest) -> None:
        with self._changing() as coordinator:
            self.perform(coordinator.set_lr(request.name, request.lr))

    def _scale(self, request: pb.ScaleRequest) -> pb.ScaleReply:
        running = self._scaling
        if running is not None and running.state not in ("done", "failed"):
            if running.shards != request.shards:
                raise RetryLater(f"scaling to {running.shards} shards is in progress", retry_after_s=0.5)
            return self._scale_reply(running)
        if running is not None and running.shards == request.shards and not running.reported:
            running.reported = True  # the end of what the caller asked before
            return self._scale_reply(running)
        if request.shards == self.coordinator.layout.n:
            return pb.ScaleReply(state="done", epoch=self.coordinator.layout.epoch)
        if not self._change.acquire(timeout=BUSY_WAIT_S):
            raise RetryLater("another change of the cluster is in progress", retry_after_s=0.2)
        try:
            reshard = Reshard(self.coordinator, request.shards)
            self._scaling = reshard.progress
            threading.Thread(
                target=self._run_scaling, args=(reshard,), name="rowloom-scale", daemon=True
            ).start()
        except BaseException:
            self._change.release()
            raise
        return self._scale_reply(reshard.progress)

    def _run_scaling(self, reshard: Reshard) -> None:
        try:
            self.perform(reshard.run())
            self.config = self.config.model_copy(update={"shards": reshard.progress.shards})
        except RowloomError as e:
            log.error("scaling to %d shards failed: %s", reshard.progress.shards, e)
        except Exception as e:
            log.exception("scaling to %d shards failed", reshard.progress.shards)
            reshard.progress.state, reshard.progress.error = "failed", f"{type(e).__name__}: {e}"
        finally:
            self._health.clear()
            self._change.release()

    def _scale_reply(self, progress: Progress) -> pb.ScaleReply:
        ended = progress.ended_s or time.monotonic()
        return pb.ScaleReply(
            state=progress.state,
            epoch=self.coordinator.layout.epoch,
            pause_s=progress.pause_s,
            rows=progress.rows,
            rows_total=progress.rows_total,
            error=progress.error,
            seconds=ended - progress.started_s,
        )

    def _status(self, request: pb.StatusRequest) -> pb.StatusReply:
        described = self.coordinator.describe()
        layout = self.coordinator.layout
        ask = pb.StatisticsRequest().SerializeToString()
        calls = [Call(s.address, methods.STATISTICS, ask) for s in layout.shards]
        outcomes = self._perform(Calls(calls, timeout_s=2.0))
        shards = [
            self._shard_status(message, outcome)
            for message, outcome in zip(described.layout.shards, outcomes, strict=True)
        ]
        return pb.StatusReply(
            layout=described.layout,
            tables=described.tables,
            shards=shards,
            name=self.config.name,
            config_hash=self.config.hash,
            launcher=self.config.launcher,
            config=self.config.to_json(),
        )

    def _shard_status(self, shard: pb.ShardAddress, outcome: bytes | RowloomError) -> pb.ShardStatus:
        keys = self.coordinator.state.keys
        found = self._launcher.find(keys[shard.index]) if shard.index < len(keys) else None
        lost = isinstance(outcome, RowloomError)
        return pb.ShardStatus(
            shard=shard,
            node=found.node if found else "",
            health="unreachable" if lost else self._health.get(shard.index, "serving"),
            statistics=None if lost else pb.StatisticsReply.FromString(outcome),
        )

    def _shutdown(self, request: pb.ShutdownRequest) -> None:
        layout = self.coordinator.state.layout
        if layout is not None and request.cluster_id and request.cluster_id != layout.cluster_id:
            raise InvalidRequest(f"this is cluster {layout.cluster_id!r}, not {request.cluster_id!r}")
        threading.Thread(target=self.stop, name="rowloom-stop", daemon=True).start()


def _on(cls: type, answer: Callable) -> Callable[[bytes], bytes]:
    def method(data: bytes) -> bytes:
        try:
            request = cls.FromString(data)  # type: ignore[attr-defined]
        except Exception as e:
            raise InvalidRequest(f"malformed message: {cls.__name__} does not parse") from e
        reply = answer(request)
        return (reply if reply is not None else pb.Done()).SerializeToString()

    return method


def _health_of(outcome: bytes | RowloomError, incarnation: int = 0) -> str:
    if isinstance(outcome, StateLost):
        return "lost"
    if isinstance(outcome, RowloomError):
        return "unreachable"
    reply = pb.HealthReply.FromString(outcome)
    lost = reply.state == "waiting" or (incarnation and reply.incarnation != incarnation)
    return "lost" if lost else reply.state or "serving"


def main(argv: list[str] | None = None) -> None:
    """`python -m rowloom.deploy.coordinator_server`: the coordinator of a cluster of processes on this machine."""
    from .launch.local_launcher import ProcessLauncher

    parser = argparse.ArgumentParser(description="The coordinator of a rowloom cluster on this machine.")
    parser.add_argument(
        "--config-json", required=True, help="the deploy config, as `DeployConfig.to_json` writes it"
    )
    parser.add_argument("--ready-file", required=True, help="written when the cluster is up")
    args = parser.parse_args(argv)
    config = from_json(Path(args.config_json).read_text())
    ready = Path(args.ready_file)
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        server = CoordinatorServer(
            config,
            ProcessLauncher(config),
            host=config.host or "127.0.0.1",
            port=config.port,
            advertise=config.advertise_host,
        )
        signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.stop).start())
        server.start()
    except Exception as e:
        _write(ready, {"error": f"{type(e).__name__}: {e}"})
        log.exception("the cluster did not start")
        sys.exit(1)
    _write(ready, {"address": server.address, "pid": os.getpid()})
    server.wait()


def _write(path: Path, content: dict) -> None:
    new = path.with_suffix(".new")
    new.write_text(json.dumps(content))
    new.replace(path)


if __name__ == "__main__":
    main()
