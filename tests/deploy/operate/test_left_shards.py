"""Shards that serve on when their coordinator is killed, and what becomes of them: a new coordinator, or an end."""

import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
from free_ports import free_port
from stopping import stop
from waiting import until

from rowloom.client import connect
from rowloom.deploy import local_cluster
from rowloom.deploy.addresses import address_of
from rowloom.deploy.cli_options import left_of
from rowloom.deploy.config.config import DeployConfig, parse
from rowloom.deploy.down.losses import Loss, lost_with
from rowloom.deploy.launch.processes import is_running, marked, started
from rowloom.deploy.launch.shard_folder import KnownServer, ShardFolder
from rowloom.deploy.operate import left_shards, local_clusters
from rowloom.deploy.operate.clusters import down, reach, up
from rowloom.deploy.operate.directory import ClusterDirectory, Record
from rowloom.deploy.operate.launchers import Restore
from rowloom.deploy.operate.left_shards import LeftShards, up_of
from rowloom.deploy.operate.listing import listed
from rowloom.deploy.operate.remote import Remote
from rowloom.deploy.operate.restoring import restore
from rowloom.deploy.storage import StateFile
from rowloom.proto import rowloom_pb2 as pb
from rowloom.proto.errors import InvalidRequest, RowloomError, Unavailable

IDS = np.arange(300)
TABLE = {"name": "users", "num_embeddings": 300, "dim": 4, "optimizer": {"adagrad": {"lr": 0.5}}}


@pytest.fixture
def directory(tmp_path):
    directory = ClusterDirectory(tmp_path / "home")
    yield directory
    for _ in range(2):  # the second time there is nothing left, which is no error
        down(directory.get("ads") or Record("ads", "local", "", storage=kept(tmp_path)), directory)
    assert marked(str(directory.home / "clusters/ads")) == []
    assert servers(directory) == []


@pytest.fixture(params=[pytest.param("memory", marks=pytest.mark.slow), "process"])
def config(request, tmp_path) -> DeployConfig:
    return config_of(tmp_path, request.param)


def kept(tmp_path) -> str:
    return str(tmp_path / "kept")


def config_of(tmp_path, durability: str = "memory", **more) -> DeployConfig:
    logs = {"storage": kept(tmp_path)} if durability != "memory" else {}
    return parse({"name": "ads", "shards": 2, "tables": [TABLE], "durability": durability, **logs, **more})


def folder_of(directory) -> ShardFolder:
    return ShardFolder(directory.home / "clusters/ads/shards")


def servers(directory) -> list[KnownServer]:
    return folder_of(directory).running()


def kill(record: Record, how: int = signal.SIGKILL) -> None:
    os.kill(record.pid, how)
    until(lambda: not is_running(record.pid, record.started))


class Trainer:
    """Pushes the same in the same order for ever, in a thread. No call of it may fail."""

    def __init__(self, address: str) -> None:
        self.pushes = 0
        self._address = address
        self._failed: list[BaseException] = []
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._train)

    def __enter__(self):
        self._thread.start()
        self.more(5)
        return self

    def __exit__(self, *exc):
        self._ending.set()
        self._thread.join()

    def _train(self) -> None:
        rng = np.random.default_rng(7)
        try:
            with connect(self._address, timeout_s=200.0) as client:
                table = client.table("users")
                while not self._ending.is_set():
                    ids = rng.choice(IDS, 100)
                    table.pull(ids)
                    table.push(ids, rng.standard_normal((100, 4), np.float32))
                    self.pushes += 1
        except BaseException as e:
            self._failed.append(e)

    def more(self, pushes: int) -> None:
        """Until there are so many more. Raises what failed."""
        wanted = self.pushes + pushes
        until(lambda: self.pushes >= wanted or self._failed)
        assert not self._failed

    def check(self, address: str) -> None:
        """End it; a cluster that was never disturbed has the same rows, to the bit."""
        self.__exit__()
        assert not self._failed
        rng = np.random.default_rng(7)
        specs = list(parse({"tables": [TABLE]}).tables)
        with local_cluster(shards=1, tables=specs) as oracle, oracle.connect() as client:
            for _ in range(self.pushes):
                ids = rng.choice(IDS, 100)
                client.table("users").push(ids, rng.standard_normal((100, 4), np.float32))
            wanted = client.table("users").pull(IDS)
        with connect(address) as client:
            np.testing.assert_array_equal(client.table("users").pull(IDS), wanted)


