"""Commands that look at clusters and tables, and change them a little: what they print, and how they end."""

import dataclasses
import json
import os
import re
import signal
import socket
import subprocess
import sys

import numpy as np
import pytest
from command_line import interruptible
from waiting import PATIENCE_S, until

from rowloom.client import TableSpec, connect
from rowloom.deploy import terminal
from rowloom.deploy.operate.directory import Record

IDS = np.arange(1000)
PUSHED = np.full((1000, 4), -0.05, np.float32)


def kill_shard(cli, address: str, index: int) -> None:
    """The process of a shard is killed; returns when the cluster says so."""
    status = "status", "--address", address, "--json"
    os.kill(cli.json(*status[:-1])["shards"][index]["pid"], signal.SIGKILL)
    until(lambda: json.loads(cli.attempt(*status)[0])["shards"][index]["health"] == "dead")


def test_tables_shows_each_table(cli, ads):
    state = cli.json("tables")
    assert state["name"] == "ads"
    (users,) = state["tables"]
    assert (users["name"], users["rows"], users["lr"], users["optimizer"]) == ("users", 1000, 0.05, "Adagrad")
    out, _ = cli.run("tables")
    assert out.splitlines()[0].split() == [
        "table",
        "ids",
        "row",
        "partition",
        "optimizer",
        "lr",
        "rows",
        "bytes",
        "step",
    ]


def test_a_learning_rate_is_set_and_told(cli, ads):
    assert cli.json("set-lr", "users", "0.5") == {"name": "ads", "table": "users", "before": 0.05, "lr": 0.5}
    assert cli.json("tables")["tables"][0]["lr"] == 0.5
    _, err = cli.run("set-lr", "user", "0.5", code=1)
    assert "no table 'user'; there are: users" in err
    _, err = cli.run("set-lr", "users", "nan", code=2)
    assert "lr must be finite, at least 0 and at most 3.4028235e+38" in err
    assert "got nan" in err
    cli.run("set-lr", "users", "fast", code=2)


def test_a_table_is_dropped_only_when_that_is_meant(cli, ads, monkeypatch):
    _, err = cli.run("drop", "users", code=2)
    assert "Dropping table 'users' of 'ads' loses its 1,000 rows. Add --yes if that is meant" in err
    monkeypatch.setattr("rowloom.deploy.cli_options.can_ask", lambda: True)
    monkeypatch.setattr("rowloom.deploy.cli_options.agreed", lambda question: False)
    _, err = cli.run("drop", "users", code=1)
    assert err == "rowloom: nothing was changed\n"
    assert len(cli.json("tables")["tables"]) == 1
    done = cli.json("drop", "users", "--yes")
    assert done == {"name": "ads", "table": "users", "rows": 1000, "dropped": True}
    assert cli.json("tables")["tables"] == []
    _, err = cli.run("drop", "users", "--yes", code=1)
    assert err == "rowloom: no table 'users'; there are: none\n"


def test_down_asks_on_a_terminal_and_says_what_is_lost(cli, ads, monkeypatch):
    asked: list[str] = []
    monkeypatch.setattr("rowloom.deploy.cli_options.can_ask", lambda: True)
    monkeypatch.setattr("rowloom.deploy.cli_options.agreed", lambda question: asked.append(question) or False)
    cli.run("down", code=1)
    assert "'ads' holds 1,000 rows in 1 table, and they are lost with it. `rowloom export" in asked[0]
    assert cli.json("status")["healthy"]
    cli.run("down", "--yes")
    assert len(asked) == 1


def test_a_cluster_that_runs_and_whose_record_was_damaged_was_forgotten_unasked(cli, ads):
    record = cli.directory.home / "clusters/ads.json"
    whole = record.read_text()
    record.write_text("{}")
    assert f"'ads' runs, its coordinator is {ads}" in cli.run("down", "--forget", "--name", "ads", code=2)[1]
    assert "it lacks name, launcher, address" in cli.run("status", "--name", "ads", code=1)[1]
    assert cli.json("down", "--forget", "--yes") == {"name": "ads", "down": False}
    assert cli.directory.names() == []
    assert record.with_name("ads.json.damaged").read_text() == "{}"
    record.write_text(whole)


