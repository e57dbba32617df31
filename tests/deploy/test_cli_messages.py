"""What the command line says when something is in its way: what happened, what it means, what to do next."""

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from stopping import stop
from waiting import until

from rowloom.deploy import cli as entry
from rowloom.deploy import storage
from rowloom.deploy.config.words import counted
from rowloom.deploy.control.effects import NotStored
from rowloom.deploy.control.state import ClusterState
from rowloom.deploy.operate import local_clusters
from rowloom.deploy.operate.directory import Record
from rowloom.deploy.operate.remote import Remote
from rowloom.proto.errors import NoAnswer, TableNotFound, Unavailable, in_words


def test_an_empty_file_started_one_shard_without_a_word(cli):
    for text in ("", "# nothing yet\n"):
        cli.write(text)
        out, err = cli.run("plan")
        assert err == (
            "rowloom: deploy.yaml is empty, or sets no key, so it means the defaults: name default, 1 shard, launcher "
            "local, no tables\n"
        )
        assert "would start it: 1 shard (local)" in out
    _, err = cli.run("up")
    assert "rowloom: deploy.yaml is empty" in err
    cli.write("shards: 1\n")
    assert cli.run("plan")[1] == ""


def failing(code: int, file: str):
    def fail(*_, **__):
        raise OSError(code, os.strerror(code), file)

    return fail


def test_a_full_home_did_not_say_what_the_file_is_for_and_that_nothing_was_started(cli, monkeypatch):
    config = str(cli.folder / "home/clusters/default/config.json")
    monkeypatch.setattr("rowloom.deploy.operate.local_clusters.write_atomic", failing(errno.ENOSPC, config))
    out, err = cli.run("up", code=2)
    assert out == ""
    assert err == (
        "rowloom: cluster 'default' did not start, and nothing of it is left: the folder that remembers clusters "
        f"cannot be used: {config}: No space left on device; --home FOLDER or $ROWLOOM_HOME takes another one\n"
    )
    assert cli.directory.names() == []


@pytest.mark.parametrize("command", [["up"], ["down", "--name", "ads", "--forget"]])
def test_a_home_that_can_only_be_read_did_not_say_that_nothing_was_started(cli, monkeypatch, command):
    with monkeypatch.context() as patch:
        patch.setattr(Path, "mkdir", failing(errno.EROFS, "home/clusters"))
        _, err = cli.run(*command, code=2)
    assert err == (
        "rowloom: the folder that remembers clusters cannot be used: home/clusters: Read-only file system; nothing was "
        "started or ended; --home FOLDER or $ROWLOOM_HOME takes another one\n"
    )


def test_a_home_in_a_place_where_none_can_be_was_said_not_to_exist(cli):
    _, err = cli.run("up", "--home", "/proc/nothing/home", code=2)
    assert err == (
        "rowloom: cluster 'default' was not started: home: the folder that remembers clusters, /proc/nothing/home, "
        "cannot be written: No such file or directory; --home FOLDER or $ROWLOOM_HOME takes another one\n"
    )
    assert cli.json("list", "--home", "/proc/nothing/home") == {"clusters": []}


def test_a_coordinator_that_a_full_home_kept_from_saying_why_it_ended_was_said_to_say_nothing(
    cli, monkeypatch
):
    def silent(*_):
        raise Unavailable("the coordinator ended while it started: it said nothing")

    monkeypatch.setattr(local_clusters, "_start", silent)
    _, err = cli.run("up", code=1)
    assert "did not start: the coordinator ended while it started: it said nothing (log: " in err
    monkeypatch.setattr(local_clusters.os, "statvfs", lambda _: SimpleNamespace(f_bavail=1, f_frsize=4096))
    _, err = cli.run("up", code=2)
    assert err.endswith(f"{cli.directory.home}, is full: --home FOLDER or $ROWLOOM_HOME takes another one\n")


def test_recover_of_a_cluster_that_has_lost_nothing_asked_which_shard_is_lost(cli, ads):
    out, err = cli.run("recover")
    assert (out, err) == ("ads: nothing is lost (2 shards, all serving), so nothing was done\n", "")
    assert cli.json("recover") == {"name": "ads", "made_anew": [], "healthy": True}


