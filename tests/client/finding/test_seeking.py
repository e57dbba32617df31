"""A client that is given a function finds a cluster that is elsewhere, all of it."""

import pickle
import threading
from functools import partial

import numpy as np
import pytest
from logging_launcher import LoggingLauncher
from waiting import until

from rowloom.client import SGD, InvalidRequest, TableSpec, Unavailable, Zeros, connect
from rowloom.client.finding import seeking
from rowloom.client.finding.seeking import Seeker
from rowloom.deploy import local_cluster
from rowloom.deploy.config.config import DeployConfig, parse
from rowloom.deploy.coordinator_server import CoordinatorServer

SPEC = TableSpec("t", 100, dim=2, optimizer=SGD(lr=1.0), initializer=Zeros())
IDS, ONES = np.arange(100), np.ones((100, 2), np.float32)
PLACES: list[str] = []


def newest_place(places: list[str]) -> str:
    if not places:
        raise Unavailable("no cluster yet")
    return places[-1]


def here() -> str:
    return newest_place(PLACES)


@pytest.fixture
def config(tmp_path) -> DeployConfig:
    storage = {"storage": str(tmp_path), "durability": "process"}
    return parse({"name": "ads", "shards": 2, "launcher": "local", "tables": [SPEC], **storage})


def server_of(config: DeployConfig) -> CoordinatorServer:
    return CoordinatorServer(config, LoggingLauncher(str(config.storage)))


def test_a_call_goes_on_when_all_of_a_cluster_is_elsewhere(config):
    first = server_of(config)
    first.start()
    places = [first.address]
    with connect(partial(newest_place, places)) as client:
        table = client.table("t")
        table.push(IDS, ONES)
        first.stop(keep=True)
        pushes = threading.Thread(target=table.push, args=(IDS, ONES))
        pushes.start()
        second = server_of(config)
        second.take_up()
        try:
            assert second.address != first.address
            places.append(second.address)
            pushes.join()
            assert (table.pull(IDS) == -2.0).all()
        finally:
            second.stop()


def test_a_client_waits_for_a_cluster_that_is_not_found_yet_and_so_does_its_pickle(cluster, monkeypatch):
    monkeypatch.setattr("rowloom.client.finding.seeking.FIRST_AGAIN_S", 0.001)
    PLACES.clear()
    asked = threading.Event()

    def finds() -> str:
        asked.set()
        return here()

    def begin() -> None:
        asked.wait()
        PLACES.append(cluster.address)

    beginning = threading.Thread(target=begin)
    beginning.start()
    with connect(finds) as client:
        beginning.join()
        client.create_table(SPEC)
    with connect(here) as client, pickle.loads(pickle.dumps(client)) as copy:
        assert copy.table("t").pull([1]).shape == (1, 2)
        assert copy._find is here


def test_what_the_function_says_is_checked():
    with pytest.raises(Unavailable, match="no cluster yet"):
        connect(partial(newest_place, []), timeout_s=0.1)
    with pytest.raises(InvalidRequest, match=r'address must be "host:port"'):
        connect(lambda: "nowhere")
    with pytest.raises(ZeroDivisionError):
        connect(lambda: str(1 // 0))


def test_the_function_is_not_called_twice_at_once_nor_again_at_once():
    calls, goes_on, told = [], threading.Event(), []

    def find() -> str:
        calls.append(None)
        goes_on.wait()
        return "10.0.0.1:7400"

    seeker = Seeker(find, told.append)
    seeker.seek()
    seeker.seek()
    goes_on.set()
    until(lambda: told)
    seeker.seek()
    assert told == [("10.0.0.1:7400",)]
    assert len(calls) == 1


def test_a_trainer_was_told_to_call_again_when_another_cluster_had_the_name_of_its_own():
    places: list[str] = []
    with local_cluster(2, tables=[SPEC]) as old:
        places.append(old.address)
        client = connect(partial(newest_place, places), timeout_s=6.0)
        assert client["t"].pull([1]).shape == (1, 2)
    with client, local_cluster(2, tables=[SPEC]) as new:
        places.append(new.address)
        with pytest.raises(Unavailable) as failed:
            client["t"].pull([1])
        assert f"what answers at {new.address} is another cluster, " in str(failed.value)
        assert "`connect` again: its rows are others, also under the same name" in str(failed.value)
        assert "call again" not in str(failed.value)


def test_why_a_cluster_is_not_found_was_logged_each_two_seconds(caplog, monkeypatch):
    monkeypatch.setattr(seeking, "AGAIN_S", 0.0)
    caplog.set_level("INFO")
    places, calls = [], []

    def find() -> str:
        calls.append(len(calls))
        return newest_place(places)

    seeker = Seeker(find, lambda found: None)
    until(lambda: seeker.seek() or len(calls) >= 3)
    assert [r.getMessage() for r in caplog.records] == ["the cluster is not found yet: no cluster yet"]
