"""`rowloom doctor`: each fault of a machine is found, and comes with what mends it."""

import importlib.metadata
import os
import resource
import socket
import sys
from types import SimpleNamespace

import pytest
from fsspec.registry import _registry

from rowloom.deploy.checks import doctor, machine, places
from rowloom.deploy.checks.doctor import Tick, odd_rate, skew_of
from rowloom.deploy.config.config import parse
from rowloom.deploy.launch.local_room import MachineRoom
from rowloom.deploy.operate.directory import ClusterDirectory, Record

ONE = parse({})


def states(found) -> dict[str, str]:
    return {one.name: one.state for one in found}


def test_what_is_installed_is_compared_with_what_rowloom_asks_for(monkeypatch):
    found = {one.name: one for one in machine.versions()}
    assert {"rowloom", "grpcio", "numpy", "numba", "protobuf"} <= found.keys()
    assert {one.state for one in found.values()} == {"ok"}
    assert "torch" not in found  # of an extra
    assert machine.version("numpy", "999.1").state == "fault"
    missing = machine.version("no-such-package", "1.0")
    assert (missing.found, missing.fix) == (
        "is not installed",
        "pip install --upgrade 'no-such-package>=1.0'",
    )
    monkeypatch.setattr(importlib.metadata, "version", lambda _: "1.26.0rc1")
    assert machine.version("numpy", "1.26").state == "ok"
    assert machine.version("numpy", "1.26.1").state == "fault"


def test_a_cache_that_cannot_be_written_is_a_warning(monkeypatch, tmp_path):
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "cache"))
    assert machine.compiled_cache().state == "ok"
    assert not (tmp_path / "cache").exists()
    monkeypatch.setenv("NUMBA_CACHE_DIR", "/proc/none")
    found = machine.compiled_cache()
    assert found.state == "warning"
    assert "set NUMBA_CACHE_DIR" in found.fix


def test_limits_of_processes_are_found(monkeypatch):
    few = {resource.RLIMIT_NOFILE: 256, resource.RLIMIT_AS: 1 << 30, resource.RLIMIT_FSIZE: 1 << 20}
    infinite = resource.RLIM_INFINITY
    monkeypatch.setattr(machine.resource, "getrlimit", lambda which: (few.get(which, infinite), infinite))
    found = {one.name: one for one in machine.limits(ONE)}
    assert {name: one.state for name, one in found.items()} == {
        "open files": "warning",
        "address space": "fault",
        "size of a file": "fault",
    }
    assert "ulimit -n 4096" in found["open files"].fix
    assert "ulimit -v unlimited" in found["address space"].fix


def test_a_machine_without_room_for_the_shards_is_found():
    # It said "`shards:` below 9" beside how many fit, which were fewer than 8.
    found = machine.room_for(parse({"shards": 9}), 0, MachineRoom(3, "one takes a third"))
    assert (found.state, found.found, found.fix) == (
        "fault",
        "this machine has no room for 9 more shard servers, 3 fit: one takes a third",
        "`shards: 3`, or use more machines (`launcher: ray`)",
    )
    assert machine.room_for(parse({"shards": 3}), 0, MachineRoom(3, "")).state == "ok"
    none = MachineRoom(0, "no memory")
    assert machine.room_for(ONE, 0, none).fix.startswith("make room, or use more machines")


def test_servers_that_run_were_asked_room_for_once_more_and_standbys_were_not():
    four = parse({"shards": 4})
    assert machine.room_for(four, 4, MachineRoom(0, "no memory")).found == "4 shards, which run"
    assert (
        machine.room_for(four, 3, MachineRoom(1, "")).found
        == "4 shards can be started, 3 of their servers run"
    )
    with_standbys = parse({"shards": 4, "replicas": 1})
    found = machine.room_for(with_standbys, 4, MachineRoom(3, "no memory"))
    assert found.found.startswith("this machine has no room for 4 more shard servers, 3 fit")
    assert found.fix == "`shards: 3`, or leave `replicas` at 0"


def test_shared_memory_that_is_small_matters_to_ray_only(monkeypatch):
    monkeypatch.setattr(
        machine.os, "statvfs", lambda _: SimpleNamespace(f_blocks=16, f_bavail=16, f_frsize=4096)
    )
    assert states(machine.memory(ONE))["/dev/shm"] == "ok"
    found = {one.name: one for one in machine.memory(parse({"launcher": "ray"}))}
    assert found["/dev/shm"].state == "warning"
    assert "--shm-size" in found["/dev/shm"].fix


def test_a_clock_that_somebody_sets_is_found(monkeypatch):
    assert machine.clock().state == "ok"
    walls = iter([100.0, 3700.0])
    monkeypatch.setattr(machine.time, "time", lambda: next(walls))
    assert machine.clock().state == "fault"


def test_a_port_that_is_taken_is_found_unless_its_own_cluster_has_it():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        config = parse({"port": taken.getsockname()[1]})
        found = machine.port(config, ours=False)
        assert found.state == "fault"
        assert f"ss -ltnp sport = :{config.port}" in found.fix
        assert machine.port(config, ours=True).state == "ok"
    assert machine.port(config, ours=False).state == "ok"
    elsewhere = machine.port(parse({"host": "192.0.2.1", "security": {"insecure": True}}), ours=False)
    assert elsewhere.state == "fault"
    assert "advertise_host" in elsewhere.fix