def test_a_killed_coordinator_took_its_shards_with_it(directory, config) -> None:
    record = up(config, directory).record
    before = servers(directory)
    assert len(before) == 2
    with Trainer(record.address) as trainer:
        kill(record)
        trainer.more(30)
        with connect(address_of_here(directory)) as late:
            assert late.table("users").pull(IDS).shape == (300, 4)
        told: list[str] = []
        again = up(config, directory, told.append)
        assert told == [
            "'ads' runs without its coordinator, and its 2 shards serve pulls and pushes, and no row of "
            "theirs is lost: a new one takes them over"
        ]
        assert (again.started, again.replaced) == (False, False)
        assert again.record.pid != record.pid
        assert servers(directory) == before, "they were not started again"
        trainer.more(5)
        with Remote(again.record.address) as remote:
            for shards in (3, 1):
                remote.scale(shards)
                trainer.more(5)
                until(lambda shards=shards: len(servers(directory)) == shards)
        kill(again.record)
        trainer.more(5)
        trainer.check(up(config_of_now(config, 1), directory).record.address)
    down(directory.get("ads"), directory)
    assert servers(directory) == []


def address_of_here(directory) -> str:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ROWLOOM_HOME", str(directory.home))
        return address_of("ads")


def config_of_now(config: DeployConfig, shards: int) -> DeployConfig:
    return config.model_copy(update={"shards": shards})


def launched(directory) -> bool:
    return folder_of(directory).get(2) is not None


def serving(directory) -> bool:
    server = folder_of(directory).get(2)
    return server is not None and folder_of(directory).launched(server) is not None


def committed(storage: str) -> bool:
    stored = StateFile(storage).load()
    return stored is not None and stored.layout is not None and stored.layout.n == 3


@pytest.mark.parametrize("moment", ["launched", "serving", "committed"])
def test_a_coordinator_that_is_killed_in_the_middle_of_a_scaling_leaves_the_old_layout_or_the_new(
    moment, directory, config
) -> None:
    record = up(config, directory).record
    storage = config.storage or str(directory.home / "clusters/ads")
    came = {
        "launched": partial(launched, directory),
        "serving": partial(serving, directory),
        "committed": partial(committed, storage),
    }[moment]
    with Trainer(record.address) as trainer, Remote(record.address, timeout_s=5.0) as remote:

        def scale() -> None:
            with contextlib.suppress(RowloomError):  # it may have been done before its coordinator was killed
                remote.scale(3)

        scaling = threading.Thread(target=scale)
        scaling.start()
        until(came)
        kill(record)
        scaling.join()
        shards = 3 if committed(storage) else 2
        again = up(config_of_now(config, shards), directory)
        assert not again.started
        trainer.more(5)
        until(lambda: len(servers(directory)) == shards)
        assert len(again.status.layout.shards) == shards
        trainer.check(again.record.address)


def test_what_runs_without_a_coordinator_is_said_and_ended(directory, config, tmp_path) -> None:
    record = up(config, directory).record
    with connect(record.address) as client:
        client.table("users").push(IDS, np.ones((300, 4), np.float32))
    kill(record)
    with pytest.raises(Unavailable) as said:
        reach(record, directory)
    assert str(said.value) == (
        "the coordinator of cluster 'ads' has ended; its 2 shards serve pulls and pushes, and no row of theirs is "
        "lost. `rowloom up --name ads` starts a new coordinator, which takes them over; `rowloom down` ends them, "
        "and asks before rows are lost"
    )
    one = listed(directory)[0]
    assert (one["state"], one["shards"]) == ("no coordinator", 2)
    logs = ", `rowloom down --keep` leaves them in its logs" if config.durability == "process" else ""
    assert lost_with(record, directory) == Loss(
        "'ads' has no coordinator, and its shards hold 300 rows that are lost with it. `rowloom up --name ads` starts "
        f"a coordinator for them{logs}.",
        to_confirm=True,
    )
    with pytest.raises(InvalidRequest, match="cluster 'ads' runs already, and a restore makes a new one"):
        restore(config, Restore(str(tmp_path / "any")), directory)
    stop(servers(directory)[0].pid)
    with pytest.raises(Unavailable, match="1 of its 2 shards that run serve"):
        reach(record, directory)
    if config.durability == "memory":
        with pytest.raises(InvalidRequest, match=r"in memory only.*`rowloom up --name ads` starts a new one"):
            down(record, directory, keep=True)
        assert len(servers(directory)) == 2
        down(record, directory)
    else:
        down(record, directory, keep=True)
        assert servers(directory) == []
        with connect(up(config, directory).record.address) as client:
            assert (client.table("users").pull(IDS) != 0).all()


