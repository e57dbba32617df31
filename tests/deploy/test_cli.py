"""The command line as its users have it: a process, its output, its exit code."""

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from command_line import interruptible
from killing import kill_all
from waiting import PATIENCE_S, least_seconds, until

from rowloom.client import connect
from rowloom.deploy import cli as cli_module
from rowloom.deploy.launch.processes import is_running
from rowloom.deploy.operate.directory import Record
from rowloom.deploy.terminal import unless_soon

CONFIG = """
name: ads
shards: 2
tables:
  - {name: users, num_embeddings: 10_000, dim: 4, optimizer: {adagrad: {lr: 0.05}}, initializer: zeros}
"""


def test_an_empty_home_as_of_a_variable_that_is_not_set_was_taken_for_the_current_folder(cli):
    assert cli.attempt("list", "--home", "") == (
        "",
        'rowloom: --home must be a folder, got "": leave it out for ~/.rowloom, or give . for this folder\n',
        2,
    )


def test_a_cluster_from_up_to_down(cli):
    cli.write(CONFIG)
    up = cli.json("up", "deploy.yaml")
    assert (up["name"], up["shards"], up["launcher"], up["started"]) == ("ads", 2, "local", True)
    record = cli.directory.get("ads")

    out, _ = cli.run("up", "deploy.yaml")
    assert out.startswith("ads runs already: 2 shards")

    ids = np.arange(1000)
    with connect(up["address"]) as client:
        users = client.table("users")
        users.push(ids, np.ones((1000, 4), np.float32))
        trained = users.pull(ids)

        state = cli.json("status")
        assert state["healthy"]
        assert [(s["index"], s["rows"], s["health"], s["epoch"]) for s in state["shards"]] == [
            (0, 500, "serving", 1),
            (1, 500, "serving", 1),
        ]
        assert all(re.fullmatch(r"127\.0\.0\.1:\d+", s["address"]) for s in state["shards"])
        assert state["tables"][0]["rows"] == 1000
        out, _ = cli.run("status")
        assert "healthy" in out
        assert "users" in out

        changed = CONFIG.replace("shards: 2", "shards: 3").replace("0.05", "0.5")
        cli.write(changed.replace("dim: 4,", "dim: 4, partition: div,"))
        planned = cli.json("plan")
        assert {c["path"]: c["action"] for c in planned["changes"]} == {
            "shards": "scale",
            "tables.users.optimizer.lr": "set_lr",
            "tables.users.partition": "deal",
        }
        assert planned["memory"]["now_bytes"] > 500 * 32
        assert planned["memory"]["move"]["rows"] == 1000
        out, _ = cli.run("plan")
        assert "1,000 rows move, 39.1 KiB" in out
        _, err = cli.run("up", "deploy.yaml", code=1)
        assert err.startswith("rowloom: cluster 'ads' runs already, with another config; nothing was changed")
        assert "shards: 2 run, deploy.yaml says 3" in err

        assert cli.json("status")["config_hash"] == up["config_hash"]
        done = cli.json("apply")
        # It stayed that of the config before.
        assert cli.json("status")["config_hash"] == cli.json("up")["config_hash"] != up["config_hash"]
        # By its name, that is with the config of its start, it was refused from then on.
        assert cli.json("up", "--name", "ads")["shards"] == 3
        assert done["scaling"]["state"] == "done"
        assert done["scaling"]["rows"] == 1000
        assert done["scaling"]["tables"] == {"users": {"partition": "div", "hash_ids": False}}
        assert [shard["rows"] for shard in cli.json("status")["shards"]] == [1000, 0, 0]
        np.testing.assert_array_equal(users.pull(ids), trained)
        assert users.spec.partition == "div"
        assert cli.json("status")["tables"][0]["lr"] == 0.5
        assert cli.json("apply") == {"changes": [], "scaling": None}

        scaled = cli.json("scale", "1")
        assert (scaled["before"], scaled["shards"], scaled["rows"]) == (3, 1, 1000)
        assert scaled["pause_s"] > 0
        np.testing.assert_array_equal(users.pull(ids), trained)
        out, _ = cli.run("scale", "1")
        assert out == "there is 1 shard already\n"

        row = cli.json("inspect", "users", "7")
        assert (row["shard"], row["id"]) == (0, 7)
        assert row["row"] == pytest.approx(trained[7].tolist())

    assert cli.json("down") == {
        "name": "ads",
        "down": True,
        "kept": False,
        "removed_snapshots": [],
        "removed_old_logs": [],
        "not_removed": None,
        "not_kept": [],
    }
    assert not is_running(record.pid, record.started)
    _, err = cli.run("status", code=4)
    assert (
        err
        == f"rowloom: no cluster is known here, in {cli.directory.home}: `rowloom up` starts one; or give --address\n"
    )


