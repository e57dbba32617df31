"""Metrics and console of a cluster with TLS and tokens, as its operator and a Prometheus read them."""

import json
import os
import signal
import ssl
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from prometheus import prometheus_of
from waiting import until

from rowloom.client import connect

CONFIG = """
name: ads
shards: 2
metrics: {port: 0}
security:
  {ca: s/ca.pem, cert: s/server.pem, key: s/server.key, mutual: true, tokens: s/tokens.yaml, token: s/cluster.token}
tables:
  - {name: users, num_embeddings: 1000, dim: 4}
"""
RULES = Path(__file__).parents[3] / "deploy/observe/alerts.yml"
SCRAPE_S = 1.0  # a Prometheus that reads each second waits for so long


@pytest.fixture
def secured(cli):
    """A running cluster whose every port asks for certificates and tokens; yields its status."""
    cli.run("secure", "init", "s")
    told, _ = cli.run("secure", "token", "prometheus", "--allow", "none", "--dir", "s")
    assert "prometheus may only see status and metrics" in told
    cli.write(CONFIG)
    cli.run("up")
    return cli.json("status")


def get(folder: Path, address: str, path: str = "/metrics") -> str:
    """A page, as the principal `prometheus`."""
    context = ssl.create_default_context(cafile=str(folder / "s/ca.pem"))
    context.load_cert_chain(folder / "s/client.pem", folder / "s/client.key")
    token = (folder / "s/prometheus.token").read_text().strip()
    request = urllib.request.Request(f"https://{address}{path}", headers={"Authorization": f"Bearer {token}"})
    with urllib.request.urlopen(request, timeout=20, context=context) as reply:
        return reply.read().decode()


@pytest.mark.timeout(150)
def test_a_real_prometheus_reads_a_secured_cluster_as_the_docs_say(cli, secured):
    tls = {
        "ca_file": str(cli.folder / "s/ca.pem"),
        "cert_file": str(cli.folder / "s/client.pem"),
        "key_file": str(cli.folder / "s/client.key"),
    }
    # The type is named, as Prometheus 2.42 leaves it out where it asks for targets.
    authorization = {"type": "Bearer", "credentials_file": str(cli.folder / "s/prometheus.token")}
    shown = {"tls_config": tls, "authorization": authorization}
    with prometheus_of(f"https://{secured['metrics']}", cli.folder, RULES, shown) as reader:
        until(lambda: reader.ask("up") == {"": 1.0, "0": 1.0, "1": 1.0}, 60.0)
        cli.run("secure", "certificate", "server", "--server", "--dir", "s")
        cli.run("secure", "token", "prometheus", "--dir", "s")
        cli.run("secure", "token", "prometheus", "--dir", "s")  # the first one counts no more
        seen = reader.ask("process_start_time_seconds")
        stamp = time.time()
        until(lambda: min(reader.ask("timestamp(up == 1)").values(), default=0.0) > stamp + 3.0, 60.0)
        assert reader.ask("process_start_time_seconds") == seen
        assert reader.ask("min_over_time(up[2s])") == {"": 1.0, "0": 1.0, "1": 1.0}


def test_every_command_names_https_and_each_port_asks_for_certificate_and_token(cli, secured):
    assert secured["metrics_scheme"] == "https"
    assert f"console https://{secured['metrics']}/, metrics at /metrics" in cli.run("status")[0]
    found = cli.json("metrics")["targets"]
    assert {one["labels"]["__scheme__"] for one in found} == {"https"}
    assert len(found) == 3
    assert json.loads(get(cli.folder, secured["metrics"], "/targets")) == found
    assert "console" in get(cli.folder, secured["metrics"], "/")
    assert "now" in json.loads(get(cli.folder, secured["metrics"], "/state"))
    context = ssl.create_default_context(cafile=str(cli.folder / "s/ca.pem"))
    both = ssl.create_default_context(cafile=str(cli.folder / "s/ca.pem"))
    both.load_cert_chain(cli.folder / "s/client.pem", cli.folder / "s/client.key")
    for one in found:
        (address,) = one["targets"]
        assert "process_cpu_seconds_total" in get(cli.folder, address)
        with pytest.raises((ssl.SSLError, urllib.error.URLError, ConnectionError)) as refused:
            urllib.request.urlopen(f"https://{address}/metrics", timeout=20, context=context)
        assert not isinstance(refused.value, urllib.error.HTTPError)
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(f"https://{address}/metrics", timeout=20, context=both)
        assert refused.value.code == 401
        refused.value.close()
    cli.run("top", "--once", "--interval-s", "0.1")


def test_who_may_only_look_has_status_and_no_row(cli, secured):
    shown = {"ca": "s/ca.pem", "cert": "s/client.pem", "key": "s/client.key"}
    with connect(secured["coordinator"], token_file="s/prometheus.token", **shown) as client:
        assert client.statistics()
        for call in (
            lambda: client["users"].pull([1]),
            lambda: client["users"].push([1], np.ones((1, 4), np.float32)),
        ):
            with pytest.raises(Exception, match=r"it lacks the right .* and has no rights"):
                call()


def test_a_shard_that_stands_still_keeps_nobody_waiting_for_the_metrics_of_the_cluster(cli, secured):
    pid = secured["shards"][1]["pid"]
    get(cli.folder, secured["metrics"])
    os.kill(pid, signal.SIGSTOP)
    try:
        took: list[float] = []

        def seen() -> bool:
            began = time.monotonic()
            text = get(cli.folder, secured["metrics"])
            took.append(time.monotonic() - began)
            return 'rowloom_shard_serving{health="stopped",index="1"} 0.0' in text

        until(seen, 30.0)
        assert sorted(took)[len(took) // 2] < SCRAPE_S  # a busy machine may hold one up
        ages = [
            float(line.split()[1])
            for line in get(cli.folder, secured["metrics"]).splitlines()
            if line.startswith("rowloom_status_age_seconds ")
        ]
        assert 0.0 <= ages[0] < 10.0
        began = time.monotonic()
        get(cli.folder, secured["metrics"], "/targets")
        took.append(time.monotonic() - began)
        assert sorted(took)[len(took) // 2] < SCRAPE_S
    finally:
        os.kill(pid, signal.SIGCONT)
