"""Messages that nobody sends, to every method of a coordinator, beside a client that does nothing wrong.

`ROWLOOM_FUZZ_S=1800 pytest tests/deploy/test_fuzzed_coordinator.py` goes on for half an hour, from another seed each
time.
"""

import logging
import os
import secrets
import threading
import time
from collections import Counter
from pathlib import Path

import grpc
import numpy as np
import pytest
from google.protobuf.message import Message
from mutations import spoiled

from rowloom.client import SGD, Adagrad, TableSpec, Zeros, connect
from rowloom.deploy.config.config import parse
from rowloom.deploy.config.runtime_env import digest_of
from rowloom.deploy.coordinator_server import CoordinatorServer
from rowloom.deploy.launch.launcher import Launched
from rowloom.deploy.launch.local_launcher import ThreadLauncher
from rowloom.proto import methods
from rowloom.proto import rowloom_pb2 as pb
from rowloom.proto.channel import CHANNEL_OPTIONS
from rowloom.proto.errors import ERROR_KEY, RowloomError, Unavailable, decode_error
from rowloom.proto.snapshots.extra import encode_extra

SECONDS = float(os.environ.get("ROWLOOM_FUZZ_S", "0"))
SEED = secrets.randbits(32) if SECONDS else 20240611
ROUNDS = 1500
MOST_TABLES = 40  # that messages have made, until the cluster is made anew
TABLES = [
    TableSpec(name, 1000, dim=3, optimizer=SGD(lr=1.0), initializer=Zeros()) for name in ("t", "never-named")
]
IDS = np.arange(0, 60, 3)


class Room(ThreadLauncher):
    """Room for four shards: a message may ask for any number."""

    def start(self, key: int) -> Launched:
        """As `Launcher`."""
        if len(self._running) >= 4:
            raise Unavailable("there is no room for another shard")
        return super().start(key)


class Beside:
    """A coordinator, and a client beside those that are hostile."""

    def __init__(self, storage: Path) -> None:
        config = parse(
            {"name": "ads", "shards": 2, "tables": TABLES, "storage": str(storage), "durability": "memory"}
        )
        self.server = CoordinatorServer(config, Room())
        self.server.start()
        self.cluster_id = self.server.coordinator.layout.cluster_id
        self._channel = grpc.insecure_channel(self.server.address, CHANNEL_OPTIONS)
        self._honest = connect(self.server.address, carrier="grpc", timeout_s=120.0)
        self._honest.table("never-named").push(IDS, -np.ones((len(IDS), 3), np.float32))

    def close(self) -> None:
        """End the cluster."""
        self._honest.close()
        self._channel.close()
        self.server.stop()

    def is_worn(self) -> bool:
        """Whether messages that were right after all have ended it, or filled it."""
        return self.server._stopping.is_set() or len(self.server.coordinator.state.tables) > MOST_TABLES

    def requests(self) -> list[tuple[str, Message]]:
        """A right message for every method, several for some."""
        cluster = self.cluster_id
        made = TableSpec("made", None, dim=(2, 2), optimizer=Adagrad(lr=0.1), metadata={"a": "b"})
        return [
            (methods.DESCRIBE_LAYOUT, pb.DescribeLayoutRequest()),
            (methods.HEALTH, pb.HealthRequest()),
            (methods.CREATE_TABLE, pb.DefineTableRequest(spec=made.to_message(), cluster_id=cluster)),
            (methods.CREATE_TABLE, pb.DefineTableRequest(spec=TABLES[0].to_message(), cluster_id=cluster)),
            (methods.DROP_TABLE, pb.RemoveTableRequest(name="made", cluster_id=cluster)),
            (methods.DROP_TABLE, pb.RemoveTableRequest(name="t", cluster_id=cluster)),
            (methods.SET_LEARNING_RATE, pb.AdjustTableRequest(name="t", lr=0.5, cluster_id=cluster)),
            (methods.SCALE, pb.ScaleRequest(shards=2, cluster_id=cluster)),
            (methods.SCALE_PROGRESS, pb.ScaleProgressRequest(scaling=3, cluster_id=cluster)),
            (methods.CANCEL_SCALE, pb.CancelScaleRequest(cluster_id=cluster)),
            (methods.DRAIN, pb.DrainRequest(node="10.0.0.1", cluster_id=cluster)),
            (methods.UPGRADE, pb.UpgradeRequest(environment=digest_of({}), cluster_id=cluster)),
            (methods.SET_AUTOSCALE, pb.SetAutoscaleRequest(policy='{"max": 2}', cluster_id=cluster)),
            (methods.SET_QUOTAS, pb.SetQuotasRequest(quotas='{"default": {"rows": 2}}', cluster_id=cluster)),
            (methods.SET_REPLICAS, pb.SetReplicasRequest(replicas='{"replicas": 1}', cluster_id=cluster)),
            (methods.ACCEPT_LOSS, pb.AcceptLossRequest(shard=1, cluster_id=cluster)),
            (
                methods.TAKE_SNAPSHOT,
                pb.TakeSnapshotRequest(cluster_id=cluster, extra=encode_extra({"a": b"b"}), key=7),
            ),
            (methods.DESCRIBE_RESTORED, pb.DescribeRestoredRequest(cluster_id=cluster)),
            (methods.STATUS, pb.StatusRequest()),
            (methods.SHUT_DOWN, pb.ShutdownRequest(cluster_id=cluster)),
        ]

    def outcome(self, method: str, data: bytes) -> str:
        """What a message is answered with: "ok", or which error of ours. Raises what is none."""
        try:
            self._channel.unary_unary(method)(data, timeout=120)
        except grpc.RpcError as e:
            for key, value in e.trailing_metadata() or ():  # type: ignore[attr-defined]
                if key == ERROR_KEY:
                    error = decode_error(value)
                    if type(error) is RowloomError or not str(error):
                        raise AssertionError(f"an internal error: {error!r}") from e
                    return type(error).__name__
            if self.server._stopping.is_set():
                return "ended"
            raise
        return "ok"

    def settle(self) -> None:
        """Until the scaling that a message has started is over: what it moves, later messages do not wait for."""
        until = time.monotonic() + 120
        while (scaling := self.server._parts.scalings._running) is not None and not scaling.ended:
            assert time.monotonic() < until
            threading.Event().wait(0.002)

    def rows_are_right(self) -> bool:
        """Whether the honest client has what it pushed."""
        return bool((self._honest.table("never-named").pull(IDS) == 1.0).all())