def test_what_cannot_be_applied_changes_nothing(cli):
    cli.write(CONFIG)
    cli.run("up", "deploy.yaml")
    cli.write(CONFIG.replace("dim: 4", "dim: 8").replace("shards: 2", "shards: 3"))
    for command in ("plan", "apply"):
        _, err = cli.run(command, code=1)
        assert "tables.users.dim: 4 -> 8" in err
    assert len(cli.json("status")["shards"]) == 2
    _, err = cli.run("inspect", "user", "1", code=1)
    assert "user" in err
    assert "users" in err
    _, err = cli.run("inspect", "users", "10000", code=1)
    assert "10000" in err
    _, err = cli.run("scale", "0", code=2)
    assert err == "rowloom: shards must be in [1, 1024], got 0\n"


def test_what_cannot_be_meant_is_wrong_use_and_asks_no_cluster(cli):
    for command, words in (
        (["scale", "0"], "shards must be in [1, 1024], got 0"),
        (["scale", "2000"], "shards must be in [1, 1024], got 2000"),
        (["set-lr", "users", "--", "-1"], "lr must be finite, at least 0"),
        (["set-lr", "users", "nan"], "got nan"),
        (["export", "users", "users.xyz"], "say --format, one of: npy"),
        (["bench", "--against", "wrong"], "--against must be one of tensorflow, got 'wrong'"),
        (["demo", "--launcher", "wrong"], "launcher must be local or ray or embedded, got 'wrong'"),
    ):
        _, err = cli.run(*command, code=2)
        assert words in err, command


def test_a_number_below_zero_was_taken_for_an_option(cli):
    for command, words in (
        (["set-lr", "users", "-1"], "lr must be finite, at least 0 and at most 3.4028235e+38, which is what"),
        (["set-lr", "users", "-inf"], "got -inf (table 'users')"),
        (["set-lr", "users", "-.5"], "got -0.5 (table 'users')"),
        (["scale", "-3"], "shards must be in [1, 1024], got -3"),
        (["set-lr", "users", "-x"], "No such option"),
        # "Input should be a valid integer, unable to parse string as an integer", said pydantic.
        (["scale", "abc"], "rowloom: shards must be a whole number, as in `rowloom scale 3`, got 'abc'\n"),
        (["scale", "2.5"], "rowloom: shards must be a whole number, as in `rowloom scale 3`, got '2.5'\n"),
        (
            ["inspect", "users", "x"],
            "rowloom: an id must be a whole number, as in `rowloom inspect users 7`, got",
        ),
        (
            ["set-lr", "users", "fast"],
            "rowloom: RATE must be a number, as in `rowloom set-lr users 0.05`, got",
        ),
        (["set-lr", "users", "-1", "--jso"], "--jso"),
    ):
        _, err = cli.run(*command, code=2)
        assert words in err, command


def test_plan_promised_an_up_that_memory_refuses(cli):
    cli.write("shards: 1000\n")
    out, err = cli.run("plan", code=1)
    assert "`rowloom up` would start it: 1000 shards" in out
    assert re.search(r"no room for 1000 more shard servers, \d+ fit: .*; nothing was changed\n", err)
    out, _, _ = cli.attempt("plan", "--json")
    assert json.loads(out)["refused"]
    cli.write("shards: 1\n")
    cli.run("up")
    cli.write(CONFIG.replace("name: ads", "name: default").replace("shards: 2", "shards: 1000"))
    for command in ("plan", "apply"):  # apply made the table, and said that nothing was changed
        assert "no room for 999 more shard servers" in cli.run(command, code=1)[1]
    assert cli.json("tables")["tables"] == []
    cli.write(CONFIG.replace("name: ads", "name: default"))
    assert not cli.json("plan")["refused"]


