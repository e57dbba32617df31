"""Shard servers on this machine, without Ray: as processes, or as threads of this one."""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from ...proto.errors import RowloomError, Unavailable
from ...server.serve import Server
from ..atomic_file import write_atomic
from ..config.config import DeployConfig
from ..operate.directory import (
    ClusterDirectory,
    Record,
    end_process,
    is_running,
    last_line,
    spawn_detached,
    started,
    wait_for_end,
)
from ..operate.remote import Remote
from .launcher import Launched


class ProcessLauncher:
    """Each shard server in a process that ends when this one does.

    Args:
        config: for the interface and the time limits.
        logs: folder for the servers' logs; none: their errors go where this process's go.
    """

    def __init__(self, config: DeployConfig, logs: Path | None = None) -> None:
        self._config = config
        self._logs = logs
        self._lock = threading.Lock()
        self._running: dict[int, tuple[subprocess.Popen, Launched]] = {}

    def reserve(self, keys: Sequence[int]) -> None:
        """As `Launcher`: this machine needs none."""

    def start(self, key: int) -> Launched:
        """As `Launcher`."""
        process = self._spawn(key)
        try:
            ready = _first_line(process, self._config.limits.start_timeout_s)
        except BaseException:
            process.kill()
            process.wait()
            _close_pipes(process)
            raise
        launched = Launched(ready["address"], ready["incarnation"], socket.gethostname(), ready["pid"])
        with self._lock:
            self._running[key] = (process, launched)
        return launched

    def _spawn(self, key: int) -> subprocess.Popen:
        command = [sys.executable, "-m", "rowloom.server.serve", "--until-stdin-closes"]
        command += ["--host", self._config.host or "127.0.0.1", "--carrier", self._config.carrier]
        if self._config.advertise_host:
            command += ["--advertise", self._config.advertise_host]
        if self._logs is None:
            return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self._logs.mkdir(parents=True, exist_ok=True)
        with open(self._logs / f"shard-{key}.log", "ab") as log:
            return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log)

    def stop(self, key: int, grace_s: float) -> None:
        """As `Launcher`."""
        with self._lock:
            process, _ = self._running.pop(key, (None, None))
        if process is not None:
            _end(process, grace_s)

    def find(self, key: int) -> Launched | None:
        """As `Launcher`."""
        process, launched = self._running.get(key, (None, None))
        return launched if process is not None and process.poll() is None else None

    def pid(self, key: int) -> int:
        """The process of a server."""
        return self._running[key][0].pid

    def close(self) -> None:
        """As `Launcher`."""
        threads = [threading.Thread(target=self.stop, args=(key, 2.0)) for key in list(self._running)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


def _first_line(process: subprocess.Popen, timeout_s: float) -> dict:
    """What a server says when it listens."""
    assert process.stdout is not None
    until = time.monotonic() + timeout_s
    line = b""
    while not line.endswith(b"\n"):
        readable, _, _ = select.select([process.stdout], [], [], max(0.0, until - time.monotonic()))
        if not readable:
            raise Unavailable(
                f"a shard server did not start within limits.start_timeout_s = {timeout_s:g} s; its log says why"
            )
        some = os.read(process.stdout.fileno(), 4096)
        if not some:
            code = process.wait()
            raise Unavailable(f"a shard server ended with code {code} while it started; its log says why")
        line += some
    return json.loads(line)


def _end(process: subprocess.Popen, grace_s: float) -> None:
    """Ask by closing its standard input, then kill."""
    with contextlib.suppress(OSError):
        if process.stdin is not None:
            process.stdin.close()
    try:
        process.wait(grace_s + 1.0)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    _close_pipes(process)


def _close_pipes(process: subprocess.Popen) -> None:
    for pipe in (process.stdin, process.stdout):
        with contextlib.suppress(OSError):
            if pipe is not None:
                pipe.close()


class ThreadLauncher:
    """Shard servers inside this process."""

    def __init__(self) -> None:
        self._running: dict[int, Server] = {}

    def reserve(self, keys: Sequence[int]) -> None:
        """As `Launcher`: this machine needs none."""

    def start(self, key: int) -> Launched:
        """As `Launcher`."""
        server = Server()
        server.start()
        self._running[key] = server
        return Launched(server.address, server.incarnation, socket.gethostname(), os.getpid())

    def stop(self, key: int, grace_s: float) -> None:
        """As `Launcher`."""
        server = self._running.pop(key, None)
        if server is not None:
            server.stop(grace_s)

    def find(self, key: int) -> Launched | None:
        """As `Launcher`."""
        server = self._running.get(key)
        if server is None:
            return None
        return Launched(server.address, server.incarnation, socket.gethostname(), os.getpid())

    def close(self) -> None:
        """As `Launcher`."""
        for key in list(self._running):
            self.stop(key, 0.0)


# ------------------------------------------------------------------------------------------- clusters that stay


def up_local(config: DeployConfig, directory: ClusterDirectory) -> Record:
    """Start a coordinator process that outlives this one, and its shards with it. Returns when all serve.

    Raises:
        Unavailable: it did not start; nothing is left running.
    """
    folder = directory.folder(config.name)
    ready, log, given = folder / "ready.json", folder / "cluster.log", folder / "config.json"
    ready.unlink(missing_ok=True)
    write_atomic(given, config.to_json())
    command = [sys.executable, "-m", "rowloom.deploy.coordinator_process"]
    command += ["--config-json", str(given), "--ready-file", str(ready)]
    pid = spawn_detached(command, log)
    began = started(pid)
    try:
        answer = _wait_for(ready, log, pid, began, config.limits.start_timeout_s + 30.0)
    except BaseException as e:
        end_process(pid, began, config.limits.stop_grace_s)
        if isinstance(e, RowloomError):
            raise Unavailable(f"cluster {config.name!r} did not start: {e} (log: {log})") from None
        raise
    record = Record(config.name, "local", answer["address"], pid, began, storage=config.storage or "")
    directory.put(record)
    return record


def _wait_for(ready: Path, log: Path, pid: int, began: int, timeout_s: float) -> dict:
    until = time.monotonic() + timeout_s
    while time.monotonic() < until:
        running = is_running(pid, began)  # before the file: it is written before the process ends
        if ready.exists():
            answer = json.loads(ready.read_text())
            if "error" in answer:
                raise Unavailable(answer["error"])
            return answer
        if not running:
            raise Unavailable(f"the coordinator ended while it started: {last_line(log)}")
        time.sleep(0.02)
    raise Unavailable(f"the coordinator was not ready after {timeout_s:g} s")


def down_local(record: Record, grace_s: float = 10.0) -> None:
    """End a cluster that `up_local` started; its shards end with it. No error if it is gone already."""
    with contextlib.suppress(RowloomError), Remote(record.address, timeout_s=5.0) as remote:
        if is_running(record.pid, record.started):
            remote.shutdown()
            wait_for_end(record.pid, record.started, grace_s)
    end_process(record.pid, record.started, grace_s)
