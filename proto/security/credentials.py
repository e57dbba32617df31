"""What a caller shows, and whom it trusts: paths of a CA, of a certificate and its key, and a token.

Why it is so. What must hold: no secret leaves this process but in a call, on a connection that only the server can
read. So a token is no part of what is shown, pickled or handed to children; it is sent in plain text to this machine
only; and files are named, never their contents.
"""

from __future__ import annotations

import ipaddress
import os
import secrets
import ssl
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import grpc

from ..errors import InvalidRequest
from .files import Reloaded, read_file, read_private
from .lane_socket import LaneSocket

AUTHORIZATION = "authorization"  # the key in gRPC's metadata
BEARER = "Bearer "
VARIABLES = {
    "ca": "ROWLOOM_CA",
    "cert": "ROWLOOM_CERT",
    "key": "ROWLOOM_KEY",
    "server_name": "ROWLOOM_SERVER_NAME",
    "token_file": "ROWLOOM_TOKEN_FILE",
    "token": "ROWLOOM_TOKEN",
}
_LOOPBACK_NAMES = ("localhost", "localhost6", "ip6-localhost", "ip6-loopback")
SECRET_VARIABLES = ("ROWLOOM_TOKEN",)  # not for children
_HERE = weakref.WeakValueDictionary[str, "Credentials"]()  # those of this process whose token has no file


@dataclass(frozen=True)
class Credentials:
    """What a caller shows. By default nothing: plain text, and no token.

    Attributes:
        ca: PEM file of those whose servers are trusted; empty: no TLS.
        cert, key: PEM files of the caller's own certificate, for servers that ask for one.
        server_name: what a server's certificate must be for, in place of the host that is dialled.
        token_file: file with the caller's token, private to its user.
        token: the token itself. Kept out of `repr` and of pickles.

    Raises:
        InvalidRequest: they do not go together.
    """

    ca: str = ""
    cert: str = ""
    key: str = ""
    server_name: str = ""
    token_file: str = ""
    token: str = field(default="", repr=False)

    def __post_init__(self) -> None:
        if bool(self.cert) != bool(self.key):
            given, lacking = ("cert", "key") if self.cert else ("key", "cert")
            raise InvalidRequest(
                f"{given} needs {lacking} beside it: a certificate is of use with its key only"
            )
        if not self.ca and (self.cert or self.server_name):
            given = "cert" if self.cert else "server_name"
            raise InvalidRequest(f"{given} needs ca: the file that says which servers are trusted")
        if self.token and self.token_file:
            raise InvalidRequest("give token or token_file, not both")
        if self.token and not _is_token(self.token):
            raise InvalidRequest(
                "token is no token: letters, digits and signs of ASCII are expected, without blanks or the end of a "
                "line; token_file= takes a file as it is"
            )

    @property
    def tls(self) -> bool:
        """Whether connections speak TLS."""
        return bool(self.ca)

    def paths(self) -> dict[str, str]:
        """Everything but the token, as keywords; what is empty is left out."""
        named = (name for name in VARIABLES if name != "token")
        return {name: value for name in named if (value := getattr(self, name))}

    def __reduce__(self) -> tuple[Any, ...]:
        handle = ""
        if self.token:
            handle = _handle_of(self)
            _HERE[handle] = self
        return _again, (self.paths(), handle)

    def metadata(self, address: str, *, look: bool = False) -> tuple[tuple[str, str], ...] | None:
        """What goes beside each call to an address. Raises InvalidRequest: there is no token to be had, or no TLS.

        look: at the token's file in any case, as `Reloaded.now`.
        """
        if not (self.token or self.token_file):
            return None
        if not self.tls and not is_loopback(address.rpartition(":")[0]):
            raise InvalidRequest(
                f"the token is not sent to {address} in plain text, where others could read it: give `ca` (or "
                "ROWLOOM_CA), the file of the CA that the servers' certificates are of"
            )
        return ((AUTHORIZATION, BEARER + (self.token or _token_file(self.token_file).now(look=look))),)

    def channel(self, address: str, options: Sequence[tuple[str, Any]]) -> grpc.Channel:
        """A channel to an address. Raises InvalidRequest: a file cannot be used."""
        if not self.tls:
            return grpc.insecure_channel(address, options)
        if self.server_name:
            options = [*options, ("grpc.ssl_target_name_override", self.server_name)]
        return grpc.secure_channel(address, self._material().channel, options)

    def context(self) -> ssl.SSLContext:
        """For a socket that speaks TLS. Raises InvalidRequest: a file cannot be used."""
        return self._material().context

    def name_of(self, host: str) -> str:
        """What a server's certificate must be for."""
        return self.server_name or host.strip("[]")

    def version(self) -> object:
        """Another object when the files that connections are made with have changed."""
        return self._material() if self.tls else None

    def _material(self) -> _Material:
        return _materials(self.ca, self.cert, self.key).now()


NOTHING = Credentials()