def test_up_without_a_file_takes_the_deploy_yaml_that_lies_there_and_says_so(cli):
    # It started one shard without tables beside it.
    cli.write(CONFIG)
    out, _ = cli.run("up")
    assert out.startswith("ads is up: 2 shards (local, from ./deploy.yaml), coordinator")
    assert cli.json("up", "deploy.yaml")["config"] == "deploy.yaml"
    (cli.folder / "deploy.yaml").unlink()
    out, _ = cli.run("up")
    assert out.startswith("default is up: 1 shard (local, no ./deploy.yaml here)")


# Its coordinator may be up at any moment: this one is waited for until somebody interrupts that.
UP_THAT_WAITS = """
import sys, time
from rowloom.deploy import cli
from rowloom.deploy.operate import local_clusters

def wait(*_, **__):
    print("it waits", flush=True)
    time.sleep(1000)

local_clusters.wait_until_up = wait
sys.argv = ["rowloom", "up"]
cli.main()
"""


def test_an_interrupted_up_says_what_is_left(cli):
    cli.write(CONFIG)
    starting = interruptible([sys.executable, "-c", UP_THAT_WAITS])
    assert starting.stdout is not None
    assert starting.stdout.readline() == "it waits\n"
    assert cli.directory.names() == ["ads"]
    starting.send_signal(signal.SIGINT)
    out, err = starting.communicate(timeout=PATIENCE_S)
    assert (out, starting.returncode) == ("", 130)
    assert "rowloom: interrupted: what was started of 'ads' was ended, nothing is left\n" in err
    assert cli.directory.names() == []


def test_what_apply_makes_is_shown_in_words(cli):
    cli.write("name: ads\n")
    cli.run("up")
    cli.write(CONFIG.replace("shards: 2", "shards: 1"))
    _, err = cli.run("up", code=1)
    assert (
        "tables.users: none runs, deploy.yaml says a table of 10,000 ids, dim 4, optimizer {adagrad: {lr: 0.05"
        in err
    )
    out, _ = cli.run("apply")
    assert out.startswith("tables.users: a table of 10,000 ids, dim 4, optimizer {adagrad: {lr: 0.05")
    assert out.endswith("mod (create)\n")


def test_a_machine_without_room_refuses_at_once_and_says_how_many_shards_fit(cli):
    # 120 s passed, while a thousand processes were started that the machine could not hold.
    cli.run("up")

    def refused() -> None:
        _, err = cli.run("scale", "1024", code=1)
        assert re.search(r"no room for 1023 more shard servers, \d+ fit: .*; nothing was changed", err)

    assert least_seconds(refused, 20.0) < 20.0
    assert len(cli.json("status")["shards"]) == 1


def test_a_start_that_takes_long_said_nothing_where_nobody_watches(cli, monkeypatch):
    # The first one on a machine compiles, for up to 47 s.
    monkeypatch.setattr(cli_module, "SLOW_START_S", 0.0)
    _, err = cli.run("up")
    said = "rowloom: starting 1 shard of 'default': where nothing was compiled yet, this takes up to a minute, once\n"
    assert said in err
    assert cli.run("up", "--json")[1] == ""
    with unless_soon(PATIENCE_S, lambda: pytest.fail("it was soon"), quiet=False):
        pass


def test_a_host_of_another_machine_is_not_called_a_taken_port(cli):
    cli.write("host: 192.0.2.1\nsecurity: {insecure: true}\n")
    _, err = cli.run("up", code=1)
    assert "cannot listen on 192.0.2.1:0: 192.0.2.1 is no address of this machine" in err
    assert "taken" not in err


def test_a_wrong_config_is_refused_whole(cli):
    cli.write("nam: ads\nshards: 0\ntables: [{name: users, dims: 4}]\n")
    for command in (["up", "deploy.yaml"], ["plan"], ["apply"]):
        out, err = cli.run(*command, code=2)
        assert out == ""
        for words in ("nam: ", "did you mean 'name'?", "shards: must be at least 1, got 0", "tables[0].dims"):
            assert words in err
    assert cli.directory.names() == []


