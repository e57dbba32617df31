"""What can go wrong, as one tree, and how it crosses the wire.

RowloomError
├── InvalidRequest (ValueError)   the caller's ids, shapes, values or names; nothing changed
│   └── ClientForgotten           a shard no longer knows what this client has pushed; nothing changed
├── TableNotFound (KeyError)      no such table; nothing changed
├── TableExists                   a table of that name has another spec; nothing changed
├── Unavailable                   a server did not answer in time; a push that raises it was applied nowhere
│   └── Overloaded                it answered that it has too much to do
├── QuotaExceeded                 it would be more than a principal may have; nothing changed
├── PushUnresolved                a push ended without every shard's answer: applied at most once, maybe not
├── StateLost                     a shard is dead for good, or came back without its rows and refuses to serve
├── SnapshotCorrupt               a snapshot does not verify
├── Unauthorized                  who asks may not; nothing changed
│   ├── Unauthenticated           nobody knows who asks, or who answers: a token or certificate is missing or wrong
│   └── PermissionDenied          it is known who asks, and that one has no right to it
└── Rerouted                      internal: the client fetches the layout or waits, then tries again
    ├── WrongLayout  WrongCluster
    └── Moving  RetryLater
"""

from __future__ import annotations

from typing import Any

from google.protobuf.message import DecodeError

from . import rowloom_pb2 as pb

ERROR_KEY = "rowloom-error-bin"
MAX_LAYOUT_BYTES = 3000  # about 60 shards; who is not told asks for it
MAX_MESSAGE_BYTES = 2000  # gRPC has 8 KiB for what stands behind a reply, and drops all of it if it is more


class RowloomError(Exception):
    """The root: `except RowloomError` catches everything that rowloom raises on purpose."""

    kind = pb.ErrorInfo.INTERNAL

    def __init__(
        self, message: str = "", *, epoch: int = 0, retry_after_s: float = 0.0, layout: bytes = b""
    ) -> None:
        super().__init__(message)
        self.message = message
        self.epoch = epoch
        self.retry_after_s = retry_after_s
        self.layout = layout  # a serialized `Layout`, where a server knows a newer one

    def __str__(self) -> str:
        return self.message

    def __reduce__(self) -> tuple[Any, ...]:
        return (_rebuild, (type(self), self.message, self.__dict__))


def _rebuild(cls: type[RowloomError], message: str, data: dict[str, Any]) -> RowloomError:
    error = cls(message)
    error.__dict__.update(data)
    return error


class InvalidRequest(RowloomError, ValueError):
    """An argument is wrong; the message names it and its value. Nothing changed."""

    kind = pb.ErrorInfo.INVALID_REQUEST


class ClientForgotten(InvalidRequest):
    """A shard has forgotten this client, so it cannot know whether a push is a repeated one. It was not applied now.

    The client goes on under another name with its next push. Callers of `push` see it as the cause of a PushUnresolved.
    """

    kind = pb.ErrorInfo.CLIENT_FORGOTTEN


class TableNotFound(RowloomError, KeyError):
    """There is no table of that name, or it was dropped."""

    kind = pb.ErrorInfo.TABLE_NOT_FOUND


class TableExists(RowloomError):
    """A table of that name exists and its spec differs; the message says where."""

    kind = pb.ErrorInfo.TABLE_EXISTS


class Unavailable(RowloomError):
    """A server did not answer within the deadline. A push that raises this was not applied anywhere."""

    kind = pb.ErrorInfo.UNAVAILABLE


class Overloaded(Unavailable):
    """A server refused because of a limit; nothing changed. Try smaller batches, or later."""

    kind = pb.ErrorInfo.OVERLOADED


class QuotaExceeded(RowloomError):
    """A principal would have more rows, bytes or tables than its quota; the message says which, and who raises it.

    Nothing changed, and it is not tried again: it helps to drop a table, or that an operator raises the quota.
    """

    kind = pb.ErrorInfo.QUOTA_EXCEEDED


class NoAnswer(Unavailable):
    """Internal: the carrier failed, so whether the server did what it was asked is not known. The client asks again.

    Attributes:
        why: the cause alone, where that is known; the message names the server as well.
    """

    why = ""

    @classmethod
    def of(cls, address: str, why: str) -> NoAnswer:
        """The error of a server that did not answer."""
        error = cls(f"{address} did not answer: {why}")
        error.why = why
        return error


class Unreached(NoAnswer):
    """Internal: there was no connection to the server, so it was not even asked."""


class Unconfirmed(NoAnswer):
    """Internal: a server did what it was asked, and its standby has not said yet that it has that, too.

    The client asks again, under the same names: here, or wherever the shard is by then.
    """

    kind = pb.ErrorInfo.UNCONFIRMED


class PushUnresolved(RowloomError):
    """A push ended before every shard had answered. Each row got it at most once.

    Do not push the same batch again: the rows that have it would get it twice. Go on with the next batch, or, where
    each push must count exactly once and the cluster has a snapshot, restore that.

    Attributes:
        acked_rows: rows that are known to have it.
        unknown_rows: rows that may or may not have it.
        unapplied_rows: rows that are known not to have it.
    """

    kind = pb.ErrorInfo.PUSH_UNRESOLVED

    def __init__(
        self,
        message: str = "",
        *,
        acked_rows: int = 0,
        unknown_rows: int = 0,
        unapplied_rows: int = 0,
        **data: Any,
    ) -> None:
        super().__init__(message, **data)
        self.acked_rows = acked_rows
        self.unknown_rows = unknown_rows
        self.unapplied_rows = unapplied_rows


