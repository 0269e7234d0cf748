"""Keys, and who may say what.

Law 1: a TCP endpoint uses CURVE (elliptic-curve keys at both ends), or `--insecure` was asked for and the log says so.
Law 2: the key decides the role: a message whose sender claims another role than its key has is not looked at.

A key folder holds `<role>.public` and `<role>.secret` (mode 600), one line of 40 characters (Z85) each.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import zmq
from zmq.auth.thread import ThreadAuthenticator

from flps.errors import ConfigError, ResourceError

ROLES = ("server", "worker", "coordinator")


def make_keys(folder: Path, roles: Iterable[str] = ROLES) -> dict[str, str]:
    """Make a key pair for each role in `folder` (mode 700); returns role -> fingerprint. Keys that stand are kept."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for role in roles:
            if not (folder / f"{role}.secret").exists():
                _write(folder / f"{role}.secret", zmq.curve_keypair()[1], 0o600)
            if not (folder / f"{role}.public").exists():
                _write(folder / f"{role}.public", zmq.curve_public(secret_key(folder, role)), 0o644)
    except OSError as error:
        raise ResourceError(f"cannot write keys into {folder}: {error.strerror}") from error
    return {role: fingerprint(public_key(folder, role)) for role in roles}


def fingerprint(public: bytes) -> str:
    """A short name of a public key, for people to compare."""
    digest = hashlib.sha256(public).hexdigest()
    return ":".join(digest[i : i + 4] for i in range(0, 32, 4))


def public_key(folder: Path, role: str) -> bytes:
    """The public key (Z85, 40 bytes) of a role."""
    return _read(folder / f"{role}.public")


def secret_key(folder: Path, role: str) -> bytes:
    """The secret key (Z85, 40 bytes) of a role. Raises ConfigError when others may read the file."""
    path = folder / f"{role}.secret"
    if path.exists() and path.stat().st_mode & 0o077:
        raise ConfigError(f"{path} can be read by others; `chmod 600 {path}` and think about making new keys")
    return _read(path)


def _write(path: Path, key: bytes, mode: int) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(handle, "wb") as file:
        file.write(key + b"\n")


def _read(path: Path) -> bytes:
    try:
        key = path.read_bytes().strip()
    except OSError as error:
        raise ConfigError(f"cannot read key {path}: {error.strerror}; `flps keys make` makes keys") from error
    if len(key) != 40:
        raise ConfigError(f"{path} does not hold a key of 40 characters; `flps keys make` makes keys")
    return key


class Gate:
    """Lets known keys in and tells which role each key has. An unknown key gets no answer."""

    def __init__(self, context: zmq.Context[Any], folder: Path) -> None:
        self._roles = {public_key(folder, role).decode(): role for role in ROLES}
        self._authenticator = ThreadAuthenticator(context)
        self._authenticator.start()
        self._authenticator.configure_curve_callback("*", credentials_provider=self)

    def callback(self, domain: str, key: bytes) -> bool:
        """Called by the authenticator with the public key (Z85) of who knocks."""
        return key.decode() in self._roles

    def role(self, user: str) -> str:
        """The role of the key that zmq names as a frame's user."""
        return self._roles.get(user, "stranger")

    def close(self) -> None:
        """Stop the authenticator's thread."""
        self._authenticator.stop()