def test_plan_without_a_cluster_says_so_and_shows_the_memory_that_up_will_need(cli):
    cli.write(CONFIG)
    out, _ = cli.run("plan")
    assert "cluster 'ads' is not running; `rowloom up` would start it: 2 shards (local), tables: users" in out
    assert "nothing to change" not in out
    assert "unknown" not in out  # it was said of what is not there yet
    assert not cli.json("plan")["running"]
    need = cli.json("plan")["memory"]
    assert need["bound_bytes"] == 5000 * (4 * 8 + 20)
    assert need["now_bytes"] is None
    assert {c["path"]: (c["action"], c["old"]) for c in cli.json("plan")["changes"]} == {
        "shards": ("start", None),
        "tables.users": ("create", None),
    }


def test_a_shard_that_was_killed_makes_status_fail(cli):
    address = cli.json("up")["address"]
    children = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(cli.directory.get("default").pid)],
        capture_output=True,
        text=True,
        check=True,
    )
    os.kill(int(children.stdout), 9)
    status = "status", "--address", address, "--json"
    until(lambda: "is dead" in cli.attempt(*status)[1])
    out, err, code = cli.attempt(*status)
    assert re.match(
        r"rowloom: shard 0 at 127\.0\.0\.1:\d+ is dead\. (.|\n)*`rowloom recover --accept-loss 0 --address \S+`",
        err,
    )
    assert not json.loads(out)["healthy"]
    assert code == 3  # and no other command or failure ends so


def test_a_coordinator_that_was_killed_is_reported_and_cleared(cli):
    cli.run("up")
    record = cli.directory.get("default")
    os.kill(record.pid, 9)
    until(lambda: not is_running(record.pid, record.started))
    _, err = cli.run("status", code=5)
    assert "the coordinator of cluster 'default' has ended; its 1 shard serves pulls and pushes" in err
    listed = cli.json("list")["clusters"][0]
    assert (listed["state"], listed["shards"]) == ("no coordinator", 1)
    out, err = cli.run("up")
    assert (
        "its 1 shard serves pulls and pushes, and no row of theirs is lost: a new one takes them over" in err
    )
    assert "default has a new coordinator: 1 shard" in out  # it said "runs already"
    assert "default runs already: 1 shard" in cli.run("up")[0]
    assert cli.json("status")["healthy"]
    kill_all(cli.directory, "default")
    _, err = cli.run("status", code=5)
    assert "ended by itself, and its rows are lost: `rowloom down` clears it" in err
    cli.run("down")
    assert cli.json("up")["started"]


def test_names_choose_among_clusters_and_near_misses_are_named(cli):
    cli.write("name: ads\n")
    cli.run("up", "deploy.yaml")
    cli.write("name: feed\n")
    cli.run("up", "deploy.yaml")
    _, err = cli.run("status", code=4)
    assert err == "rowloom: several clusters are known here: say which with --name: ads, feed\n"
    assert cli.json("status", "--name", "feed")["name"] == "feed"
    _, err = cli.run("status", "--name", "adz", code=4)
    assert "no cluster 'adz' is known on this machine; did you mean 'ads'?" in err
    address = cli.directory.get("ads").address
    assert cli.json("status", "--address", address)["name"] == "ads"
    assert cli.json("down", "--address", address)["name"] == "ads"
    assert cli.directory.names() == ["feed"]


def test_a_cluster_whose_ray_is_gone_can_be_forgotten(cli):
    cli.directory.put(Record("gone", "ray", "127.0.0.1:9", ray="127.0.0.1:9"))
    _, err = cli.run("down", "--yes", code=1)
    assert "does not answer: try again when it does, or, if it is gone for good" in err
    assert cli.json("down", "--forget") == {"name": "gone", "down": False}
    assert cli.directory.names() == []


def test_an_address_where_nothing_answers_is_an_error(cli):
    _, err = cli.run("status", "--address", "127.0.0.1:9", code=5)
    assert err == (
        "rowloom: the coordinator at 127.0.0.1:9 does not answer: nothing listens there (connection refused). `rowloom "
        "list` shows the clusters that are known on this machine; where it was started, `rowloom status` says the "
        "address of its coordinator\n"
    )
    _, err = cli.run("down", "--address", "127.0.0.1:9", code=5)  # it said that rows are lost, and --yes
    assert err == (
        "rowloom: no cluster answers at 127.0.0.1:9: nothing listens there (connection refused). No cluster that is "
        "known here was there: `rowloom list` shows those. Nothing was ended\n"
    )
    cli.directory.put(Record("ads", "local", "127.0.0.1:9"))
    _, err = cli.run("status", "--address", "127.0.0.1:9", code=5)
    assert "Cluster 'ads', which is known here, was there: `rowloom status --name ads` says more" in err
    _, err = cli.run("down", "--address", "127.0.0.1:9", "--yes", code=5)
    assert "The coordinator of 'ads' was there: `rowloom down --name ads` ends what is left of it" in err
    assert cli.directory.names() == ["ads"]


