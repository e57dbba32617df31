"""Ports that stay free while nobody listens there."""

import contextlib
import random
import socket


def free_port(rng: random.Random) -> int:
    """A port below those that the system deals out: while nobody listens there, nobody else may get it."""
    while True:
        port = rng.randrange(20_000, 32_000)
        with contextlib.suppress(OSError), socket.create_server(("", port)):
            return port