def test_a_cluster_that_runs_was_forgotten_unasked_and_ran_on(cli, ads):
    _, err = cli.run("down", "--forget", code=2)
    assert err == (
        f"rowloom: 'ads' runs, its coordinator is {ads}, and holds 1,000 rows in 1 table. --forget ends nothing: it "
        "would run on, unknown to `rowloom list`. `rowloom down` ends it. "
        "Add --yes if that is meant; nothing was changed\n"
    )
    assert cli.directory.names() == ["ads"]
    known = cli.directory.get("ads")
    assert cli.json("down", "--forget", "--yes") == {"name": "ads", "down": False}
    assert cli.directory.names() == []
    cli.directory.put(known)
    for option in (["--keep"], ["--address", ads]):  # they were passed over
        assert f"{option[0]} has no meaning" in cli.run("down", "--forget", *option, code=2)[1]


@pytest.mark.parametrize(("answer", "meant"), [("y\n", True), ("YES\n", True), ("\n", False), ("", False)])
def test_only_a_yes_is_one(monkeypatch, answer, meant):
    import io

    monkeypatch.setattr(sys, "stdin", io.StringIO(answer))
    assert terminal.agreed("All rows are lost.") is meant


def test_every_cluster_that_is_known_is_listed_with_its_state(cli, ads):
    cli.directory.put(Record("gone", "local", "127.0.0.1:9", pid=os.getpid(), started=1))
    cli.directory.put(Record("half", "local", ""))
    cli.directory.put(Record("mute", "ray", "127.0.0.1:9", ray="127.0.0.1:9"))
    (cli.directory.home / "clusters/odd.json").write_text("{")
    cli.directory.put(Record("port", "ray", ads, ray="127.0.0.1:9"))
    states = {one["name"]: one["state"] for one in cli.json("list")["clusters"]}
    assert states == {
        "ads": "healthy",
        "gone": "ended",
        "half": "interrupted",
        "mute": "silent",
        "odd": "damaged",
        "port": "silent",
    }
    out, _ = cli.run("list")
    assert re.search(rf"ads +healthy +2 +local +{re.escape(ads)}", out)
    for name in ("gone", "half", "odd"):
        cli.run("down", "--name", name)
    for name in ("mute", "port"):
        cli.run("down", "--name", name, "--forget")
    assert cli.directory.names() == ["ads"]


@pytest.mark.slow
def test_a_cluster_whose_up_was_killed_was_listed_as_interrupted_while_it_serves(cli, ads):
    known = cli.directory.get("ads")
    cli.directory.put(dataclasses.replace(known, address=""))  # as it is until `up` has heard that it is up
    (listed,) = cli.json("list")["clusters"]
    assert (listed["state"], listed["address"], listed["shards"]) == ("healthy", ads, 2)
    ready = cli.directory.home / "clusters/ads/ready.json"
    told = ready.read_text()
    ready.write_text('{"starting": true}')
    assert cli.json("list")["clusters"][0]["state"] == "starting"
    _, err = cli.run("status", code=5)
    assert "is being started: its `rowloom up` was interrupted, and its coordinator, process" in err
    ready.write_text(told)
    assert cli.json("status")["healthy"]


def test_status_says_which_ray_did_not_answer_and_does_not_wait_for_it(cli, monkeypatch):
    from rowloom.deploy.launch.ray_session import answers

    monkeypatch.setattr(answers, "__defaults__", (0.2,))
    with socket.create_server(("127.0.0.1", 0)) as hanging:
        address = f"127.0.0.1:{hanging.getsockname()[1]}"
        monkeypatch.setenv("RAY_ADDRESS", address)
        cli.directory.put(Record("ads", "ray", "127.0.0.1:9", ray=address))
        _, err = cli.run("status", code=5)
        assert "cluster 'ads' at 127.0.0.1:9 does not answer" in err
        assert f"the Ray at {address} did not answer within" in err
        _, err = cli.run("status", "--name", "feed", code=4)
        assert f"the Ray at {address} did not answer within" in err
        cli.run("down", "--forget")


def test_nothing_known_is_an_empty_list_and_no_error(cli):
    assert cli.json("list") == {"clusters": []}
    out, _ = cli.run("list")
    assert out == f"no cluster is known here, in {cli.directory.home}: `rowloom up` starts one\n"


