"""Clusters that are down and whose rows are kept, as the command line has them; and storage that another home uses."""

import dataclasses
import json
import os
import shutil

import numpy as np
import pytest
from killing import kill_all
from waiting import until

from rowloom.client import connect
from rowloom.deploy.config.config import load
from rowloom.deploy.control.state import ClusterState
from rowloom.deploy.operate.directory import Record
from rowloom.deploy.operate.left import shards_at_start
from rowloom.deploy.operate.remote import Remote
from rowloom.deploy.storage import StateFile
from rowloom.proto import rowloom_pb2 as pb
from rowloom.proto.layout import Layout

ADS = """
name: ads
shards: 2
storage: kept
tables:
  - {name: users, num_embeddings: 1000, dim: 4, optimizer: {sgd: {lr: 1.0}}, initializer: zeros}
"""
IDS = np.arange(100)


def automatic(cli, count):
    """Write the first snapshots of the state file as if nobody had asked for them."""
    state = cli.folder / "kept" / "layout.json"
    content = json.loads(state.read_text())
    content.pop("digest", None)  # one of before has none
    for one in content["snapshots"][:count]:
        one["automatic"] = True
    state.write_text(json.dumps(content))


@pytest.fixture
def kept(cli):
    """A cluster that was pushed once and is down; its rows are kept. Returns the folder with them."""
    cli.write(ADS)
    with connect(cli.json("up")["address"]) as client:
        client.table("users").push(IDS, np.ones((100, 4), np.float32))
    assert cli.json("down", "--keep") == {
        "name": "ads",
        "down": True,
        "kept": True,
        "removed_snapshots": [],
        "removed_old_logs": [],
        "not_removed": None,
        "not_kept": [],
    }
    return cli.folder / "kept"


def test_the_question_before_rows_go_did_not_say_that_logs_can_keep_them(cli, monkeypatch):
    cli.write(ADS)
    with connect(cli.json("up")["address"]) as client:
        client.table("users").push(IDS, np.ones((100, 4), np.float32))
    asked: list[str] = []
    with monkeypatch.context() as patch:
        patch.setattr("rowloom.deploy.cli_options.can_ask", lambda: True)
        patch.setattr("rowloom.deploy.cli_options.agreed", lambda question: asked.append(question) or False)
        cli.run("down", code=1)
    assert asked == [
        "'ads' holds 100 rows in 1 table, and they are lost with it. `rowloom down --keep` leaves them in its logs; "
        "`rowloom export TABLE FILE` keeps rows."
    ]
    assert (
        "`rowloom down --keep` too, and leaves its rows in its logs" in cli.run("down", "--forget", code=2)[1]
    )


def test_a_script_took_back_what_pulls_had_shown_by_a_down_that_keeps_while_a_log_had_failed(
    cli, monkeypatch
):
    cli.write(ADS)
    cli.run("up")
    status = Remote.status

    def failed(self: Remote) -> pb.StatusReply:
        said = status(self)
        said.shards[1].health = "pulls only"
        return said

    monkeypatch.setattr(Remote, "status", failed)
    said = cli.run("down", "--keep", code=2)[1]
    assert "pushed since the log of shard 1 had failed is not in it" in said
    assert "Add --yes if that is meant; nothing was changed" in said
    assert cli.json("down", "--keep", "--yes")["not_kept"] == [1]


def test_down_of_a_kept_cluster_whose_record_was_damaged_left_its_logs_and_forgot_them(cli, kept):
    record = cli.folder / "home/clusters/ads.json"
    record.write_text("{")
    _, err, code = cli.attempt("down", "--name", "ads")
    assert code == 2
    assert "ads.json.damaged" in err
    assert f"of logs in {kept}/logs/" in err
    assert "Add --yes if that is meant" in err
    record.write_text("[")  # that, too, is set aside, beside the other
    out, err = cli.run("down", "--name", "ads", "--yes")
    assert "ads.json.damaged-2" in err
    assert f"the rows that were kept in {kept} are removed" in out
    assert list(kept.iterdir()) == []


