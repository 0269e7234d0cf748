"""What packing and unpacking share: powers of two, rows, bytes."""

from __future__ import annotations

import math

import numpy as np

from flps.compression.packed import Array

_PLAIN = 100  # 2**-100..2**100 are plain numbers in float32
_TAME = 60  # within 2**-60..2**60 no range overflows, and none vanishes
_LEAST_ROW = 16  # of fewer numbers a scale would cost as much as it saves


def tame(top: float) -> int:
    """The exponent e by which numbers up to `top` are worked on as number * 2**-e; mostly 0."""
    exponent = math.frexp(top)[1]
    return 0 if abs(exponent) <= _TAME else exponent


def scaled(flat: Array, exponent: int) -> Array:
    """flat * 2**exponent, float32 or float64; what is too small becomes 0, what is too large infinite."""
    if exponent == 0:
        return flat
    with np.errstate(under="ignore", over="ignore", invalid="ignore"):
        if abs(exponent) <= _PLAIN:
            return np.asarray(flat * flat.dtype.type(2.0**exponent))
        return np.asarray(np.ldexp(flat, exponent))


def row_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """(rows, width) of a tensor with wide rows; (-1,) of another, which `flps.packing` takes in blocks."""
    return (-1, shape[-1]) if len(shape) > 1 and shape[-1] >= _LEAST_ROW else (-1,)


def as_bytes(flat: Array) -> Array:
    """(N,) numbers as their bytes, (N * itemsize,) uint8."""
    return np.ascontiguousarray(flat).view(np.uint8)
