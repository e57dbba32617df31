"""gRPC settings that both ends must agree on, and how our errors ride on gRPC's."""

from __future__ import annotations

import re
import threading
import time
from typing import Any

import grpc

from . import methods
from .errors import (
    ERROR_KEY,
    InvalidRequest,
    NoAnswer,
    PermissionDenied,
    RowloomError,
    Unauthenticated,
    Unreached,
    decode_error,
)
from .security.credentials import NOTHING, Credentials
from .security.handshake import why_not

MAX_MESSAGE_BYTES = 64 << 20
LOOKAHEAD_BYTES = (4 << 20) + (64 << 10)  # one of a client's largest requests
# Of one client at once, at one server; what it calls beyond that waits in the client. Far more than calls at once: at
# the limit gRPC's server may refuse one that comes while it still closes another.
MOST_CALLS = 64

_COMMON: list[tuple[str, Any]] = [
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
]
CHANNEL_OPTIONS: list[tuple[str, Any]] = [
    *_COMMON,
    ("grpc.enable_http_proxy", 0),
    ("grpc.enable_retries", 0),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2_000),
]
SERVER_OPTIONS: list[tuple[str, Any]] = [
    *_COMMON,
    ("grpc.so_reuseport", 0),
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    ("grpc.http2.max_ping_strikes", 0),
    ("grpc.max_concurrent_streams", MOST_CALLS),
    # Or the window of every call grows to many MB, which clients may fill also where nobody receives: 40 calls that
    # stopped half-way held 2.5 GB. It opens for the whole of a message as soon as that is received.
    ("grpc.http2.bdp_probe", 0),
    # Of each message while nobody receives it. Less than a client's requests, and each waits for a round trip in its
    # middle: with gRPC's 64 KB pushes took up to 1.2 times as long.
    ("grpc.http2.lookahead_bytes", LOOKAHEAD_BYTES),
]

# What gRPC says of a call that came to nothing, and what people read.
_NO_CONNECTION = "failed to connect to all addresses"
_IN_WORDS = (
    (
        r"failed parsing http/2|expected settings",
        "something listens there that is no server of rowloom (it speaks no gRPC)",
    ),
    (r"connection refused", "nothing listens there (connection refused)"),
    (r"no route to host|network is unreachable", "there is no way to its machine (no route to host)"),
    (r"dns|name resolution|name or service not known|domain name", "its host name is not known"),
    (r"deadline exceeded|timed? ?out|timeout", "no answer in time"),
    (
        r"socket closed|connection reset|broken pipe|goaway|stream removed|fd shutdown|end of file|eof",
        "the connection broke",
    ),
    (r"cancell?ed|channel closed", "the call was given up"),
)

_ASK_AGAIN_S = 2.0  # until a server that does not answer is asked again for a handshake
_HARMLESS = (methods.DESCRIBE_LAYOUT, methods.HEALTH, methods.STATUS)

# Statuses that leave open whether the server did what it was asked.
_UNKNOWN = (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.UNKNOWN,
    grpc.StatusCode.INTERNAL,
)


