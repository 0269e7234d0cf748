"""Certificate, key, authorities and revocation lists of a role, made ready for use.

Law 1: both ends show a certificate and check the other's, with TLS 1.2 or later; nothing is resumed, so each connection
is judged anew.
Law 2: a secret is used only when nobody else can read its file, and never stands on the disk in clear because of us.
Law 3: what can be seen to be wrong with the own files is said when a role starts, with the file and what to do.
"""

from __future__ import annotations

import logging
import os
import secrets
import ssl
import tempfile
import threading
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.serialization import Encoding, pkcs12

from flps.config.tls import TlsFiles
from flps.errors import ConfigError

log = logging.getLogger(__name__)
PROTOCOL = "flps/1"  # named in the handshake (ALPN): no other protocol's endpoint can be talked into this one
_VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}


class Identity:
    """Who a role is to others, and whom it believes."""

    def __init__(self, files: TlsFiles, folder: Path, password: bytes | None = None) -> None:
        """`folder`: where relative paths begin. `password`: in the place of the one that `files` points to.

        Raises ConfigError for what cannot be used.
        """
        self.files = files
        self.generation = 0  # how often the lists have been read anew
        self._lock = threading.Lock()  # every end of a role asks, each from its thread
        self._folder = folder
        self._password = password or _password(files, folder)
        self._key, self._chain = self._own()
        self._stamp = self._lists_stamp()
        self.server = self._context(ssl.PROTOCOL_TLS_SERVER)
        self.client = self._context(ssl.PROTOCOL_TLS_CLIENT)

    def refresh(self) -> bool:
        """Read authorities and revocation lists again if they have changed; returns whether they had.

        Raises ConfigError when they cannot be read; what held before goes on to hold.
        """
        with self._lock:
            stamp = self._lists_stamp()
            if stamp == self._stamp:
                return False
            self._stamp = stamp
            server, client = self._context(ssl.PROTOCOL_TLS_SERVER), self._context(ssl.PROTOCOL_TLS_CLIENT)
            self.server, self.client = server, client
            self.generation += 1
            return True

    def is_revoked(self, certificate: bytes) -> bool:
        """Whether a certificate (DER) stands in the revocation lists now."""
        if not self.files.crl:
            return False
        shown = x509.load_der_x509_certificate(certificate)
        lists = (one for one in self._lists() if one.issuer == shown.issuer)
        return any(one.get_revoked_certificate_by_serial_number(shown.serial_number) is not None for one in lists)

    def _path(self, name: str) -> Path:
        return self._folder / Path(name).expanduser()

    def _own(self) -> tuple[Any, list[x509.Certificate]]:
        path = self._path(self.files.certificate)
        content = _read(path, "certificate")
        if b"-----BEGIN" not in content:
            key, chain = self._from_pkcs12(path, content)
        else:
            try:
                chain = x509.load_pem_x509_certificates(content)
            except ValueError as error:
                raise ConfigError(f"tls.certificate: {path} holds no certificate that can be read: {error}") from None
            key = self._pem_key(self._path(self.files.key) if self.files.key else path)
        if key.public_key() != chain[0].public_key():
            raise ConfigError(f"tls: the key does not belong to the certificate {path}; name the pair as it was made")
        _check_time(chain[0], path, self.files.expiry_warning_days)
        return key, chain

    def _from_pkcs12(self, path: Path, content: bytes) -> tuple[Any, list[x509.Certificate]]:
        _check_private(path)
        try:
            key, own, others = pkcs12.load_key_and_certificates(content, self._password)
        except ValueError as error:
            raise ConfigError(f"tls.certificate: {path}: {self._why_locked(error)}") from None
        if key is None or own is None:
            raise ConfigError(f"tls.certificate: {path} holds no pair of key and certificate")
        return key, [own, *others]

    def _pem_key(self, path: Path) -> Any:
        content = _read(path, "key")
        _check_private(path)
        is_locked = b"ENCRYPTED" in content
        try:
            return serialization.load_pem_private_key(content, self._password if is_locked else None)
        except (ValueError, TypeError) as error:
            raise ConfigError(f"tls.key: {path}: {self._why_locked(error)}") from None

    def _why_locked(self, error: Exception) -> str:
        if self._password is None:
            return "it needs a password; set `password_file` or `password_variable`" if _asks(error) else str(error)
        return "wrong password, or no PKCS#12 or PEM file; look at `password_file` or `password_variable`"

    def _lists_stamp(self) -> tuple[tuple[int, int], ...]:
        names = [name for name in (self.files.ca, self.files.crl) if name]
        stamps = []
        for name in names:
            try:
                status = self._path(name).stat()
            except OSError as error:
                raise ConfigError(f"tls: cannot read {self._path(name)}: {error.strerror}") from None
            stamps.append((status.st_mtime_ns, status.st_size))
        return tuple(stamps)

    def _context(self, kind: int) -> ssl.SSLContext:
        context = ssl.SSLContext(kind)
        context.minimum_version = _VERSIONS[self.files.minimum_version]
        context.verify_mode = ssl.CERT_REQUIRED
        context.options |= ssl.OP_NO_TICKET | ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
        if kind == ssl.PROTOCOL_TLS_SERVER:
            context.num_tickets = 0
        context.set_alpn_protocols([PROTOCOL])
        self._show_own(context)
        self._believe(context)
        return context

    def _show_own(self, context: ssl.SSLContext) -> None:
        """`ssl` takes keys from files only: the key lies there for a moment, under a password drawn for it."""
        once = secrets.token_hex(16).encode()
        locked = self._key.private_bytes(
            Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(once)
        )
        with tempfile.TemporaryDirectory(prefix="flps-") as folder:
            path = Path(folder) / "own.pem"
            path.write_bytes(locked + b"".join(one.public_bytes(Encoding.PEM) for one in self._chain))
            try:
                context.load_cert_chain(path, password=once)
            except ssl.SSLError as error:
                raise ConfigError(f"tls.certificate: {self.files.certificate} cannot be used: {error.reason}") from None

    def _believe(self, context: ssl.SSLContext) -> None:
        path = self._path(self.files.ca)
        try:
            authorities = x509.load_pem_x509_certificates(_read(path, "ca"))
        except ValueError:
            raise ConfigError(f"tls.ca: {path} holds no certificate in PEM; it is the authorities' file") from None
        context.load_verify_locations(cadata=b"".join(one.public_bytes(Encoding.DER) for one in authorities))
        if not self.files.crl:
            return
        with tempfile.TemporaryDirectory(prefix="flps-") as folder:
            lists = Path(folder) / "crl.pem"
            lists.write_bytes(b"".join(one.public_bytes(Encoding.PEM) for one in self._lists()))
            context.load_verify_locations(cafile=lists)
        how = ssl.VERIFY_CRL_CHECK_CHAIN if self.files.crl_checks_chain else ssl.VERIFY_CRL_CHECK_LEAF
        context.verify_flags |= how

    def _lists(self) -> list[x509.CertificateRevocationList]:
        path = self._path(self.files.crl)
        content = _read(path, "crl")
        begin = b"-----BEGIN X509 CRL-----"
        try:
            if begin not in content:
                return [x509.load_der_x509_crl(content)]
            return [x509.load_pem_x509_crl(begin + part) for part in content.split(begin)[1:]]
        except ValueError:
            raise ConfigError(f"tls.crl: {path} holds no revocation list, PEM or DER") from None


