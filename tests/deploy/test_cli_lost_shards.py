"""The command line, and clients, of a cluster with a dead shard or one that stands still: who is blamed, how soon."""

import contextlib
import itertools
import json
import os
import re
import signal

import numpy as np
import pytest
from stopping import stop, until_stopped
from waiting import least_seconds, until

from rowloom.client import SGD, PushUnresolved, StateLost, TableSpec, connect
from rowloom.deploy.launch.processes import started
from rowloom.deploy.operate.directory import Record

IDS = np.arange(1000)
AT_ONCE_S = 10.0  # it was 15 s and more, each time, where something was waited for


def signalled(cli, what: signal.Signals) -> int:
    """Shard 1 gets a signal. Returns its pid."""
    pid = cli.json("status")["shards"][1]["pid"]
    os.kill(pid, what)
    return pid


def health(cli) -> str:
    return json.loads(cli.attempt("status", "--json")[0])["shards"][1]["health"]


@pytest.fixture
def dead(cli, ads):
    """As `ads`, with shard 1 killed."""
    signalled(cli, signal.SIGKILL)
    until(lambda: health(cli) == "dead")
    return ads


@pytest.fixture
def stopped(cli, ads):
    """As `ads`, with shard 1 standing still. Yields its pid; it goes on when the test ends."""
    pid = signalled(cli, signal.SIGSTOP)
    until_stopped(pid)
    yield pid
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGCONT)


def test_a_change_that_a_dead_shard_cannot_take_is_refused_at_once_and_the_shard_is_named(cli, dead):
    # After 15 s the healthy coordinator was said not to have answered.
    for command in (["set-lr", "users", "0.5"], ["drop", "users", "--yes"]):

        def refused(command=command) -> None:
            _, err = cli.run(*command, code=3)
            assert err.startswith("rowloom: shard 1 at 127.0.0.1:"), err
            assert "is dead; nothing was changed" in err
            assert "recover --accept-loss 1" in err
            assert "coordinator" not in err

        assert least_seconds(refused, AT_ONCE_S) < AT_ONCE_S
    with connect(dead) as client:
        assert client.table("users").entry.lr is None


def test_a_client_hears_at_once_that_its_change_is_recorded_and_which_dead_shard_has_not_taken_it(cli, dead):
    with connect(dead) as client:

        def told(change, what: str) -> None:
            with pytest.raises(StateLost) as told:
                change()
            assert f"{what} is recorded; shard 1 at 127.0.0.1:" in str(told.value)
            assert "it is dead, its process has ended" in str(told.value)

        names = (f"new-{k}" for k in itertools.count())

        def create() -> None:
            name = next(names)
            spec = TableSpec(name, 10, dim=1, optimizer=SGD())
            told(lambda: client.create_table(spec), f"table '{name}'")

        def set_lr() -> None:
            told(lambda: client.set_lr("users", 0.5), "lr 0.5 of table 'users'")

        assert least_seconds(set_lr, AT_ONCE_S) < AT_ONCE_S
        assert least_seconds(create, AT_ONCE_S) < AT_ONCE_S
        told(lambda: client.drop_table("users"), "the end of table 'users'")


def test_a_trainer_hears_at_once_which_shard_is_dead_and_what_to_do(cli, dead):
    # After a minute without a word it read that "[1] of the shards" did not answer.
    with connect(dead) as client:
        users = client.table("users")

        def told() -> None:
            with pytest.raises(
                StateLost, match=r"^shard 1 at 127\.0\.0\.1:\d+ is dead: .*recover --accept-loss 1"
            ):
                users.pull(IDS)
            with pytest.raises(PushUnresolved, match=r"shard 1 at 127\.0\.0\.1:\d+ is dead: ") as unresolved:
                users.push(IDS, np.ones((1000, 4), np.float32))
            counts = unresolved.value
            assert (counts.acked_rows, counts.unknown_rows, counts.unapplied_rows) == (500, 0, 500)

        assert least_seconds(told, AT_ONCE_S) < AT_ONCE_S


