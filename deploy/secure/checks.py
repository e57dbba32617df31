"""Whether the files of `security` can be used, asked before anything is started."""

from __future__ import annotations

import datetime
import ipaddress
from collections.abc import Callable, Iterator

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from ...proto.errors import InvalidRequest
from ...proto.security.credentials import token_in
from ...proto.security.files import read_file, read_private
from ...server.access.gate import Gate
from ...server.access.tokens import read_tokens
from ..config.config import DeployConfig
from ..config.endpoints import WILDCARDS
from ..config.faults import InvalidConfig
from ..config.security import SecurityConfig

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
    faults = file_faults(config, tell)
    if faults:
        raise InvalidConfig("security: " + "; ".join(faults))


def file_faults(config: DeployConfig, tell: Callable[[str], object] = lambda text: None) -> list[str]:
    """All that is wrong with the files that a config names, each in words; none where they can be used. As above."""
    security = config.security
    if security.cert is None and security.tokens is None:
        return []
    faults = list(_each_by_itself(security))
    if not faults:
        try:
            Gate(security.settings())
        except InvalidRequest as e:
            faults.append(str(e))
    if security.cert and security.ca and not faults:
        faults += _certificate_faults(security.cert, security.ca, _dialled(config), tell)
        _tell_of_metrics(config, security.cert, tell)
    return faults


def _tell_of_metrics(config: DeployConfig, path: str, tell: Callable[[str], object]) -> None:
    """That the certificate is not for where metrics are read, if it is not: whoever reads them can be told its name."""
    host = config.metrics.host
    if config.metrics.port is None or host in WILDCARDS or config.security.server_name:
        return
    certificate = _load(path)[0]
    if not is_for(certificate, host):
        names = ", ".join(_names(certificate)) or "no name"
        tell(
            f"{path} is for {names}, and metrics are read at {host}: tell Prometheus one of these names (`tls_config: "
            "{server_name: ...}`), or make one for both, by --host of `rowloom secure certificate`"
        )


def _each_by_itself(security: SecurityConfig) -> Iterator[str]:
    """What is wrong with each file alone: it cannot be read, others may read it, or it holds something else.

    The key of the config stands before it: two may name the same file.
    """
    looks: dict[str, Callable[[str], object]] = {
        "ca": _load,
        "cert": _load,
        "key": _check_key,
        "client_ca": _load,
        "tokens": read_tokens,
        "token": token_in,
    }
    for key, look in looks.items():
        path: str | None = getattr(security, key)
        if path:
            try:
                look(path)
            except InvalidRequest as e:
                yield f"{key}: {e}"


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
    data = read_file(path, "the certificate")
    try:
        return x509.load_pem_x509_certificates(data)
    except ValueError:
        raise InvalidRequest(f"{path} holds no certificate in PEM") from None


def _check_key(path: str) -> None:
    data = read_private(path, "the key")
    try:
        load_pem_private_key(data, None)
    except TypeError:
        raise InvalidRequest(f"{path} has a pass phrase, which servers cannot be asked for") from None
    except (ValueError, UnsupportedAlgorithm):
        raise InvalidRequest(f"{path} holds no key in PEM") from None


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