def _asks(error: Exception) -> bool:
    return "password" in str(error).lower() or "encrypted" in str(error).lower()


def _password(files: TlsFiles, folder: Path) -> bytes | None:
    if files.password_file and files.password_variable:
        raise ConfigError("tls: `password_file` and `password_variable` are both set; keep one")
    if files.password_variable:
        password = os.environ.get(files.password_variable)
        if password is None:
            raise ConfigError(f"tls.password_variable: the environment has no {files.password_variable}; set it")
        return password.encode()
    if files.password_file:
        path = folder / Path(files.password_file).expanduser()
        lines = _read(path, "password_file").splitlines()
        _check_private(path)
        return lines[0] if lines else b""
    return None


def _check_time(certificate: x509.Certificate, path: Path, warning_days: int) -> None:
    now = datetime.now(timezone.utc)
    if now > certificate.not_valid_after_utc:
        raise ConfigError(f"tls.certificate: {path} expired on {certificate.not_valid_after_utc:%Y-%m-%d}; renew it")
    if now < certificate.not_valid_before_utc:
        begin = certificate.not_valid_before_utc
        raise ConfigError(f"tls.certificate: {path} is not valid before {begin:%Y-%m-%d %H:%M} UTC; look at the clock")
    if certificate.not_valid_after_utc - now < timedelta(days=warning_days):
        log.warning("%s expires on %s; renew it in time", path, f"{certificate.not_valid_after_utc:%Y-%m-%d}")


def _check_private(path: Path) -> None:
    if path.stat().st_mode & 0o077:
        raise ConfigError(f"{path} can be read by others; `chmod 600 {path}` and think about a new key")


def _read(path: Path, key: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"tls.{key}: cannot read {path}: {error.strerror}") from None