def test_import_and_export_find_a_coordinator_that_has_moved(cli, ads, monkeypatch):
    from rowloom.deploy.operate import local_clusters

    monkeypatch.setattr(local_clusters, "find_again", lambda record, directory: ads)
    record = cli.directory.get("ads")
    for command in (["export", "users", "users.npy"], ["import", "users.npy", "users"]):
        cli.directory.put(Record("ads", "local", "127.0.0.1:9", record.pid, record.started))
        assert cli.json(*command)["rows"] == 1000
        assert cli.directory.get("ads").address == ads


# ------------------------------------------------------------------------------------------------------- lost shards


def test_a_lost_shard_is_named_with_the_ways_out_by_whatever_needs_it(cli, ads):
    kill_shard(cli, ads, 1)
    np.save(cli.folder / "users.npy", PUSHED)
    commands = [["apply"], ["scale", "3"], ["tables"], ["status"], ["inspect", "users", "7"]]
    for command in [*commands, ["export", "users", "x.npy"], ["import", "users.npy", "users"]]:
        _, err = cli.run(*command, code=3)
        for words in ("shard 1 at 127.0.0.1:", "--partial", "recover --accept-loss 1", "all rows are lost"):
            assert words in err, command
    _, err = cli.run("plan", code=3)  # it changes nothing, so it says only who knows more
    assert err.endswith(" is dead; `rowloom status` says what can be done\n")
    assert cli.json("inspect", "users", "6")["shard"] == 0
    assert not (cli.folder / "x.npy").exists()


def test_an_export_does_not_replace_a_file_that_is_there(cli, ads):
    # Whoever named the wrong one lost it.
    kept = cli.folder / "users.npy"
    kept.write_text("dear")
    _, err = cli.run("export", "users", "users.npy", code=2)
    assert err == "rowloom: users.npy is there already; --overwrite replaces it\n"
    assert kept.read_text() == "dear"
    (cli.folder / "model.index").write_text("")
    cli.run("export", "users", "model", "--format", "tensorflow", code=2)
    assert cli.json("export", "users", "users.npy", "--overwrite")["rows"] == 1000
    assert len(np.load(kept)) == 1000


def test_an_export_may_have_the_trained_rows_only_and_go_to_a_url(cli, ads):
    with connect(ads) as client:
        table = client.create_table(TableSpec("open", dim=4))
        table.push([5, 2**40], np.ones((2, 4)))
    url = f"file://{cli.folder}/some.npy"
    out, _ = cli.run("export", "open", url, "--trained")
    assert f"2 rows of table open are in {url}; {url}.ids.npy belongs to it: keep both" in out
    assert np.load(cli.folder / "some.npy.ids.npy").tolist() == [5, 2**40]
    _, err = cli.run("export", "open", url, "--trained", code=2)
    assert f"{url} is there already; --overwrite replaces it" in err
    assert cli.json("import", url, "again", "--create")["rows"] == 2
    _, err = cli.run("export", "open", "x.npy", "--trained", "--ids", "ids.txt", code=2)
    assert "--trained and --ids both say which rows" in err


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (["import", "none.npy", "users"], "no file none.npy"),
        (["import", "none.npy", "users", "--format", "parquet"], "no file none.npy"),
        (
            ["import", "w.txt", "new", "--create", "--vocabulary", "none.txt"],
            "none.txt: No such file or directory",
        ),
        (["export", "users", "none/x.npy"], "no folder none to write x.npy into"),
        (["export", "users", "x.npy", "--ids", "none.npy"], "none.npy"),
    ],
)
def test_a_path_that_is_missing_is_one_line(cli, ads, command, words):
    _, err = cli.run(*command, code=2)
    assert words in err
    assert err.startswith("rowloom: ")
    assert len(err.splitlines()) == 1


