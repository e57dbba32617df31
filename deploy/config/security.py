"""The section `security` of a deploy config: paths and switches, and what is wrong with them by themselves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, StrictBool

from ...proto.security.credentials import is_loopback
from ...server.access.settings import ServerSecurity
from .faults import ABSENT, Fault
from .home import expanded

_PATHS = ("ca", "cert", "key", "client_ca", "tokens", "token")
WAYS_OUT = (
    "`rowloom secure init` makes what `security: {ca, cert, key, tokens, token}` names; or say `security: {insecure: "
    "true}`, on a network that is private"
)


class SecurityConfig(BaseModel):
    """Who may connect, and what for. Files are named, never their contents: everybody sees a config."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    ca: str | None = Field(default=None, min_length=1)
    """PEM file of the CA that the servers' certificate is of; what clients need to know the servers by."""
    cert: str | None = Field(default=None, min_length=1)
    """PEM file of the servers' certificate. With it every port speaks TLS."""
    key: str | None = Field(default=None, min_length=1)
    """PEM file of its key, for the servers' user only."""
    mutual: StrictBool = False
    """Whoever connects must have a certificate too, of `client_ca`."""
    client_ca: str | None = Field(default=None, min_length=1)
    """PEM file. None: `ca`."""
    server_name: str | None = Field(default=None, min_length=1)
    """What the certificate is for, where addresses are known late, as on Ray. None: the host that is dialled."""
    tokens: str | None = Field(default=None, min_length=1)
    """File with who may do what, by hashes of tokens. None: whoever connects may do everything."""
    token: str | None = Field(default=None, min_length=1)
    """File with the token that servers and the command line show to one another."""
    insecure: StrictBool = False
    """Servers may listen for others in plain text."""

    def settings(self) -> ServerSecurity:
        """As servers take it."""
        return ServerSecurity(**{name: value for name, value in self.model_dump().items() if value})

    def below(self, folder: Path) -> SecurityConfig:
        """The same with paths that are seen from anywhere; those that were relative begin at a folder."""
        found = {name: value for name in _PATHS if (value := getattr(self, name)) is not None}
        return self.model_copy(
            update={name: str((folder / expanded(value)).absolute()) for name, value in found.items()}
        )


def security_faults(security: SecurityConfig, host: str | None) -> list[Fault]:
    """What does not go together. host: that servers listen on; None: known when they start, and checked then."""
    given = {name: getattr(security, name) for name in SecurityConfig.model_fields}
    faults = [
        _lacking(name, *_NEEDS[name], given) for name in _NEEDS if given[name] and not given[_NEEDS[name][0]]
    ]
    if security.cert and not security.ca:
        faults.append(_lacking("cert", "ca", "the file of the CA that it is of", given))
    if security.cert and security.insecure:
        faults.append(
            _fault("insecure", ABSENT, "contradicts `cert`: with TLS nothing is in plain text; leave one out")
        )
    beyond = host is not None and not is_loopback(host)
    if beyond and security.tokens and not security.cert:
        problem = "would travel in plain text where others can read them: needs `cert`, `key` and `ca`"
        faults.append(_fault("tokens", security.tokens, problem))
    elif beyond and not security.cert and not security.insecure:
        problem = (
            f"is for others, and without TLS whoever reaches it may read and change every table: {WAYS_OUT}"
        )
        faults.append(Fault("host", host, problem))
    return faults


_NEEDS = {
    "cert": ("key", "the file of its key"),
    "key": ("cert", "the file of its certificate"),
    "ca": ("cert", "the file of the servers' certificate"),
    "mutual": ("cert", "the file of the servers' certificate"),
    "client_ca": ("mutual", "`mutual: true`, or clients' certificates are not looked at"),
    "server_name": ("cert", "the file of the servers' certificate"),
    "tokens": ("token", "the file of the token that servers show to one another"),
    "token": ("tokens", "the file with who may do what"),
}


def _lacking(name: str, other: str, what: str, given: dict[str, Any]) -> Fault:
    return _fault(name, given[name], f"needs `{other}` beside it: {what}")


def _fault(name: str, value: Any, problem: str) -> Fault:
    return Fault(f"security.{name}", value, problem)
