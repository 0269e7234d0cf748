"""Rows in fewer bytes, for the wire: half-precision numbers, or one byte a number and a scale a row.

Law 1: a row's packed form depends on that row alone, so rows may be divided over any number of servers. A dense tensor
counts as rows of `BLOCK` numbers.
Law 2: the error is bounded: |unpacked - row| <= 2**-11 |row| + 2**-25 for float16 (numbers beyond 65504 become that),
and <= max|row| / 254 for int8, plus rounding.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.floating[Any]]
RowType = Literal["float32", "float16", "int8"]
BLOCK = 64
_LARGEST_HALF = 65504.0
_LEAST_SCALE = np.finfo(np.float32).tiny


class Packed:
    """Rows on the wire."""

    def __init__(self, values: NDArray[Any], scales: NDArray[np.float32] | None, dtype: str) -> None:
        """values: float16 or int8, in the shape of the rows; scales: with int8, (N,) or one a block of a dense tensor;
        dtype: what the rows were, and become again, f4 or f8.
        """
        self.values = values
        self.scales = scales
        self.dtype = dtype


def pack(rows: Numbers, kind: RowType) -> Any:
    """Rows (N, dim), or a dense tensor (dim,), as `Packed`; `float32` leaves them as they are.

    A message takes either in the place of a tensor. Numbers that are not finite come out as such, for whoever gets
    them to refuse.
    """
    dtype = rows.dtype.str[1:]
    if kind == "float16":
        with np.errstate(over="ignore"):
            halves = rows.astype(np.float16)
        too_large = np.isinf(halves) & np.isfinite(rows)
        if too_large.any():
            halves[too_large] = np.copysign(_LARGEST_HALF, rows[too_large])
        return Packed(halves, None, dtype)
    if kind == "int8":
        blocks = _blocks(rows)
        scales = np.maximum(np.abs(blocks).max(axis=1, initial=0.0) / 127, _LEAST_SCALE).astype(np.float32)
        with np.errstate(over="ignore", invalid="ignore"):
            steps = np.clip(blocks / scales[:, None], -127, 127)
            numbers = np.rint(steps).astype(np.int8)
        return Packed(numbers.reshape(-1)[: rows.size].reshape(rows.shape), scales, dtype)
    return rows


def unpack(packed: Any) -> Numbers:
    """What `pack` was given, as it arrives: in its own type and shape."""
    if not isinstance(packed, Packed):
        return packed  # type: ignore[no-any-return]
    values, scales, dtype = packed.values, packed.scales, packed.dtype
    if scales is None:
        return values.astype(dtype)
    with np.errstate(invalid="ignore"):
        rows: Numbers = (_blocks(values).astype(dtype) * scales.astype(dtype)[:, None]).reshape(-1)
    return rows[: values.size].reshape(values.shape)


def scales_of(shape: tuple[int, ...]) -> int:
    """How many scales go with values of this shape."""
    return shape[0] if len(shape) == 2 else -(-shape[0] // BLOCK)


def _blocks(values: NDArray[Any]) -> NDArray[Any]:
    """Rows as they are; a dense tensor in rows of BLOCK numbers, filled up with zeros."""
    if values.ndim == 2:
        return values
    rows = scales_of(values.shape)
    # Joined, not written into a plain array: what is private stays so, and the encoder refuses it.
    return np.concatenate((values, np.zeros(rows * BLOCK - values.size, values.dtype))).reshape(rows, BLOCK)
