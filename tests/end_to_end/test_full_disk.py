"""A real disk that is full, and has room again, under a cluster of processes."""

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from waiting import until

from rowloom.client import SGD, PushUnresolved, TableSpec, Zeros, connect
from rowloom.deploy.config.config import parse
from rowloom.deploy.coordinator_server import CoordinatorServer
from rowloom.deploy.launch.local_launcher import ProcessLauncher
from rowloom.deploy.operate.remote import Remote
from rowloom.deploy.operate.status import summary

MANY = 16_384
SPEC = TableSpec("t", MANY, dim=64, optimizer=SGD(lr=1.0), initializer=Zeros())


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    """A file system of 256 MiB: a log and the segment after the first, and little more."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if os.geteuid() != 0:
        pytest.skip("only root mounts file systems")
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256m", "tmpfs", disk], check=False)
    if mounted.returncode:
        pytest.skip("no file system can be mounted here")
    yield disk
    subprocess.run(["umount", "-l", disk], check=True)


def fill(disk: Path) -> Path:
    """A file that takes all the room there is."""
    file = disk / "of-somebody-else"
    with contextlib.suppress(OSError), open(file, "wb", buffering=0) as out:
        while True:
            out.write(bytes(1 << 20))
    return file


def test_a_disk_that_was_full_and_has_room_again_costs_no_row_and_no_restart(small_disk, tmp_path) -> None:
    config = parse({"name": "full", "storage": str(small_disk), "tables": [SPEC]})
    assert config.durability == "process"
    launcher = ProcessLauncher(config, tmp_path / "out")
    server = CoordinatorServer(config, launcher)
    server.start()
    try:
        with connect(server.address, timeout_s=200.0) as client, Remote(server.address) as remote:

            def shard() -> dict:
                return summary(remote.status())["shards"][0]

            table, ids, grads = client.table("t"), np.arange(MANY), np.full((MANY, 64), -1.0, np.float32)
            table.push(ids, grads)
            other = fill(small_disk)
            acked, said = 1, ""
            while not said:
                try:
                    table.push(ids, grads)
                    acked += 1
                except PushUnresolved as e:
                    said = str(e)
            assert "No space left" in said
            assert shard()["health"] == "pulls only"
            assert "No space left" in shard()["log_error"]
            shown = table.pull(ids)
            assert shown[0, 0] in (acked, acked + 1)
            pid = shard()["pid"]
            other.unlink()
            table.push(ids, grads)  # waits for the log to go on, and is applied
            assert shard()["health"] == "serving"
            assert shard()["pid"] == pid
            assert np.array_equal(table.pull(ids), shown + 1)
            os.kill(pid, 9)
            until(lambda: shard()["health"] == "serving" and shard()["pid"] != pid)
            assert np.array_equal(table.pull(ids), shown + 1)
    finally:
        server.stop()
