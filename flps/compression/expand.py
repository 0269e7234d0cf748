"""From `Packed` to the tensor: every number that a peer chose is looked at before it is used.

Law 1: what is allocated is bounded by `bytes_max`, and follows from a shape that the bytes that came agree with.
Law 2: only finite numbers come out.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from flps import packing
from flps.compression.bits import packed_bytes, unpack_bits
from flps.compression.packed import DIMS_MAX, DTYPES, FLOATS, KINDS, Array, Packed
from flps.compression.scale import row_shape, scaled, tame
from flps.errors import ProtocolError

_PIECE = 1 << 15
_EXPONENT_MAX = 1100
_LOSSY = {"min_max", "fp16", "bf16", "int8", "topk"}


def expand(packed: Packed, bytes_max: int = 2**30) -> Array:
    """The tensor, in its type and shape: an array of its own, to be written to.

    Args:
        bytes_max: how large it may be; few bytes may stand for many.

    Raises:
        ProtocolError: the fields do not fit each other, are out of range, or say something that is not finite.
    """
    count = _checked(packed, bytes_max)
    with np.errstate(all="ignore"):
        return _flat(packed, count).reshape(packed.shape)


def _flat(packed: Packed, count: int) -> Array:
    match packed.kind:
        case "min_max":
            return _from_levels(packed, count)
        case "bit_pack":
            return _from_whole(packed, count)
        case "topk":
            return _from_chosen(packed, count)
        case "no_compress":
            return _as_they_are(packed, count)
    return _from_halves(packed, count) if packed.kind in ("fp16", "bf16") else _from_bytes(packed, count)


def _checked(packed: Packed, bytes_max: int) -> int:
    """How many numbers there are."""
    if packed.kind not in KINDS or packed.dtype not in DTYPES:
        raise ProtocolError(f"no such packed tensor: {str(packed.kind)[:20]!r} of {str(packed.dtype)[:20]!r}")
    if packed.kind in _LOSSY and packed.dtype not in FLOATS:
        raise ProtocolError(f"{packed.kind} is for floating numbers, not for {packed.dtype}")
    shape = packed.shape
    if len(shape) > DIMS_MAX or not all(type(size) is int and 0 <= size < 2**48 for size in shape):
        raise ProtocolError(f"{str(shape)[:80]} is not the shape of a tensor")
    room = math.prod(max(size, 1) for size in shape) * np.dtype(packed.dtype).itemsize
    if room > bytes_max:
        raise ProtocolError(f"a {packed.kind} tensor of shape {shape} wants {room} bytes, at most {bytes_max} may be")
    if not all(isinstance(a, np.ndarray) and a.dtype == np.uint8 and a.ndim == 1 for a in packed.arrays):
        raise ProtocolError("the arrays of a packed tensor are flat bytes")
    if type(packed.exponent) is not int or abs(packed.exponent) > _EXPONENT_MAX:
        raise ProtocolError(f"an exponent of {str(packed.exponent)[:20]}: at most {_EXPONENT_MAX} either way")
    return math.prod(shape)


def _bytes(packed: Packed, *sizes: int) -> tuple[Array, ...]:
    """The arrays, of which each has as many bytes as it must."""
    found = tuple(array.size for array in packed.arrays)
    if found != sizes:
        raise ProtocolError(f"{packed.kind} of shape {packed.shape} wants arrays of {sizes} bytes, got {found}")
    return tuple(np.ascontiguousarray(array) for array in packed.arrays)


def _codes(packed: Packed, count: int) -> Array:
    if type(packed.bits) is not int or not 1 <= packed.bits <= 8:
        raise ProtocolError(f"{packed.kind} with {str(packed.bits)[:20]} bits, 1 to 8 can be")
    (array,) = _bytes(packed, packed_bytes(count, packed.bits))
    return unpack_bits(array, count, packed.bits)


def _from_levels(packed: Packed, count: int) -> Array:
    """low + code * step by a table of the levels; the first and the last are exact, none is beyond them."""
    codes, (low, high) = _codes(packed, count), _ends(packed, float)
    exponent, last = tame(max(abs(low), abs(high))), 2**packed.bits - 1
    share = np.arange(last + 1) / last
    levels = math.ldexp(low, -exponent) * (1 - share) + math.ldexp(high, -exponent) * share
    levels = np.clip(np.ldexp(levels, exponent), low, high)
    levels[0], levels[-1] = low, high
    table = levels.astype("<" + packed.dtype)
    _check_finite(table, packed)
    return _looked_up(table, codes)


def _from_whole(packed: Packed, count: int) -> Array:
    codes, dtype = _codes(packed, count), np.dtype("<" + packed.dtype)
    low, high = _ends(packed, float if dtype.kind == "f" else int)
    steps = high - low
    if not (steps == int(steps) and steps < 2**packed.bits):
        raise ProtocolError(f"bit_pack of {packed.bits} bits between {low} and {high}")
    if count and steps < 2**packed.bits - 1 and codes.max() > steps:
        raise ProtocolError(f"bit_pack between {low} and {high} with a step of {codes.max()}")
    if dtype.kind == "f":
        table = (low + np.arange(int(steps) + 1, dtype=np.float64)).astype(dtype)
        _check_finite(table, packed)
        return _looked_up(table, codes)
    least, largest = (0, 1) if dtype.kind == "b" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
    if low < least or high > largest:
        raise ProtocolError(f"{low} to {high} are no numbers of {packed.dtype}")
    return _looked_up(np.array([low + step for step in range(int(steps) + 1)], dtype), codes)


def _ends(packed: Packed, kind: type) -> tuple[Any, Any]:
    low, high = packed.low, packed.high
    if not (type(low) is kind and type(high) is kind and math.isfinite(low) and math.isfinite(high) and low <= high):
        raise ProtocolError(f"{packed.kind} of {packed.dtype} between {str(low)[:30]} and {str(high)[:30]}")
    return low, high


def _looked_up(table: Array, codes: Array) -> Array:
    numbers = np.empty(codes.size, table.dtype)
    for start in range(0, codes.size, _PIECE):
        np.take(table, codes[start : start + _PIECE], out=numbers[start : start + _PIECE], mode="clip")
    return numbers


def _from_chosen(packed: Packed, count: int) -> Array:
    places = packed.arrays[0].size // 4 if packed.arrays else 0
    chosen, kept = _bytes(packed, places * 4, places * np.dtype(packed.dtype).itemsize)
    positions = chosen.view("<u4").astype(np.int64)
    if places and not (positions[-1] < count and (np.diff(positions) > 0).all()):
        raise ProtocolError(f"topk of {count} numbers wants rising positions below that")
    numbers = np.zeros(count, "<" + packed.dtype)
    numbers[positions] = kept.view("<" + packed.dtype)
    _check_finite(numbers, packed)
    return numbers


def _as_they_are(packed: Packed, count: int) -> Array:
    dtype = np.dtype("<" + packed.dtype)
    (array,) = _bytes(packed, count * dtype.itemsize)
    if dtype.kind == "b" and count and array.max() > 1:
        raise ProtocolError("a tensor of truth values holds something else")
    _check_finite(array.view(dtype), packed)
    return array.view(dtype).copy()


def _from_halves(packed: Packed, count: int) -> Array:
    (array,) = _bytes(packed, 2 * count)
    if packed.kind == "fp16":
        numbers = array.view("<f2").astype(np.float32)
    else:
        words = array.view("<u2").astype("<u4")
        words <<= 16
        numbers = words.view("<f4")
    return _of_type(numbers, packed)


def _from_bytes(packed: Packed, count: int) -> Array:
    shape = (count,) if len(row_shape(packed.shape)) == 1 else (-1, packed.shape[-1])
    rows = shape if shape[0] >= 0 else (count // packed.shape[-1], packed.shape[-1])
    values, scales = _bytes(packed, count, 4 * packing.scales_of(rows))
    wide = "f8" if packed.dtype == "f8" else "f4"
    numbers = packing.unpack(packing.Packed(values.view(np.int8).reshape(rows), scales.view("<f4"), wide))
    return _of_type(numbers.reshape(-1), packed)


def _of_type(numbers: Array, packed: Packed) -> Array:
    """Scaled back, in the tensor's own type; what was rounded up beyond its largest number becomes that."""
    _check_finite(numbers, packed)
    dtype = np.dtype("<" + packed.dtype)
    wide = scaled(numbers.astype(np.float64) if packed.dtype == "f8" else numbers, packed.exponent)
    top = float(max(wide.max(), -wide.min())) if wide.size else 0.0
    largest = float(np.finfo(dtype).max)
    return (wide if top <= largest else np.clip(wide, -largest, largest)).astype(dtype, copy=False)


def _check_finite(numbers: Array, packed: Packed) -> None:
    if numbers.size and not (np.isfinite(numbers.min()) and np.isfinite(numbers.max())):
        raise ProtocolError(f"a {packed.kind} tensor of shape {packed.shape} holds numbers that are not finite")
