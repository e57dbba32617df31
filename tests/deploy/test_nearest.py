"""Pulls that standbys answer, with real servers."""

import os
import pickle
import signal
import threading
import time

import numpy as np
import pytest
from secured import SecuredFolder
from support.waiting import until

from rowloom.client import SGD, InvalidRequest, Normal, PermissionDenied, TableSpec, Zeros, connect
from rowloom.client.carriers.transport import CARRIERS
from rowloom.deploy import local_cluster
from rowloom.deploy.observe.families import cluster_families
from rowloom.proto import methods
from rowloom.proto import rowloom_pb2 as pb
from rowloom.proto.channel import Channels
from rowloom.proto.codec import Pull
from rowloom.proto.errors import Unauthenticated
from rowloom.proto.framing import joined
from rowloom.proto.security.credentials import Credentials
from rowloom.server.metrics.families import shard_families

IDS = np.arange(100)
ONES = -np.ones((100, 4), np.float32)
SPEC = TableSpec("t", 100, dim=4, optimizer=SGD(lr=1.0), initializer=Zeros())
DRAWN = TableSpec("drawn", 10_000, dim=4, optimizer=SGD(lr=1.0), initializer=Normal(seed=3))


def in_step(cluster) -> bool:
    coordinator = cluster._server.coordinator
    return all(coordinator.state.standby_in_step(index) for index in range(coordinator.layout.n))


def standbys(cluster) -> list[pb.StandbyStatus]:
    return [s.standby for s in cluster._server._handlers.status(pb.StatusRequest()).shards]


def pull_until_standbys_answer(cluster, pull) -> None:
    """Of all shards: the first answers they give when they have heard that somebody wants any."""

    def answered() -> bool:
        pull()
        return all(one.pulls for one in standbys(cluster))

    until(answered)


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_standbys_answer_pulls_and_bags_and_a_client_sees_what_it_pushed(mode: str) -> None:
    with local_cluster(shards=2, replicas=1, tables=[SPEC, DRAWN], standby={"mode": mode}) as cluster:
        until(lambda: in_step(cluster))
        table = cluster.connect(read_from="nearest").table("t")
        for count in range(1, 30):
            table.push(IDS, ONES)
            assert (table.pull(IDS) == count).all()
            assert (table.pull_bags(IDS[:, None]) == count).all()
        client = cluster.connect(read_from="nearest", max_staleness_s=3.0)
        never, rows = client.table("drawn"), cluster.connect().table("drawn").pull(np.arange(10_000))

        def pull() -> None:
            assert never.pull(np.arange(10_000)).tobytes() == rows.tobytes()
            assert never.pull_bags([[1, 2], [3, 4]]).tobytes() == (rows[[1, 3]] + rows[[2, 4]]).tobytes()

        pull_until_standbys_answer(cluster, pull)
        assert [s.rows for s in standbys(cluster)] == [50, 50]  # a pull makes none


@pytest.mark.parametrize("carrier", CARRIERS)
def test_rows_come_from_standbys_over_every_carrier_and_are_counted_where_people_look(carrier: str) -> None:
    with local_cluster(shards=1, replicas=1, tables=[SPEC]) as cluster:
        until(lambda: in_step(cluster))
        cluster.connect().table("t").push(IDS, ONES)
        client = pickle.loads(pickle.dumps(cluster.connect(read_from="nearest", carrier=carrier)))
        with client:
            pull_until_standbys_answer(cluster, lambda: client.table("t").pull(IDS))
        state = cluster._server.coordinator.state
        said = statistics(state.standbys[0].address)
        pulls = said.standby_pulls
        until(lambda: standbys(cluster)[0].pulls == pulls)
        status = cluster._server._handlers.status(pb.StatusRequest())
        families = {f.name: f for f in cluster_families(status)}
        found = {s.labels["outcome"]: s.value for s in families["rowloom_shard_standby_pulls"].samples}
        assert found["answered"] == pulls
        assert (said.standby_pulls, said.standby_pulled_rows) == (pulls, 100 * pulls)
        families = {f.name: f for f in shard_families(said)}
        found = {s.labels["outcome"]: s.value for s in families["rowloom_standby_pulls"].samples}
        assert found == {"answered": pulls, "refused": said.standby_refused}
        (times,) = (one for one in said.traffic if one.call == "pull")
        assert times.table == "t"
        assert sum(times.counts) == pulls
        cluster.launcher.stop(state.keys[0], 0.0)
        assert (cluster.connect().table("t").pull(IDS) == 1).all()
        assert statistics(cluster._server.coordinator.layout.shards[0].address).standby_pulls == pulls


def statistics(address: str) -> pb.StatisticsReply:
    channels = Channels(Credentials())
    try:
        return pb.StatisticsReply.FromString(channels.call(address, methods.STATISTICS, b"", 5.0))
    finally:
        channels.close()