class StateLost(RowloomError):
    """A shard has lost its rows: it says so and serves no initial values, or it is dead and the coordinator says so."""

    kind = pb.ErrorInfo.STATE_LOST


class SnapshotCorrupt(RowloomError):
    """A snapshot is incomplete or does not match its checksums."""

    kind = pb.ErrorInfo.SNAPSHOT_CORRUPT


class Unauthorized(RowloomError):
    """Who asks may not do it, or has not shown who that is. Nothing changed; never tried again."""

    kind = pb.ErrorInfo.UNAUTHORIZED


class Unauthenticated(Unauthorized):
    """A token or a certificate is missing or wrong: the caller's, or that of the server."""

    kind = pb.ErrorInfo.UNAUTHENTICATED


class PermissionDenied(Unauthorized):
    """The caller is known and has no right to this; the message names the right that is missing."""

    kind = pb.ErrorInfo.PERMISSION_DENIED


class Rerouted(RowloomError):
    """The request is right, but must go elsewhere or come later. Callers of the client never see it."""


class WrongLayout(Rerouted):
    """The server is not that shard in that epoch: fetch the layout again."""

    kind = pb.ErrorInfo.WRONG_LAYOUT


class WrongCluster(Rerouted):
    """Another cluster answers at this address."""

    kind = pb.ErrorInfo.WRONG_CLUSTER


class Moving(Rerouted):
    """Pushes wait while rows move to a new layout."""

    kind = pb.ErrorInfo.MOVING


class RetryLater(Rerouted):
    """Another change is in progress."""

    kind = pb.ErrorInfo.RETRY_LATER


_LEAVES = (
    InvalidRequest,
    ClientForgotten,
    TableNotFound,
    TableExists,
    Unavailable,
    Overloaded,
    Unconfirmed,
    PushUnresolved,
    StateLost,
    SnapshotCorrupt,
    Unauthorized,
    Unauthenticated,
    PermissionDenied,
    QuotaExceeded,
    WrongLayout,
    WrongCluster,
    Moving,
    RetryLater,
)
BY_KIND: dict[int, type[RowloomError]] = {cls.kind: cls for cls in _LEAVES}

# gRPC status names, for clients that know nothing of ErrorInfo.
STATUS: dict[type[RowloomError], str] = {
    RowloomError: "INTERNAL",
    InvalidRequest: "INVALID_ARGUMENT",
    ClientForgotten: "FAILED_PRECONDITION",
    TableNotFound: "NOT_FOUND",
    TableExists: "ALREADY_EXISTS",
    Unavailable: "UNAVAILABLE",
    Overloaded: "RESOURCE_EXHAUSTED",
    Unconfirmed: "UNAVAILABLE",
    QuotaExceeded: "RESOURCE_EXHAUSTED",
    PushUnresolved: "UNKNOWN",
    StateLost: "DATA_LOSS",
    SnapshotCorrupt: "DATA_LOSS",
    Unauthorized: "UNAUTHENTICATED",
    Unauthenticated: "UNAUTHENTICATED",
    PermissionDenied: "PERMISSION_DENIED",
    Rerouted: "FAILED_PRECONDITION",
    WrongLayout: "FAILED_PRECONDITION",
    WrongCluster: "FAILED_PRECONDITION",
    Moving: "ABORTED",
    RetryLater: "ABORTED",
}


def status_of(error: RowloomError) -> str:
    """The gRPC status of an error: its own, or that of the nearest class above it."""
    return next(STATUS[cls] for cls in type(error).__mro__ if cls in STATUS)


def version_fault(what: str, found: object, known: int) -> str:
    """Why something is not read, or an empty text: it is of the version that is known.

    Args:
        what: it is, for the message: a file's path, or "the vocabulary".
        found: the version that it says it has; anything, as it may be damaged.
        known: the one that this rowloom writes. There was none before it: with a second one comes a list.
    """
    if type(found) is int and found == known:
        return ""
    said = f"{what} is of format version {str(found)[:50]}, this rowloom reads version {known}"
    newer = type(found) is int and found > known
    return f"{said}: a newer one has written it, so use that one" if newer else said


def in_words(error: BaseException) -> str:
    """An error as people read it: one of ours by what it says, the system's too; another one with its class."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error) if isinstance(error, RowloomError) else f"{type(error).__name__}: {error}"


def cause(error: RowloomError) -> str:
    """What an error says, for sentences that name the server themselves."""
    return (error.why if isinstance(error, NoAnswer) else "") or str(error)


def encode_error(error: RowloomError) -> bytes:
    """The error as a serialized `ErrorInfo`; a very long message is cut, a very long layout left out."""
    info = pb.ErrorInfo(
        kind=error.kind,
        message=error.message.encode("utf-8", "replace")[:MAX_MESSAGE_BYTES].decode("utf-8", "ignore"),
        epoch=error.epoch,
        retry_after_s=error.retry_after_s,
    )
    if 0 < len(error.layout) <= MAX_LAYOUT_BYTES:
        info.layout.ParseFromString(error.layout)
    return info.SerializeToString()


def decode_error(data: bytes) -> RowloomError:
    """The error that `encode_error` was given; of an unknown kind, or garbage, a plain `RowloomError`."""
    try:
        info = pb.ErrorInfo.FromString(data)
    except DecodeError:
        return RowloomError(f"a server answered with an error that does not parse ({len(data)} bytes)")
    cls = BY_KIND.get(info.kind, RowloomError)
    layout = info.layout.SerializeToString() if info.HasField("layout") else b""
    return cls(info.message, epoch=info.epoch, retry_after_s=info.retry_after_s, layout=layout)
