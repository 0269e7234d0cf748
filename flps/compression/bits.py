"""Numbers of 1 to 8 bits in a row, the most significant bit first, zeros up to a whole byte.

Eight numbers of b bits are b bytes, so they are put together in one 64-bit word: neighbours are joined to pairs, pairs
to fours, fours to eight, all words of a piece at once. A piece is small enough to stay in the processor's cache.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

Codes = NDArray[np.uint8]
_PIECE = 1 << 15  # numbers; a multiple of 8
_LANES = (8, 16, 32)  # bits of what is joined in each of the three turns


def packed_bytes(count: int, bits: int) -> int:
    """How many bytes `count` numbers of `bits` bits take."""
    return -(-count * bits // 8)


def pack_bits(codes: Codes, bits: int) -> Codes:
    """codes (N,) below 2**bits, as (packed_bytes(N, bits),)."""
    if bits == 8:
        return codes
    size = packed_bytes(codes.size, bits)
    packed = np.empty(-(-codes.size // 8) * bits, np.uint8)
    for start in range(0, codes.size, _PIECE):
        piece = codes[start : start + _PIECE]
        if piece.size % 8:
            piece = np.concatenate((piece, np.zeros(-piece.size % 8, np.uint8)))
        first = start // 8 * bits
        _items(packed[first : first + piece.size // 8 * bits], bits)[:] = _joined(piece, bits)
    return packed[:size]


def unpack_bits(packed: Codes, count: int, bits: int) -> Codes:
    """What `pack_bits` was given: packed (packed_bytes(count, bits),) as (count,)."""
    if bits == 8:
        return packed
    codes = np.empty(-(-count // 8) * 8, np.uint8)
    whole = codes.size // 8 * bits
    if packed.size < whole:
        packed = np.concatenate((packed, np.zeros(whole - packed.size, np.uint8)))
    packed = np.ascontiguousarray(packed)
    for start in range(0, codes.size, _PIECE):
        piece = codes[start : start + _PIECE]
        first = start // 8 * bits
        piece[:] = _taken_apart(packed[first : first + piece.size // 8 * bits], bits)
    return codes[:count]


def _joined(piece: Codes, bits: int) -> NDArray[Any]:
    """The first `bits` bytes of each word, eight numbers each."""
    words = piece.view(">u8").astype(np.uint64)
    for lane, low, _ in _turns(bits):
        high = words & ~low
        high >>= np.uint64(lane - bits * lane // 8)
        words &= low
        words |= high
    words <<= np.uint64(64 - 8 * bits)
    return words.astype(">u8").view(_heads(bits))["head"]


def _taken_apart(packed: Codes, bits: int) -> Codes:
    heads = np.zeros(packed.size // bits, _heads(bits))
    heads["head"] = _items(packed, bits)
    words = heads.view(">u8").astype(np.uint64)
    words >>= np.uint64(64 - 8 * bits)
    for lane, _, joined in reversed(list(_turns(bits))):
        high = words & (joined << np.uint64(bits * lane // 8))
        high <<= np.uint64(lane - bits * lane // 8)
        words &= joined
        words |= high
    return words.astype(">u8").view(np.uint8)


def _turns(bits: int) -> Iterator[tuple[int, np.uint64, np.uint64]]:
    """Of each turn: bits of a lane, a mask of the lower lane of each two, and of the part of it that is used."""
    for lane in _LANES:
        starts = range(0, 64, 2 * lane)
        low = sum(((1 << lane) - 1) << start for start in starts)
        used = sum(((1 << bits * lane // 8) - 1) << start for start in starts)
        yield lane, np.uint64(low), np.uint64(used)


def _heads(bits: int) -> np.dtype[Any]:
    """A word of which the first `bits` bytes are seen."""
    return np.dtype({"names": ["head"], "formats": [f"V{bits}"], "offsets": [0], "itemsize": 8})


def _items(packed: Codes, bits: int) -> NDArray[Any]:
    """Bytes in groups of `bits`, each as one item: copying them is one loop."""
    return packed.view(f"V{bits}")
