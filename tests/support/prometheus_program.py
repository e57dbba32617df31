"""A real Prometheus that reads a cluster, where it is installed."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest
from waiting import until


def program(name: str) -> str:
    """The path of a program of Prometheus; without it the test is skipped."""
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed: `apt-get install prometheus` has it")
    return found


@contextlib.contextmanager
def prometheus(
    folder: Path, scrape: dict[str, Any], rules: Path
) -> Generator[Callable[[str], dict[str, float]]]:
    """One that scrapes each second. Yields what answers a query: values by the label `shard`.

    Args:
        folder: that it writes to.
        scrape: its one scrape config.
        rules: a file of rules.
    """
    config = {
        "global": {"scrape_interval": "1s"},
        "rule_files": [str(rules)],
        "scrape_configs": [{"job_name": "rowloom", **scrape}],
    }
    (folder / "prometheus.yml").write_text(json.dumps(config))
    command = [program("prometheus"), "--config.file", str(folder / "prometheus.yml")]
    command += ["--storage.tsdb.path", str(folder / "data"), "--web.listen-address", "127.0.0.1:0"]
    log = folder / "prometheus.log"
    with open(log, "w") as err:
        running = subprocess.Popen(command, stderr=err)
    try:
        until(lambda: "Listening on" in log.read_text() or running.poll() is not None)
        port = listening(running.pid)

        def ask(query: str) -> dict[str, float]:
            url = f"http://127.0.0.1:{port}/api/v1/query?query={urllib.parse.quote(query)}"
            with urllib.request.urlopen(url, timeout=20) as reply:
                found = json.load(reply)["data"]["result"]
            return {one["metric"].get("shard", ""): float(one["value"][1]) for one in found}

        until(lambda: answers(f"http://127.0.0.1:{port}/-/ready"), 60.0)
        yield ask
    finally:
        running.kill()
        running.wait()


def answers(url: str) -> bool:
    """Whether what listens there is ready: a Prometheus that has just begun to says 503."""
    with contextlib.suppress(urllib.error.URLError), urllib.request.urlopen(url, timeout=20) as reply:
        return reply.status == 200
    return False


def listening(pid: int) -> int:
    """The port of a process that listens on one."""
    sockets = {os.readlink(link) for link in Path(f"/proc/{pid}/fd").iterdir() if link.is_symlink()}
    for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[3] == "0A" and f"socket:[{fields[9]}]" in sockets:
            return int(fields[1].rpartition(":")[2], 16)
    raise AssertionError("it does not listen")