@pytest.mark.slow
def test_the_start_of_a_cluster_that_was_scaled_told_the_number_of_shards_of_its_old_config(cli, kept):
    cli.run("up", "--name", "ads")
    cli.run("scale", "3")
    cli.run("down", "--keep")
    assert shards_at_start(load(cli.folder / "deploy.yaml")) == 3
    err = cli.run("up", "--name", "ads")[1]
    assert "2 shards" not in err
    out = cli.run("down", "--yes")[0]  # how many was said only of one in memory
    assert f"ads is down; it had 100 rows in 1 table, and its rows in {kept} are removed" in out
    assert shards_at_start(load(cli.folder / "deploy.yaml")) == 2  # there is nothing to go on from


def rows(address: str) -> np.ndarray:
    with connect(address) as client:
        return client.table("users").pull(IDS)


def test_of_a_cluster_that_was_kept_nothing_was_known_any_more(cli, kept):
    (one,) = cli.json("list")["clusters"]
    assert (one["name"], one["state"], one["storage"], one["address"]) == ("ads", "kept", str(kept), None)
    assert str(kept) in cli.run("list")[0]
    _, err = cli.run("status", code=5)
    assert f"cluster 'ads' is down, and its rows are kept in {kept}: `rowloom up --name ads`" in err
    assert cli.json("snapshots") == {
        "url": f"{kept}/snapshots",
        "snapshots": [],
    }  # it was asked, and does not answer
    assert cli.json("down", "--keep")["kept"]  # again, with nothing to end
    assert cli.json("list")["clusters"][0]["state"] == "kept"
    # In a script it once removed them, and said "ads is down".
    _, err = cli.run("down", "--name", "ads", code=2)
    # It said that they were lost now, and that nothing was changed.
    (logs,) = (kept / "logs").iterdir()
    assert "'ads' is down; `rowloom down` would remove " in err
    assert (
        f" of logs in {logs}, and the rows of 'ads' with them. `rowloom up --name ads` goes on from them. "
        in err
    )
    assert err.endswith("Add --yes if that is meant; nothing was changed\n")
    assert cli.json("list")["clusters"][0]["state"] == "kept"
    out, _ = cli.run("down", "--name", "ads", "--yes")
    assert (
        out == f"ads is down; the rows that were kept in {kept} are removed\n"
    )  # there are no snapshots that stay
    assert list(kept.iterdir()) == []
    assert cli.json("list") == {"clusters": []}


def test_the_rows_of_a_cluster_that_never_had_one_were_said_to_be_removed(cli):
    cli.write(ADS)
    cli.run("up")
    out = cli.run("down")[0]
    assert out == f"ads is down; it had no rows, and its logs in {cli.folder / 'kept'} are removed\n"


@pytest.mark.slow
def test_a_killed_cluster_began_empty_in_another_storage_and_its_rows_can_go_on_elsewhere(cli, kept):
    cli.run("up")
    cli.run("snapshot")
    kill_all(cli.directory, "ads")
    for kill_was_an_end in (True, False):
        if not kill_was_an_end:
            cli.run("down", "--keep")
        cli.write(ADS.replace("storage: kept", "storage: other"))
        _, err, code = cli.attempt("up")
        assert code == 1
        where = "in logs" if kill_was_an_end else "kept"
        assert f"the rows of cluster 'ads' are {where} in {kept}, and it would be started with storage" in err
        assert f"`cp -a {kept} FOLDER`, `rowloom down --forget --name ads`, then `rowloom up` with" in err
        assert not (cli.folder / "other").exists()
    shutil.copytree(kept, cli.folder / "other")
    cli.run("down", "--forget", "--name", "ads")
    before = {path: path.read_bytes() for path in kept.rglob("*") if path.is_file()}
    np.testing.assert_array_equal(rows(cli.json("up")["address"]), -1.0)
    listed = cli.json("snapshots")["snapshots"]
    assert [one["url"].startswith(f"{cli.folder}/other/snapshots/") for one in listed] == [True]
    cli.run("snapshot", "--full", "--keep", "1")  # the other one goes, of this storage
    cli.run("down", "--yes")
    assert {path: path.read_bytes() for path in kept.rglob("*") if path.is_file()} == before


