"""What keeps a cluster from starting: all of it at once, in the same words by `plan`, `up`, `restore` and `doctor`."""

import os
import threading
from types import SimpleNamespace

import pytest
from secured import SecuredFolder

from rowloom.deploy.checks import machine, places
from rowloom.deploy.checks.starting import before_start, check_start, package
from rowloom.deploy.config.config import InvalidConfig, parse
from rowloom.deploy.control.state import ClusterState
from rowloom.deploy.operate.clusters import up
from rowloom.deploy.operate.directory import ELSEWHERE, BadHome, ClusterDirectory
from rowloom.deploy.operate.planning import plan
from rowloom.deploy.storage import StateFile
from rowloom.proto.errors import Unavailable

LITTLE = "that is little: 1.0 GiB is the least that a cluster does well with"
TABLES = [
    {"name": "users", "num_embeddings": 1 << 20, "dim": 1, "optimizer": {"sgd": {"lr": 0.1}}},
    {"name": "open", "dim": 64},
]


def found(**config) -> list[tuple[str, str]]:
    return [(one.state, one.found) for one in before_start(parse(config))]


def with_room(patch: pytest.MonkeyPatch, free: int) -> None:
    disk = SimpleNamespace(f_blocks=1 << 40, f_bavail=free, f_frsize=1)
    patch.setattr(places.os, "statvfs", lambda _: disk)


def test_what_is_well_is_not_told(tmp_path):
    assert found() == []
    secured = SecuredFolder(tmp_path / "secured")
    assert found(storage=str(tmp_path / "kept"), security=secured.section()) == []
    assert not (tmp_path / "kept").exists()


def test_a_file_where_a_folder_is_wanted_was_said_to_exist(tmp_path):
    file = tmp_path / "file"
    file.write_text("")
    assert found(storage=str(file)) == [("fault", f"{file} is a file, and a folder is wanted")]
    assert found(storage=f"file://{file}/x") == [
        ("fault", f"{file}/x cannot be made: {file} is a file, and a folder is wanted")
    ]
    (tmp_path / "kept").mkdir()
    for name in ("logs", "snapshots"):
        (tmp_path / "kept" / name).write_text("")
    assert [said for _, said in found(storage=str(tmp_path / "kept"))] == [
        f"{tmp_path}/kept/{name} is a file, and a folder is wanted" for name in ("logs", "snapshots")
    ]


def test_with_ray_whose_nodes_write_there_what_this_machine_sees_keeps_nothing_from_starting(tmp_path):
    (tmp_path / "file").write_text("")
    ((state, said),) = found(storage=str(tmp_path / "file"), launcher="ray")
    assert (state, "as this machine sees it" in said) == ("warning", True)


def test_a_disk_with_less_room_than_rows_and_logs_need_is_told_with_figures(tmp_path, monkeypatch):
    config = {"storage": str(tmp_path), "shards": 2, "tables": TABLES}
    with_room(monkeypatch, 4 << 30)
    assert found(**config) == []
    # A row of users has 4 bytes and takes 24; those of `open` nobody can count.
    config["tables"] = [TABLES[0] | {"num_embeddings": 1 << 30}, TABLES[1]]
    assert found(**config) == [
        (
            "warning",
            f"{tmp_path}: 4.0 GiB free, and it may need 48.2 GiB: 24.0 GiB of rows, twice, once every id was pushed "
            "and 128.0 MiB for the log of each shard",
        )
    ]
    assert "and it may need 48.0 GiB" in found(**config, durability="memory")[0][1]
    with_room(monkeypatch, 1 << 29)
    ((_, said),) = found(storage=str(tmp_path))
    assert said == f"{tmp_path}: 512.0 MiB free, and {LITTLE}"


def test_a_disk_without_room_for_the_first_logs_was_found_by_a_start_that_failed_after_a_minute(
    tmp_path, monkeypatch
):
    with_room(monkeypatch, 20 << 20)
    config = {"storage": str(tmp_path), "shards": 2}
    said = "20.0 MiB free, and the log of each of 2 shards needs 128.0 MiB"
    assert found(**config) == [("fault", f"no room in {tmp_path}: {said}")]
    with pytest.raises(
        Unavailable, match=r"make room there, or another `storage:`, and run `rowloom up` again"
    ):
        check_start(parse(config), print)
    assert found(**config, durability="memory") == [("warning", f"{tmp_path}: 20.0 MiB free, and {LITTLE}")]
    (tmp_path / "logs" / "ads-1").mkdir(parents=True)  # it goes on from them
    assert [state for state, _ in found(**config)] == ["warning"]


def test_a_full_disk_is_a_fault(tmp_path, monkeypatch):
    full = OSError(28, "No space left on device")
    monkeypatch.setattr(places, "can_write", lambda _: full)
    (one,) = before_start(parse({"storage": str(tmp_path)}))
    assert str(one) == (
        f"storage: {tmp_path} cannot be written: No space left on device; make room there; or another `storage:`"
    )
    assert machine.can_write(tmp_path) is None


def test_a_store_that_cannot_be_reached_or_does_not_answer_is_found(monkeypatch):
    ((state, said),) = found(storage="ftp://127.0.0.1:9/x")
    assert (state, said.split(": ")[0]) == ("fault", "'ftp://127.0.0.1:9/x' cannot be used")
    monkeypatch.setattr(places, "STORE_S", 0.01)
    silent = threading.Event()
    monkeypatch.setattr(places, "opened_url", lambda _: silent.wait())
    assert found(storage="memory://x") == [("fault", "memory://x does not answer within 0 s")]
    silent.set()


