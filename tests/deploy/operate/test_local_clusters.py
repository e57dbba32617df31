"""Clusters of processes on this machine: they stay, they end whole, and what an `up` that was killed left is found."""

import dataclasses
import errno
import json
import os
import signal
import socket
import subprocess
import sys

import numpy as np
import pytest
from killing import kill_all
from stopping import stop
from waiting import until

from rowloom.client import connect
from rowloom.deploy.config.config import parse
from rowloom.deploy.config.words import to_a_port
from rowloom.deploy.control.state import ClusterState
from rowloom.deploy.down.losses import Loss, lost_with
from rowloom.deploy.launch.processes import is_running, marked, started
from rowloom.deploy.operate import clusters, local_clusters
from rowloom.deploy.operate.clusters import down, reach, up
from rowloom.deploy.operate.directory import BadHome, ClusterDirectory, Record
from rowloom.deploy.operate.remote import Remote
from rowloom.deploy.storage import StateFile
from rowloom.proto.errors import InvalidRequest, Unavailable
from rowloom.proto.layout import Layout, ShardAddress

ADS = {"name": "ads", "shards": 2}


@pytest.fixture
def directory(tmp_path):
    directory = ClusterDirectory(tmp_path)
    yield directory
    down(Record("ads", "local", ""), directory)
    assert processes(directory) == []


def processes(directory) -> list[tuple[int, int]]:
    return marked(str(directory.home / "clusters" / "ads"))


