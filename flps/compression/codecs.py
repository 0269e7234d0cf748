"""The codecs: tensor to `Packed` and back, and how far what comes back is from what it was.

x is a number of the tensor, M the largest magnitude in it, R its range (max - min); "~" stands for rounding in the
tensor's own type, at most 2**-21 M for float32 and 2**-50 M for float64.

    min_max b   |error| <= R / (2 (2**b - 1)) ~      one range for the whole tensor: one outlier makes it coarse for all
    bit_pack b  none: whole numbers whose range is below 2**b (the sign of a zero is not kept); others fall back
    fp16        |error| <= 2**-11 |x| + 2**-39 M     scaled by a power of two, so nothing is too large or too small
    bf16        |error| <= 2**-8 |x| + 2**-70 M ~
    int8        |error| <= m / 254 + 2**-60 M ~      m: the largest magnitude in the row of x
    topk        the k largest as they are, 0 for the others: |error| <= the least that is kept; and the sum of squares
                of all errors is at most (1 - k/n) of the tensor's
    no_compress none

A row is the last dimension where that has at least 16 numbers, else 64 numbers one after the other. The lossy ones take
floating numbers; integers and bools travel as they are, which `Packed.fell_back` says.
"""

from __future__ import annotations

import math

import numpy as np

from flps import packing
from flps.compression.bits import pack_bits
from flps.compression.config import CompressConfig
from flps.compression.expand import expand
from flps.compression.feedback import Feedback
from flps.compression.packed import DTYPES, FLOATS, Array, Kind, NotFinite, Packed
from flps.compression.scale import as_bytes, row_shape, scaled, tame
from flps.errors import ConfigError, PrivacyError
from flps.privacy import owner_of

__all__ = ["compress", "expand"]
_PIECE = 1 << 15  # numbers that stay in the processor's cache


def compress(name: str, array: Array, config: CompressConfig, feedback: Feedback | None = None) -> Packed:
    """The tensor `name`, of any shape and a type of `DTYPES`, as `config` says.

    The tensor may be written to afterwards: `Packed` shares no memory with it.

    With `feedback` and `config.error_feedback`, what was kept back of earlier ones is added, and what is lost now kept.

    Raises:
        NotFinite: there is NaN or infinity in it.
        PrivacyError: it belongs to a private table.
        TypeError: a type that cannot travel.
    """
    array = _accepted(name, array)
    if feedback is None or not config.error_feedback or array.dtype.str[1:] not in FLOATS:
        return _packed(name, array, config)
    array = feedback.added_to(name, array)
    packed = _packed(name, array, config)
    feedback.keep(name, array, expand(packed, bytes_max=2**62))
    return packed


def _accepted(name: str, array: Array) -> Array:
    owner = owner_of(array)
    if owner is not None:
        raise PrivacyError(f"tensor {name!r}: table {owner!r} is private: its rows may not leave this process")
    if array.dtype.str[1:] not in DTYPES:
        raise TypeError(f"tensor {name!r} of {array.dtype} cannot be sent; use one of {', '.join(DTYPES)}")
    return np.asarray(array, array.dtype.newbyteorder("<"), order="C")


def _packed(name: str, array: Array, config: CompressConfig) -> Packed:
    flat = array.reshape(-1)
    low, high = (flat.min(), flat.max()) if flat.size else (flat.dtype.type(0), flat.dtype.type(0))
    if not (math.isfinite(low) and math.isfinite(high)):
        raise _not_finite(name, array)
    if config.kind == "bit_pack":
        number = float if array.dtype.kind == "f" else int
        return _bit_pack(array, config.bit_num, number(low), number(high))
    if config.kind == "no_compress" or array.dtype.str[1:] not in FLOATS:
        return _as_it_is(array, config.kind)
    if config.kind == "topk":
        return _top_k(name, array, config.top_k)
    return _in_range(array, config, float(low), float(high))


def _not_finite(name: str, array: Array) -> NotFinite:
    bad = ~np.isfinite(array)
    place = tuple(int(step) for step in np.unravel_index(int(bad.argmax()), array.shape))
    return NotFinite(
        f"tensor {name!r} of shape {array.shape} has {np.count_nonzero(bad)} numbers that are NaN or infinite, the "
        f"first at {place}; it is not sent. Lower the learning rate or the loss scale, or look at what went in"
    )


def _as_it_is(array: Array, asked: Kind) -> Packed:
    own = as_bytes(array.reshape(-1)).copy()  # the tensor may change before the bytes have left
    return Packed("no_compress", asked, array.dtype.str[1:], array.shape, (own,))