@pytest.fixture
def beside(tmp_path):
    """Makes one, and each time that it is worn another one."""
    made: list[Beside] = []

    def one() -> Beside:
        if not made or made[-1].is_worn():
            if made:
                made.pop().close()
            made.append(Beside(tmp_path / secrets.token_hex(4)))
        return made[-1]

    yield one
    for last in made:
        last.close()


def rounds():
    """Numbers, until the time that was asked for is over."""
    until, k = time.monotonic() + SECONDS, 0
    while k < ROUNDS or time.monotonic() < until:
        yield k
        k += 1


def test_every_method_of_the_coordinator_has_a_right_message_here(beside) -> None:
    one = beside()
    assert {method for method, _ in one.requests()} == set(one.server._handlers.methods)
    for method, request in one.requests():
        assert one.outcome(method, request.SerializeToString()) in (
            "ok",
            "InvalidRequest",
            "TableNotFound",
        ), method


@pytest.mark.timeout(0 if SECONDS else 300)
def test_whatever_bytes_come_to_a_coordinator_are_answered_or_refused_and_harm_nobody_else(
    beside, caplog
) -> None:
    rng = np.random.default_rng(SEED)
    outcomes: Counter[str] = Counter()
    caplog.set_level(logging.ERROR)
    for k in rounds():
        one = beside()
        known = one.requests()
        method, request = known[int(rng.integers(len(known)))]
        data = spoiled(request, rng)
        what = f"seed {SEED}, round {k}, {method}, {data!r}"
        try:
            outcomes[one.outcome(method, data)] += 1
            one.settle()
            assert one.is_worn() or one.rows_are_right()
        except Exception as e:
            raise AssertionError(what) from e
        tracebacks = [r for r in caplog.records if r.exc_info]
        assert not tracebacks, f"{what}: {tracebacks[0].getMessage()} {tracebacks[0].exc_text}"
    assert outcomes["ok"] > ROUNDS // 20
    assert outcomes["InvalidRequest"] > ROUNDS // 20
