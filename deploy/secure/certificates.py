"""A private CA and the certificates that it gives, made by the library `cryptography`; files for their user only."""

from __future__ import annotations

import datetime
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from ...proto.errors import InvalidRequest
from .private_files import write_private

CA_DAYS = 3650
_EARLIER = datetime.timedelta(minutes=5)  # for machines whose clocks are a little behind


@dataclass(frozen=True)
class Authority:
    """A CA: its certificate and its key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @classmethod
    def new(cls, name: str, days: int = CA_DAYS) -> Authority:
        """A CA of its own. name: of the cluster; days: that it is good for."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = _subject(f"rowloom CA of {name}")
        public = key.public_key()
        usage = _usage(sign_certificates=True)
        built = (
            _builder(subject, subject, public, days)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
            .sign(key, hashes.SHA256())
        )
        return cls(built, key)

    @classmethod
    def load(cls, certificate: Path, key: Path) -> Authority:
        """From its files. Raises InvalidRequest."""
        try:
            found = x509.load_pem_x509_certificate(certificate.read_bytes())
            private = serialization.load_pem_private_key(key.read_bytes(), None)
        except (OSError, ValueError) as e:
            raise InvalidRequest(
                f"{certificate} and {key} are no CA that `rowloom secure init` made: {e}"
            ) from None
        if not isinstance(private, ec.EllipticCurvePrivateKey):
            raise InvalidRequest(f"{key} is no key that `rowloom secure init` made")
        return cls(found, private)

    def give(
        self, folder: Path, name: str, hosts: Sequence[str], days: int, *, server: bool = False
    ) -> tuple[Path, Path]:
        """Make a certificate and its key.

        Args:
            folder: where they go, as NAME.pem and NAME.key; those that are there are replaced.
            name: whose it is.
            hosts: names and addresses that it is for.
            days: that it is good for.
            server: for servers, which are clients of one another, too; otherwise for clients only.

        Returns:
            Where they are.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        usages = [ExtendedKeyUsageOID.CLIENT_AUTH, *([ExtendedKeyUsageOID.SERVER_AUTH] if server else [])]
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key())
        builder = (
            _builder(_subject(name), self.certificate.subject, key.public_key(), days)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(), critical=True)
            .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
            .add_extension(issuer, critical=False)
        )
        if hosts:
            names = x509.SubjectAlternativeName([_host(host) for host in hosts])
            builder = builder.add_extension(names, critical=False)
        built = builder.sign(self.key, hashes.SHA256())
        return write_pair(folder, name, built, key)


def write_pair(
    folder: Path, name: str, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey
) -> tuple[Path, Path]:
    """Write a certificate and its key, both for their user only. Returns where they are."""
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    where = folder / f"{name}.pem", folder / f"{name}.key"
    write_private(where[1], private)
    write_private(where[0], certificate.public_bytes(serialization.Encoding.PEM))
    return where


def _subject(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:64])])


def _builder(
    subject: x509.Name, issuer: x509.Name, public: ec.EllipticCurvePublicKey, days: int
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.timezone.utc)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _EARLIER)
        .not_valid_after(now + datetime.timedelta(days=days))
    )


def _usage(*, sign_certificates: bool = False) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=sign_certificates,
        crl_sign=sign_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _host(text: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(text.strip("[]")))
    except ValueError:
        pass
    try:
        return x509.DNSName(text)
    except ValueError:
        raise InvalidRequest(f"{text!r} is no name or address of a machine") from None
