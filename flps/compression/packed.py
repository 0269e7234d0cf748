"""What travels: a `Packed` says how a tensor was packed, and holds its bytes.

Law: arrays are flat uint8, little-endian inside, so that any message that carries bytes carries them; everything else
is a small number or a word.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias, get_args

import msgspec
import numpy as np
from msgspec import Meta

from flps.errors import FlpsError

Kind = Literal["min_max", "bit_pack", "fp16", "bf16", "int8", "topk", "no_compress"]
KINDS: tuple[str, ...] = get_args(Kind)
FLOATS = ("f2", "f4", "f8")
DTYPES = (*FLOATS, "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1")
DIMS_MAX = 16
Array: TypeAlias = np.ndarray[Any, Any]


class NotFinite(FlpsError, ValueError):
    """A tensor has NaN or infinity, so it cannot be sent; the message names it and says where the first one is."""


class Packed(msgspec.Struct, frozen=True, eq=False):
    """A tensor on the wire.

    What `arrays` holds, by kind: min_max, bit_pack: the levels, `bits` each; fp16, bf16: two bytes a number; int8:
    one byte a number, and a float32 scale a row; topk: uint32 positions, and the numbers there; no_compress: the
    tensor.
    """

    kind: Kind
    asked: Kind  # what the configuration says
    dtype: Annotated[str, Meta(max_length=2)]
    shape: Annotated[tuple[Annotated[int, Meta(ge=0, lt=2**48)], ...], Meta(max_length=DIMS_MAX)]
    arrays: Annotated[tuple[Array, ...], Meta(max_length=2)]  # (N,) uint8 each
    bits: Annotated[int, Meta(ge=0, le=8)] = 0
    low: int | float = 0.0  # of min_max and bit_pack: the least number, and the largest
    high: int | float = 0.0
    exponent: Annotated[int, Meta(ge=-1100, le=1100)] = 0  # numbers are 2**exponent times what is packed

    @property
    def fell_back(self) -> bool:
        """Whether the tensor travels as it is because what was asked for cannot carry it."""
        return self.kind != self.asked

    @property
    def nbytes(self) -> int:
        """Bytes of the tensor on the wire, without the header."""
        return sum(array.nbytes for array in self.arrays)
