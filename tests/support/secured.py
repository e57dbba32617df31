"""A folder as `rowloom secure init` makes it, and what tests spoil in it."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes

from rowloom.deploy.secure import certificates
from rowloom.deploy.secure.certificates import Authority, write_pair
from rowloom.deploy.secure.token_files import add_token

LOOPBACK = ("localhost", "127.0.0.1", "::1")


class SecuredFolder:
    """A CA, certificates of servers and of a client, and tokens: `cluster` has all rights, others as they get them.

    Attributes:
        path: the folder.
    """

    def __init__(self, path: Path) -> None:
        path.mkdir(parents=True, exist_ok=True)
        self.path = path
        self.authority = Authority.new("test")
        write_pair(path, "ca", self.authority.certificate, self.authority.key)
        self.authority.give(path, "server", LOOPBACK, 90, server=True)
        self.authority.give(path, "client", [], 90)
        self.token("cluster", "*:*")

    def __getitem__(self, name: str) -> str:
        return str(self.path / name)

    def token(self, name: str, *allow: str) -> str:
        """A token of somebody, as text."""
        where = self.path / f"{name}.token"
        add_token(self.path / "tokens.yaml", name, allow, where)
        return where.read_text().strip()

    def section(self, **changes: Any) -> dict[str, Any]:
        """`security` of a deploy config; changes: of keys, None to leave one out."""
        found = {
            "ca": self["ca.pem"],
            "cert": self["server.pem"],
            "key": self["server.key"],
            "tokens": self["tokens.yaml"],
            "token": self["cluster.token"],
        } | changes
        return {name: value for name, value in found.items() if value is not None}

    def shown(self, name: str = "cluster", *, mutual: bool = False, **changes: Any) -> dict[str, Any]:
        """Options of `connect` for somebody."""
        own = {"cert": self["client.pem"], "key": self["client.key"]} if mutual else {}
        return {"ca": self["ca.pem"], "token_file": self[f"{name}.token"], **own} | changes

    def expire(self, name: str = "server") -> None:
        """Replace a certificate by one that was valid until yesterday."""
        path = self.path / f"{name}.pem"
        old = x509.load_pem_x509_certificate(path.read_bytes())
        now = datetime.datetime.now(datetime.timezone.utc)
        key = certificates.ec.generate_private_key(certificates.ec.SECP256R1())
        builder = (
            x509.CertificateBuilder()
            .subject_name(old.subject)
            .issuer_name(old.issuer)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=9))
            .not_valid_after(now - datetime.timedelta(days=1))
        )
        for extension in old.extensions:
            builder = builder.add_extension(extension.value, extension.critical)
        write_pair(self.path, name, builder.sign(self.authority.key, hashes.SHA256()), key)

    def renew(self, hosts: Sequence[str] = LOOPBACK) -> None:
        """Replace the servers' certificate by another one of the same CA."""
        self.authority.give(self.path, "server", hosts, 90, server=True)
