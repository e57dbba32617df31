"""Whether the files of `security` can be used, asked before anything is started."""

from __future__ import annotations

import datetime
import ipaddress
from collections.abc import Callable, Iterator
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature

from ...proto.errors import InvalidRequest
from ...server.access.gate import Gate
from ..config.config import DeployConfig
from ..config.faults import InvalidConfig

_RENEW = "`rowloom secure certificate` renews it"
SOON = datetime.timedelta(days=30)  # for a certificate to be renewed


def check_security(config: DeployConfig, tell: Callable[[str], object] = lambda text: None) -> None:
    """Check the files that a config names, where it is of this machine.

    Args:
        config: of a cluster that is about to start.
        tell: what should be known, and keeps nothing from starting.

    Raises:
        InvalidConfig: a file cannot be used, or they do not belong together.
    """
    security = config.security
    if security.cert is None and security.tokens is None:
        return
    faults: list[str] = []
    try:
        Gate(security.settings())
    except InvalidRequest as e:
        faults.append(str(e))
    if security.cert and security.ca and not faults:
        faults += _certificate_faults(security.cert, security.ca, _dialled(config), tell)
    if faults:
        raise InvalidConfig("security: " + "; ".join(faults))


def _dialled(config: DeployConfig) -> str | None:
    """By what servers are called; None: each by its own address, as on Ray."""
    if config.security.server_name:
        return config.security.server_name
    return None if config.launcher == "ray" else config.advertise_host or config.host or "127.0.0.1"


def _certificate_faults(path: str, ca: str, host: str | None, tell: Callable[[str], object]) -> Iterator[str]:
    now = datetime.datetime.now(datetime.timezone.utc)
    chain, trusted = _load(path), _load(ca)
    certificate = chain[0]
    for where, one in [(path, certificate), *((ca, other) for other in trusted)]:
        if one.not_valid_after_utc <= now:
            yield f"{where} expired at {_shown(one.not_valid_after_utc)}: {_RENEW}"
        elif one.not_valid_before_utc > now:
            yield f"{where} is not valid before {_shown(one.not_valid_before_utc)}: is the clock right?"
        elif one.not_valid_after_utc <= now + SOON:
            tell(f"{where} expires at {_shown(one.not_valid_after_utc)}: {_RENEW}")
    if not any(_is_of(one, other) for one in chain for other in trusted):
        yield f"{path} is not a certificate of {ca}: servers would not trust one another"
    if host is not None and not is_for(certificate, host):
        names = ", ".join(_names(certificate)) or "no name"
        yield (
            f"{path} is for {names}, and servers are called by {host}: `rowloom secure certificate server --server "
            f"--host {host}` makes one, or `server_name` says what it is for"
        )


def _shown(moment: datetime.datetime) -> str:
    return f"{moment:%Y-%m-%dT%H:%M:%SZ}"


def _load(path: str) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(Path(path).read_bytes())
    except (OSError, ValueError) as e:
        raise InvalidConfig(f"security: {path} holds no certificate in PEM: {e}") from None


def _is_of(certificate: x509.Certificate, authority: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def is_for(certificate: x509.Certificate, host: str) -> bool:
    """Whether a certificate is for a host, by its names as TLS reads them: one * for the first label."""
    name = host.strip("[]").lower()
    try:
        ipaddress.ip_address(name)
    except ValueError:
        wild = f"*.{name.partition('.')[2]}"
        return any(known.lower() in (name, wild) for known in _names(certificate))
    return name in _names(certificate)


def _names(certificate: x509.Certificate) -> list[str]:
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    addresses = [str(address) for address in found.get_values_for_type(x509.IPAddress)]
    return [*found.get_values_for_type(x509.DNSName), *addresses]
