"""What a row holds when it is first touched.

Law: a row's first value depends on (seed, key, column) alone, so it is the same on any number of servers, in any
order of arrival, after any restart.
"""

from __future__ import annotations

from typing import Literal

import msgspec
import numpy as np
from numpy.typing import DTypeLike, NDArray

_APART = np.uint64(0xD1B54A32D192ED03)  # an odd number of no meaning: other draws than those of first values


class Initializer(msgspec.Struct, frozen=True):
    """`normal`: mean 0 and deviation `scale`; `uniform`: -scale..scale; `zeros`."""

    kind: Literal["normal", "uniform", "zeros"] = "normal"
    scale: float = 0.01

    def rows(self, keys: NDArray[np.uint64], dim: int, seed: int, dtype: DTypeLike) -> NDArray[np.floating]:
        """First values (N, dim) of the rows of `keys` (N,)."""
        if self.kind == "zeros":
            return np.zeros((keys.size, dim), dtype)
        first = _uniform(keys, dim, seed, stream=0)
        if self.kind == "uniform":
            return ((2.0 * first - 1.0) * self.scale).astype(dtype)
        second = _uniform(keys, dim, seed, stream=1)
        normal = np.sqrt(-2.0 * np.log(first)) * np.cos(2.0 * np.pi * second)  # Box and Muller 1958
        return (normal * self.scale).astype(dtype)


def _uniform(keys: NDArray[np.uint64], dim: int, seed: int, stream: int) -> NDArray[np.float64]:
    """Numbers in (0, 1), shape (N, dim), by hashing (seed, stream, key, column)."""
    with np.errstate(over="ignore"):
        row = _mix(keys + _mix(np.array([2 * seed + stream], np.uint64)))
        column = _mix(np.arange(1, dim + 1, dtype=np.uint64))
        hashed = _mix(row[:, None] ^ column[None, :])
    return ((hashed >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53


def chance(keys: NDArray[np.uint64], numbers: NDArray[np.uint64], seed: int) -> NDArray[np.float64]:
    """A number in (0, 1) for each pair (N,) of key and number; not those that first values are made of."""
    with np.errstate(over="ignore"):
        row = _mix(keys + _mix(_mix(np.array([2 * seed], np.uint64)) ^ _APART))
        hashed = _mix(row ^ _mix(numbers))
    return ((hashed >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finalizer of splitmix64 (Steele, Lea and Flood 2014): every input bit moves every output bit."""
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