def test_a_killed_cluster_was_forgotten_with_its_rows_by_an_up_with_another_launcher(cli, kept):
    cli.run("up")
    kill_all(cli.directory, "ads")
    record = cli.directory.get("ads")
    cli.directory.put(
        dataclasses.replace(record, launcher="ray")
    )  # as if it had been on a Ray that has ended
    cli.write(ADS.replace("storage: kept", "storage: other"))
    assert f"the rows of cluster 'ads' are in logs in {kept}" in cli.run("up", code=1)[1]
    assert cli.directory.get("ads").storage == str(kept)
    cli.directory.put(record)


def test_the_rows_of_a_killed_cluster_that_could_go_on_were_removed_by_a_script_unasked(cli, kept):
    cli.run("up")
    kill_all(cli.directory, "ads")
    _, err = cli.run("down", code=2)
    assert "'ads' has ended; `rowloom down` would remove " in err
    assert f" of logs in {kept}/logs/" in err
    assert "`rowloom up --name ads` goes on from them, `rowloom down --keep` leaves them. Add --yes" in err
    assert (kept / "logs").exists()
    assert f"ads is down; its rows in {kept} are removed" in cli.run("down", "--yes")[0]
    assert list(kept.iterdir()) == []


def test_a_cluster_that_was_kept_goes_on_by_its_name_from_any_folder(cli, kept, tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    again = cli.json("up", "--name", "ads")
    assert (again["started"], again["shards"], again["config"]) == (True, 2, None)
    np.testing.assert_array_equal(rows(again["address"]), np.full((100, 4), -1, np.float32))
    assert "ads runs already: 2 shards" in cli.run("up", "--name", "ads")[0]


def test_a_cluster_that_was_kept_goes_on_with_its_config(cli, kept):
    np.testing.assert_array_equal(rows(cli.json("up")["address"]), np.full((100, 4), -1, np.float32))
    assert cli.json("list")["clusters"][0]["state"] == "healthy"


@pytest.mark.slow
def test_the_config_of_a_cluster_that_went_on_by_its_name_was_refused_for_its_relative_storage(cli, kept):
    cli.run("up", "--name", "ads")
    assert cli.json("plan")["changes"] == []
    assert not cli.json("up")["started"]
    cli.write(ADS.replace("shards: 2", "shards: 3"))
    assert [change["path"] for change in cli.json("apply")["changes"]] == ["shards"]
    assert cli.json("status")["healthy"]


@pytest.mark.slow
def test_a_cluster_that_went_on_was_said_to_have_the_shards_of_an_edited_file(cli, kept):
    cli.write(ADS.replace("shards: 2", "shards: 3"))
    out, err = cli.run("up")
    assert "ads is up: 2 shards" in out
    assert "shards: 2 run, deploy.yaml says 3; `rowloom apply deploy.yaml` changes it" in err


def test_down_of_a_cluster_that_was_kept_asks(cli, kept, monkeypatch):
    asked: list[str] = []
    with monkeypatch.context() as patch:
        patch.setattr("rowloom.deploy.cli_options.can_ask", lambda: True)
        patch.setattr("rowloom.deploy.cli_options.agreed", lambda question: asked.append(question) or False)
        cli.run("down", code=1)
    assert "'ads' is down; `rowloom down` would remove " in asked[0]
    assert f" of logs in {kept}/logs/" in asked[0]
    assert cli.json("list")["clusters"][0]["state"] == "kept"


def test_a_command_without_a_name_means_what_runs_and_not_what_is_kept(cli, kept):
    cli.write("name: feed\n")
    cli.run("up")
    assert cli.json("status")["name"] == "feed"
    cli.run("down")
    assert cli.directory.names() == ["ads"]


@pytest.mark.slow
def test_a_kept_cluster_was_forgotten_by_an_up_with_another_storage(cli, kept):
    cli.write(ADS.replace("storage: kept", "storage: other"))
    for command in (["up"], ["up", "deploy.yaml"]):
        _, err = cli.run(*command, code=1)
        assert (
            f"the rows of cluster 'ads' are kept in {kept}, and it would be started with storage "
            f"{kept.with_name('other')}; "
            "nothing" in err
        )
    assert cli.json("list")["clusters"][0]["state"] == "kept"
    out, _ = cli.run("down", "--name", "ads", "--forget")
    assert f"of logs in {kept}" in out
    assert "stay: `rowloom up` with its config goes on from them" in out
    assert (kept / "logs").exists()
    assert cli.json("up")["started"]


def test_a_name_that_is_started_again_must_be_known_and_stands_beside_no_config(cli):
    assert "no cluster 'ads' is known" in cli.run("up", "--name", "ads", code=4)[1]
    cli.directory.put(Record("old", "ray", "", storage="/x", kept=True))
    assert "`rowloom up FILE` starts it" in cli.run("up", "--name", "old", code=1)[1]
    assert (
        "deploy.yaml says which cluster is meant" in cli.run("up", "deploy.yaml", "--name", "old", code=2)[1]
    )


@pytest.mark.parametrize("durability", ["memory", "process"])
def test_a_cluster_of_the_same_name_and_another_home_wrote_over_the_storage_of_one_that_runs(cli, durability):
    cli.write(ADS + f"durability: {durability}\n")
    address = cli.json("up")["address"]
    before = {path: path.read_bytes() for path in (cli.folder / "kept").rglob("*") if path.is_file()}
    _, err, code = cli.attempt("up", "--home", "other")
    if code != 2:  # it was started
        cli.run("down", "--home", "other")
    assert code == 2
    assert "is that of cluster 'ads', which runs and is not known here: it answers at 127.0.0.1:" in err
    assert f"--address {address}" in err
    assert {path: path.read_bytes() for path in before} == before
    assert cli.json("list", "--home", "other") == {"clusters": []}
    assert cli.json("status")["healthy"]


@pytest.mark.slow
def test_a_down_of_a_kept_cluster_that_goes_on_by_another_home_would_have_removed_its_logs(cli, kept):
    cli.run("up", "--home", "other")
    try:
        assert "which runs and is not known here" in cli.run("down", "--yes", code=2)[1]
        address = cli.json("status", "--home", "other")["coordinator"]
        np.testing.assert_array_equal(rows(address), np.full((100, 4), -1, np.float32))
    finally:
        cli.run("down", "--home", "other")
    assert cli.json("list")["clusters"][0]["state"] == "kept, storage away"  # what was kept is gone
    os.stat(cli.directory.home / "clusters/ads.json")


def test_kept_rows_whose_disk_is_not_mounted_were_passed_over_by_an_up_that_began_anew(cli, kept):
    moved = kept.rename(cli.folder / "unmounted")
    _, err = cli.run("up", code=1)
    assert err.startswith(
        f"rowloom: the rows of 'ads' are in logs in {kept}, and there are none now: is it mounted? Nothing was started."
    )
    assert "`rowloom down --name ads` clears it" in err
    assert not kept.exists()
    back = "is it mounted? With its rows there again, `rowloom up --name ads` goes on; if they are gone for good, `rowl"
    assert back in cli.run("status", code=5)[1]  # it named only the way that forgets it
    assert cli.json("list")["clusters"][0]["state"] == "kept, storage away"  # as of one that is gone: "ended"
    assert "is it mounted? Nothing was ended" in cli.run("down", "--keep", code=1)[1]
    moved.rename(kept)
    np.testing.assert_array_equal(rows(cli.json("up")["address"]), -1.0)
    kill_all(cli.directory, "ads")
    kept.rename(moved)
    _, err = cli.run("status", code=5)  # it said that the rows are lost
    assert "'ads' ended by itself; the rows of 'ads' are in logs in" in err
    assert "is it mounted? Nothing was started" in cli.run("up", code=1)[1]
    assert "is it mounted? Nothing was ended" in cli.run("down", "--keep", code=1)[1]
    cli.run("down", "--yes")
    assert (cli.json("up")["started"], cli.json("tables")["tables"][0]["rows"]) == (True, 0)


@pytest.mark.parametrize("durability", ["process", "memory"])
def test_snapshots_said_that_there_are_none_where_the_storage_is_away(cli, durability):
    cli.write(f"{ADS}durability: {durability}\n")
    cli.run("up")
    taken, kept = cli.json("snapshot")["id"], cli.folder / "kept"
    moved = kept.rename(cli.folder / "unmounted")
    assert "the storage of 'ads' is not where it was" in cli.run("snapshots", code=1)[1]
    moved.rename(kept)
    if durability == "process":
        cli.run("down", "--keep")
    else:
        kill_all(cli.directory, "ads")
    assert [one["id"] for one in cli.json("snapshots")["snapshots"]] == [taken]
    kept.rename(moved)
    _, err = cli.run("snapshots", code=1)
    assert (
        f"is it mounted? What it has there is not known before that is back; `rowloom snapshots {kept}` l"
        in err
    )
    kept.mkdir()
    StateFile(str(kept)).commit(ClusterState("ads", layout=Layout("ads-2", 1, ())))
    assert "has the layout of another cluster now, ads-2" in cli.run("snapshots", code=1)[1]
    assert cli.json("snapshots", str(kept))["snapshots"] == []
    assert [one["id"] for one in cli.json("snapshots", str(moved))["snapshots"]] == [taken]
    shutil.rmtree(kept)
    moved.rename(kept)
    cli.run("down", "--yes")


def test_a_down_that_keeps_promised_rows_of_a_killed_cluster_that_were_in_memory_only(cli):
    cli.write(ADS.replace("storage: kept\n", "durability: memory\n"))
    cli.run("up")
    kill_all(cli.directory, "ads")
    assert (
        "rows of this cluster are in memory only, so none can be kept" in cli.run("down", "--keep", code=1)[1]
    )
    cli.run("down")


@pytest.mark.slow
def test_advice_to_end_the_cluster_of_a_snapshot_that_keeps_its_logs_short_led_to_the_loss_of_both(cli):
    cli.write(ADS)
    with connect(cli.json("up")["address"]) as client:
        client.table("users").push(IDS, np.ones((100, 4), np.float32))
    one = cli.json("snapshot")
    cli.run("down", "--keep")
    automatic(cli, 1)
    elsewhere = cli.folder / "elsewhere.yaml"
    elsewhere.write_text(ADS.replace("name: ads", "name: again").replace("storage: kept", "storage: other"))

    def refused() -> str:
        _, err = cli.run("restore", one["url"], "deploy.yaml", code=1)
        assert "another `name` and `storage`" in err
        return err

    assert (
        f"1 snapshot that only keeps its logs short ({one['id']}): none of them can be restored" in refused()
    )
    cli.run("up")
    assert "`rowloom down` would remove this snapshot too" in refused()
    out, _ = cli.run("snapshots")
    assert f"{one['bytes']:,} bytes  2 shards  *\n* only keeps the logs short" in out
    assert cli.json("restore", one["url"], str(elsewhere))["rows"] == 100
    cli.run("down", "--name", "again")
    out, _ = cli.run("down", "--name", "ads")
    assert f"are removed, 1 snapshot that only keeps its logs short ({one['id']}) too" in out
    assert cli.json("snapshots", "kept")["snapshots"] == []


def test_a_snapshot_that_another_one_needs_stays_although_it_only_kept_logs_short(cli):
    cli.write(ADS)
    cli.run("up")
    first, second = cli.json("snapshot"), cli.json("snapshot")
    assert second["parent"] == first["id"]
    cli.run("down", "--keep")
    automatic(cli, 1)
    assert [one["goes_with_logs"] for one in cli.json("snapshots")["snapshots"]] == [False, False]
    automatic(cli, 2)
    assert cli.json("down", "--yes")["removed_snapshots"] == [first["id"], second["id"]]


@pytest.mark.slow
def test_a_down_that_keeps_did_not_say_that_a_damaged_log_cannot_be_read(cli):
    cli.write(ADS)
    with connect(cli.json("up")["address"]) as client:
        for _ in range(3):
            client.table("users").push(IDS, np.ones((100, 4), np.float32))
    cli.run("down", "--keep")
    (log,) = cli.folder.glob("kept/logs/*/epoch-1/shard-1/wal-0000000001.log")
    good = log.read_bytes()
    at = good.index(np.ones(4, np.float32).tobytes())
    log.write_bytes(good[:at] + bytes(8) + good[at + 8 :])
    cli.attempt("up")

    def healths() -> list[str]:
        return [shard["health"] for shard in json.loads(cli.attempt("status", "--json")[0])["shards"]]

    until(lambda: healths() == ["serving", "lost"])
    out, _ = cli.run("down", "--keep")
    assert "; but shard 1 cannot be read from the log as that is: `rowloom logs 1` says why" in out
    log.write_bytes(good)
    assert (rows(cli.json("up")["address"]) == -3).all()  # put back, nothing is lost


@pytest.mark.parametrize("options", [[], ["--yes"]])
def test_what_a_script_ended_was_not_said(cli, options):
    cli.write(ADS.replace("storage: kept", "durability: memory"))
    with connect(cli.json("up")["address"]) as client:
        client.table("users").push(IDS, np.ones((100, 4), np.float32))
    out, _ = cli.run("down", *options)
    assert out == "ads is down; it had 100 rows in 1 table, which are gone with it\n"


@pytest.mark.slow
def test_a_restore_without_a_config_did_not_say_that_its_rows_are_in_memory_only(cli):
    cli.write(ADS)
    cli.run("up")
    one = cli.json("snapshot")
    out, _ = cli.run("down")
    assert "; 1 snapshot stays in " in out
    (cli.folder / "deploy.yaml").unlink()
    _, err = cli.run("restore", one["url"])
    assert "durability memory: a shard loses its rows with its process; `storage: FOLDER`" in err
    cli.run("down")
    cli.write(ADS + "durability: memory\n")
    out, err = cli.run("up")
    assert "`durability: process` keeps them in its log" in err  # it asked for the storage that it has
    with connect(cli.json("status")["coordinator"]) as client:
        client.table("users").push(IDS, np.ones((100, 4), np.float32))
    out, _ = cli.run("down")
    assert "it had 100 rows in 1 table, which are gone with it; 1 snapshot stays in " in out


def test_a_down_without_its_storage_said_that_its_rows_are_gone_and_up_had_them_all_again(cli, kept):
    cli.run("up")
    moved = kept.rename(cli.folder / "unmounted")
    problems = cli.json("plan")["problems"]  # there were none
    assert [one["name"] for one in problems if "is not where it was" in one["found"]] == ["storage"]
    out, _ = cli.run("down")
    assert out.startswith(
        f"ads is down; it had 100 rows in 1 table; its logs, with its rows, are not in {kept}, so they could not be "
        "removed: was it moved, or is it not mounted?"
    )
    moved.rename(kept)
    cli.write(ADS.replace("shards: 2", "shards: 4"))
    assert "`rowloom up` would start it: 2 shards" in cli.run("plan")[0]  # it said 4
    cli.write(ADS)
    np.testing.assert_array_equal(rows(cli.json("up")["address"]), -1.0)
    kept.rename(moved)
    assert cli.json("down")["not_removed"] == str(kept)