def test_the_exit_codes_are_part_of_the_help(cli):
    out, _ = cli.run("--help")
    for code in (
        "0    done",
        "1    it failed",
        "2    wrong use",
        "3    a shard does not serve",
        "4    there is no such cluster",
        "5    the cluster does not answer",
    ):
        assert code in out


def test_the_version_is_printed(cli):
    out, _ = cli.run("--version")
    assert re.fullmatch(r"rowloom \d+\.\d+\.\d+\S*\n", out)


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (["up", "nothing.yaml"], "cannot read the deploy config 'nothing.yaml': No such file or directory"),
        (["plan", "."], "cannot read the deploy config '.': Is a directory"),
        (["up", "foo.yaml"], "storage: must be a folder or a URL such as"),
        *(
            (
                [*command, "--home", "file.txt"],
                "remembers clusters cannot be used: file.txt is a file; ",
            )
            for command in (["up"], ["status"], ["status", "--name", "x"], ["list"], ["down"])
        ),
    ],
)
def test_a_file_or_folder_that_cannot_be_used_is_one_clear_line(cli, command, words):
    cli.write("storage: foo://x\n")
    (cli.folder / "deploy.yaml").rename(cli.folder / "foo.yaml")
    (cli.folder / "file.txt").write_text("")
    out, err = cli.run(*command, code=2)
    assert out == ""
    assert words in err
    assert err.count("\n") == 1


def test_a_storage_that_cannot_be_written_is_one_clear_line_and_starts_nothing(cli):
    (cli.folder / "file.txt").write_text("")
    cli.write("storage: file.txt/x\n")
    _, err = cli.run("up", "deploy.yaml", code=1)
    assert f"storage: {cli.folder}/file.txt/x cannot be made" in err
    assert err.count("\n") == 1
    assert cli.directory.names() == []


def test_help_does_not_wait_for_ray_or_a_framework():
    script = (
        "import sys; from rowloom.deploy import cli; "
        "print([m for m in ('ray', 'torch', 'matplotlib', 'rich.progress') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.fixture
def short_folder():
    """The paths of Ray's sockets have a limit of 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True) as folder:
        yield folder


@pytest.mark.ray
@pytest.mark.slow
def test_on_ray_a_ray_of_our_own_comes_and_goes_with_the_cluster(cli, short_folder, monkeypatch):
    pytest.importorskip("ray")
    monkeypatch.setenv("RAY_TMPDIR", short_folder)
    monkeypatch.setenv("HOME", short_folder)
    cli.write(CONFIG + "launcher: ray\nray: {address: local}\n")
    cli.process("up", "deploy.yaml")
    # With a token there, a Ray that this user starts by hand asked for one, too, and refused `ray job submit`.
    assert not (Path(short_folder) / ".ray/auth_token").exists()
    own = json.loads((cli.directory.home / "ray.json").read_text())
    assert own["address"].startswith("127.0.0.")
    with connect(cli.directory.get("ads").address) as client:
        client.table("users").push([1, 2], np.ones((2, 4), np.float32))
    assert cli.json("scale", "3")["rows"] == 2
    cli.write(CONFIG.replace("shards: 2", "shards: 3") + "launcher: ray\nray: {address: local}\n")
    assert "runs already" in cli.process("up", "deploy.yaml")
    cli.process("down")
    assert not is_running(own["pid"], own["started"])
    assert session_of(own["pid"]) == []
    assert not list(cli.directory.home.glob("ray*n"))  # its record, its token


def session_of(leader: int) -> list[str]:
    """Processes of the session that one began, without those that only wait to be counted."""
    command = ["ps", "-o", "stat=,args=", "-s", str(leader)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return [line for line in done.stdout.splitlines() if not line.startswith("Z")]
