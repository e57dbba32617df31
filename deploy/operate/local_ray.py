"""A Ray of our own on this machine, when there is none to use: started in the background, ended with the last cluster.

It listens on the loopback interface only, has no dashboard, sends no usage statistics, and starts no worker before one
is needed: CPUs are only numbers to Ray, and here there are enough of them to scale.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import random
import secrets
import socket
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from ...proto.atomic_file import write_atomic
from ...proto.errors import Unavailable
from ..config.config import DeployConfig
from ..launch.processes import (
    end_marked,
    end_process,
    end_session,
    is_running,
    python,
    spawn_detached,
    started,
    wait_until_up,
)
from ..launch.ray_session import answers
from .directory import ClusterDirectory, DamagedRecord

# On Linux all of 127.0.0.0/8 is the loopback interface, and this is the way to keep Ray on it: Ray replaces
# 127.0.0.1 by an address that others can reach.
LOOPBACK = "127.0.0.2" if sys.platform == "linux" else "127.0.0.1"
CPUS = 64  # at least; more when the config asks for more
OBJECT_STORE_BYTES = 80_000_000  # rows never ride on Ray; this is near the least that it takes
START_TIMEOUT_S = 120.0
PORTS = 20_000, 32_000  # beyond those that Ray deals out itself
LOCK = "Ray of this machine"  # no cluster can have that name
STOP_GRACE_S = 20.0
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DISABLE_IMPORT_WARNING": "1",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    # One idle worker per CPU would be started otherwise.
    "RAY_prestart_worker_first_driver": "0",
    # Actors run at nice 15 otherwise, and a trainer that computes beside its shards would leave them no core.
    "RAY_worker_niceness": "0",
    # Who can reach the ports of Ray can run code. The token is in a file that only this user can read; not in the one
    # that Ray has for all of a user's: where that is there, a Ray that somebody starts by hand wants its token, too.
    "RAY_AUTH_MODE": "token",
}


@dataclass(frozen=True)
class LocalRay:
    """A Ray that was started here. token: the file with what it wants to be shown."""

    address: str
    pid: int
    started: int
    token: str


def choose(wanted: str, directory: ClusterDirectory) -> str | None:
    """Which Ray a config means that says `wanted`: host:port; None: one has to be started.

    `local` is only ever our own; `auto` is what $RAY_ADDRESS says, what runs on this machine, or our own.
    """
    own = find(directory)
    if wanted == "auto":
        return os.environ.get("RAY_ADDRESS") or _announced() or (own.address if own else None)
    if wanted == "local":
        return own.address if own else None
    return wanted


def token_of(address: str, directory: ClusterDirectory) -> str | None:
    """The file with the token to show there: for our own, and, if there is one, for what runs on this machine."""
    own = find(directory)
    if own is not None and own.address == address:
        return own.token
    users = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
    return str(users) if address == _announced() and users.exists() else None


def is_own(address: str) -> bool:
    """Whether only a Ray of our own can have had that address."""
    return address.startswith(f"{LOOPBACK}:") and LOOPBACK != "127.0.0.1"  # pyright: ignore[reportUnnecessaryComparison]


def _announced() -> str | None:
    """The Ray that this machine's `auto` means, if it still answers."""
    try:
        address = _announcement().read_text().strip()
    except OSError:
        return None
    return address if answers(address) else None


def _announcement() -> Path:
    """Ray writes the address of the newest cluster there."""
    return Path(os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()) / "ray" / "ray_current_cluster"


def find(directory: ClusterDirectory) -> LocalRay | None:
    """The one that runs, or None."""
    try:
        ray = LocalRay(**json.loads((directory.home / "ray.json").read_text()))
    except (OSError, ValueError, TypeError):
        return None
    return ray if is_running(ray.pid, ray.started) else None