def test_recover_without_a_shard_names_the_one_that_is_lost(cli, ads):
    os.kill(cli.json("status")["shards"][1]["pid"], signal.SIGKILL)
    until(lambda: json.loads(cli.attempt("status", "--json")[0])["shards"][1]["health"] == "dead")
    _, err = cli.run("recover", code=2)
    assert err.startswith("rowloom: shard 1 at 127.0.0.1:")
    assert "is dead; nothing was changed: say with --accept-loss SHARD which one is to be made anew" in err
    assert "`rowloom recover --accept-loss 1`" in err


def test_recover_asked_which_shard_is_lost_where_one_only_stood_still(cli, ads):
    pid = cli.json("status")["shards"][1]["pid"]
    stop(pid)
    try:
        _, err = cli.run("recover", code=3)
    finally:
        os.kill(pid, signal.SIGCONT)
    assert "is stopped; nothing is known to be lost, so nothing was done" in err
    assert f"`kill -CONT {pid}`" in err
    assert "--accept-loss" not in err


def test_a_storage_that_cannot_be_written_was_said_with_the_name_of_a_class(cli):
    (cli.folder / "file.txt").write_text("")
    cli.write("storage: file.txt/x\n")
    _, err = cli.run("up", code=1)
    assert err == (
        f"rowloom: cluster 'default' was not started: storage: {cli.folder}/file.txt/x cannot be made: "
        f"{cli.folder}/file.txt is a file, and a folder is wanted; move that file away; or another `storage:`\n"
    )
    file = storage.StateFile(f"{cli.folder}/file.txt")  # as the coordinator has it, wherever it runs
    with pytest.raises(
        NotStored, match=r"/layout\.json cannot be written: .*/file\.txt is a file, and a folder"
    ):
        file.commit(ClusterState("x"))


def test_only_errors_that_are_not_ours_are_told_with_their_class():
    assert in_words(NoAnswer("shard 1 does not answer")) == "shard 1 does not answer"
    assert in_words(TableNotFound("no table 'x'")) == "no table 'x'"
    assert in_words(KeyError("x")) == "KeyError: 'x'"
    assert in_words(OSError(errno.ENOSPC, "No space left on device", "/x")) == "/x: No space left on device"
    assert in_words(OSError(errno.ENOSPC, "No space left on device")) == "No space left on device"
    assert in_words(OSError("odd")) == "OSError: odd"


def test_one_is_not_counted_as_several():
    assert [counted(n, "shard") for n in (0, 1, 2)] == ["0 shards", "1 shard", "2 shards"]


def test_a_down_that_could_not_clear_its_storage_did_not_say_that_the_cluster_has_ended(cli, monkeypatch):
    said = "storage /full/layout.json cannot be removed: Read-only file system"

    def read_only(_):
        raise Unavailable(said)

    cli.write("name: ads\n")
    cli.run("up")
    with monkeypatch.context() as patch:
        patch.setattr(storage.StateFile, "clear", read_only)
        _, err = cli.run("down", code=1)
    assert err == (
        f"rowloom: 'ads' was ended, but what it has left is not: {said}; mend that, then `rowloom down --name ads` "
        "again, or with --forget, which leaves it there\n"
    )
    assert cli.json("list")["clusters"][0]["state"] == "ended"
    cli.run("down")


def test_a_full_storage_was_said_with_the_name_of_a_file_of_a_log_and_nothing_to_do(cli, monkeypatch):
    full, roomy = (SimpleNamespace(f_bavail=n, f_frsize=4096, f_blocks=10**6) for n in (1, 10**6))
    with monkeypatch.context() as patch:

        def failed(*_):  # there was room before it began
            patch.setattr(local_clusters.os, "statvfs", lambda path: full if "kept" in str(path) else roomy)
            raise Unavailable("the log failed")

        patch.setattr(local_clusters, "_start", failed)
        (cli.folder / "kept").mkdir()
        cli.write("storage: kept\n")
        _, err = cli.run("up", code=1)
        # One that says so itself was followed by the same once more.
        record = Record("x", "local", "", storage=f"{cli.folder}/kept")
        assert local_clusters._full_storage(record, os.strerror(errno.ENOSPC)).startswith(". Make room there")
    assert (
        f"the log failed. The disk of its storage, {cli.folder}/kept, is full: make room there, or say" in err
    )