def children_of(pid: int) -> dict[int, int]:
    command = ["ps", "-o", "pid=", "--ppid", str(pid)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return {int(line): started(int(line)) for line in done.stdout.split()}


def test_a_cluster_stays_until_it_is_taken_down_and_leaves_no_process(directory):
    config = parse({**ADS, "tables": [{"name": "users", "dim": 4}]})
    record = up(config, directory).record
    assert directory.get("ads") == record
    try:
        with Remote(record.address) as remote:
            status = remote.status()
        assert (status.name, status.launcher, len(status.shards)) == ("ads", "local", 2)
        assert status.config_hash == config.hash
        with connect(record.address) as client:
            assert client.table("users").pull([1, 2]).shape == (2, 4)
        servers = children_of(record.pid)
        assert len(servers) == 2
        assert set(servers) | {record.pid} == {pid for pid, _ in processes(directory)}
    finally:
        down(record, directory)
    assert not is_running(record.pid, record.started)
    assert not [one for one in servers.items() if is_running(*one)]
    down(record, directory)  # again: no error


def test_a_cluster_that_cannot_start_says_why_and_leaves_nothing(directory):
    with pytest.raises(Unavailable, match=r"cluster 'ads' did not start: .*log: .*cluster.log") as caught:
        up(parse({**ADS, "host": "192.0.2.200", "security": {"insecure": True}}), directory)
    assert "192.0.2.200" in str(caught.value)
    assert directory.get("ads") is None


def test_a_taken_port_was_asked_about_and_nothing_said_of_what_to_do(directory):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(Unavailable) as caught:
            up(parse({**ADS, "port": port}), directory)
    assert (
        f"cannot listen on 127.0.0.1:{port}: is the port taken? Say another `port:` in the config, or none for any "
        f"free one; `ss -ltnp sport = :{port}` shows who has it (log: "
    ) in str(caught.value)
    running = to_a_port(port, f"cannot listen on 127.0.0.1:{port}: is the port taken?", runs=True)
    assert (
        running == f" `ss -ltnp sport = :{port}` shows who has it"
    )  # another port is not for shards that run
    assert to_a_port(port, "no room") == ""


def test_a_stopped_coordinator_and_a_stopped_shard_end_with_the_cluster(directory):
    record = up(parse(ADS), directory).record
    servers = children_of(record.pid)
    for pid in (next(iter(servers)), record.pid):
        stop(pid)
    down(dataclasses.replace(record, stop_grace_s=0.0), directory)
    assert not is_running(record.pid, record.started)
    assert not [one for one in servers.items() if is_running(*one)]


@pytest.mark.slow
def test_a_cluster_that_cannot_say_what_it_holds_is_no_longer_ended_without_a_question(directory):
    config = parse({**ADS, "tables": [{"name": "users", "num_embeddings": 100, "dim": 4}]})
    record = up(config, directory).record
    assert lost_with(record, directory) == Loss(empty=True)
    with connect(record.address) as client:
        client.table("users").push(range(100), np.ones((100, 4)))
    assert lost_with(record, directory) == Loss(
        "'ads' holds 100 rows in 1 table, and they are lost with it. `rowloom export TABLE FILE` keeps rows.",
        held="100 rows in 1 table",
    )
    with Remote(record.address) as remote:
        shard = remote.status().shards[1].pid
    stop(shard)
    lost = lost_with(record, directory)
    assert "holds at least 50 rows in 1 table (shard 1 is stopped and may hold more)" in lost.words
    assert lost.to_confirm  # a script removed those rows without a word
    os.kill(shard, signal.SIGCONT)
    stop(record.pid)
    lost = lost_with(record, directory)
    assert "'ads' does not answer, so how many rows it holds is not known" in lost.words
    assert lost.to_confirm
    with pytest.raises(Unavailable, match=f"cluster 'ads' at .* `kill -CONT {record.pid}` lets it go on"):
        up(config, directory)
    os.kill(record.pid, signal.SIGCONT)
    kill_all(directory, "ads")
    assert lost_with(record, directory) == Loss()
    assert up(config, directory).replaced, "its rows are lost, and that is said"
    assert not up(config, directory).replaced


def test_a_coordinator_that_is_busy_for_a_moment_is_not_said_to_be_gone(directory, monkeypatch):
    record = up(parse(ADS), directory).record
    asked = clusters._asked
    busy = iter(range(3))

    def late(*arguments):
        if next(busy, None) is not None:
            raise Unavailable("tcp handshaker shutdown")
        return asked(*arguments)

    monkeypatch.setattr(clusters, "_asked", late)
    remote, status = reach(record, directory)
    with remote:
        assert status.name == "ads"
    monkeypatch.setattr(clusters, "BUSY_S", 0.0)
    busy = iter(range(3))
    with pytest.raises(Unavailable, match=f"its process {record.pid} is alive, and may be busy: try again$"):
        reach(record, directory)


def test_shards_that_outlived_a_killed_coordinator_are_ended_by_down(directory):
    record = up(parse(ADS), directory).record
    servers = children_of(record.pid)
    for pid in servers:  # they cannot hear that it is gone
        stop(pid)
    os.kill(record.pid, signal.SIGKILL)
    down(record, directory)
    assert not [one for one in servers.items() if is_running(*one)]


# --------------------------------------------------------------------------------------------------- interrupted


KILLED = """
import os, signal, sys
from rowloom.deploy.config.config import parse
from rowloom.deploy.operate import local_clusters
from rowloom.deploy.operate.clusters import up
from rowloom.deploy.operate.directory import ClusterDirectory

directory = ClusterDirectory(sys.argv[1])

def killed(*arguments):
    os.kill(os.getpid(), signal.SIGKILL)

setattr(*{"before": (directory, "put", killed), "after": (local_clusters, "wait_until_up", killed)}[sys.argv[2]])
up(parse({"name": "ads", "shards": 2}), directory)
"""


def killed_up(directory, moment: str) -> None:
    """An `up` that is killed just before it records what it starts, or just after."""
    command = [sys.executable, "-c", KILLED, str(directory.home), moment]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL


def test_an_up_that_is_killed_before_it_has_recorded_its_coordinator_leaves_no_process(directory):
    killed_up(directory, "before")
    assert directory.names() == []
    until(lambda: processes(directory) == [])
    assert up(parse(ADS), directory).started


def test_what_a_killed_up_left_is_ended_by_down(directory):
    killed_up(directory, "after")
    record = directory.get("ads")
    assert record.address == ""
    assert is_running(record.pid, record.started)
    down(record, directory)
    assert directory.names() == []
    assert processes(directory) == []


def test_what_a_killed_up_left_is_found_once_it_is_up(directory):
    killed_up(directory, "after")
    ready = directory.home / "clusters/ads/ready.json"
    until(ready.exists)
    remote, status = reach(directory.get("ads"), directory)
    remote.close()
    assert (status.name, len(status.shards)) == ("ads", 2)
    assert directory.get("ads").address == json.loads(ready.read_text())["address"]
    assert not up(parse(ADS), directory).started


def test_up_begins_anew_where_a_killed_up_left_a_coordinator_that_does_not_come_up(directory):
    killed_up(directory, "after")
    left = directory.get("ads")
    stop(left.pid)
    (directory.home / "clusters/ads/ready.json").unlink(missing_ok=True)
    with pytest.raises(
        Unavailable, match=r"its `rowloom up` was interrupted. `rowloom down` ends what is left"
    ):
        reach(left, directory)
    assert up(parse(ADS), directory).started
    assert not is_running(left.pid, left.started)


def test_an_up_that_is_interrupted_ends_what_it_started(directory, monkeypatch):
    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(local_clusters, "wait_until_up", interrupted)
    with pytest.raises(KeyboardInterrupt):
        up(parse(ADS), directory)
    assert directory.names() == []
    assert processes(directory) == []


def test_a_name_is_free_as_soon_as_the_process_that_held_it_is_killed(directory):
    code = (
        "import sys, time; from rowloom.deploy.operate.directory import ClusterDirectory\n"
        "with ClusterDirectory(sys.argv[1]).lock('ads', 0.0): print('held', flush=True); time.sleep(100)"
    )
    holder = subprocess.Popen([sys.executable, "-c", code, str(directory.home)], stdout=subprocess.PIPE)
    assert holder.stdout is not None
    holder.stdout.readline()
    assert directory.is_locked("ads")
    told: list[str] = []
    with (
        pytest.raises(
            Unavailable, match=rf"another rowloom \(process {holder.pid}\) is starting or ending 'ads'"
        ),
        directory.lock("ads", 0.3, told.append),
    ):
        pass
    assert len(told) == 1
    holder.kill()
    holder.wait()
    holder.stdout.close()
    with directory.lock("ads", 60.0):
        assert not directory.is_locked("other")


# ------------------------------------------------------------------------------------------------------- records


def test_records_are_kept_replaced_and_forgotten(directory):
    assert directory.get("a") is None
    assert directory.names() == []
    directory.put(Record("b", "local", "127.0.0.1:1", pid=5, started=6))
    directory.put(Record("a", "ray", "127.0.0.1:2", ray="127.0.0.1:3"))
    directory.put(Record("a", "ray", "127.0.0.1:4", ray="127.0.0.1:3"))
    assert directory.names() == ["a", "b"]
    assert directory.get("a").address == "127.0.0.1:4"
    directory.remove("a")
    directory.remove("a")
    assert directory.names() == ["b"]


def damage(directory) -> None:
    (directory.home / "clusters/ads.json").write_text("{")


def test_up_goes_round_a_damaged_record_and_finds_what_runs(directory):
    record = up(parse(ADS), directory).record
    damage(directory)
    told: list[str] = []
    again = up(parse(ADS), directory, told.append)
    assert again.record == dataclasses.replace(record, stop_grace_s=again.record.stop_grace_s)
    assert not again.started
    assert "ads.json.damaged" in told[0]
    assert directory.get("ads") == again.record


def test_a_cluster_whose_record_was_deleted_is_found_by_its_name(directory):
    record = up(parse(ADS), directory).record
    directory.remove("ads")
    assert local_clusters.find("ads", directory) == record
    assert local_clusters.find("feed", directory) is None


def test_another_cluster_that_got_the_port_of_one_that_ended_is_not_taken_for_it(directory):
    record = up(parse(ADS), directory).record
    with pytest.raises(Unavailable, match="what answers there is cluster 'ads'"):
        reach(Record("feed", "local", record.address), directory)


def test_a_record_of_a_launcher_that_this_version_does_not_have_is_refused_by_its_name(directory):
    with pytest.raises(InvalidRequest, match="launcher must be local or ray, got 'slurm'"):
        down(Record("x", "slurm", "127.0.0.1:9"), directory)


@pytest.mark.parametrize(
    "text", ["{", "[]", "{}", '{"name": "ads", "launcher": 7, "address": "x"}', '{"name": "a"}']
)
def test_a_damaged_record_names_its_file_and_the_ways_round_it(directory, text):
    from rowloom.deploy.operate.directory import DamagedRecord

    (directory.home / "clusters").mkdir()
    (directory.home / "clusters/ads.json").write_text(text)
    with pytest.raises(
        DamagedRecord, match=r"damaged: .*ads\.json: .*`rowloom up` with its config moves that file aside"
    ):
        directory.get("ads")


def test_the_home_is_an_argument_or_the_environment_or_the_users_own(tmp_path, monkeypatch):
    monkeypatch.setenv("ROWLOOM_HOME", str(tmp_path / "x"))
    assert ClusterDirectory().home == tmp_path / "x"
    assert ClusterDirectory(tmp_path).home == tmp_path
    monkeypatch.delenv("ROWLOOM_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert ClusterDirectory().home == tmp_path / ".rowloom"


def test_a_cluster_can_be_taken_down_though_the_disk_is_too_full_to_say_who_does(directory, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("rowloom.deploy.operate.directory.os.ftruncate", full)
    again = ClusterDirectory(directory.home).lock("ads", 0.0)
    with directory.lock("ads", 0.0), pytest.raises(Unavailable, match="is starting or ending 'ads'"), again:
        pass


def test_a_home_that_is_a_file_is_not_taken_for_one_without_clusters(tmp_path):
    # `status` said that no cluster is known, and `up` started another.
    (tmp_path / "home").write_text("")
    directory = ClusterDirectory(tmp_path / "home")
    for use in (
        directory.names,
        lambda: directory.get("ads"),
        lambda: directory.put(Record("ads", "local", "")),
    ):
        with pytest.raises(
            BadHome, match=rf"{tmp_path}/home is a file; --home FOLDER or \$ROWLOOM_HOME"
        ) as told:
            use()
        assert told.value.exit_code == 2
    assert ClusterDirectory(tmp_path / "none").names() == []


def test_a_user_without_a_home_folder_hears_how_to_name_one(monkeypatch):
    def no_user(uid):
        raise KeyError(uid)

    for name in ("ROWLOOM_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", no_user)
    with pytest.raises(BadHome, match=r"HOME is not set.*--home FOLDER or \$ROWLOOM_HOME takes another one"):
        ClusterDirectory()


def test_a_coordinator_that_stands_still_is_said_to_do_so_and_clearing_it_to_lose_all_rows(directory):
    record = up(parse(ADS), directory).record
    stop(record.pid)
    try:
        with pytest.raises(Unavailable) as told:
            reach(record, directory, timeout_s=1.0)
    finally:
        os.kill(record.pid, signal.SIGCONT)
        down(record, directory)
    # What gRPC met at its port was said first, and hid the cause.
    assert str(told.value).startswith(
        f"cluster 'ads' at {record.address} does not answer: its process stands still (as by SIGSTOP): "
        f"`kill -CONT {record.pid}` lets it go on, with all rows, or `kill -9 {record.pid}`, then `rowloom up --name "
        "ads`, starts another coordinator for its shards, which serve on"
    )
    assert "`rowloom down` ends what is left of it, AND ALL ITS ROWS ARE LOST" in str(told.value)


def test_a_cluster_that_cannot_be_put_on_record_is_not_left_running(directory, monkeypatch):
    # The disk was full when it was up: it ran on, and nobody was told.
    put = directory.put

    def full(record):
        if record.address:
            raise OSError(errno.ENOSPC, "No space left on device", "ads.json")
        put(record)

    monkeypatch.setattr(directory, "put", full)
    with pytest.raises(OSError, match="No space left on device"):
        up(parse(ADS), directory)
    assert directory.names() == []
    assert marked(str(directory.home / "clusters/ads")) == []


def test_up_in_the_storage_of_another_cluster_took_its_layout_and_down_then_removed_its_logs(directory):
    storage = str(directory.home / "rows")
    os.mkdir(storage)
    file = StateFile(storage)
    held = ClusterState(
        name="ads",
        layout=Layout("ads-1", 1, (ShardAddress(0, "127.0.0.1:9", 7),), "127.0.0.1:8"),
        keys=[0],
        next_key=1,
    )
    file.commit(held)
    with pytest.raises(InvalidRequest, match=r"is that of cluster 'ads', .* nothing was started.*--name ads"):
        up(parse({"name": "other", "storage": storage}), directory)
    assert directory.get("other") is None
    assert file.load() == held
