"""Key files.

Law 1: a TCP endpoint uses CURVE (elliptic-curve keys at both ends), or `--insecure` was asked for and the log says so.
Law 2: a secret is readable by its owner only, and nobody else can put a key into the folder; else it is not used.

A key folder (mode 700) holds

    <role>.secret   mode 600: the key that this host speaks with as that role
    <role>.public   of this host's own roles, and of the roles that it dials; may speak as every rank of the role
    <name>.public   an owner's public key, to be sent to who runs the servers
    access.txt      which further keys may speak as what, and which are revoked (access.py)

A key is one line of 40 characters (Z85).
"""

from __future__ import annotations

import hashlib
import os
import secrets
import struct
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import zmq
from zmq.utils import z85

from flps.errors import ConfigError, ResourceError

ROLES = ("server", "worker", "coordinator", "leader", "follower")


def make_keys(folder: Path, roles: Iterable[str] = ROLES) -> dict[str, str]:
    """Make a key pair for each role in `folder` (mode 700); returns role -> fingerprint. Keys that stand are kept."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for role in roles:
            if not (folder / f"{role}.secret").exists():
                write_exclusively(folder / f"{role}.secret", zmq.curve_keypair()[1] + b"\n", 0o600)
            if not (folder / f"{role}.public").exists():
                write_exclusively(folder / f"{role}.public", zmq.curve_public(secret_key(folder, role)) + b"\n", 0o644)
    except OSError as error:
        raise ResourceError(f"cannot write keys into {folder}: {error.strerror}") from error
    return {role: fingerprint(public_key(folder, role)) for role in roles}


def fingerprint(public: bytes) -> str:
    """A short name of a public key, for people to compare."""
    digest = hashlib.sha256(public).hexdigest()
    return ":".join(digest[i : i + 4] for i in range(0, 32, 4))


def public_key(folder: Path, role: str) -> bytes:
    """The public key (Z85, 40 bytes) of a role."""
    return read_public(folder / f"{role}.public")


def read_public(path: Path) -> bytes:
    """The public key in that file. Raises ConfigError when it is none, or when others could have put it there."""
    key = _read(path)
    check_unwritable(path)
    return key


def secret_key(folder: Path, role: str) -> bytes:
    """The secret key (Z85, 40 bytes) of a role. Raises ConfigError when others may read the file."""
    path = folder / f"{role}.secret"
    if path.exists() and path.stat().st_mode & 0o077:
        raise ConfigError(f"{path} can be read by others; `chmod 600 {path}` and think about making new keys")
    key = _read(path)
    check_unwritable(path)
    return key


def check_unwritable(path: Path) -> None:
    """Raises ConfigError when another user than the file's owner could change it or put another in its place."""
    folder = path.parent
    if _mode(folder) & 0o022:
        raise ConfigError(f"others may put keys into {folder}; `chmod 700 {folder}` and look at what is in it")
    if _mode(folder) & 0o011 and _mode(path) & 0o022:
        raise ConfigError(f"others may change {path}; `chmod 644 {path}` and look at what is in it")


def write_exclusively(path: Path, content: bytes, mode: int) -> None:
    """Write a file beside its place and rename it: who reads finds the old content or the new one.

    Unlike `disk.write_whole` it shares its folder with others, who may write the same file at this moment or have put a
    link where this one writes: the name beside is drawn by chance and new.
    """
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    handle = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except BaseException:
        with suppress(OSError):
            beside.unlink()
        raise


def is_key(key: bytes) -> bool:
    """Whether this is 32 bytes in Z85."""
    with suppress(KeyError, struct.error):  # a strange character; five characters that are more than 32 bits
        return len(key) == 40 and len(z85.decode(key)) == 32
    return False


def _mode(path: Path) -> int:
    return path.stat().st_mode


def _read(path: Path) -> bytes:
    try:
        key = path.read_bytes().strip()
    except OSError as error:
        raise ConfigError(f"cannot read key {path}: {error.strerror}; `flps keys make` makes keys") from error
    if not is_key(key):
        raise ConfigError(f"{path} does not hold a key of 40 characters; `flps keys make` makes keys")
    return key