def test_a_home_that_cannot_be_written_is_found(tmp_path):
    assert places.home(ClusterDirectory(tmp_path / "home")).state == "ok"
    assert not (tmp_path / "home").exists()
    found = places.home(ClusterDirectory("/proc/none"))
    assert (found.state, "--home" in found.fix) == ("fault", True)


def test_storage_is_tried_and_left_as_it_was(tmp_path, monkeypatch):
    config = parse({"storage": str(tmp_path / "kept"), "durability": "disk"})
    found = list(places.storage(config))
    assert states(found) == {"storage": "ok", "sync": "ok"}
    assert "(it will be made)" in found[0].found
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(places, "sync_s", lambda _: 0.2)
    slow = list(places.storage(config))[1]
    assert (slow.state, "200.0 ms" in slow.found) == ("warning", True)
    (bad,) = places.storage(parse({"storage": "/proc/none"}))
    assert bad.state == "fault"
    (none,) = places.storage(ONE)
    assert none.state == "warning"
    monkeypatch.setattr(
        places.os, "statvfs", lambda _: SimpleNamespace(f_blocks=16, f_bavail=16, f_frsize=4096)
    )
    assert states(places.storage(config))["storage"] == "fault"
    (tmp_path / "kept/logs/shard-0").mkdir(parents=True)  # it goes on from these
    assert states(places.storage(config))["storage"] == "warning"


def test_storage_at_a_url_is_written_read_and_removed():
    import fsspec

    (found,) = places.storage(parse({"storage": "memory://doctor/x"}))
    assert found.state == "ok"
    assert fsspec.filesystem("memory").find("doctor") == []
    (bad,) = places.storage(parse({"storage": "http://127.0.0.1:9/x"}))
    assert bad.state == "fault"


def test_a_storage_whose_library_is_missing_was_told_as_an_import_error_of_python(monkeypatch):
    monkeypatch.setitem(sys.modules, "gcsfs", None)  # as if it were not installed
    monkeypatch.delitem(_registry, "gs", raising=False)
    for found in (places.storage, places.place):
        (bad,) = found(parse({"storage": "gs://bucket/x"}))
        assert (bad.state, bad.found) == (
            "fault",
            "'gs://bucket/x' needs gcsfs, which is not installed: pip install gcsfs",
        )
        assert bad.fix == "mend that, or say another `storage:`"


def test_a_ray_that_does_not_answer_is_found(tmp_path):
    pytest.importorskip("ray")
    config = parse({"launcher": "ray", "ray": {"address": "127.0.0.1:9"}})
    found = doctor.ray(config, ClusterDirectory(tmp_path))
    assert (found.state, "ray start --head" in found.fix) == ("fault", True)


def test_a_clock_counts_as_wrong_only_as_far_as_that_is_certain():
    assert skew_of(Tick(0.0, 0.0, 105.0, 0.0, 100.0)) == 5.0
    assert skew_of(Tick(0.0, 4.0, 97.0, 0.0, 100.0)) == -1.0
    assert skew_of(Tick(0.0, 4.0, 101.0, 0.0, 100.0)) == 0.0


def test_a_server_that_stood_still_between_two_looks_is_found():
    first = Tick(10.0, 10.1, 1.0, 5.0, 1.0)
    assert odd_rate(first, Tick(11.0, 11.1, 2.0, 6.0, 2.0)) == ""
    assert odd_rate(first, Tick(11.0, 11.1, 2.0, 5.2, 2.0)).startswith(
        "its clock went 0.200 s in 0.900 to 1.100 s"
    )
    assert odd_rate(first, Tick(11.0, 11.1, 2.0, 7.0, 2.0))
    assert odd_rate(first, Tick(11.0, 19.0, 2.0, 7.0, 2.0)) == ""  # the answer took long


def test_servers_say_what_their_clock_is(cluster, monkeypatch):
    address = cluster.address
    found = doctor.clocks("cluster x", [("the coordinator", address)])
    assert (found.name, found.state) == ("clocks of cluster x", "ok")
    ticks = {"a": 100.0, "b": 103.0}
    monkeypatch.setattr(doctor, "_tick", lambda _, who: Tick(0.0, 0.0, ticks[who], 0.0, 100.0))
    wrong = doctor.clocks("cluster x", [("shard 0", "a"), ("shard 1", "b")])
    assert (wrong.state, wrong.found) == ("fault", "3.000 s apart; shard 1 is +3.000 s from this machine's")
    monkeypatch.setattr(doctor, "_tick", lambda *_: None)
    assert doctor.clocks("cluster x", [("shard 0", "a")]).state == "warning"


def test_doctor_by_its_users(cli, ads):
    told = cli.json("doctor")
    assert told["healthy"]
    checks = {one["name"]: one for one in told["checks"]}
    assert checks["cluster ads"]["found"] == "2 of 2 shards serve"
    assert checks["clocks of cluster ads"]["state"] == "ok"
    assert checks["storage"]["state"] == "warning"
    before = sorted(path.name for path in cli.folder.iterdir())
    cli.directory.put(Record("gone", "local", "127.0.0.1:9", pid=os.getpid(), started=1))
    (cli.directory.home / "clusters/odd.json").write_text("{")
    cli.write("name: ads\nstorage: /proc/none\n")
    out, err = cli.run("doctor", code=1)
    assert err == "rowloom: 3 faults: storage, cluster gone, cluster odd\n"
    assert "FAULT   storage: /proc/none cannot be written" in out
    assert "\n        fix: `rowloom status --name gone` says what to do\n" in out
    assert sorted(path.name for path in cli.folder.iterdir()) == before
    cli.run("doctor", "none.yaml", code=2)
