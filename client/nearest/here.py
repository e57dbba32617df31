"""Whether a server is on this machine: who binds an address has it."""

from __future__ import annotations

import functools
import socket


@functools.lru_cache(1024)
def is_here(host: str) -> bool:
    """Whether a host is this machine, or this container."""
    try:
        found = socket.getaddrinfo(host.strip("[]"), 0, type=socket.SOCK_DGRAM)
    except OSError:
        return False
    for family, kind, protocol, _, address in found:
        try:
            with socket.socket(family, kind, protocol) as one:
                one.bind(address)
                return True
        except OSError:
            continue
    return False