def test_each_file_of_security_is_told_at_once_with_what_is_wrong_with_it(tmp_path):
    secured = SecuredFolder(tmp_path / "secured")
    (secured.path / "server.pem").unlink()
    (secured.path / "junk").write_text("junk")
    os.chmod(secured["junk"], 0o600)
    (secured.path / "tokens.yaml").write_text("- a list")
    os.chmod(secured["cluster.token"], 0o644)
    section = secured.section(ca=secured["junk"], key=secured["junk"])
    said = [one for _, one in found(security=section)]
    for expected, one in zip(
        (
            f"ca: {secured['junk']} holds no certificate in PEM",
            f"cert: the certificate {secured['server.pem']} cannot be read: No such file or directory",
            f"key: {secured['junk']} holds no key in PEM",
            f"tokens: {secured['tokens.yaml']}",
            f"token: the token {secured['cluster.token']} may be read by others (mode 0644)",
        ),
        said,
        strict=True,
    ):
        assert one.startswith(expected)


def test_a_start_is_refused_with_all_faults_in_one_message_and_one_alone_in_one_line(tmp_path):
    secured = SecuredFolder(tmp_path / "secured")
    (secured.path / "ca.pem").unlink()
    (tmp_path / "file").write_text("")
    told: list[str] = []
    both = parse({"name": "ads", "storage": str(tmp_path / "file"), "security": secured.section()})
    with pytest.raises(Unavailable) as caught:
        check_start(both, told.append)
    lines = str(caught.value).splitlines()
    assert lines[0] == "cluster 'ads' was not started, 2 faults:"
    assert [line.split(":")[0] for line in lines[1:]] == ["  security", "  storage"]
    with pytest.raises(
        InvalidConfig, match=r"^cluster 'ads' was not started: security: ca: the certificate .*ca.pem"
    ):
        check_start(both, told.append, places=False)  # where it may run already
    assert told == []


def test_plan_and_up_and_doctor_say_the_same_and_up_starts_nothing(cli):
    (cli.folder / "file").write_text("")
    cli.write("name: ads\nstorage: file\nsecurity: {cert: no.pem, key: no.key, ca: no.ca}\n")
    planned, problem, code = cli.attempt("plan")
    assert code == 1
    listed = [line.split(None, 1)[1] for line in planned.splitlines() if line.startswith("FAULT")]
    assert [line.split(": ")[0] for line in listed] == ["security", "security", "security", "storage"]
    (_, up), (doctor, _) = cli.run("up", code=1), cli.run("doctor", code=1)
    assert all(f"FAULT   {one}\n" in doctor for one in listed)
    assert up.splitlines()[1:] == problem.splitlines()[1:]
    assert all(f"  {one}" in up for one in listed)
    assert cli.directory.names() == []


def test_a_cluster_that_runs_is_found_though_its_storage_is_full_and_plan_warns_of_that(cli, monkeypatch):
    cli.write("name: ads\nstorage: kept\n")
    cli.run("up")
    monkeypatch.setattr(places, "can_write", lambda _: OSError(28, "No space left on device"))
    assert not cli.json("up")["started"]
    out, _ = cli.run("plan")
    assert f"WARNING storage: {cli.folder}/kept cannot be written: No space left on device" in out
    assert [one["state"] for one in cli.json("plan")["problems"]] == ["warning"]


def test_a_home_that_cannot_be_written_was_approved_by_plan_and_refused_by_up(tmp_path, monkeypatch):
    directory = ClusterDirectory(tmp_path / "home")
    monkeypatch.setattr(places, "can_write", lambda _: OSError(13, "Permission denied"))
    folder = f"the folder that remembers clusters, {tmp_path}/home,"
    words = f"home: {folder} cannot be written: Permission denied; {ELSEWHERE}"
    planned = plan(parse({}), None, directory=directory)
    assert planned.refused
    with pytest.raises(BadHome) as said:
        planned.check()
    assert str(said.value) == f"`rowloom up` would start nothing: {words}"
    with pytest.raises(BadHome) as said:
        up(parse({}), directory)
    assert str(said.value) == f"cluster 'default' was not started: {words}"
    # With a storage that cannot be written either, both are said.
    with pytest.raises(Unavailable, match=r"2 faults:\n  storage: .*\n  home: "):
        up(parse({"storage": str(tmp_path / "kept")}), directory)


def test_a_storage_of_another_cluster_was_approved_by_plan_and_refused_by_up(tmp_path):
    storage = str(tmp_path / "kept")
    StateFile(storage).commit(ClusterState("ads", beginning="1"))
    other = parse({"name": "other", "storage": storage})
    planned = plan(other, None)
    with pytest.raises(InvalidConfig) as said:
        planned.check()
    with pytest.raises(InvalidConfig) as refused:
        up(other, ClusterDirectory(tmp_path / "home"))
    assert str(said.value) == str(refused.value)
    assert f"the storage {storage} is that of cluster 'ads'" in str(said.value)
    assert planned.refused
    assert [(one.name, one.state) for one in planned.told] == [("storage", "fault")]
    assert plan(parse({"name": "ads", "storage": storage}), None).refusal is None


def test_that_ray_is_not_installed_was_found_by_a_start_that_failed_with_words_of_python(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    config = parse({"launcher": "ray"})
    assert "pip install 'rowloom[ray]'" in str(before_start(config))
    with pytest.raises(Unavailable, match="needs Ray, which is not installed"):
        check_start(config, print, places=False)
    assert package(parse({})) == []
