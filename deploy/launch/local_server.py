"""A shard server of this machine as a command, and whether others reach it."""

from __future__ import annotations

import socket
from pathlib import Path

from ...proto.errors import Unavailable
from ...server.access.settings import ServerSecurity
from ..config.config import DeployConfig
from .keeping import keeping
from .observed import observing
from .processes import python

REACH_S = 5.0  # to connect to a server by its advertised name
KILL_AFTER_S = 1.0  # beyond the grace: what a server needs to end once its calls are answered


def server_command(
    config: DeployConfig, log_file: Path | None = None, *, replicated: bool = False
) -> list[str]:
    """It prints a line when it is up: its address, incarnation and pid, as JSON.

    Args:
        config: of the cluster.
        log_file: of its own log.
        replicated: shards have standbys now, whatever the config says that the cluster was started with.
    """
    command = python("-m", "rowloom.server.serve")
    command += ["--stop-grace-s", str(config.limits.stop_grace_s)]
    command += ["--host", config.host or "127.0.0.1", "--carrier", config.carrier]
    if config.advertise_host:
        command += ["--advertise", config.advertise_host]
    settings = config.security.settings()
    if settings != ServerSecurity():
        command += ["--security", settings.to_json()]
    if replicated:
        command.append("--replicated")
    return command + keeping(config) + observing(config, log_file)


def check_reached(config: DeployConfig, address: str) -> None:
    """Raise Unavailable if `advertise_host` leads elsewhere: nobody would reach a server by it, we neither."""
    advertised = config.advertise_host
    if advertised is None:
        return
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), REACH_S).close()
    except OSError as e:
        raise Unavailable(
            f"advertise_host {advertised!r} does not lead to a server that was started on this machine "
            f"({e.strerror or e}): name what trainers reach this machine by, or leave it out"
        ) from e