def test_a_process_that_got_the_number_of_a_shard_is_not_ended(directory) -> None:
    stranger = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(100)"])
    try:
        folder_of(directory).put(KnownServer(0, stranger.pid, started(stranger.pid) - 1))
        down(Record("ads", "local", "127.0.0.1:9"), directory)
        assert stranger.poll() is None
        assert folder_of(directory).servers() == []
    finally:
        stranger.kill()
        stranger.wait()


def taking(port: int) -> socket.socket:
    """A stranger on that port, as soon as the threads of a killed process have let it go."""
    found: list[socket.socket] = []

    def take() -> list[socket.socket]:
        with contextlib.suppress(OSError):
            found.append(socket.create_server(("127.0.0.1", port)))
        return found

    until(take)
    return found[0]


def test_a_new_coordinator_that_cannot_start_leaves_the_shards_as_they_are(
    directory, config, monkeypatch
) -> None:
    port = free_port(
        random.Random()
    )  # below those that the system deals out, or anybody may get it meanwhile
    config = config.model_copy(update={"port": port})
    record = up(config, directory).record
    with Trainer(record.address) as trainer:
        kill(record)
        before = servers(directory)
        with taking(port), pytest.raises(Unavailable) as said:
            up(config, directory)
        assert "a new coordinator of 'ads' did not start: " in str(said.value)
        assert "Its shards run on: mend that, then `rowloom up --name ads`" in str(said.value)
        assert servers(directory) == before

        def interrupted(*_, **__):
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(local_clusters, "wait_until_up", interrupted)
            with pytest.raises(KeyboardInterrupt):
                up(config, directory)
        assert servers(directory) == before
        with pytest.raises(Unavailable, match="has ended; its 2 shards serve"):
            reach(directory.get("ads"), directory)
        again = up(config, directory).record
        assert again.address == record.address
        trainer.more(5)
        trainer.check(again.address)


def test_another_config_is_no_reason_to_end_shards_or_to_run_them_with_another_one(
    directory, tmp_path
) -> None:
    record = up(config_of(tmp_path), directory).record
    kill(record)
    other, told = config_of(tmp_path, "process", shards=3), []
    assert not up(other, directory, told.append).started
    assert "'ads' runs as before, with another config: shards: 2 run, FILE says 3, " in told[1]
    assert "durability: 'memory' runs, FILE says 'process'; `rowloom apply FILE` changes it" in told[1]
    with pytest.raises(InvalidRequest, match="runs already, with another config"):
        up(other, directory)
    assert len(servers(directory)) == 2
    remote, status = reach(directory.get("ads"), directory)
    remote.close()
    assert (status.durability, len(status.layout.shards)) == ("memory", 2)


def test_a_signal_that_ends_a_coordinator_leaves_its_shards(directory, config) -> None:
    record = up(config, directory).record
    with Trainer(record.address) as trainer:
        kill(record, signal.SIGTERM)
        assert len(servers(directory)) == 2
        trainer.more(5)
        trainer.check(up(config, directory).record.address)


def test_a_cluster_without_a_coordinator_is_found_by_its_name_when_its_record_was_deleted(
    directory, config
) -> None:
    record = up(config, directory).record
    kill(record)
    directory.remove("ads")
    found = local_clusters.find("ads", directory)
    assert (found.address, found.storage) == (record.address, config.storage or "")
    assert not up(config, directory).started
    kill(directory.get("ads"))
    directory.remove("ads")
    down(local_clusters.find("ads", directory), directory)
    assert servers(directory) == []


@pytest.mark.slow
def test_shards_that_ended_too_are_dead_in_memory_and_start_again_with_logs(directory, config) -> None:
    record = up(config, directory).record
    with connect(record.address) as client:
        client.table("users").push(IDS, np.ones((300, 4), np.float32))
        rows = client.table("users").pull(IDS)
    kill(record)
    gone, stays = servers(directory)
    os.kill(gone.pid, signal.SIGKILL)
    until(lambda: not gone.running)
    again = up(config, directory)
    assert not again.started
    if config.durability == "memory":
        assert [shard.health for shard in again.status.shards] == ["dead", "serving"]
        assert servers(directory) == [stays]
        return
    with connect(again.record.address, timeout_s=200.0) as client:
        np.testing.assert_array_equal(client.table("users").pull(IDS), rows)
    assert stays in servers(directory)


