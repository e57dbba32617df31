"""Who answers each RPC of the coordinator."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable
from typing import Any

from ...proto import methods
from ...proto import rowloom_pb2 as pb
from ...proto.errors import InvalidRequest, in_words
from ...proto.spec import MAX_SPEC_BYTES, Dealing, TableSpec
from ...server.access.named import check_call, owner_of
from ...server.call import Call
from ...server.running.version import running_version
from ..config.changes import running_config
from ..config.config import policy_from, quotas_from
from ..control.coordinator import CHANGE_LIMIT_S, Coordinator
from ..control.loss import LossUnsafe, accept_loss
from ..control.quoting import set_quotas
from ..snapshots.requests import SnapshotRequests
from ..standby.status import standbys_in_step
from .parts import Parts

log = logging.getLogger(__name__)
MOST_CREATE_BYTES = MAX_SPEC_BYTES + (1 << 10)  # and the name of the cluster
NOTHING_KEPT = (
    "rows of this cluster are in memory only, so none can be kept: `durability: memory`. `rowloom export TABLE FILE` "
    "keeps those of a table; nothing was ended"
)


class Handlers:
    """Answers what a coordinator is asked.

    Args:
        parts: of the coordinator.
        log_file: where this process logs, for those who ask.
        metrics_address: where it offers its metrics; empty: nowhere.
        stopping: whether the cluster is being ended.
        stop: begins to end it; given whether its rows are kept.

    Attributes:
        methods: by the name of an RPC, from the bytes of a request to those of the reply. Raises RowloomError.
        snapshots_asked: snapshots that somebody asked for.
    """

    def __init__(
        self,
        parts: Parts,
        *,
        log_file: str,
        metrics_address: str,
        stopping: Callable[[], bool],
        stop: Callable[[bool], None],
    ) -> None:
        self._parts = parts
        self._performer, self._scalings, self._draining = parts.performer, parts.scalings, parts.draining
        self._watcher, self._snapshots = parts.watcher, parts.snapshots
        self._log_file, self._version = log_file, running_version()
        self._metrics_address = metrics_address
        self._stopping, self._stop = stopping, stop
        self._started_s = time.monotonic()
        self.snapshots_asked = SnapshotRequests(
            lambda asked: parts.snapshots.take(asked.extra, full=asked.full, keep=asked.keep)
        )
        self.methods = self._table_of_methods()

    @property
    def _coordinator(self) -> Coordinator:
        return self._parts.coordinator

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
            methods.DRAIN: self._meant(pb.DrainRequest, self._draining.answer),
            methods.UPGRADE: self._meant(pb.UpgradeRequest, self._upgrade),
            methods.SET_AUTOSCALE: self._meant(pb.SetAutoscaleRequest, self._set_autoscale),
            methods.SET_QUOTAS: self._meant(pb.SetQuotasRequest, self._set_quotas),
            methods.SET_REPLICAS: self._meant(pb.SetReplicasRequest, self._set_replicas),
            methods.ACCEPT_LOSS: self._meant(pb.AcceptLossRequest, self._accept_loss),
            methods.TAKE_SNAPSHOT: self._meant(pb.TakeSnapshotRequest, self.snapshots_asked.answer),
            methods.DESCRIBE_RESTORED: self._meant(pb.DescribeRestoredRequest, self._describe_restored),
            methods.STATUS: _on(pb.StatusRequest, self.status),
            methods.SHUT_DOWN: self._meant(pb.ShutdownRequest, self._shutdown),
        }

    def _meant(self, cls: type[Any], answer: Callable[[Any], Any]) -> Callable[[bytes], bytes]:
        """A method whose requests say which cluster they are meant for."""

        def checked(request: Any) -> Any:
            self._coordinator.check_cluster(request.cluster_id)
            return answer(request)

        return _on(cls, checked)

    def answer(self, call: Call) -> list[bytes]:
        """One request. Raises RowloomError."""
        if call.method == methods.CREATE_TABLE and len(call.data) > MOST_CREATE_BYTES:
            raise InvalidRequest(  # before it is read: of small values in their millions that takes long
                f"to create a table takes a message of at most {MOST_CREATE_BYTES} bytes, got {len(call.data)}: "
                f"its spec may have {MAX_SPEC_BYTES}"
            )
        check_call(call)
        method = self.methods[call.method]
        if call.method == methods.CREATE_TABLE:
            method = self._creating(owner_of(call.caller))
        return [method(bytes(call.data))]

    def _creating(self, owner: str) -> Callable[[bytes], bytes]:
        return self._meant(pb.DefineTableRequest, lambda asked: self._create_table(asked, owner))

    def _describe_layout(self, request: pb.DescribeLayoutRequest) -> pb.DescribeLayoutReply:
        reply = self._coordinator.describe()
        reply.durability = self._parts.config.durability
        reply.dead.extend(self._watcher.dead_of(reply.layout))
        reply.standbys.extend(standbys_in_step(self._coordinator.state))
        reply.has_standbys = True
        return reply

    def _health(self, request: pb.HealthRequest) -> pb.HealthReply:
        layout = self._coordinator.state.layout
        return pb.HealthReply(
            role="coordinator",
            state="stopping" if self._stopping() else "serving" if layout else "waiting",
            epoch=layout.epoch if layout else 0,
            cluster_id=layout.cluster_id if layout else "",
            uptime_s=time.monotonic() - self._started_s,
            wall_s=time.time(),
        )

    def _create_table(self, request: pb.DefineTableRequest, owner: str) -> pb.DefineTableReply:
        spec = TableSpec.from_message(request.spec)
        with self._performer.alone(f"creating table {spec.name!r}"):
            entry = self._performer.run(self._coordinator.create_table(spec, owner=owner))
        return pb.DefineTableReply(table=entry.to_message())

    def _drop_table(self, request: pb.RemoveTableRequest) -> None:
        with self._performer.alone(f"dropping table {request.name!r}"):
            self._performer.run(self._coordinator.drop_table(request.name))

    def _set_lr(self, request: pb.AdjustTableRequest) -> None:
        with self._performer.alone(f"setting the learning rate of {request.name!r}"):
            self._performer.run(self._coordinator.set_lr(request.name, request.lr))

    def _scale(self, request: pb.ScaleRequest) -> pb.ScaleReply:
        dealings = {one.name: Dealing.from_message(one) for one in request.dealings}
        if request.HasField("max_extra_bytes"):
            self._bound_moves(request.max_extra_bytes)
            if not request.shards and not dealings:
                return pb.ScaleReply(state="done", epoch=self._coordinator.layout.epoch)
        return self._scalings.start(request.shards, dealings)

    def _bound_moves(self, max_extra_bytes: int) -> None:
        """Rows that move may take so much from now on, also after a restart."""
        if max_extra_bytes != self._parts.most_extra():
            self._record("another bound of what moves may take", max_extra_bytes=max_extra_bytes)
            self._parts.bound(max_extra_bytes)

    def _record(self, what: str, **changes: Any) -> None:
        """Have a change in the state that a coordinator which starts anew begins with. what: it is, in words."""
        with self._performer.alone(what):
            self._performer.run(
                self._coordinator.commit(dataclasses.replace(self._coordinator.state, **changes))
            )

    def _scale_progress(self, request: pb.ScaleProgressRequest) -> pb.ScaleReply:
        return self._scalings.progress(request.scaling)

    def _set_autoscale(self, request: pb.SetAutoscaleRequest) -> None:
        policy = policy_from(request.policy)
        self._record("another policy of autoscale", autoscale=request.policy)
        self._parts.follow(policy)

    def _set_quotas(self, request: pb.SetQuotasRequest) -> None:
        quotas = quotas_from(request.quotas)
        if not self._parts.config.security.tokens:
            raise InvalidRequest(
                "this cluster has no principals that could have quotas: no `security.tokens`"
            )
        said = quotas.to_json()
        with self._performer.alone("other quotas"):
            try:
                self._performer.run(set_quotas(self._coordinator, said, CHANGE_LIMIT_S))
            finally:
                if self._coordinator.quotas == said:  # recorded, whether or not every shard has heard of it
                    self._parts.quote(quotas)

    def _set_replicas(self, request: pb.SetReplicasRequest) -> None:
        self._parts.replicate(request.replicas)

    def _upgrade(self, request: pb.UpgradeRequest) -> pb.ScaleReply:
        return self._draining.upgrade(request.environment)

    def _accept_loss(self, request: pb.AcceptLossRequest) -> None:
        with self._performer.alone(f"making shard {request.shard} anew"):
            self._parts.check_there()  # or its log is lost only because its disk is not mounted
            try:
                self._performer.run(accept_loss(self._coordinator, request.shard, force=request.force))
            except LossUnsafe as e:
                log.error("%s", in_words(e))
                raise
        self._snapshots.soon()  # logs that failed may have waited for this shard
        log.warning("shard %d was made anew, as asked: the rows that it held are lost", request.shard)

    def _describe_restored(self, request: pb.DescribeRestoredRequest) -> pb.DescribeRestoredReply:
        restored = self._coordinator.state.restored
        return (
            pb.DescribeRestoredReply(**vars(restored)) if restored is not None else pb.DescribeRestoredReply()
        )

    def status(self, request: pb.StatusRequest) -> pb.StatusReply:
        """What the cluster is now, and what each shard says of itself."""
        described, config = self._coordinator.describe(), self._parts.config
        reply = pb.StatusReply(
            layout=described.layout,
            tables=described.tables,
            shards=self._watcher.statuses(),
            name=config.name,
            launcher=config.launcher,
            config=config.to_json(),
            unfinished=[*self._watcher.waiting(), *self._snapshots.waiting(), *self._parts.standbys.said()],
            durability=config.durability,
            metrics_address=self._metrics_address,
            log_file=self._log_file,
            version=self._version,
            scaling=self._scalings.running,
            autoscale=self._parts.autoscaling.said,
            drained=self._coordinator.state.drained,
        )
        self._snapshots.show(reply)
        reply.config_hash = running_config(reply).hash
        return reply

    def _shutdown(self, request: pb.ShutdownRequest) -> None:
        if request.keep and not self._parts.revives:
            raise InvalidRequest(NOTHING_KEPT)
        self._stop(request.keep)


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