def test_a_client_that_says_nothing_of_it_reads_from_no_standby() -> None:
    with local_cluster(shards=1, replicas=1, tables=[SPEC]) as cluster:
        until(lambda: in_step(cluster))
        table = cluster.connect().table("t")
        for _ in range(50):
            table.pull(IDS)
        with pytest.raises(InvalidRequest, match=r"needs read_from='nearest'"):
            cluster.connect(max_staleness_s=1.0)
        (address,) = (one.address for one in cluster._server.coordinator.state.standbys.values())
        said = statistics(address)
        assert (said.standby_pulls, said.standby_refused) == (0, 0)


def test_without_standbys_everything_is_as_ever() -> None:
    with local_cluster(shards=2, tables=[SPEC]) as cluster:
        table = cluster.connect(read_from="nearest").table("t")
        table.push(IDS, ONES)
        assert (table.pull(IDS) == 1).all()


class Reader(threading.Thread):
    """Pulls all the time, and keeps what it was told and how long that took."""

    def __init__(self, cluster, **options) -> None:
        super().__init__(daemon=True)
        self.table = cluster.connect(read_from="nearest", timeout_s=30.0, **options).table("t")
        self.failed: list[Exception] = []
        self.too_old = self.pulls = 0
        self.longest_s = 0.0
        self.acked = 0  # pushes of others, as the test knows them
        self.ending = threading.Event()

    def run(self) -> None:
        while not self.ending.is_set():
            least, began = self.acked, time.monotonic()
            try:
                self.too_old += int(self.table.pull(IDS).min() < least)
            except Exception as e:
                self.failed.append(e)
            self.longest_s = max(self.longest_s, time.monotonic() - began)
            self.pulls += 1

    def end(self) -> None:
        self.ending.set()
        self.join()
        assert not self.failed
        assert not self.too_old
        assert self.pulls > 100


@pytest.mark.parametrize("whose", ["server", "standby"])
def test_under_readers_a_process_is_killed_and_no_call_fails_or_is_told_what_is_old(whose: str) -> None:
    with local_cluster(shards=1, processes=True, replicas=1, tables=[SPEC]) as cluster:
        until(lambda: in_step(cluster))
        reader, table = Reader(cluster), cluster.connect().table("t")
        reader.start()
        until(lambda: standbys(cluster)[0].pulls > 50)
        for k in range(60):
            table.push(IDS, ONES)
            reader.acked = k + 1
            if k == 20:
                state = cluster._server.coordinator.state
                key = state.keys[0] if whose == "server" else state.standbys[0].key
                os.kill(cluster.launcher.pid(key), signal.SIGKILL)
        until(lambda: in_step(cluster))
        reader.end()


def test_a_standby_that_stands_still_costs_a_call_a_moment_and_tells_nothing_old_when_it_goes_on() -> None:
    with local_cluster(shards=1, processes=True, replicas=1, tables=[SPEC]) as cluster:
        until(lambda: in_step(cluster))
        reader, table = Reader(cluster), cluster.connect(timeout_s=30.0).table("t")
        reader.start()
        until(lambda: standbys(cluster)[0].pulls > 50)
        pid = cluster.launcher.pid(cluster._server.coordinator.state.standbys[0].key)
        os.kill(pid, signal.SIGSTOP)
        try:
            before = reader.pulls
            until(lambda: reader.pulls > before + 100)
            assert reader.longest_s < 8.0  # FIRST_S, on a machine that is busy
        finally:
            os.kill(pid, signal.SIGCONT)
        for k in range(20):
            table.push(IDS, ONES)
            reader.acked = k + 1
        reader.end()


def test_rights_tokens_and_tls_hold_at_a_standby_as_at_its_shard(tmp_path) -> None:
    folder = SecuredFolder(tmp_path)
    folder.token("reader", "pull:t")
    folder.token("nobody", "pull:no-such-table")
    with local_cluster(shards=1, replicas=1, security=folder.section(), tables=[SPEC]) as cluster:
        until(lambda: in_step(cluster))
        for carrier in CARRIERS:
            before = standbys(cluster)[0].pulls
            options = {"read_from": "nearest", "carrier": carrier}
            with connect(cluster.address, **options, **folder.shown("reader")) as client:
                table = client.table("t")

                def answered(table=table, before=before) -> bool:
                    table.pull(IDS)
                    return standbys(cluster)[0].pulls > before

                until(answered)
            with (
                connect(cluster.address, **options, **folder.shown("nobody")) as client,
                pytest.raises(PermissionDenied, match="'nobody' may not"),
            ):
                client.table("t").pull(IDS)
        layout = cluster._server.coordinator.layout
        request = joined(Pull(layout.header(0, 0.0), [(1, IDS)]).encode())
        address = cluster._server.coordinator.state.standbys[0].address
        for who, refusal in (("nobody", PermissionDenied), (None, Unauthenticated)):
            shown = folder.shown("nobody")
            token = {} if who is None else {k: v for k, v in shown.items() if k.startswith("token")}
            channels = Channels(Credentials(ca=shown["ca"], **token))
            with pytest.raises(refusal):
                channels.call(address, methods.PULL, request, 5.0)
            channels.close()
