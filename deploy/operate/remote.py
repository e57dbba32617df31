"""Talking to a coordinator: what the CLI and `LocalCluster` use."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from ...proto import methods
from ...proto import rowloom_pb2 as pb
from ...proto.channel import Channels
from ...proto.errors import Rerouted, Unavailable, WrongCluster
from ...proto.security.credentials import NOTHING, Credentials
from ...proto.snapshots.extra import encode_extra
from ...proto.spec import Dealing, TableSpec
from .moves import scaling

if TYPE_CHECKING:
    from ...client.client import Client

POLL_S = 0.05
START_S = 180.0  # for a call that starts a server


class Unreachable(Unavailable):
    """A cluster is known, and its coordinator does not answer: it is down, starts, ended or stands still."""

    exit_code = 5


class Remote:
    """A coordinator somewhere. Every method raises RowloomError; Unavailable when it does not answer.

    Args:
        address: host:port.
        timeout_s: for one call.
        credentials: what it is shown.
    """

    def __init__(self, address: str, timeout_s: float = 15.0, credentials: Credentials = NOTHING) -> None:
        self.address = address
        self._timeout_s = timeout_s
        self.credentials = credentials
        self._channels = Channels(credentials)
        self._cluster_id = ""

    def __enter__(self) -> Remote:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._channels.close()

    def client(self) -> Client:
        """A client of the same cluster; close it."""
        from ...client.opening import open_client

        return open_client(self.address, self.credentials)

    def call(self, method: str, request: bytes) -> bytes:
        """One call. Raises Unavailable too if another cluster answers, which was not changed then."""
        try:
            return self._channels.call(self.address, method, request, self._timeout_s)
        except WrongCluster as e:
            raise Unreachable(
                f"another cluster answers at {self.address} now ({e}), and it was not changed: the one that is meant "
                "has ended"
            ) from e

    def status(self) -> pb.StatusReply:
        """Layout, tables, and each shard's health and statistics."""
        reply = pb.StatusReply.FromString(self.call(methods.STATUS, pb.StatusRequest().SerializeToString()))
        self._cluster_id = self._cluster_id or reply.layout.cluster_id
        return reply

    @property
    def cluster(self) -> str:
        """The cluster that all calls are meant for: the one that answered first; empty as long as it is starting."""
        if not self._cluster_id:
            data = self.call(methods.HEALTH, pb.HealthRequest().SerializeToString())
            self._cluster_id = pb.HealthReply.FromString(data).cluster_id
        return self._cluster_id

    def scale(
        self,
        shards: int,
        on_progress: Callable[[pb.ScaleReply], None] | None = None,
        dealings: Mapping[str, Dealing] | None = None,
    ) -> pb.ScaleReply:
        """Change who owns which ids; returns when it is done.

        Args:
            shards: how many there will be; 0: as many as there are.
            on_progress: called with how far it is.
            dealings: by name, how the ids of some tables are to be dealt; of all others as they are.

        Raises:
            Unavailable: it did not happen; everything is as before, or the message says what was lost.
            InvalidRequest, TableNotFound: it cannot be; nothing was changed.
        """
        request = pb.ScaleRequest(
            shards=shards,
            dealings=[
                pb.TableDealing(name=name, partition=how.partition, hash_ids=how.hash_ids)
                for name, how in (dealings or {}).items()
            ],
        )
        reply = self._start_scaling(request)
        while True:
            if on_progress is not None:
                on_progress(reply)
            if reply.state == "done":
                return reply
            if reply.state == "failed":
                raise Unavailable(f"{scaling(reply)} failed: {reply.error}")
            time.sleep(POLL_S)
            ask = pb.ScaleProgressRequest(scaling=reply.scaling, cluster_id=self.cluster)
            reply = pb.ScaleReply.FromString(self.call(methods.SCALE_PROGRESS, ask.SerializeToString()))
            # Another coordinator took over, and what it took up is one of two layouts.
            if reply.state == "unknown":
                reply = self._start_scaling(request)

    def bound_moves(self, max_extra_bytes: int) -> None:
        """Let rows that move take so much memory, of all shards together, beside those that serve; 0: no bound."""
        request = pb.ScaleRequest(max_extra_bytes=max_extra_bytes, cluster_id=self.cluster)
        self._until_free(methods.SCALE, request.SerializeToString())

    def drain(self, node: str, on_progress: Callable[[pb.ScaleReply], None] | None = None) -> pb.DrainReply:
        """Take all shards off a node, and the coordinator; returns when the shards have left.

        Args:
            node: its address, its name, or the beginning of its id.
            on_progress: called with how far it is.

        Raises:
            InvalidRequest: there is no such node; nothing was changed.
            Unavailable: no other node has room, and nothing was changed; or a shard did not leave.
        """
        request = pb.DrainRequest(cluster_id=self.cluster, node=node)
        began = pb.DrainReply.FromString(
            self._until_free(methods.DRAIN, request.SerializeToString(), START_S)
        )
        if began.HasField("move"):
            began.move.CopyFrom(self._moved(began.move, f"the drain of {node}", on_progress))
        return began

    def undrain(self, node: str) -> pb.DrainReply:
        """Use a node again. Raises InvalidRequest: it is not drained."""
        request = pb.DrainRequest(cluster_id=self.cluster, node=node, undo=True)
        return pb.DrainReply.FromString(self._until_free(methods.DRAIN, request.SerializeToString()))

    def upgrade(
        self, environment: str, on_progress: Callable[[pb.ScaleReply], None] | None = None
    ) -> pb.ScaleReply:
        """Start every server anew with an environment, one after the other; returns when all shards have it.

        environment: its digest; the cluster has it, or was offered it by way of Ray.

        Raises:
            InvalidRequest: the cluster does not know it; nothing was changed.
            Unavailable: there is no room for one server more, and nothing was changed; or one did not start.
        """
        request = pb.UpgradeRequest(cluster_id=self.cluster, environment=environment)
        began = self._until_free(methods.UPGRADE, request.SerializeToString(), START_S)
        return self._moved(pb.ScaleReply.FromString(began), "the start of all servers anew", on_progress)

    def _moved(
        self, reply: pb.ScaleReply, what: str, on_progress: Callable[[pb.ScaleReply], None] | None
    ) -> pb.ScaleReply:
        """Until shards have gone over to other servers. Raises Unavailable: not all have."""
        last = reply
        while True:
            if on_progress is not None and reply.state not in ("done", "unknown"):
                on_progress(reply)
            if reply.state == "done":
                return reply
            if reply.state in ("failed", "unknown"):
                why = reply.error or "another coordinator took over meanwhile"
                raise Unavailable(
                    f"{what} did not come to its end: {why}. The same command again goes on with it"
                )
            last = reply
            time.sleep(POLL_S)
            ask = pb.ScaleProgressRequest(scaling=last.scaling, cluster_id=self.cluster)
            reply = pb.ScaleReply.FromString(self.call(methods.SCALE_PROGRESS, ask.SerializeToString()))

    def cancel_scaling(self) -> pb.ScaleReply:
        """Give up the scaling that runs; returns when it has ended: "failed", or "done" if it was too late.

        Raises:
            InvalidRequest: none runs, or its new layout is being committed.
        """
        request = pb.CancelScaleRequest(cluster_id=self.cluster)
        reply = pb.ScaleReply.FromString(self.call(methods.CANCEL_SCALE, request.SerializeToString()))
        while reply.state not in ("done", "failed", "unknown"):
            time.sleep(POLL_S)
            ask = pb.ScaleProgressRequest(scaling=reply.scaling, cluster_id=self.cluster)
            reply = pb.ScaleReply.FromString(self.call(methods.SCALE_PROGRESS, ask.SerializeToString()))
        if reply.state == "unknown":
            raise Unavailable(
                "another coordinator took over meanwhile: `rowloom status` shows what there is now"
            )
        return reply

    def _start_scaling(self, request: pb.ScaleRequest) -> pb.ScaleReply:
        """Start to scale, as soon as nothing else changes."""
        request.cluster_id = self.cluster
        while True:
            try:
                return pb.ScaleReply.FromString(self.call(methods.SCALE, request.SerializeToString()))
            except Rerouted as e:
                time.sleep(max(POLL_S, e.retry_after_s))

    def create_table(self, spec: TableSpec) -> None:
        """Make a table. No error if it exists with the same spec; TableExists if with another."""
        request = pb.DefineTableRequest(spec=spec.to_message(), cluster_id=self.cluster)
        self._until_free(methods.CREATE_TABLE, request.SerializeToString())

    def set_lr(self, table: str, lr: float) -> None:
        """Change a table's learning rate. Raises TableNotFound, InvalidRequest."""
        request = pb.AdjustTableRequest(name=table, lr=lr, cluster_id=self.cluster)
        self._until_free(methods.SET_LEARNING_RATE, request.SerializeToString())

    def set_autoscale(self, policy: Mapping[str, Any] | None) -> None:
        """Let a policy decide how many shards there are; None: nobody does. policy: as in the deploy config."""
        request = pb.SetAutoscaleRequest(cluster_id=self.cluster, policy=json.dumps(policy))
        self._until_free(methods.SET_AUTOSCALE, request.SerializeToString())

    def set_quotas(self, quotas: str) -> None:
        """Let principals have these quotas. quotas: as JSON, as in the deploy config. Raises InvalidRequest."""
        request = pb.SetQuotasRequest(cluster_id=self.cluster, quotas=quotas)
        self._until_free(methods.SET_QUOTAS, request.SerializeToString())

    def set_replicas(self, replicas: str) -> None:
        """Let shards have so many standbys. replicas: as `replicas_of` says. Raises InvalidConfig, Unavailable."""
        request = pb.SetReplicasRequest(cluster_id=self.cluster, replicas=replicas)
        self._until_free(methods.SET_REPLICAS, request.SerializeToString())

    def drop_table(self, name: str) -> None:
        """Drop a table; its rows are gone. Raises TableNotFound."""
        request = pb.RemoveTableRequest(name=name, cluster_id=self.cluster)
        self._until_free(methods.DROP_TABLE, request.SerializeToString())

    def take_snapshot(
        self, extra: Mapping[str, Any] | None = None, *, full: bool = False, keep: int = 0
    ) -> pb.TakeSnapshotReply:
        """Take a snapshot of the whole cluster; returns when it is whole.

        Args:
            extra: what is kept with it, as `encode_extra`.
            full: it is made upon no other one.
            keep: of those that were taken with a number here, so many are kept; 0: this one is never removed.

        Raises:
            RowloomError: there is none.
        """
        key = random.SystemRandom().getrandbits(63) | 1
        request = pb.TakeSnapshotRequest(
            cluster_id=self.cluster, key=key, extra=encode_extra(extra), full=full, keep=keep
        )
        asks = pb.TakeSnapshotRequest(cluster_id=self.cluster, key=key, asks=True)
        reply = pb.TakeSnapshotReply(state="unknown")
        while reply.state != "done":
            wanted = asks if reply.state == "writing" else request
            data = self._until_free(methods.TAKE_SNAPSHOT, wanted.SerializeToString())
            reply = pb.TakeSnapshotReply.FromString(data)
        return reply

    def accept_loss(self, shard: int, *, force: bool = False) -> None:
        """Make a lost shard anew, from initial values.

        Args:
            shard: its index.
            force: also if it does not answer and its process is alive, which is ended; the rows that it holds are lost.

        Raises:
            InvalidRequest: there is no such shard, or it is not lost, or may not be; nothing was changed.
        """
        request = pb.AcceptLossRequest(shard=shard, force=force, cluster_id=self.cluster)
        self._until_free(methods.ACCEPT_LOSS, request.SerializeToString(), START_S)

    def _until_free(self, method: str, request: bytes, timeout_s: float = 0.0) -> bytes:
        """A call that waits while another change is in progress, for as long as one call may take."""
        timeout_s = max(timeout_s, self._timeout_s)
        until = time.monotonic() + timeout_s
        while True:
            try:
                return self._channels.call(self.address, method, request, timeout_s)
            except Rerouted as e:
                if time.monotonic() >= until:
                    raise Unavailable(f"{self.address} is busy: {e}; try again when it is done") from e
                time.sleep(max(POLL_S, e.retry_after_s))

    def shutdown(self, *, keep: bool = False) -> None:
        """End the cluster. Its rows are gone.

        keep: those in logs stay, and the cluster can go on from them. Raises InvalidRequest: it has no logs.
        """
        request = pb.ShutdownRequest(cluster_id=self.cluster, keep=keep)
        self.call(methods.SHUT_DOWN, request.SerializeToString())