def test_a_watch_of_a_cluster_whose_coordinator_ended_said_only_that_a_connection_was_refused(cli, ads):
    command = [sys.executable, "-m", "rowloom.deploy.cli", "status", "--watch", "--json"]
    watching = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert watching.stdout is not None
    assert watching.stdout.readline()
    os.kill(cli.directory.get("ads").pid, signal.SIGKILL)
    _, err = watching.communicate(timeout=50)
    assert watching.returncode == 5
    assert "the coordinator of cluster 'ads' has ended; its 2 shards serve pulls and pushes" in err


def test_a_call_whose_answer_was_lost_did_not_say_what_tells_whether_it_was_done(cli, ads, monkeypatch):
    def lost(*_, **__):
        raise NoAnswer("127.0.0.1:9 did not answer: unavailable")

    monkeypatch.setattr(Remote, "set_lr", lost)
    _, err = cli.run("set-lr", "users", "1", code=5)
    assert err.endswith("unavailable. Whether it was done is not known: `rowloom status` tells\n")


def test_snapshots_that_can_never_be_taken_were_tried_for_ever(cli, ads):
    assert "a snapshot needs `storage:`" in cli.run("snapshot", "--every", "1s", code=1)[1]


def test_a_cluster_that_is_not_known_did_not_say_how_to_start_one(cli):
    cli.write("name: ads\n")
    _, err = cli.run("apply", code=4)
    assert err == (
        f"rowloom: no cluster 'ads' is known on this machine (known in {cli.directory.home}: none): "
        "`rowloom up` starts one; or "
        "give --address\n"
    )


def test_a_name_longer_than_a_file_may_be_called_was_said_to_make_the_folder_unusable(cli):
    _, err = cli.run("status", "--name", "x" * 5000, code=4)
    assert f"no cluster '{'x' * 5000}' is known on this machine" in err


def test_who_ends_a_cluster_that_is_not_known_was_told_how_to_start_one(cli):
    _, err = cli.run("down", "--name", "nosuch", code=4)
    assert err == (
        f"rowloom: no cluster 'nosuch' is known on this machine (known in {cli.directory.home}: none): "
        "there is nothing to end "
        "here; --address ends one of another machine\n"
    )
    assert "there is nothing to end here" in cli.run("down", code=4)[1]


def test_home_before_the_command_was_no_such_option(cli, monkeypatch, tmp_path):
    monkeypatch.setenv("ROWLOOM_HOME", str(cli.folder / "home"))  # and as it was afterwards
    (tmp_path / "a_file").write_text("")
    for command in (
        ["--home", str(tmp_path / "a_file"), "list"],
        ["list", "--home", str(tmp_path / "a_file")],
    ):
        _, err, code = cli.attempt(*command)
        assert (code, "a_file" in err) == (2, True), err


def test_up_of_a_name_that_is_not_known_advised_up(cli):
    _, err = cli.run("up", "--name", "mem", code=4)
    assert err == (
        f"rowloom: no cluster 'mem' is known on this machine (known in {cli.directory.home}: none): "
        "`rowloom up FILE` starts it, "
        "with FILE its deploy config\n"
    )


def test_a_package_that_is_missing_is_named_with_how_to_install_it(monkeypatch, capsys):
    def lacks():
        raise ModuleNotFoundError(
            "a Parquet file needs pyarrow: pip install 'rowloom[parquet]'", name="pyarrow"
        )

    monkeypatch.setattr(entry, "app", lacks)
    with pytest.raises(SystemExit, match="2"):
        entry._run()
    assert (
        capsys.readouterr().err == "rowloom: a Parquet file needs pyarrow: pip install 'rowloom[parquet]'\n"
    )


def test_the_help_cut_what_commands_do_in_the_middle(cli, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    out, _ = cli.run("--help")
    commands = out.partition("Commands:\n")[2].splitlines()
    assert len(commands) > 25
    assert [line for line in commands if "..." in line or not line.endswith(".") or len(line) > 80] == []


def test_the_help_of_the_demo_did_not_say_which_launchers_there_are(cli):
    from rowloom.deploy.demo.demo_cluster import LAUNCHERS_OF_DEMO

    out, _ = cli.run("demo", "--help")
    (choices,) = [line.split()[1] for line in out.splitlines() if line.strip().startswith("--launcher")]
    assert sorted(choices.strip("<>").split("|")) == sorted(LAUNCHERS_OF_DEMO)