@dataclass(frozen=True)
class Tls:
    """The files of a connection: `connect(address, tls=Tls(ca=...))` is `connect(address, ca=...)`."""

    ca: str
    cert: str = ""
    key: str = ""
    server_name: str = ""


def from_environment(environment: Mapping[str, str], given: Mapping[str, str | None]) -> Credentials:
    """What is given, and what is not from variables such as ROWLOOM_CA. Raises InvalidRequest."""
    found = {name: given.get(name) for name in VARIABLES}
    token = found["token"] is not None or found["token_file"] is not None
    for name, variable in VARIABLES.items():
        beside_token = name in ("token", "token_file") and token
        beside_cert = name in ("cert", "key") and given.get("cert" if name == "key" else "key") is not None
        if found[name] is None and not beside_token and not beside_cert:
            found[name] = environment.get(variable)
    if found["token"] and found["token_file"]:
        raise InvalidRequest("ROWLOOM_TOKEN and ROWLOOM_TOKEN_FILE are both set: unset one of them")
    return Credentials(**{name: value for name, value in found.items() if value})


def is_any_set(environment: Mapping[str, str]) -> bool:
    """Whether an environment says something of whom a caller is, or whom it trusts."""
    return any(environment.get(variable) for variable in VARIABLES.values())


def is_loopback(host: str) -> bool:
    """Whether nobody beyond this machine is at a host, by its name."""
    host = host.strip("[]")
    if host in _LOOPBACK_NAMES:
        return True
    try:
        return ipaddress.ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        return False


# ------------------------------------------------------------------------------------------------------------ files


@dataclass(frozen=True)
class _Material:
    channel: grpc.ChannelCredentials
    context: ssl.SSLContext


@lru_cache(64)
def _materials(ca: str, cert: str, key: str) -> Reloaded[_Material]:
    return Reloaded("a client's certificate", (ca, cert, key), lambda: _material(ca, cert, key))


def _material(ca: str, cert: str, key: str) -> _Material:
    trusted = read_file(ca, "the CA's certificate")
    chain = read_file(cert, "the certificate") if cert else None
    private = read_private(key, "the key") if key else None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.sslsocket_class = LaneSocket
    context.set_alpn_protocols(["h2"])  # gRPC's servers want it; those of lanes do not look
    trust(context, ca, trusted)
    if cert:
        present(context, cert, key)
    return _Material(grpc.ssl_channel_credentials(trusted, private, chain), context)


def trust(context: ssl.SSLContext, path: str, pem: bytes) -> None:
    """Let a context trust the CA of a file. Raises InvalidRequest: that is none."""
    try:
        context.load_verify_locations(cadata=pem.decode("ascii"))
    except (ssl.SSLError, UnicodeDecodeError, ValueError):
        raise InvalidRequest(f"{path} is no CA's certificate in PEM") from None


def present(context: ssl.SSLContext, cert: str, key: str) -> None:
    """Let a context show the certificate of a file. Raises InvalidRequest: it cannot be used."""
    try:
        # A key with a pass phrase would be asked for at the terminal, which servers have not.
        context.load_cert_chain(cert, key, password=lambda: "")
    except ssl.SSLError as e:
        if e.reason == "KEY_VALUES_MISMATCH":
            raise InvalidRequest(f"the key {key} is not the key of the certificate {cert}") from None
        raise InvalidRequest(
            f"{cert} and {key} are no certificate and key in PEM without a pass phrase: {e.reason or e}"
        ) from None
    except OSError as e:
        raise InvalidRequest(f"{cert} and {key} cannot be read: {e.strerror or e}") from None


@lru_cache(64)
def _token_file(path: str) -> Reloaded[str]:
    return Reloaded("a token", (path,), lambda: token_in(path))


def _is_token(text: str) -> bool:
    """Whether it can be sent beside a call; gRPC would say of another one that the server did not answer."""
    return bool(text) and text.isascii() and text.isprintable() and " " not in text


def token_in(path: str) -> str:
    """The token that a file holds. Raises InvalidRequest."""
    text = read_private(path, "the token").decode("utf-8", "replace").strip()
    if not _is_token(text):
        raise InvalidRequest(f"{path} holds no token: one line of letters and digits is expected")
    return text


# ---------------------------------------------------------------------------------------------------------- pickles


_handles = weakref.WeakKeyDictionary[Credentials, str]()


def _handle_of(credentials: Credentials) -> str:
    return _handles.setdefault(credentials, secrets.token_hex(8))


def _again(paths: dict[str, str], handle: str) -> Credentials:
    """The same in this process, or where it was forked; elsewhere the token is that of the environment."""
    if not handle:
        return Credentials(**paths)
    known = _HERE.get(handle)
    if known is not None:
        return known
    found = from_environment(os.environ, {**dict.fromkeys(VARIABLES), **paths})
    if not (found.token or found.token_file):
        raise InvalidRequest(
            "this client was made with a token, which is in no pickle: give connect() token_file= in place of "
            "token=, or set ROWLOOM_TOKEN_FILE where the client is unpickled"
        )
    return found
