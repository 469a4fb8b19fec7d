"""Certificates for servers in tests: an authority that a test makes up, and what it signs for 127.0.0.1."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


@dataclass(frozen=True)
class Signed:
    """A certificate with its key, as PEM."""

    cert: bytes
    key: bytes

    def write(self, folder: Path, mode: int = 0o600) -> tuple[Path, Path]:
        """`cert.pem` and `key.pem`, replaced together."""
        folder.mkdir(parents=True, exist_ok=True)
        cert, key = folder / "cert.pem", folder / "key.pem"
        key.write_bytes(self.key)
        key.chmod(mode)
        cert.write_bytes(self.cert)
        return cert, key


class Authority:
    """Signs certificates for a day."""

    def __init__(self, name: str = "Test authority") -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _named(name)
        self.pem = _pem(_builder(self._name, self._name, self._key.public_key(), True).sign(self._key, _HASH))

    def sign(self, name: str = "churn.example.org", address: str | None = "127.0.0.1") -> Signed:
        """For a name, and for an address where one is given."""
        key = ec.generate_private_key(ec.SECP256R1())
        names: list[x509.GeneralName] = [x509.DNSName(name)]
        names += [x509.IPAddress(ip_address(address))] if address else []
        builder = _builder(_named(name), self._name, key.public_key(), False)
        made = builder.add_extension(x509.SubjectAlternativeName(names), False).sign(self._key, _HASH)
        unlocked = serialization.NoEncryption()
        private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, unlocked)
        return Signed(_pem(made) + self.pem, private)


_HASH = hashes.SHA256()


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, authority: bool
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.BasicConstraints(authority, None), True)
    )
