"""Bits in a row, beside NumPy's own packing of single bits."""

from __future__ import annotations

import numpy as np
import pytest

from flps.compression.bits import _PIECE, pack_bits, packed_bytes, unpack_bits


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("count", [0, 1, 7, 8, 9, 1000, _PIECE - 1, _PIECE, 2 * _PIECE + 13])
def test_most_significant_bit_first(bits: int, count: int) -> None:
    codes = np.random.default_rng(count).integers(0, 2**bits, count).astype(np.uint8)
    packed = pack_bits(codes, bits)
    single = np.unpackbits(codes[:, None], axis=1)[:, 8 - bits :]
    assert packed.size == packed_bytes(count, bits)
    assert packed.tobytes() == np.packbits(single).tobytes()
    assert (unpack_bits(packed, count, bits) == codes).all()


def test_bytes_from_the_middle_of_a_frame() -> None:
    codes = np.arange(64, dtype=np.uint8)
    shifted = np.frombuffer(b"\0" + pack_bits(codes, 6).tobytes(), np.uint8)[1:]
    assert (unpack_bits(shifted, 64, 6) == codes).all()