def test_a_shard_that_ended_with_its_coordinator_was_passed_over_by_no_row_is_lost(
    directory, tmp_path
) -> None:
    record = up(config_of(tmp_path), directory).record
    kill(record)
    gone = next(server for server in servers(directory) if server.key == 1)
    os.kill(gone.pid, signal.SIGKILL)
    until(lambda: gone not in servers(directory))
    told = r"; 1 of its 2 shards serves pulls and pushes; the process of shard 1 has ended, and ITS ROWS ARE LOST\."
    with pytest.raises(Unavailable, match=told):
        reach(record, directory)


def test_rows_in_memory_whose_shards_all_ended_are_said_to_be_lost(directory, tmp_path) -> None:
    config = config_of(tmp_path)
    record = up(config, directory).record
    kill(record)
    for server in servers(directory):
        os.kill(server.pid, signal.SIGKILL)
    until(lambda: servers(directory) == [])
    with pytest.raises(Unavailable, match="ended by itself, and its rows are lost"):
        reach(record, directory)
    again = up(config, directory)
    assert (again.started, again.replaced) == (True, True)


def test_a_cluster_whose_config_was_damaged_had_ended_by_itself_while_its_shards_served(
    directory, config
) -> None:
    # And `up` with its config, which was advised, was refused, as the layout was looked for in another folder.
    record = up(config, directory).record
    kill(record)
    (directory.folder(record.name) / "config.json").write_text("{")
    with pytest.raises(Unavailable, match=r"the coordinator of cluster .* has ended; its 2 shards serve"):
        reach(record, directory)
    again = up(config, directory)
    assert (again.started, again.taken_over) == (False, True)


@pytest.mark.slow
def test_what_supervises_a_coordinator_may_start_it_again_but_not_beside_another(directory, tmp_path) -> None:
    record = up(config_of(tmp_path), directory).record
    before = servers(directory)
    folder = directory.home / "clusters/ads"
    command = [sys.executable, "-m", "rowloom.deploy.coordinator_process"]
    command += ["--config-json", str(folder / "config.json"), "--ready-file", str(folder / "ready.json")]
    with Trainer(record.address) as trainer:
        beside = subprocess.run(command, capture_output=True, check=False)
        assert beside.returncode == 1
        assert b"another coordinator of this cluster runs" in beside.stderr
        kill(record)
        (folder / "ready.json").unlink()
        supervised = subprocess.Popen(command)
        try:
            until((folder / "ready.json").exists)
            address = json.loads((folder / "ready.json").read_text())["address"]
            trainer.more(5)
            assert servers(directory) == before
            trainer.check(address)
        finally:
            supervised.kill()
            supervised.wait()


def test_the_up_that_was_advised_started_another_cluster(directory, tmp_path) -> None:
    # In a folder without a config, and beside it.
    folder = directory.home / "clusters" / "ads"
    assert up_of("ads", directory) == "`rowloom up` with its config"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(parse({"name": "ads"}).to_json())
    assert up_of("ads", directory) == "`rowloom up --name ads`"
    assert up_of("", directory) == "`rowloom up` with its config"


def test_of_shards_that_an_interrupted_up_had_found_it_was_said_that_something_may_run(
    directory, monkeypatch
) -> None:
    # The `up` and `down` that were named had no word of the rows, and started another cluster.
    directory.put(Record("ads", "local", ""))
    assert left_of("ads", directory).startswith(
        "something of 'ads' may run; `rowloom up` with its config finds it"
    )
    serving = SimpleNamespace(words=lambda: "its 2 shards serve, and no row of theirs is lost")
    monkeypatch.setattr(left_shards, "serving_on", lambda name, directory: serving)
    assert left_of("ads", directory) == (
        "'ads' is there: its 2 shards serve, and no row of theirs is lost. `rowloom up` with its config finds them; "
        "`rowloom down` ends them"
    )


def test_a_server_that_is_no_shard_was_counted_as_one_of_a_cluster_without_a_coordinator(monkeypatch) -> None:
    states = ["serving"] * 4 + ["waiting"]  # the last one is of a standby that was just started
    replies = [pb.HealthReply(state=state) for state in states]
    monkeypatch.setattr(LeftShards, "_ask", lambda *_: replies)
    left = LeftShards([""] * 5, None, ended=[1], shards=5)
    assert left.words().startswith(
        "4 of its 5 shards serve pulls and pushes; the process of shard 1 has ended"
    )
    whole = LeftShards([""] * 5, None, shards=4)
    assert whole.words() == "its 4 shards serve pulls and pushes, and no row of theirs is lost"
