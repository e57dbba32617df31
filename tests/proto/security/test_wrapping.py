"""A connection that has gone before it is given its TLS."""

import os
import socket
import ssl
import struct

import pytest
from waiting import until

from rowloom.proto.security.wrapping import wrapped

RESET = struct.pack("ii", 1, 0)  # SO_LINGER: close with a reset


def descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


@pytest.mark.parametrize("serves", [True, False])
def test_a_peer_that_reset_before_the_handshake_left_a_socket_open(serves):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if serves else ssl.PROTOCOL_TLS_CLIENT)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        before = descriptors()
        peer = socket.create_connection(listener.getsockname())
        end, _ = listener.accept()
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        peer.close()
        until(lambda: _gone(end))
        with pytest.raises(OSError, match=r"not connected|reset") as raised:
            wrapped(end, context, None if serves else "localhost", serves=serves)
        assert descriptors() == before  # while the error, and with it every frame, is still held
    assert raised.value


def _gone(end: socket.socket) -> bool:
    try:
        end.getpeername()
    except OSError:
        return True
    return False
