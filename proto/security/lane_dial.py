"""Connecting to a row lane: over memory that both ends share, on one machine, else over TCP, with TLS or without."""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import socket
import struct
import time

from .. import rowloom_pb2 as pb
from ..lane import ARENA_BYTES, HAS_ARENAS, SOCKET_BUFFER_BYTES, WELCOME, Hello
from .credentials import NOTHING, Credentials
from .lane_socket import be_patient
from .wrapping import wrapped


def dial(
    description: pb.LaneReply,
    host: str,
    *,
    shared: bool,
    until: float,
    patience_s: float,
    credentials: Credentials = NOTHING,
    arena_bytes: int = ARENA_BYTES,
) -> tuple[socket.socket, mmap.mmap | None]:
    """A connection that was welcomed, and the memory that both ends share, if they do.

    Args:
        description: of the server's lane.
        host: the server's.
        shared: try shared memory first.
        until: on `time.monotonic`, when to give up.
        patience_s: for which each call on the socket blocks.
        credentials: of whoever connects, for a lane that speaks TLS.
        arena_bytes: of shared memory, ARENA_BYTES at the most.

    Raises:
        OSError: it cannot be reached.
    """
    if credentials.tls and not description.tls:  # gRPC speaks it, so this is nobody's plan
        raise ConnectionRefusedError("the server has no lane with TLS")
    if shared and HAS_ARENAS and description.unix_address:
        with contextlib.suppress(OSError):  # another machine, or another container
            return _dial_unix(description, until, patience_s, arena_bytes)
    if not description.port:
        raise ConnectionRefusedError("the server has no lane that can be reached from here")
    end = socket.create_connection((host.strip("[]"), description.port), _left(until))
    try:
        end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if description.tls:  # the handshake is done under the timeout that it has
            end = wrapped(end, credentials.context(), credentials.name_of(host))
        end.sendall(Hello(description.key, 0).encode())
        _be_welcomed(end, until, patience_s)
    except BaseException:
        end.close()
        raise
    return end, None


def _left(until: float) -> float:
    return max(until - time.monotonic(), 0.001)


def _dial_unix(
    description: pb.LaneReply, until: float, patience_s: float, arena_bytes: int
) -> tuple[socket.socket, mmap.mmap]:
    end = socket.socket(socket.AF_UNIX)
    try:
        end.settimeout(_left(until))
        end.connect("\0" + description.unix_address)
        if description.HasField("user"):
            _check_user(end, description.user)
        descriptor = os.memfd_create("rowloom-arena", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(descriptor, arena_bytes)
            seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
            fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
            arena = mmap.mmap(descriptor, arena_bytes)
            socket.send_fds(end, [Hello(description.key, arena_bytes).encode()], [descriptor])
        finally:
            os.close(descriptor)
        _be_welcomed(end, until, patience_s)
    except BaseException:
        end.close()
        raise
    return end, arena


def _check_user(end: socket.socket, user: int) -> None:
    """Raise ConnectionRefusedError if another user's process listens: names of a server that ended are free to take."""
    _, there, _ = struct.unpack(
        "3i", end.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    )
    if there != user:
        raise ConnectionRefusedError(
            f"the process that listens is user {there}'s, and the server is user {user}'s"
        )


def _be_welcomed(end: socket.socket, until: float, patience_s: float) -> None:
    end.settimeout(_left(until))
    for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
        end.setsockopt(socket.SOL_SOCKET, option, SOCKET_BUFFER_BYTES)
    if end.recv(1) != WELCOME:
        raise ConnectionRefusedError("the server did not welcome us on its lane")
    be_patient(end, patience_s)