@pytest.mark.parametrize("carrier", ["auto", "tcp", "grpc"])
def test_a_push_that_only_a_dead_shard_needs_was_said_to_be_applied_perhaps(dead, carrier):
    with connect(dead, carrier=carrier) as client:
        users, ids = client.table("users"), IDS[IDS % 2 == 1]
        for call in (users.push, users.assign):
            with pytest.raises(StateLost, match=r"^shard 1 at 127\.0\.0\.1:\d+ is dead: "):
                call(ids, np.ones((len(ids), 4), np.float32))


def test_a_dead_shard_is_made_anew_without_waiting_for_changes_that_wait_for_it(cli, dead):
    with connect(dead) as client:
        for lr in (0.1, 0.2, 0.3):
            with pytest.raises(StateLost):
                client.set_lr("users", lr)
        took = least_seconds(lambda: cli.run("recover", "--accept-loss", "1"), 0.0, tries=1)
        assert took < 28  # it was 32 s, and is 1 on an idle machine
        until(lambda: not cli.json("status")["unfinished"])
        assert cli.json("tables")["tables"][0]["lr"] == 0.3


def test_a_running_cluster_with_a_dead_shard_is_not_said_to_be_up_as_if_all_were_well(cli, dead):
    out, err = cli.run("up", "deploy.yaml", code=3)
    assert out.startswith("ads runs already: 2 shards")
    assert "shard 1 at 127.0.0.1:" in err
    assert "`rowloom recover --accept-loss 1` makes it anew" in err
    assert "may come back" not in err  # it is known that it will not


def test_up_with_another_config_did_not_say_that_a_shard_is_dead(cli, dead):
    cli.write("name: ads\nshards: 3\n")
    _, err = cli.run("up", code=1)
    assert (
        "runs already, with another config; nothing was changed:\n  shards: 2 run, deploy.yaml says 3" in err
    )
    assert re.search(r"\nshard 1 at 127\.0\.0\.1:\d+ is dead\n$", err), err


def test_a_second_loss_that_is_refused_is_not_said_to_have_changed_nothing(cli, dead):
    _, err = cli.run("recover", "--accept-loss", "1", "--accept-loss", "0", code=1)
    assert "shard 1 was made anew" in err
    assert err.endswith("has its rows (serving): there is no loss to accept, and it stays as it is\n")


def test_hints_name_the_cluster_where_several_are_known(cli, dead):
    cli.directory.put(Record("feed", "ray", "127.0.0.1:9", ray="127.0.0.1:9"))
    _, err = cli.run("status", "--name", "ads", code=3)
    for command in ("export TABLE FILE --partial", "recover --accept-loss 1", "down"):
        assert f"`rowloom {command} --name ads`" in err
    _, err = cli.run("status", "--address", dead, code=3)
    assert f"recover --accept-loss 1 --address {dead}`" in err
    cli.run("down", "--name", "feed", "--forget")


@pytest.mark.slow
def test_a_shard_that_only_stands_still_keeps_its_rows_unless_its_end_is_forced(cli, ads, stopped):
    _, err = cli.run("status", code=3)
    assert "shard 1 at 127.0.0.1:" in err
    assert f"stands still (as by SIGSTOP) and holds its rows: `kill -CONT {stopped}`" in err
    assert "recover" not in err
    _, err = cli.run("recover", "--accept-loss", "1", code=1)
    assert f"`kill -CONT {stopped}`" in err
    assert "Nothing was changed; --force ends it" in err
    os.kill(stopped, signal.SIGCONT)
    until(lambda: health(cli) == "serving")
    with connect(ads) as client:
        assert (client.table("users").pull(IDS) != 0).all()
    _, err = cli.run("recover", "--accept-loss", "1", "--force", code=1)
    assert "has its rows (serving): there is no loss to accept" in err
    stop(stopped)
    cli.run("recover", "--accept-loss", "1", "--force")
    with connect(ads) as client:
        rows = client.table("users").pull(IDS)
    assert (rows[::2] != 0).all()
    assert (rows[1::2] == 0).all()
    until(lambda: not started(stopped))  # its parent collects it when it next looks
