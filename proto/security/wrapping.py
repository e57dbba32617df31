"""A connection is given its TLS.

Why it is not `wrap_socket` alone: where the peer has reset the connection before, Python's raises and leaves a socket
open that nobody else holds, until the garbage collector finds it.
"""

from __future__ import annotations

import socket
import ssl


def wrapped(
    end: socket.socket, context: ssl.SSLContext, server_hostname: str | None = None, *, serves: bool = False
) -> ssl.SSLSocket:
    """As `SSLContext.wrap_socket`; a server's does its handshake later. On an error the connection is closed.

    Raises:
        OSError: the peer has closed it, or the handshake failed.
    """
    try:
        end.getpeername()
        return context.wrap_socket(
            end, server_side=serves, do_handshake_on_connect=not serves, server_hostname=server_hostname
        )
    except BaseException:
        end.close()
        raise
