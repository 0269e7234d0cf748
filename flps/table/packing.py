"""Rows in fewer bytes, for the wire: half-precision numbers, or one byte a number and a scale a row.

Law 1: what is packed is finite, and so is what is unpacked.
Law 2: a row's packed form depends on that row alone, so rows may be divided over any number of servers. A dense tensor
counts as rows of `BLOCK` numbers.
Law 3: the error is bounded: |unpacked - row| <= 2**-11 |row| + 2**-25 for float16 (numbers beyond 65504 become that),
and <= max|row| / 254 for int8, plus rounding.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import DTypeLike, NDArray

Numbers = NDArray[np.floating[Any]]
RowType = Literal["float32", "float16", "int8"]
BLOCK = 64
_LARGEST_HALF = 65504.0


class Packed(NamedTuple):
    """Rows on the wire."""

    values: NDArray[Any]  # the shape of the rows; float16 or int8, or as they were
    scales: NDArray[np.float32] | None  # (N,), or one a block of a dense tensor; int8 only


def pack(rows: Numbers, kind: RowType) -> Packed:
    """Rows (N, dim), or a dense tensor (dim,), in fewer bytes. `float32` leaves them as they are."""
    if kind == "float32":
        return Packed(rows, None)
    if kind == "float16":
        return Packed(np.clip(rows, -_LARGEST_HALF, _LARGEST_HALF).astype(np.float16), None)
    blocks = _blocks(rows)
    scales = (np.abs(blocks).max(axis=1, initial=0.0) / 127).astype(np.float32)
    with np.errstate(over="ignore", under="ignore"):
        steps = 1.0 / np.maximum(scales, np.finfo(np.float32).tiny)
    bytes_ = np.rint(np.clip(blocks * steps[:, None], -127, 127)).astype(np.int8)
    return Packed(bytes_.reshape(-1)[: rows.size].reshape(rows.shape), scales)


def unpack(packed: Packed, dtype: DTypeLike) -> Numbers:
    """The rows in the table's own type, in the shape that they were packed in."""
    values, scales = packed
    if scales is None:
        return values.astype(dtype, copy=False)
    rows: Numbers = (_blocks(values).astype(dtype) * scales.astype(dtype)[:, None]).reshape(-1)
    return rows[: values.size].reshape(values.shape)


def scales_of(shape: tuple[int, ...]) -> int:
    """How many scales go with values of this shape."""
    return shape[0] if len(shape) == 2 else -(-shape[0] // BLOCK)


def _blocks(values: NDArray[Any]) -> NDArray[Any]:
    """Rows as they are; a dense tensor in rows of BLOCK numbers, filled up with zeros."""
    if values.ndim == 2:
        return values
    whole = np.zeros((scales_of(values.shape), BLOCK), values.dtype)
    whole.reshape(-1)[: values.size] = values
    return whole
