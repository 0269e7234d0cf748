"""Ids as points of Curve25519, and points times a secret number (X25519, RFC 7748).

Law 1: an id becomes a point in one way only: `normal` text, SHA-256 with a domain of its own, read as a u-coordinate.
Law 2: what a peer sent is checked before it is multiplied: 32 bytes, below the field's prime, not of low order.
Law 3: functions here take and give bytes and arrays, so that any process may run them.

A u-coordinate belongs to the curve or to its twist, half of them each, and multiplying keeps it where it is. Both have
a subgroup of large prime order, and a clamped number is a multiple of both cofactors: only these subgroups take part.
"""

from __future__ import annotations

import hashlib
import importlib
import secrets
import unicodedata
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from flps.errors import ConfigError, ProtocolError

POINT_BYTES = 32
DOMAIN = b"flps psi, version 1: id to u-coordinate\0"
Points: TypeAlias = npt.NDArray[np.uint8]  # (N, 32), each row a u-coordinate, little-endian

_PRIME_LOW = 0xED  # 2**255 - 19 is ed ff .. ff 7f


def normal(text: str) -> str:
    """An id as both parties must write it: Unicode form NFC, no white space around it; case and zeros count."""
    return text.strip() if text.isascii() else unicodedata.normalize("NFC", text.strip())


def to_points(ids: Sequence[str]) -> Points:
    """(N, 32) points of N ids that are `normal`. Nobody knows how two of them are related."""
    sha256 = hashlib.sha256
    digests = b"".join([sha256(DOMAIN + text.encode("utf-8", "surrogatepass")).digest() for text in ids])
    points = np.frombuffer(digests, np.uint8).reshape(-1, POINT_BYTES).copy()
    points[:, -1] &= 0x7F  # 255 bits; the 19 values over the prime come up once in 2**250 ids
    return points


def new_key() -> bytes:
    """A fresh secret number; use it for one alignment and forget it."""
    return secrets.token_bytes(POINT_BYTES)


def multiply(key: bytes, points: bytes) -> bytes:
    """Every point times the secret number, in the same order; both as N * 32 bytes.

    Raises ProtocolError for a point of low order, whose product would say nothing about the number and all about it.
    """
    x25519 = _x25519()
    exchange, load = x25519.X25519PrivateKey.from_private_bytes(key).exchange, x25519.X25519PublicKey.from_public_bytes
    try:
        return b"".join([exchange(load(points[at : at + POINT_BYTES])) for at in range(0, len(points), POINT_BYTES)])
    except ValueError as error:
        raise ProtocolError("a point of low order came: an honest peer never sends one") from error


def check_points(points: Any, rows_max: int) -> Points:
    """`points` as they came from a peer. Raises ProtocolError unless they are (1 to rows_max, 32) bytes, each row below
    the prime: one point has one way to be written, so a repeated one is seen.
    """
    if not isinstance(points, np.ndarray) or points.dtype != np.uint8 or points.ndim != 2:
        raise ProtocolError("points are a table of bytes, 32 in a row; something else came")
    rows, width = points.shape
    if width != POINT_BYTES or not 1 <= rows <= rows_max:
        raise ProtocolError(f"a chunk has 1 to {rows_max} points of {POINT_BYTES} bytes, got {rows} of {width}")
    last = points[:, -1]
    is_top = (last == 0x7F) & (points[:, 0] >= _PRIME_LOW)
    if (last > 0x7F).any() or (is_top.any() and (points[is_top, 1:-1] == 0xFF).all(axis=1).any()):
        raise ProtocolError("a point is not below the prime 2**255 - 19: an honest peer never sends one")
    return points


def _x25519() -> Any:
    try:
        return importlib.import_module("cryptography.hazmat.primitives.asymmetric.x25519")
    except ImportError as error:
        raise ConfigError("aligning ids wants the package cryptography: pip install 'flps[split]'") from error


def check_installed() -> None:
    """Raises ConfigError when the package that multiplies is missing: at once, rather than in a child."""
    _x25519()