def _bit_pack(array: Array, bits: int, low: float, high: float) -> Packed:
    """low and high: the least and the largest number, whole ones for whole types."""
    flat = array.reshape(-1)
    is_whole = array.dtype.kind != "f" or bool((flat == np.rint(flat)).all())
    if not is_whole or high - low >= 2**bits:
        return _as_it_is(array, "bit_pack")
    if array.dtype.kind == "b":
        flat = flat.view(np.uint8)
    codes = (flat - flat.dtype.type(low)).astype(np.uint8)  # right for int8, too: a difference is meant modulo 256
    arrays = (pack_bits(codes, bits),)
    return Packed("bit_pack", "bit_pack", array.dtype.str[1:], array.shape, arrays, bits, low, high)


def _top_k(name: str, array: Array, share: float) -> Packed:
    """Of equal magnitudes the first are taken, so that every machine picks the same."""
    flat = array.reshape(-1)
    if flat.size > 2**32:
        raise ConfigError(f"tensor {name!r} of {flat.size} numbers is too large for topk, which counts to 2**32")
    kept = math.ceil(share * flat.size)
    chosen = np.arange(kept, dtype="<u4")
    if 0 < kept < flat.size:
        sizes = np.abs(flat)
        least = np.partition(sizes, flat.size - kept)[flat.size - kept]
        above, equal = np.flatnonzero(sizes > least), np.flatnonzero(sizes == least)
        chosen = np.sort(np.concatenate((above, equal[: kept - above.size]))).astype("<u4")
    return Packed("topk", "topk", array.dtype.str[1:], array.shape, (as_bytes(chosen), as_bytes(flat[chosen])))


def _in_range(array: Array, config: CompressConfig, low: float, high: float) -> Packed:
    """The codecs that work within a range: numbers far beyond it are brought there by a power of two."""
    kind, top = config.kind, max(abs(low), abs(high))
    exponent = math.frexp(top)[1] - 15 if kind == "fp16" else tame(top)
    flat = array.reshape(-1)
    flat = scaled(flat.astype(np.float32) if flat.dtype == np.float16 else flat, -exponent)
    dtype, shape = array.dtype.str[1:], array.shape
    if kind == "min_max":
        codes = _levels(flat, math.ldexp(low, -exponent), math.ldexp(high, -exponent), config.bit_num)
        arrays = (pack_bits(codes, config.bit_num),)
        return Packed(kind, kind, dtype, shape, arrays, config.bit_num, low, high)
    if kind == "int8":
        return Packed(kind, kind, dtype, shape, _bytes_and_scales(flat, shape), exponent=exponent)
    halves = _halves(flat) if kind == "fp16" else _upper_halves(flat)
    return Packed(kind, kind, dtype, shape, (halves,), exponent=exponent)


def _levels(flat: Array, low: float, high: float, bits: int) -> Array:
    """round((x - low) / step), step = (high - low) / (2**bits - 1): the original's formula, without the 1e-10 that it
    adds to the step (a small range would collapse), and counted from 0 where it counts from -2**(bits - 1).
    """
    codes = np.zeros(flat.size, np.uint8)
    if high == low:
        return codes
    number = flat.dtype.type
    least, levels = number(low), number((2**bits - 1) / (high - low))
    buffer = np.empty(min(_PIECE, flat.size), flat.dtype)
    for start in range(0, flat.size, _PIECE):
        piece = flat[start : start + _PIECE]
        steps = buffer[: piece.size]
        np.subtract(piece, least, out=steps)
        np.multiply(steps, levels, out=steps)
        np.add(steps, number(0.5), out=steps)
        codes[start : start + _PIECE] = steps  # cut off: with the half, that is rounded
    return codes


def _bytes_and_scales(flat: Array, shape: tuple[int, ...]) -> tuple[Array, Array]:
    packed = packing.pack(flat.reshape(row_shape(shape)), "int8")
    return as_bytes(packed.values.reshape(-1)), as_bytes(packed.scales)


def _halves(flat: Array) -> Array:
    with np.errstate(under="ignore"):
        return as_bytes(flat.astype("<f2"))


def _upper_halves(flat: Array) -> Array:
    """bfloat16: the upper half of a float32, rounded to the nearest, a tie to the even one."""
    with np.errstate(under="ignore"):
        words = flat.astype("<f4").view("<u4")
    odd = words >> 16
    odd &= 1
    odd += 0x7FFF
    odd += words
    odd >>= 16
    return as_bytes(odd.astype("<u2"))