class Channels:
    """Connections to any number of addresses, made when first needed: the one place that dials. Thread-safe.

    Args:
        credentials: what every call shows; nothing by default.
    """

    def __init__(self, credentials: Credentials = NOTHING) -> None:
        self.credentials = credentials
        self._lock = threading.Lock()
        self._channels: dict[str, grpc.Channel] = {}
        self._methods: dict[tuple[str, str], Any] = {}
        self._made_with: dict[str, object] = {}  # by address, the version of the credentials
        self._answered: set[str] = set()
        self._asked: dict[str, float] = {}  # address -> until when it is not asked again why nobody answers

    def __enter__(self) -> Channels:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def method(self, address: str, method: str) -> Any:
        """The callable of a method at an address: bytes in, bytes out; raises grpc.RpcError, see `error_of`."""
        found = self._methods.get((address, method))
        if found is None:
            with self._lock:
                if address not in self._channels:
                    self._made_with[address] = self.credentials.version()
                    self._channels[address] = self.credentials.channel(address, CHANNEL_OPTIONS)
                found = self._methods[address, method] = self._channels[address].unary_unary(method)  # pyright: ignore[reportUnknownVariableType]
        return found  # pyright: ignore[reportUnknownVariableType]

    def call(
        self, address: str, method: str, request: bytes, timeout_s: float, *, wait: bool = False
    ) -> bytes:
        """One call.

        Args:
            address: host:port.
            method: of `methods.py`.
            request: the message.
            timeout_s: how long it may take.
            wait: for a server that does not answer yet, within that time.

        Raises:
            RowloomError: what it answered; NoAnswer if the outcome is not known; Unauthenticated also if the server
                could not be told from a stranger, which got nothing then.
        """
        shown, until = self.credentials.metadata(address), time.monotonic() + timeout_s
        try:
            return self._call(address, method, request, timeout_s, wait, shown)
        except Unauthenticated:
            # Nothing was done. The file is looked at now and then only: it may have been replaced twice since.
            newest = self.credentials.metadata(address, look=True)
            left_s = until - time.monotonic()
            if newest == shown or left_s <= 0:
                raise
        return self._call(address, method, request, left_s, wait, newest)

    def _call(
        self, address: str, method: str, request: bytes, timeout_s: float, wait: bool, shown: Any
    ) -> bytes:
        """As `call`. shown: beside it."""
        try:
            reply = self.method(address, method)(
                request, timeout=timeout_s, wait_for_ready=wait, metadata=shown
            )
        except grpc.RpcError as e:
            error = error_of(e, address)
            if isinstance(error, NoAnswer) and (wait or e.code() == grpc.StatusCode.UNAVAILABLE):  # type: ignore[attr-defined]
                raise self._why_not(address, method) or error from None
            raise error from None
        except InvalidRequest:  # the credentials cannot be used; it is also a ValueError
            raise
        except ValueError as e:  # closed meanwhile
            raise NoAnswer(f"{address}: {e}") from None
        self._answered.add(address)
        return reply

    def _why_not(self, address: str, method: str) -> Unauthenticated | None:
        """Why nobody answers, if that is for sure; and dial anew with credentials that have changed.

        Asked where nothing was ever answered, or nothing could have changed: only there is it sure that the call that
        failed did not come to anything.
        """
        if address in self._made_with and self._made_with[address] is not self.credentials.version():
            self.forget(address)
            return None
        now = time.monotonic()
        if (address in self._answered and method not in _HARMLESS) or now < self._asked.get(address, 0.0):
            return None
        self._asked[address] = now + _ASK_AGAIN_S
        return why_not(address, self.credentials)

    def forget(self, address: str) -> None:
        """Close the connection to an address."""
        with self._lock:
            channel = self._channels.pop(address, None)
            self._methods = {key: found for key, found in self._methods.items() if key[0] != address}
        if channel is not None:
            channel.close()

    def close(self) -> None:
        """Close all. Another call dials anew."""
        with self._lock:
            channels = list(self._channels.values())
            self._channels, self._methods = {}, {}
        for channel in channels:
            channel.close()


def error_of(error: grpc.RpcError, address: str) -> RowloomError:
    """The error of ours behind a failed call; NoAnswer when the outcome is unknown."""
    for key, value in error.trailing_metadata() or ():  # type: ignore[attr-defined]
        if key == ERROR_KEY:
            return decode_error(value)  # pyright: ignore[reportUnknownArgumentType]
    code, details = error.code(), error.details()  # type: ignore[attr-defined]
    if code in _UNKNOWN:
        # A call gets a connection before any of it is sent, and this says that there was none.
        kind = Unreached if _NO_CONNECTION in (details or "") else NoAnswer
        return kind.of(address, _in_words(code, details or ""))
    if code == grpc.StatusCode.UNIMPLEMENTED:
        return InvalidRequest(f"what answers at {address} is no rowloom server of this version: {details}")
    if code == grpc.StatusCode.UNAUTHENTICATED:
        return Unauthenticated(f"{address}: {details}")
    if code == grpc.StatusCode.PERMISSION_DENIED:
        return PermissionDenied(f"{address}: {details}")
    return InvalidRequest(f"{address} refused the request: {code.name.lower()}: {details}")


def _in_words(code: grpc.StatusCode, details: str) -> str:
    """Why a call came to nothing. What gRPC says is for those who work on gRPC, and shown only if it is not known."""
    if code == grpc.StatusCode.DEADLINE_EXCEEDED:
        return "no answer in time"
    last = details.rpartition("last error: ")[2]  # before it: that no address of the name could be reached
    found = (words for pattern, words in _IN_WORDS if re.search(pattern, last, re.IGNORECASE))
    return next(found, f"{code.name.lower()}: {details}")
