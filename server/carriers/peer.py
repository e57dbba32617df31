"""Another server's shard, as one thread asks it: over a row lane where there is one, else over gRPC.

Why a lane: rows that move come through the memory that both servers share, or through a plain socket, and gRPC copies
them five times: two thirds of what a moved row cost.
"""

from __future__ import annotations

import logging
import mmap
import socket
import time

import numpy as np

from ...proto import methods
from ...proto import rowloom_pb2 as pb
from ...proto.channel import Channels
from ...proto.errors import InvalidRequest, NoAnswer, RowloomError, Unauthenticated, decode_error
from ...proto.framing import Buffer
from ...proto.lane import NOWHERE, NUMBER, OK, REPLY_BYTES, decode_reply, encode_request
from ...proto.security.lane_dial import dial

log = logging.getLogger(__name__)
CONNECT_TIMEOUT_S = 2.0
RETRY_S = 5.0  # without a lane, after one could not be had or broke
ARENA_BYTES = 3 << 20  # that are shared, for one reply at a time: a block of rows and what is around them


class Peer:
    """One shard's server.

    Args:
        channels: for gRPC; closed by whoever made it.
        address: host:port.
        timeout_s: of each call.
    """

    def __init__(self, channels: Channels, address: str, timeout_s: float) -> None:
        self._channels, self.address, self._timeout_s = channels, address, timeout_s
        self._lane: _Lane | None = None
        self._without_until = 0.0

    def call(self, method: str, data: bytes) -> Buffer:
        """One request. The reply stays as it is until the next one. Raises RowloomError."""
        try:
            return self._call(method, data)
        except Unauthenticated:
            if self._lane is None:
                raise
            self.close()  # it was opened with a token that may have been replaced twice since
            return self._call(method, data)

    def _call(self, method: str, data: bytes) -> Buffer:
        lane = self._connected() if method in NUMBER else None
        if lane is not None:
            try:
                return lane.call(NUMBER[method], data)
            except _Broken as e:
                log.info("the lane to %s broke: %s", self.address, e)
                self._give_up()
                raise NoAnswer.of(self.address, str(e)) from None
        return self._channels.call(self.address, method, data, self._timeout_s, wait=True)

    def _connected(self) -> _Lane | None:
        if self._lane is None and time.monotonic() >= self._without_until:
            try:
                self._lane = self._connect()
            except (OSError, RowloomError) as e:
                log.debug("no lane to %s: %s", self.address, e)
                self._give_up()
        return self._lane

    def _connect(self) -> _Lane:
        ask = pb.LaneRequest().SerializeToString()
        data = self._channels.call(self.address, methods.DESCRIBE_LANE, ask, CONNECT_TIMEOUT_S, wait=True)
        known = pb.LaneReply.FromString(data)
        if not known.key:
            raise ConnectionRefusedError(f"{self.address} has no lane")
        end, arena = dial(
            known,
            self.address.rpartition(":")[0],
            shared=True,
            until=time.monotonic() + CONNECT_TIMEOUT_S,
            patience_s=self._timeout_s,
            credentials=self._channels.credentials,
            arena_bytes=ARENA_BYTES,
        )
        return _Lane(end, arena)

    def _give_up(self) -> None:
        self.close()
        self._without_until = time.monotonic() + RETRY_S

    def close(self) -> None:
        """Close the lane."""
        lane, self._lane = self._lane, None
        if lane is not None:
            lane.close()


class _Broken(Exception):
    """A lane is of no use any more."""


class _Lane:
    """A connection, and the memory that replies come to lie in."""

    def __init__(self, end: socket.socket, arena: mmap.mmap | None) -> None:
        self._end, self._shared = end, arena is not None
        self._memory = np.empty(0, np.uint8) if arena is None else np.frombuffer(arena, np.uint8)
        self._head = bytearray(REPLY_BYTES)

    def call(self, number: int, data: bytes) -> Buffer:
        """One request; its reply. Raises _Broken, and what is answered."""
        room = len(self._memory) if self._shared else 0
        try:
            self._end.sendall(encode_request(number, len(data), NOWHERE, 0, room) + data)
            self._fill(memoryview(self._head))
            status, length, offset = decode_reply(self._head, room)
            reply = self._body(length, offset)
        except (OSError, InvalidRequest) as e:
            raise _Broken(str(e)) from None
        if status != OK:
            raise decode_error(bytes(reply))
        return reply

    def _body(self, length: int, offset: int) -> memoryview:
        if offset != NOWHERE:  # it is there
            return self._memory[offset : offset + length].data
        memory = np.empty(length, np.uint8) if self._shared else self._memory
        if len(memory) < length:
            memory = self._memory = np.empty(length, np.uint8)
        self._fill(memory[:length].data)
        return memory[:length].data

    def _fill(self, view: memoryview) -> None:
        """Raises OSError."""
        got = 0
        while got < len(view):
            n = self._end.recv_into(view[got:], 0, socket.MSG_WAITALL)
            if not n:
                raise ConnectionResetError("the server closed the connection")
            got += n

    def close(self) -> None:
        """Close the connection. What it handed out stays readable."""
        self._end.close()
