"""Opening a client of a cluster."""

# What callers give is checked, although it has a type.
# pyright: reportUnnecessaryIsInstance=false

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from ..proto.errors import InvalidRequest
from ..proto.security.credentials import NOTHING, Credentials, Tls, from_environment
from .cache.row_cache import HotRows
from .client import Client
from .finding.addresses import as_timeout_s
from .finding.seeking import Find, first_found


def connect(
    address: str | Sequence[str] | Find,
    *,
    token: str | None = None,
    token_file: str | os.PathLike[str] | None = None,
    ca: str | os.PathLike[str] | None = None,
    cert: str | os.PathLike[str] | None = None,
    key: str | os.PathLike[str] | None = None,
    server_name: str | None = None,
    tls: Tls | None = None,
    timeout_s: float = 60.0,
    carrier: str = "auto",
    cache: HotRows | None = None,
    read_only: bool = False,
    tracing: bool | float = False,
    read_from: Literal["primary", "nearest"] = "primary",
    max_staleness_s: float | None = None,
) -> Client:
    """A client of the cluster at an address.

    It waits for a cluster that is not up yet, also where connections are refused: a trainer may be started before its
    cluster. After two seconds it says so in the log, as a warning.

    Args:
        address: "host:port" of the coordinator or of any shard, or several of them; or a function without arguments
            that returns this, such as `partial(address_of, "ads")`. It is called again, in another thread and at most
            every two seconds, when nobody answers where the cluster was: it may be elsewhere, all of it. To be pickled
            with the client it must be one that can be.
        token: who the client is, for a cluster that asks; ROWLOOM_TOKEN by default. It is in no pickle of the client.
        token_file: a file that holds it, for the client's user only; ROWLOOM_TOKEN_FILE by default. Read anew when it
            changes.
        ca: file with the certificate of the CA whose servers are trusted, in PEM; ROWLOOM_CA by default. Without one
            the client speaks plain text.
        cert: file with the client's own certificate, for a cluster with `mutual: true`; ROWLOOM_CERT by default.
        key: file with the key of `cert`; ROWLOOM_KEY by default.
        server_name: what servers' certificates are for, where that is not the host of `address`; ROWLOOM_SERVER_NAME by
            default.
        tls: `ca`, `cert`, `key` and `server_name` as one value.
        timeout_s: how long any call may take, this one included.
        carrier: how rows travel. "auto": shared memory to shards on this machine, plain sockets to others, gRPC where
            neither can be had. "tcp": no shared memory. "grpc": nothing else.
        cache: which pulled rows the client may keep, and for how long; None: none.
        read_only: refuse every call that would change something: for evaluation, and for looking around. It guards
            against slips, not against others: servers know nothing of it.
        tracing: make spans of its calls, for the OpenTelemetry of this process: of each call within a span of yours,
            and of at most 20 others a second, or of as many as this number says; see docs/metrics.md.
        read_from: which servers answer pulls, where shards have standbys. "primary": the shards. "nearest": also their
            standbys: whoever is on this machine, else the quicker one. Pushes of this client are seen all the same;
            those of others if they were acknowledged before the pull, with `standby.mode: sync`, or `max_staleness_s`
            before it, with `async`. Every other call goes to the shards. See docs/standbys.md.
        max_staleness_s: see `read_from`; 5.0 by default. 0: nothing that was acknowledged may be missing.

    Returns:
        A client that has found the cluster.

    Raises:
        Unavailable: nobody answers there within `timeout_s`; the message has what each address answered last. Or the
            function has raised this until then; what else it raises is raised at once.
        Unauthenticated: the servers cannot be told from strangers, or they do not know the client.
        InvalidRequest: an argument is wrong.

    Example:
        >>> from rowloom.client import connect
        >>> connect("127.0.0.1:1", timeout_s=0.2)
        Traceback (most recent call last):
        rowloom.proto.errors.Unavailable: no rowloom cluster answered at 127.0.0.1:1 ...
    """
    given = {
        "ca": ca,
        "cert": cert,
        "key": key,
        "server_name": server_name,
        "token": token,
        "token_file": token_file,
    }
    if tls is not None:
        if any(value is not None for value in (ca, cert, key, server_name)):
            raise InvalidRequest("give tls, or ca, cert, key and server_name, not both")
        if not isinstance(tls, Tls):
            raise InvalidRequest(f"tls must be such as Tls(ca='ca.pem'), got {tls!r}")
        given.update(vars(tls))
    shown = from_environment(os.environ, {name: _text_of(name, value) for name, value in given.items()})
    more: dict[str, Any] = {"cache": cache, "read_only": read_only, "tracing": tracing}
    more |= {"read_from": read_from, "max_staleness_s": max_staleness_s}
    return open_client(address, shown, timeout_s=timeout_s, carrier=carrier, **more)


def _text_of(name: str, value: object) -> str | None:
    """An argument that is a path or a text; of a token nothing is said but that it is none."""
    if value is None or (isinstance(value, str) and (value or name in ("cert", "key", "server_name"))):
        return value
    if isinstance(value, os.PathLike) and name != "token":
        return str(Path(os.fspath(value)))  # pyright: ignore[reportUnknownArgumentType]
    shown = "" if name == "token" else f", got {value!r}"
    raise InvalidRequest(f"{name} must be a text that is not empty{' or a path' * (name != 'token')}{shown}")


def open_client(
    address: str | Sequence[str] | Find, credentials: Credentials = NOTHING, **options: Any
) -> Client:
    """As `connect`, with nothing from the environment: for who knows what a cluster is shown."""
    if callable(address):
        found = first_found(address, as_timeout_s(options.get("timeout_s", 60.0)))
        client = Client(found, credentials=credentials, find=address, **options)
    else:
        client = Client(address, credentials=credentials, **options)
    client.refresh()
    return client
