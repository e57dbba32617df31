"""What a server asks of whoever connects: its TLS, its tokens, and who somebody is."""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from typing import Any

import grpc

from ...proto.errors import InvalidRequest, Unauthenticated
from ...proto.security.credentials import AUTHORIZATION, BEARER, present, token_in, trust
from ...proto.security.files import Reloaded, read_file, read_private
from ...proto.security.lane_socket import LaneSocket
from ..call import Caller
from .rights import ADMIN, ALL
from .settings import ServerSecurity
from .tokens import Access


class Gate:
    """One server's. All files are read when it is made, and read anew when they change.

    Args:
        security: the settings.

    Raises:
        InvalidRequest: a file cannot be used; the message names it.
    """

    def __init__(self, security: ServerSecurity) -> None:
        self.security = security
        self._access = Access(security.tokens) if security.tokens else None
        self._material: Reloaded[_ServerMaterial] | None = None
        if security.tls:
            files = (security.cert, security.key, *((_client_ca(security),) if security.mutual else ()))
            self._material = Reloaded("a server's certificate", files, lambda: _ServerMaterial(security))
            self._material.now()
            security.credentials().context()
        if self._access is not None:
            self._check_own_token(self._access)

    def _check_own_token(self, access: Access) -> None:
        """Raise InvalidRequest if servers could not call one another."""
        path = self.security.token
        if not path:
            raise InvalidRequest(
                "security.tokens needs security.token, the file with the token that servers show"
            )
        try:
            own = access.identify(token_in(path))
        except Unauthenticated:
            raise InvalidRequest(
                f"servers show the token in {path}, which is of nobody in {self.security.tokens}"
            ) from None
        if not (own.may(ADMIN, ALL) and own.may("pull", ALL) and own.may("create", ALL)):
            raise InvalidRequest(
                f"servers show the token of {own.name!r} ({path}), which needs the right *:* in {self.security.tokens}"
            )

    @property
    def asks(self) -> bool:
        """Whether callers must show a token."""
        return self._access is not None

    def caller(self, carrier: str, metadata: Sequence[Any]) -> Caller:
        """Who calls, by what came beside the call. Raises Unauthenticated."""
        if self._access is None:
            return Caller(carrier)
        shown = next((str(value) for key, value in metadata if key == AUTHORIZATION), "")
        principal = self._access.identify(shown[len(BEARER) :] if shown.startswith(BEARER) else "")
        return Caller(carrier, principal.name, principal)

    def renewed(self, caller: Caller) -> Caller:
        """Somebody who is here for long, with the rights of now. Raises Unauthenticated: it is known no more."""
        if self._access is None or caller.rights is None:
            return caller
        rights = self._access.renewed(caller.rights)
        return caller if rights is caller.rights else Caller(caller.carrier, rights.name, rights)

    # --------------------------------------------------------------------------------------------------------- TLS

    def grpc_credentials(self) -> grpc.ServerCredentials | None:
        """For a port of gRPC; None: plain text."""
        if self._material is None:
            return None
        material = self._material
        given = [material.now()]

        def fetch() -> Any:
            """At each handshake: what has changed since the one before, if anything did."""
            newest = material.now()
            if newest is given[0]:
                return None
            given[0] = newest
            return newest.grpc

        return grpc.dynamic_ssl_server_credentials(given[0].grpc, fetch, self.security.mutual)

    def socket_context(self) -> ssl.SSLContext | None:
        """For a connection that is no gRPC's, of the row lane or of metrics, as files are now; None: plain text."""
        return None if self._material is None else self._material.now().context


def gate_of(security: ServerSecurity, host: str) -> Gate | None:
    """What a server that listens on an interface asks of whoever connects; None: nothing.

    Raises:
        InvalidRequest: as `Gate`; or others could connect in plain text, and nobody said that they may.
    """
    security.check_listening(host)
    return Gate(security) if security.tls or security.tokens else None


class _ServerMaterial:
    """What a server shows, at all of its ports. Raises InvalidRequest."""

    def __init__(self, security: ServerSecurity) -> None:
        chain, key = read_file(security.cert, "the certificate"), read_private(security.key, "the key")
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.minimum_version = ssl.TLSVersion.TLSv1_2
        self.context.sslsocket_class = LaneSocket
        self.context.num_tickets = 0  # lanes are opened once and kept, and pages are few
        present(self.context, security.cert, security.key)
        trusted = None
        if security.mutual:
            path = _client_ca(security)
            trusted = read_file(path, "the clients' CA's certificate")
            trust(self.context, path, trusted)
            self.context.verify_mode = ssl.CERT_REQUIRED
        self.grpc = grpc.ssl_server_certificate_configuration([(key, chain)], trusted)


def _client_ca(security: ServerSecurity) -> str:
    return security.client_ca or security.ca
