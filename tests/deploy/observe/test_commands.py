"""Metrics, logs and `rowloom top` of a real cluster, as its operator has them."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from command_line import interruptible
from prometheus import BOARD, panels, program, prometheus_of
from prometheus_client.parser import text_string_to_metric_families
from waiting import until

from rowloom.client import Client, connect
from rowloom.deploy.observe import families as of_clusters
from rowloom.server.metrics import families as of_shards

WATCHED = """
name: ads
shards: 2
storage: kept
metrics: {port: 0}
log: {level: info, format: FORMAT}
tables:
  - {name: users, num_embeddings: 1000, dim: 4, optimizer: {adagrad: {lr: 0.05}}}
  - {name: items, num_embeddings: 1000, dim: 8}
"""
RULES = Path(__file__).parents[3] / "deploy/observe/alerts.yml"
ALL = np.arange(1000)


@pytest.fixture
def watched(cli):
    """A running cluster that offers metrics. Yields the address of its coordinator."""
    cli.write(WATCHED.replace("FORMAT", "logfmt"))
    return cli.json("up")["address"]


def page(address: str) -> dict[tuple[str, ...], float]:
    """The samples of a process: (name, values of its labels, by their names...) -> value."""
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=20) as reply:
        text = reply.read().decode()
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def pages(cli) -> tuple[dict[tuple[str, ...], float], list[dict[tuple[str, ...], float]]]:
    """Those of the coordinator, and those of each shard."""
    state = cli.json("status")
    return page(state["metrics"]), [page(shard["metrics"]) for shard in state["shards"]]


def test_what_shards_count_is_exactly_what_clients_did(cli, watched):
    with connect(watched) as client:
        users, items = client.table("users"), client.table("items")
        for _ in range(3):
            users.pull(ALL)
        users.push(ALL[:600], np.ones((600, 4), np.float32))
        client.pull({"users": ALL[:10], "items": ALL[:30]})
        client.step({"items": (ALL[:8], np.ones((8, 8), np.float32))}, {"items": ALL[:16]})
        items.assign(ALL[:4], np.ones((4, 8), np.float32))
        users.pull_bags(ALL[:12], offsets=[0, 5])
        said = client.statistics()
    _, shards = pages(cli)

    def total(*key: str) -> float:
        return sum(shard[key] for shard in shards)

    # Each call is one request to each of the two shards.
    assert total("rowloom_pulls_total", "users") == 2 * (3 + 1 + 1)
    assert total("rowloom_pull_rows_total", "users") == 3 * 1000 + 10 + 12
    assert total("rowloom_pulls_total", "items") == 2 * (1 + 1)
    assert total("rowloom_pull_rows_total", "items") == 30 + 16
    assert total("rowloom_pushes_total", "applied", "users") == 2
    assert total("rowloom_push_rows_total", "users") == 600
    assert total("rowloom_pushes_total", "applied", "items") == 2 * (1 + 1)
    assert total("rowloom_push_rows_total", "items") == 8 + 4
    assert total("rowloom_pushes_total", "duplicate", "items") == 0
    assert total("rowloom_pushes_total", "rejected", "items") == 0
    assert total("rowloom_pull_seconds_count", "users") == 2 * (3 + 1)
    assert total("rowloom_pull_seconds_count", "(several)") == 2
    assert total("rowloom_push_seconds_count", "users") == 2
    assert total("rowloom_step_seconds_count", "items") == 2
    assert total("rowloom_table_rows", "users") == 600
    assert total("rowloom_sent_bytes_total", "push", "users") < 600 * 4 * 4
    assert total("rowloom_received_bytes_total", "push", "users") >= 600 * (8 + 4 * 4)
    assert total("rowloom_sent_bytes_total", "pull", "users") >= 3000 * 4 * 4
    assert total("rowloom_log_failed") == 0
    for shard in shards:
        assert shard["rowloom_log_safe_bytes",] == shard["rowloom_log_end_bytes",] > 300 * 4 * 4
        assert shard["rowloom_ledger_clients",] == 1
        assert shard["process_resident_memory_bytes",] > 0
    assert [s["tables"]["users"]["pulled_rows"] for s in said] == [
        shard["rowloom_pull_rows_total", "users"] for shard in shards
    ]


def test_the_coordinator_tells_of_the_cluster_and_of_its_newest_snapshot(cli, watched):
    with connect(watched) as client:
        client.table("users").push(ALL[:9], np.ones((9, 4), np.float32))
    taken = cli.json("snapshot")
    of_cluster, _ = pages(cli)
    assert of_cluster["rowloom_shards",] == 2
    assert of_cluster["rowloom_shard_serving", "serving", "1"] == 1
    assert of_cluster["rowloom_snapshot_rows",] == taken["rows"] == 9
    assert (
        of_cluster["rowloom_snapshot_duration_seconds",] > of_cluster["rowloom_snapshot_pause_seconds",] > 0
    )
    assert of_cluster["rowloom_move_running",] == 0
    cli.run("scale", "3")
    of_cluster, shards = pages(cli)
    assert (of_cluster["rowloom_shards",], len(shards)) == (3, 3)


def test_a_scaling_loses_no_count(cli, watched):
    with connect(watched) as client:
        client.table("users").pull(ALL)
        cli.run("scale", "3")
        client.table("users").pull(ALL)
    _, shards = pages(cli)
    assert sum(shard["rowloom_pull_rows_total", "users"] for shard in shards) == 2000


def test_metrics_names_every_process_for_prometheus_and_a_file_of_it_stays_fresh(cli, watched):
    state = cli.json("status")
    found = json.loads(cli.run("metrics")[0])
    places = [state["metrics"], *(shard["metrics"] for shard in state["shards"])]
    assert [one["targets"] for one in found] == [[place] for place in places]
    assert [one["labels"].get("shard") for one in found] == [None, "0", "1"]
    with urllib.request.urlopen(f"http://{state['metrics']}/targets", timeout=20) as reply:
        assert json.load(reply) == found
    file = cli.folder / "targets.json"
    command = [sys.executable, "-m", "rowloom.deploy.cli", "metrics", "--out", str(file), "--watch"]
    watching = interruptible([*command, "--interval-s", "0.1"])
    until(lambda: file.exists() and json.loads(file.read_text()) == found)
    cli.run("scale", "3")
    until(lambda: len(json.loads(file.read_text())) == 4)
    watching.send_signal(signal.SIGINT)
    out, err = watching.communicate(timeout=20)
    assert (watching.returncode, err) == (0, "")
    assert out == f"{file} names 3 processes\n"


def test_a_cluster_without_metrics_says_how_they_are_turned_on(cli, ads):
    assert cli.json("status")["metrics"] is None
    _, err = cli.run("metrics", code=1)
    assert "ads offers no metrics: start it with `metrics: {port: 0}`" in err


def test_top_shows_what_shards_and_tables_do(cli, watched):
    with connect(watched) as client:
        client.table("users").pull(ALL)
        out, err = cli.run("top", "--once", "--interval-s", "0.1")
        assert err == ""
        assert all(word in out for word in ("pull p99", "skew", "users", "items", "serving"))
        state = cli.json("top", "--once", "--interval-s", "0.1")
    assert {table["name"] for table in state["tables"]} == {"users", "items"}
    assert {"p99_ms", "log_behind_bytes", "received_bytes_per_s"} <= set(state["shards"][0])


def test_top_goes_on_until_ctrl_c_which_is_no_failure(cli, watched):
    command = [sys.executable, "-m", "rowloom.deploy.cli", "top", "--json", "--interval-s", "0.1"]
    running = interruptible(command)
    assert running.stdout is not None
    with connect(watched) as client:
        table = client.table("users")

        def pulled() -> bool:
            table.pull(ALL)
            return json.loads(running.stdout.readline())["shards"][0]["pulled_rows_per_s"] > 0

        until(pulled, 50.0)
    running.send_signal(signal.SIGINT)
    _, err = running.communicate(timeout=20)
    assert (running.returncode, err) == (0, "")


@pytest.mark.parametrize("format", [pytest.param("logfmt", marks=pytest.mark.slow), "json"])
def test_logs_shows_what_each_process_says_also_when_the_cluster_does_not_run(cli, format):
    cli.write(WATCHED.replace("FORMAT", format))
    cli.run("up")
    state = cli.json("status")
    out, _ = cli.run("logs", "0")
    assert "serving: <Shard 0/2" in out
    if format == "json":
        assert all(json.loads(line)["process"] == "shard-0" for line in out.splitlines())
    assert Path(state["shards"][0]["log_file"]).read_text() == out
    cli.run("scale", "3")
    assert "<Shard 2/3" in cli.run("logs", "2")[0]
    assert len(cli.json("logs")["files"]) == 4
    said = cli.json("logs", "1", "-n", "1")
    assert list(said["files"]) == ["1"]
    assert len(said["lines"]) == 1
    cli.run("logs", "7", code=2)
    os.kill(state["shards"][1]["pid"], signal.SIGKILL)
    assert "<Shard 1/" in cli.run("logs", "1")[0]
    cli.run("down", "--yes")
    assert "shard 0 does not run (its last log: " in cli.run("logs", "--name", "ads")[1]
    cli.run("up")
    out, err = cli.run("logs", "-n", "1000")
    assert "<Shard 2/3" not in out  # of the cluster before
    assert "lines of an earlier cluster of this name, of before " in err


def test_logs_of_a_process_that_said_nothing_yet_were_silence(cli, watched):
    log = cli.directory.home / "clusters/ads/logs/coordinator.log"
    log.write_text("")
    out, err = cli.run("logs", "coordinator")
    assert (out, err) == ("", f"rowloom: nothing was logged yet: {log}\n")


def test_logs_follows_what_comes_until_ctrl_c(cli, watched):
    following = interruptible([sys.executable, "-m", "rowloom.deploy.cli", "logs", "-f", "-n", "1"])
    assert following.stdout is not None
    assert following.stdout.readline().startswith("time=")
    cli.run("scale", "3")
    until(lambda: "<Shard 0/3" in following.stdout.readline() or None)
    following.send_signal(signal.SIGINT)
    assert following.wait(20) == 0
    following.communicate()


def test_status_names_the_logs(cli, watched):
    log = cli.directory.home / "clusters/ads/logs/coordinator.log"
    assert f"log {log}; `rowloom logs`" in cli.run("status")[0]


# --------------------------------------------------------------------------------------------------------- Prometheus


def test_the_rules_are_such_that_prometheus_takes_them():
    done = subprocess.run([program("promtool"), "check", "rules", str(RULES)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_each_alert_fires_when_it_is_to_and_the_page_says_what_to_do_about_it(tmp_path):
    shutil.copy(RULES, tmp_path / "alerts.yml")
    played = shutil.copy(Path(__file__).with_name("alerts_fire.yml"), tmp_path)
    done = subprocess.run([program("promtool"), "test", "rules", played], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    named = re.findall(r"- alert: (\w+)", RULES.read_text())
    assert len(named) > 5
    assert set(named) == set(re.findall(r"alertname=\"(\w+)\", cluster", Path(played).read_text()))
    advice = (Path(__file__).parents[3] / "docs/metrics.md").read_text()
    assert re.findall(r"^\| `(Rowloom\w+)` \| .{20,} \|$", advice, re.MULTILINE) == named


def test_the_names_of_metrics_are_as_prometheus_wants_them(cli, watched):
    state = cli.json("status")
    with connect(watched) as client:
        client.table("users").pull(ALL)
    for address in (state["metrics"], state["shards"][0]["metrics"]):
        with urllib.request.urlopen(f"http://{address}/metrics", timeout=20) as reply:
            done = subprocess.run(
                [program("promtool"), "check", "metrics"], input=reply.read(), capture_output=True
            )
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture
def prometheus(cli, watched):
    program("prometheus")
    quick = cli.folder / "alerts.yml"  # what takes half a minute there takes no time here
    quick.write_text(RULES.read_text().replace("for: 30s", "for: 0s"))
    with prometheus_of(f"http://{cli.json('status')['metrics']}", cli.folder, quick) as one:
        yield one


@pytest.mark.timeout(150)
def test_a_real_prometheus_finds_and_reads_every_process_and_the_dashboard_has_something_to_draw(
    cli, watched, prometheus
):
    cli.run("snapshot")
    with connect(watched) as client:
        client.table("users").pull(ALL)
        pulled = 'sum by (shard) (rowloom_pull_rows_total{table="users"})'
        until(lambda: prometheus.ask(pulled) == {"0": 500.0, "1": 500.0}, 60.0)
        until(lambda: prometheus.ask("up") == {"": 1.0, "0": 1.0, "1": 1.0}, 60.0)
        for query in queries():
            there = not re.search("quota|standby", query)  # this cluster has none of these
            until(
                lambda query=query, there=there: works(client) and bool(prometheus.ask(query)) == there, 60.0
            )


@pytest.mark.timeout(150)
def test_the_alert_of_a_shard_that_stands_still_fires(cli, prometheus):
    shard = cli.json("status")["shards"][1]["pid"]
    until(lambda: prometheus.ask("rowloom_shard_serving"), 60.0)
    assert not prometheus.fires("RowloomShardDoesNotServe", "1")
    [(missing, _)] = dict(panels())["Shards that do not serve"]
    until(lambda: prometheus.ask(missing) == {"": 0.0}, 60.0)
    os.kill(shard, signal.SIGSTOP)
    try:
        until(lambda: prometheus.fires("RowloomShardDoesNotServe", "1"), 60.0)
        assert prometheus.ask(missing) == {"": 1.0}
    finally:
        os.kill(shard, signal.SIGCONT)
    assert not prometheus.fires("RowloomShardDoesNotServe", "0")


def works(client: Client) -> bool:
    """A call of each kind, so that rates have something to say."""
    users = client.table("users")
    users.pull(ALL)
    users.push(ALL[:9], np.ones((9, 4), np.float32))
    client.step({"items": (ALL[:8], np.ones((8, 8), np.float32))}, {"items": ALL[:16]})
    return True


def queries() -> list[str]:
    """All that the dashboard asks for."""
    return [query for _, asked in panels() for query, _ in asked]


def test_no_two_panels_of_the_dashboard_are_at_one_place():
    drawn = json.loads(BOARD.read_text())["panels"]
    places = [
        (x, y)
        for place in (panel["gridPos"] for panel in drawn)
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(places) == len(set(places)) == 24 * (max(y for _, y in places) + 1)  # and none is empty
    for unique in ("id", "title"):
        assert len({panel[unique] for panel in drawn}) == len(drawn)


def test_dashboard_and_rules_name_only_metrics_that_there_are():
    known = {family.name for family in (*of_shards.FAMILIES, *of_clusters.FAMILIES)}
    known |= {f"{family.name}_bucket" for family in of_shards.TIMES.values()}
    text = RULES.read_text() + "\n".join(queries())
    used = set(re.findall(r"\browloom_[a-z_]+", text))
    assert used <= known
    assert len(used) > 10
