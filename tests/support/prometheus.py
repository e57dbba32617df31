"""A real Prometheus that reads a cluster, where it is installed."""

import contextlib
import json
import os
import shutil
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from waiting import until

BOARD = Path(__file__).parents[2] / "deploy/observe/dashboard.json"
EVERY_S = 1


def program(name: str) -> str:
    """The path of a program of Prometheus; without it the test is skipped."""
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed: `apt-get install prometheus` has it")
    return found


class Prometheus:
    """One that runs. port: where it answers."""

    def __init__(self, port: int) -> None:
        self._at = f"http://127.0.0.1:{port}"

    def ready(self) -> bool:
        """Whether it is: one that has just begun to listen says 503."""
        with (
            contextlib.suppress(urllib.error.URLError),
            urllib.request.urlopen(f"{self._at}/-/ready", timeout=20) as reply,
        ):
            return reply.status == 200
        return False

    def ask(self, query: str) -> dict[str, float]:
        """The value of each series now, by its shard."""
        found = self._get("query", query=query)["result"]
        return {one["metric"].get("shard", ""): float(one["value"][1]) for one in found}

    def series(self, query: str, begin: float, end: float, step: float) -> list[dict[str, Any]]:
        """Each series: its labels, `metric`, and its `values`, [seconds since 1970, value as text]."""
        return self._get("query_range", query=query, start=begin, end=end, step=step)["result"]

    def fires(self, alert: str, index: str) -> bool:
        """Whether an alert of a shard does."""
        return any(
            (one["labels"]["alertname"], one["labels"].get("index"), one["state"]) == (alert, index, "firing")
            for one in self._get("alerts")["alerts"]
        )

    def _get(self, path: str, **arguments: Any) -> dict[str, Any]:
        url = f"{self._at}/api/v1/{path}?{urllib.parse.urlencode(arguments)}"
        with urllib.request.urlopen(url, timeout=20) as reply:
            return json.load(reply)["data"]


@contextlib.contextmanager
def prometheus_of(
    targets: str, folder: Path, rules: Path | None = None, scrape: Mapping[str, Any] | None = None
) -> Iterator[Prometheus]:
    """One that reads the cluster whose coordinator tells of itself at a URL, without `/targets`.

    Args:
        targets: that URL.
        folder: that its files are in.
        rules: a file of rules.
        scrape: what else it needs to read from there: `tls_config`, `authorization`.
    """
    more = dict(scrape or {})
    config = {
        "global": {"scrape_interval": f"{EVERY_S}s", "evaluation_interval": "1s"},
        "rule_files": [str(rules)] if rules is not None else [],
        "scrape_configs": [
            {
                "job_name": "rowloom",
                "http_sd_configs": [{"url": f"{targets}/targets", "refresh_interval": "10s", **more}],
                **more,
            }
        ],
    }
    (folder / "prometheus.yml").write_text(json.dumps(config))
    command = [program("prometheus"), "--config.file", str(folder / "prometheus.yml")]
    command += ["--storage.tsdb.path", str(folder / "data"), "--web.listen-address", "127.0.0.1:0"]
    log = folder / "prometheus.log"
    with open(log, "w") as err:
        running = subprocess.Popen(command, stderr=err)
    try:
        until(lambda: "Listening on" in log.read_text() or running.poll() is not None)
        one = Prometheus(_listening(running.pid))
        until(one.ready, 60.0)
        yield one
    finally:
        running.kill()
        running.wait()


def _listening(pid: int) -> int:
    """The port of a process that listens on one."""
    sockets = {os.readlink(link) for link in Path(f"/proc/{pid}/fd").iterdir() if link.is_symlink()}
    for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[3] == "0A" and f"socket:[{fields[9]}]" in sockets:
            return int(fields[1].rpartition(":")[2], 16)
    raise AssertionError("it does not listen")


def panels() -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """Of each panel of the dashboard: its title, and the queries with how their series are named."""
    for panel in json.loads(BOARD.read_text())["panels"]:
        targets = panel.get("targets", [])
        yield (
            panel["title"],
            [
                (
                    one["expr"].replace("$__rate_interval", "1m").replace("$cluster", "ads"),
                    one.get("legendFormat", ""),
                )
                for one in targets
            ],
        )
