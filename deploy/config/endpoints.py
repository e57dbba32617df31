"""Addresses and ports in a deploy config: whether others can connect to them, and what was probably meant."""

from __future__ import annotations

import difflib
import ipaddress
import re
from typing import Any

from .faults import ABSENT, Fault

WILDCARDS = ("0.0.0.0", "::")  # listen everywhere; nothing that one can connect to
MAX_PORT = 65535
_MOST_DIGITS = 5  # of a port; with one more something was typed twice
RAY_PORT = 6379  # where the head of a Ray listens, unless it was told otherwise
_RAY_WORDS = ("auto", "local")
_HOST_NAME = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_.])?")
_LOOKS_LIKE = str.maketrans("OolI", "0011")  # letters that are typed for digits


def host_faults(host: str | None) -> list[Fault]:
    """What is wrong with where servers listen.

    Only the form is looked at: whether a name is known, and an address this machine's, shows when a server starts.
    """
    return _host("host", host) if host is not None and host not in WILDCARDS else []


def near_port(value: Any) -> int | None:
    """The port that was probably meant: 7400 by "7400", 74O0, -7400, 74000 and 127.0.0.1:7400. None: nobody knows."""
    if value == "auto":
        return 0
    if isinstance(value, bool) or not isinstance(value, str | int):
        return None
    text = str(value).rpartition(":")[2].strip()
    digits = text.lstrip("-").translate(_LOOKS_LIKE)
    if not digits.isascii() or not digits.isdigit() or len(digits) > _MOST_DIGITS + 1:
        return None
    if text.startswith("-") and int(digits) < 1000:  # no port that one takes for this
        return None
    return int(digits) if int(digits) <= MAX_PORT else int(digits[:-1])


def _host(path: str, value: str) -> list[Fault]:
    """A name or an address, without a port."""
    if _is_address(value):
        return []
    host, colon, port = value.rpartition(":")
    if colon and port.isdigit():
        beside = "the coordinator's port is `port`"
        return [Fault(path, value, f"must be a name or an address, without a port: {beside}", host or None)]
    if re.fullmatch(r"[0-9.]+", value):
        return [Fault(path, value, "is no address: that is four numbers of 0 to 255, as 10.0.0.5")]
    if not _HOST_NAME.fullmatch(value):
        return [Fault(path, value, "must be a name or an address, as 10.0.0.5")]
    # Names such as localhost6 are real ones.
    if value != "localhost" and not value[-1].isdigit() and _near(value, ("localhost",), 0.85):
        return [Fault(path, value, "is hardly a machine's name", "localhost")]
    return []


def advertised_faults(launcher: str, host: str | None, advertised: str | None) -> list[Fault]:
    """What is wrong with what others call the machine.

    On Ray each node has an address of its own, found when a server starts there.
    """
    path = "advertise_host"
    if advertised is None:
        if launcher == "ray" or host not in WILDCARDS:
            return []
        return [Fault(path, ABSENT, f"must say what others call this machine, with host {host}")]
    if "/" not in advertised:
        return _host(path, advertised)
    if launcher != "ray":
        return [Fault(path, advertised, "must be a name or an address; networks are for Ray")]
    try:
        network = str(ipaddress.ip_network(advertised, strict=False))
    except ValueError:
        return [Fault(path, advertised, "must be a network such as 10.1.0.0/16")]
    if network == advertised:
        return []
    return [Fault(path, advertised, "must be a network; this is an address in one", network)]


def ray_faults(value: str) -> list[Fault]:
    """What is wrong with where Ray is: `auto`, `local`, host:port, or a URL, which Ray itself reads."""
    if value in _RAY_WORDS or "://" in value:
        return []
    host, _, port = value.rpartition(":")
    if host and port.isdigit() and 0 < int(port) <= MAX_PORT:
        return []
    if _is_address(value) or (not host and "." in value):
        meant: str | None = f"{value}:{RAY_PORT}"
    elif host:
        near = near_port(port)
        meant = f"{host}:{near}" if near else None
    else:
        meant = _near(value.lower(), _RAY_WORDS, 0.5)
    return [Fault("ray.address", value, "must be auto, local or host:port", meant)]


def _is_address(value: str) -> bool:
    try:
        ipaddress.ip_address(value)
    except ValueError:
        return False
    return True


def _near(value: str, choices: tuple[str, ...], cutoff: float) -> str | None:
    return next(iter(difflib.get_close_matches(value, choices, 1, cutoff)), None)
