"""gRPC settings that both ends must agree on, and how our errors ride on gRPC's."""

from __future__ import annotations

from typing import Any

import grpc

from .errors import ERROR_KEY, InvalidRequest, NoAnswer, RowloomError, Unauthorized, decode_error

MAX_MESSAGE_BYTES = 64 << 20

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
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
    ("grpc.http2.max_ping_strikes", 0),
    ("grpc.max_concurrent_streams", 256),
]

# Statuses that leave open whether the server did what it was asked.
_UNKNOWN = (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.UNKNOWN,
    grpc.StatusCode.INTERNAL,
)


def error_of(error: grpc.RpcError, address: str) -> RowloomError:
    """The error of ours behind a failed call; NoAnswer when the outcome is unknown."""
    for key, value in error.trailing_metadata() or ():  # type: ignore[attr-defined]
        if key == ERROR_KEY:
            return decode_error(value)
    code, details = error.code(), error.details()  # type: ignore[attr-defined]
    if code in _UNKNOWN:
        return NoAnswer(f"{address} did not answer: {code.name.lower()}: {details}")
    if code == grpc.StatusCode.UNIMPLEMENTED:
        return InvalidRequest(f"what answers at {address} is no rowloom server of this version: {details}")
    if code == grpc.StatusCode.UNAUTHENTICATED:
        return Unauthorized(f"{address}: {details}")
    return InvalidRequest(f"{address} refused the request: {code.name.lower()}: {details}")