def test_hints_of_import_and_export_are_options_and_not_python(cli, ads):
    (cli.folder / "words.txt").write_text("a 1 2 3 4\nb 1 2 3 4\n")
    np.save(cli.folder / "few.npy", PUSHED[:3])
    with connect(ads) as client:
        client.create_table(TableSpec("open", dim=4))
    for command, words, code in (
        (["export", "users", "users.xyz"], "say --format, one of", 2),
        (["export", "users", "users.vec"], "give --vocabulary (table 'users')", 1),
        (["export", "open", "open.npy"], "say which to export: --ids, or --trained for those that exist", 1),
        (["export", "user", "user.npy"], "no table 'user'; there are: open, users\n", 1),
        (
            ["import", "few.npy", "user"],
            "no table 'user'; there are: open, users; --create makes it of the file\n",
            1,
        ),
        (
            ["import", "few.npy", "users", "--create"],
            "already there; leave --create out to write rows into it",
            1,
        ),
        (["import", "few.npy", "users"], "say --first-id to fill a part of it", 1),
        (["import", "few.npy", "users", "--tensor", "x"], "leave --tensor out", 1),
        (["import", "words.txt", "users"], "give --vocabulary, or make the table with --create", 1),
        (["import", "words.txt", "users", "--format", "word2vec"], "try --format glove", 1),
    ):
        _, err = cli.run(*command, code=code)
        assert words in err, command


def test_what_is_left_of_a_table_is_exported_and_what_is_missing_is_said(cli, ads):
    kill_shard(cli, ads, 1)
    # It ended with 0, so that a script took a part of a table for all of it.
    # Of ids that nobody had trained it said that their rows were missing.
    out, err = cli.run("export", "users", "users.npy", "--partial", "--json", code=3)
    missing = "up to 500 trained rows are missing, of the ids that belong to shard 1, which does not serve"
    assert err == f"rowloom: users.npy is not the whole table, as --partial allows: {missing}\n"
    done = json.loads(out)
    assert (done["rows"], done["missing"]) == (500, {"1": 500})
    np.testing.assert_array_equal(np.load(cli.folder / "users.npy.ids.npy"), IDS[::2])
    np.testing.assert_allclose(np.load(cli.folder / "users.npy"), PUSHED[::2], rtol=1e-5)
    out, _ = cli.run("export", "users", "users.npy", "--partial", "--overwrite", code=3)
    assert out == "500 rows of table users are in users.npy; users.npy.ids.npy belongs to it: keep both\n"
    (cli.folder / "ids.txt").write_text("1\n3\n")
    _, err = cli.run("export", "users", "few.npy", "--partial", "--ids", "ids.txt", code=3)
    assert "not one row of table 'users' is on a shard that serves" in err


def test_trained_rows_of_shards_that_serve_are_exported_where_another_one_is_dead(cli, ads):
    # It was refused, with the advice to save what there is by `export --partial`: what had been typed.
    with connect(ads) as client:
        client.create_table(TableSpec("open", dim=4)).push(IDS[:10], PUSHED[:10])
        client.create_table(TableSpec("few", 1000, dim=4)).push(IDS[:10], PUSHED[:10])
    kill_shard(cli, ads, 1)
    _, err = cli.run("export", "open", "open.npy", "--partial", code=1)
    assert "--trained for those that exist" in err
    for table, many, number in (("few", "up to 500", 500), ("open", "all", None)):
        out, err = cli.run("export", table, f"{table}.npy", "--partial", "--trained", "--json", code=3)
        missing = f"{many} trained rows are missing, of the ids that belong to shard 1, which does not serve"
        assert err == f"rowloom: {table}.npy is not the whole table, as --partial allows: {missing}\n"
        done = json.loads(out)
        assert (done["rows"], done["missing"]) == (5, {"1": number})
        np.testing.assert_array_equal(np.load(cli.folder / f"{table}.npy.ids.npy"), IDS[:10:2])
    _, err = cli.run("export", "few", "few2.npy", "--trained", code=3)
    assert "nothing was written" in err


def test_a_lost_shard_is_made_anew_only_when_its_loss_is_accepted(cli, ads):
    _, err = cli.run("recover", "--accept-loss", "1", code=1)
    assert "shard 1 at 127.0.0.1:" in err
    assert "has its rows (serving): there is no loss to accept" in err
    _, err = cli.run("recover", "--accept-loss", "1", "--accept-loss", "2", code=2)
    assert "there is no shard 2: they are 0 to 1" in err
    kill_shard(cli, ads, 1)
    with connect(ads) as client:
        users = client.table("users")
        out, err = cli.run("recover", "--accept-loss", "1")
        assert "shard 1 was made anew: ALL ROWS THAT IT HELD ARE LOST" in err
        assert "shard 1 begins again at initial values; the other shards kept their rows" in out
        rows = users.pull(IDS)
        np.testing.assert_allclose(rows[::2], PUSHED[::2], rtol=1e-5)
        np.testing.assert_array_equal(rows[1::2], 0.0)
        users.push(IDS, np.ones((1000, 4), np.float32))
        trained = users.pull(IDS)
        assert (trained < rows).all()
        assert cli.json("status")["healthy"]
        cli.run("scale", "3")
        np.testing.assert_array_equal(users.pull(IDS), trained)
    log = (cli.directory.home / "clusters/ads/logs/coordinator.log").read_text()
    assert "shard 1 was made anew, as asked: the rows that it held are lost" in log


