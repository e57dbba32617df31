"""A cluster is found by its name, or the error says where it was looked for; and soon."""

import os
import socket

import pytest
from waiting import least_seconds

from rowloom.client import Unavailable, connect
from rowloom.deploy import address_of, addresses, local_cluster
from rowloom.deploy.launch.processes import started
from rowloom.deploy.operate import local_ray
from rowloom.deploy.operate.directory import ClusterDirectory, Record


@pytest.fixture
def directory(tmp_path, monkeypatch) -> ClusterDirectory:
    """An empty one, on a machine without any Ray."""
    monkeypatch.setenv("ROWLOOM_HOME", str(tmp_path))
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    return ClusterDirectory()


def test_a_cluster_without_ray_is_found_by_its_name(directory) -> None:
    me = os.getpid()
    directory.put(Record("ads", "local", "127.0.0.1:7400", pid=me, started=started(me)))
    assert address_of("ads") == "127.0.0.1:7400"


def test_one_that_has_ended_or_whose_record_is_damaged_is_not_found(directory) -> None:
    directory.put(Record("old", "local", "127.0.0.1:7400", pid=os.getpid(), started=1))
    directory.put(Record("bad", "local", "127.0.0.1:7400"))
    (directory.home / "clusters" / "bad.json").write_text("{")
    for name, said in (
        ("old", "cluster 'old' of this machine does not run: `rowloom status --name old` says"),
        ("bad", "no cluster 'bad' was started"),
    ):  # that it was never started was said of both
        with pytest.raises(Unavailable, match=said):
            address_of(name)


def test_who_asks_for_an_embedded_cluster_by_name_is_told_how_it_is_reached(directory) -> None:
    with local_cluster(shards=1, name="mine") as cluster:
        with pytest.raises(Unavailable, match=r"made by `local_cluster` has no name .*\.address"):
            address_of("mine")
        connect(cluster.address).close()


def test_a_ray_whose_head_hangs_ends_the_search_soon(directory, monkeypatch) -> None:
    monkeypatch.setattr(addresses, "answers", lambda address: local_ray.answers(address, 0.2))
    with socket.create_server(("127.0.0.1", 0)) as hanging:  # accepts, and says nothing
        monkeypatch.setenv("RAY_ADDRESS", "{}:{}".format(*hanging.getsockname()))

        def refused() -> None:
            with pytest.raises(Unavailable, match=r"cannot look for cluster 'ads': the Ray at 127\.0\.0\.1:"):
                address_of("ads")

        assert least_seconds(refused, 20.0) < 20.0


def test_a_ray_that_has_ended_and_is_still_announced_is_none(directory) -> None:
    (directory.home / "ray").mkdir()
    (directory.home / "ray" / "ray_current_cluster").write_text("127.0.0.1:1")
    with pytest.raises(Unavailable, match="no Ray runs here"):
        address_of("ads")


def test_a_cluster_on_a_ray_that_is_not_the_newest_of_this_machine_was_not_found(
    directory, monkeypatch
) -> None:
    directory.put(Record("r1", "ray", "127.0.0.1:7400", ray="127.0.0.1:26379"))
    attached: list[str] = []
    on = {"127.0.0.1:26379": "127.0.0.1:7400"}
    monkeypatch.setattr(addresses, "answers", lambda address: True)
    monkeypatch.setattr(addresses, "attach", lambda address, token: attached.append(address))
    monkeypatch.setattr(addresses, "find_ray", lambda name: on.get(attached[-1]))
    monkeypatch.setattr(addresses, "clusters", lambda: ["b2"])
    assert address_of("r1") == "127.0.0.1:7400"
    # Who says a Ray means that one, and hears of the other.
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:6379")
    with pytest.raises(
        Unavailable, match=r"no cluster 'r1' runs on this Ray .* is on the Ray at 127\.0\.0\.1:26379"
    ):
        address_of("r1")