def start(config: DeployConfig, directory: ClusterDirectory) -> LocalRay:
    """Start one that outlives this process.

    Raises:
        Unavailable: it did not come up; nothing is left running.
    """
    directory.home.mkdir(parents=True, exist_ok=True)
    token = _token_for(directory)
    log = directory.home / "ray.log"
    port = _free_port()
    address = f"{LOOPBACK}:{port}"
    record = directory.home / "ray.json"

    def known(pid: int, began: int) -> None:
        write_atomic(record, json.dumps(dataclasses.asdict(LocalRay(address, pid, began, token))))

    environment = QUIET | {"RAY_AUTH_TOKEN_PATH": token}
    pid = spawn_detached(_command(config, port), log, environment, mark=_mark(directory), known=known)
    ray = LocalRay(address, pid, started(pid), token)
    try:
        wait_until_up("Ray", pid, ray.started, log, START_TIMEOUT_S, lambda: answers(address, 1.0) or None)
    except BaseException as e:
        stop(ray, directory)
        if isinstance(e, Unavailable):
            raise Unavailable(f"{e}; its log: {log}") from None
        raise
    return ray


def usable(directory: ClusterDirectory) -> LocalRay | None:
    """Our own Ray, if it answers. One whose start was interrupted is ended. To be called under the lock `LOCK`.

    Raises:
        Unavailable: it does not answer, and clusters are on it.
    """
    ray = find(directory)
    if ray is None or answers(ray.address):
        return ray
    on_it = users(ray, directory)
    if on_it:
        raise Unavailable(
            f"the Ray that was started here for {', '.join(on_it)} (process {ray.pid}, {ray.address}) does not answer: "
            "try again, or end those clusters with `rowloom down`; --keep leaves their logs, and other rows are lost"
        )
    stop(ray, directory)
    return None


def users(ray: LocalRay, directory: ClusterDirectory) -> list[str]:
    """The clusters that are, or are being started, on our own Ray, as far as they are known here."""
    found: list[str] = []
    for name in directory.names():
        with contextlib.suppress(DamagedRecord):
            record = directory.get(name)
            if record is not None and record.ray == ray.address:
                found.append(name)
    return found


def stop(ray: LocalRay, directory: ClusterDirectory) -> None:
    """End it and every process that it started."""
    end_process(ray.pid, ray.started, STOP_GRACE_S)
    end_session(ray.pid)
    end_marked(_mark(directory), 0.0)
    for name in ("ray.json", "ray.token"):
        (directory.home / name).unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        if _announcement().read_text().strip() == ray.address:
            _announcement().unlink()


def _mark(directory: ClusterDirectory) -> str:
    return str((directory.home / "ray").absolute())


def _token_for(directory: ClusterDirectory) -> str:
    """The file with the token of a Ray of ours, made if it is not there. Versions of Ray without tokens ignore it."""
    path = directory.home / "ray.token"
    with contextlib.suppress(FileExistsError):
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(file, "w") as f:
            f.write(secrets.token_hex(32))
    return str(path.absolute())


def _command(config: DeployConfig, port: int) -> list[str]:
    servers = config.shards * (1 + config.replicas)
    cpus = max(CPUS, os.cpu_count() or 1, int(4 * servers * config.ray.num_cpus_per_shard) + 1)
    command = python("-m", "ray.scripts.scripts", "start", "--head", "--block")
    command += [f"--node-ip-address={LOOPBACK}", f"--port={port}", f"--num-cpus={cpus}"]
    command += [f"--object-store-memory={OBJECT_STORE_BYTES}", "--include-dashboard=false"]
    command += ["--disable-usage-stats", f"--ray-client-server-port={_free_port()}"]
    if config.ray.resources:
        plenty = {name: amount * 1024 for name, amount in config.ray.resources.items()}
        command += [f"--resources={json.dumps(plenty)}"]
    return command


def _free_port() -> int:
    """A port below those that the system deals out, or anybody may get it in the seconds until Ray listens there."""
    while True:
        port = random.SystemRandom().randrange(*PORTS)
        # Of any interface: some of Ray listens on all of them.
        with contextlib.suppress(OSError), socket.create_server(("", port)):
            return port
