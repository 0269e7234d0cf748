"""An authority and its certificates, and the two ends of an endpoint."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    pkcs12,
)
from cryptography.x509.oid import NameOID

from flps.config.tls import TlsFiles
from flps.frames import Limits
from flps.transport.tls.dialler import TlsDialler
from flps.transport.tls.door import TlsDoor
from flps.transport.tls.identity import Identity

LIMITS = Limits(frames=64, frame_bytes=1 << 20, message_bytes=2 << 20)
DAY = timedelta(days=1)


class Authority:
    """A certificate authority in a folder."""

    def __init__(self, folder: Path, name: str = "authority") -> None:
        self.folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        now = datetime.now(timezone.utc)
        self._certificate = (
            self._builder(self._name, self._key, now - DAY, now + DAY)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(self._key, hashes.SHA256())
        )
        self.ca = folder / f"{name}.pem"
        self.ca.write_bytes(self._certificate.public_bytes(Encoding.PEM))
        self.revoke()

    def issue(
        self,
        *names: str,
        days: tuple[int, int] = (-1, 1),
        password: bytes | None = None,
        common_name: str = "",
        as_pkcs12: bool = False,
    ) -> Path:
        """The file of a new pair; `days`: from when to when it is valid, from today."""
        key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(timezone.utc)
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name or names[0])])
        builder = self._builder(subject, key, now + days[0] * DAY, now + days[1] * DAY)
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName([_name(one) for one in names]), critical=False)
        certificate = builder.sign(self._key, hashes.SHA256())
        lock = BestAvailableEncryption(password) if password else NoEncryption()
        path = self.folder / f"{certificate.serial_number:x}.{'p12' if as_pkcs12 else 'pem'}"
        if as_pkcs12:
            content = pkcs12.serialize_key_and_certificates(b"own", key, certificate, [self._certificate], lock)
        else:
            content = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, lock) + certificate.public_bytes(
                Encoding.PEM
            )
        path.touch(mode=0o600)
        path.write_bytes(content)
        return path

    def revoke(self, *paths: Path, days: int = 1, as_der: bool = False) -> Path:
        """The list of revoked certificates, written anew."""
        now = datetime.now(timezone.utc)
        builder = x509.CertificateRevocationListBuilder().issuer_name(self._name)
        builder = builder.last_update(now - 2 * DAY).next_update(now + days * DAY)
        for path in paths:
            serial = int(path.stem, 16)
            one = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(now - DAY).build()
            builder = builder.add_revoked_certificate(one)
        content = builder.sign(self._key, hashes.SHA256()).public_bytes(Encoding.DER if as_der else Encoding.PEM)
        self.crl = self.folder / "revoked.crl"
        self.crl.write_bytes(content)
        return self.crl

    def files(self, certificate: Path | None = None, **changes: Any) -> TlsFiles:
        """A configuration; without a certificate, a new one for localhost."""
        path = certificate or self.issue("localhost", "127.0.0.1", "follower-1")
        return TlsFiles(**{"ca": str(self.ca), "certificate": str(path), "expiry_warning_days": 0, **changes})

    def identity(self, certificate: Path | None = None, **changes: Any) -> Identity:
        """What `files` describes, ready for use."""
        return Identity(self.files(certificate, **changes), self.folder)

    def _builder(
        self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, begin: datetime, end: datetime
    ) -> x509.CertificateBuilder:
        builder = x509.CertificateBuilder().subject_name(subject).issuer_name(self._name)
        builder = builder.public_key(key.public_key()).serial_number(x509.random_serial_number())
        return builder.not_valid_before(begin).not_valid_after(end)


def _name(text: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(text))
    except ValueError:
        return x509.DNSName(text)


class Ends:
    """Makes doors and diallers, and closes them."""

    def __init__(self) -> None:
        self._made: list[TlsDoor | TlsDialler] = []

    def door(self, identity: Identity, port: int = 0, limits: Limits = LIMITS, **settings: Any) -> TlsDoor:
        door = TlsDoor(identity, f"tls://127.0.0.1:{port}", limits, **settings)
        self._made.append(door)
        return door

    def dialler(
        self, identity: Identity, port: int, host: str = "127.0.0.1", limits: Limits = LIMITS, **settings: Any
    ) -> TlsDialler:
        dialler = TlsDialler(identity, f"tls://{host}:{port}", "leader:0", limits, **settings)
        self._made.append(dialler)
        return dialler

    def close(self) -> None:
        for one in reversed(self._made):
            one.close()


@pytest.fixture
def ends() -> Iterator[Ends]:
    made = Ends()
    yield made
    made.close()


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """The one that both ends believe."""
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def own_authority(tmp_path: Path) -> Callable[..., Authority]:
    """Makes authorities whose files a test may change."""
    return lambda name="other": Authority(tmp_path, name)


def open_files() -> int:
    """Descriptors of this process."""
    return len(os.listdir("/proc/self/fd"))


def frames_of(message: Sequence[Any]) -> list[bytes]:
    """What stands in the parts of a message."""
    return [bytes(part.buffer) for part in message]
