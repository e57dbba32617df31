"""The security settings of a server: paths and switches, never a key. They travel in arguments and configs."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import Any

from ...proto.errors import InvalidRequest
from ...proto.security.credentials import Credentials, is_loopback


@dataclass(frozen=True)
class ServerSecurity:
    """What protects a server. By default nothing does, and it listens on this machine only.

    Attributes:
        ca: PEM file of the CA that servers' certificates are of: servers call one another.
        cert, key: PEM files of the servers' certificate, and of its key.
        mutual: whoever connects must have a certificate of `client_ca`.
        client_ca: PEM file; empty: `ca`.
        server_name: what the certificate is for, where it is not the hosts.
        tokens: file with who may do what; empty: whoever connects may do everything.
        token: file with the token that servers and the command line show.
        insecure: others may connect in plain text, as the owner wants it.
    """

    ca: str = ""
    cert: str = ""
    key: str = ""
    mutual: bool = False
    client_ca: str = ""
    server_name: str = ""
    tokens: str = ""
    token: str = ""
    insecure: bool = False

    @property
    def tls(self) -> bool:
        """Whether its ports speak TLS."""
        return bool(self.cert)

    def credentials(self) -> Credentials:
        """What a server, or who operates it, shows to another one."""
        if not self.tls:
            return Credentials(token_file=self.token)
        mine = {"cert": self.cert, "key": self.key} if self.mutual else {}
        return Credentials(ca=self.ca, server_name=self.server_name, token_file=self.token, **mine)

    def check_listening(self, host: str, may: str = "read and change every table") -> None:
        """Raise InvalidRequest where others could connect in plain text, and nobody said that they may.

        may: what whoever reaches it could do.
        """
        if self.tls or self.insecure or is_loopback(host):
            return
        raise InvalidRequest(
            f"a server that listens on {host} without TLS would let whoever reaches it {may}: "
            "`rowloom secure init` makes what `security: {ca, cert, key, tokens, token}` names; or "
            "`security: {insecure: true}`, on a network that is private"
        )

    def to_json(self) -> str:
        """As an argument of a command; paths only."""
        fields = dataclasses.asdict(self)
        return json.dumps({name: value for name, value in fields.items() if value})

    @classmethod
    def from_json(cls, text: str) -> ServerSecurity:
        """Back from `to_json`."""
        said: dict[str, Any] = json.loads(text)
        return cls(**said)