# ------------------------------------------------------------------------------------------------------- wrong use


def test_a_full_disk_is_one_clear_line(cli, ads):
    script = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096)); "
        "from rowloom.deploy.cli import main; main()"
    )
    for name in ("users.npy", "users.safetensors"):
        command = [sys.executable, "-c", script, "export", "users", name, "--json"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 2, done.stderr
        assert (
            done.stderr == f"rowloom: {name}: File too large\n"
        )  # not the file beside it that would become it
    assert [path.name for path in cli.folder.iterdir() if path.name.startswith("users")] == []


def test_what_is_no_file_is_one_clear_line(cli, ads):
    (cli.folder / "folder.npy").mkdir()
    (cli.folder / "text.npy").write_text("rows")
    for command, code in (
        (["export", "users", "folder.npy"], 2),
        (["export", "users", "nowhere/users.npy"], 2),
        (["export", "users", "users.xyz"], 2),
        (["export", "users", "users.npy", "--format", "xyz"], 2),
        (["import", "text.npy", "users", "--format", "xyz"], 2),
        (["import", "text.npy", "new", "--create", "--partition", "xyz"], 2),
        (["import", "text.npy", "users", "--freeze"], 2),
        (["export", "users", "users.npy", "--ids", "nothing.txt"], 2),
        (["export", "user", "users.npy"], 1),
        (["import", "nothing.npy", "users"], 2),
        (["import", "text.npy", "users"], 2),
        (["import", "folder.npy", "users"], 2),
        (["import", "text.npy", "users", "--vocabulary", "nothing.txt"], 2),
        (["import", "text.npy", "new", "--create", "--optimizer", "Adagrad(lr"], 2),
    ):
        out, err = cli.run(*command, "--json", code=code)
        assert out == ""
        assert err.startswith("rowloom: "), command
        assert err.count("\n") == 1, err


def test_an_error_of_ours_is_one_line_too_and_its_traceback_can_be_had(cli, monkeypatch):
    def broken(directory):
        raise RuntimeError("no")

    monkeypatch.setattr("rowloom.deploy.operate.listing.listed", broken)
    _, err = cli.run("list", code=1)
    assert err == "rowloom: internal error: RuntimeError: no; ROWLOOM_TRACEBACK=1 shows where\n"
    monkeypatch.setenv("ROWLOOM_TRACEBACK", "1")
    with pytest.raises(RuntimeError):
        cli.attempt("list")


def test_an_interrupted_command_ends_with_130(cli, ads):
    command = [
        sys.executable,
        "-m",
        "rowloom.deploy.cli",
        "status",
        "--watch",
        "--json",
        "--interval-s",
        "0.1",
    ]
    watching = interruptible(command)
    assert watching.stdout is not None
    assert watching.stdout.readline()
    watching.send_signal(signal.SIGINT)
    watching.communicate(timeout=PATIENCE_S)
    assert watching.returncode == 130


@pytest.mark.parametrize("command", ["import", "export"])
def test_the_formats_in_the_help_are_those_of_the_files(cli, command):
    from rowloom.client.files.formats import FORMATS

    out, _ = cli.run(command, "--help")
    assert ", ".join(FORMATS) in " ".join(out.split())


def test_a_damaged_record_is_named_and_gone_round(cli, ads):
    (cli.directory.home / "clusters/ads.json").write_text("{")
    for command in ("status", "tables"):
        _, err = cli.run(command, code=1)
        assert "clusters/ads.json" in err
        assert "`rowloom up` with its config moves that file aside and finds what runs" in err
    out, err = cli.run("up", "deploy.yaml")
    assert "ads.json.damaged" in err
    assert "ads runs already" in out
    (cli.directory.home / "clusters/ads.json").write_text("{")
    cli.run("down")
    assert cli.directory.names() == []
