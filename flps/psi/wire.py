"""A message as one run of bytes, for whatever carries bytes.

    4 bytes: length of the header, little-endian | header: msgpack | the array's bytes, little-endian

Law: what a peer can say wrong is refused here, by ProtocolError, before anything is allocated for it.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt

from flps.errors import ProtocolError
from flps.psi.message import Message

Bytes: TypeAlias = npt.NDArray[np.uint8]  # (N,)
_LENGTH_BYTES = 4
_HEADER_MAX = 1 << 16
_KINDS = {"u1", "u8"}


def encode(message: Message) -> Bytes:
    """The bytes of a message."""
    arrays: list[npt.NDArray[Any]] = []

    def describe(array: npt.NDArray[Any]) -> list[Any]:
        arrays.append(np.ascontiguousarray(array, array.dtype.newbyteorder("<")))
        return [array.dtype.str[1:], list(array.shape)]

    header = msgspec.msgpack.encode(message, enc_hook=describe)
    parts = [len(header).to_bytes(_LENGTH_BYTES, "little"), header, *(array.tobytes() for array in arrays)]
    return np.frombuffer(b"".join(parts), np.uint8)


def decode(said: Bytes) -> Message:
    """The message in these bytes; its array is a copy. Raises ProtocolError."""
    size = int.from_bytes(said[:_LENGTH_BYTES].tobytes(), "little")
    if len(said) < _LENGTH_BYTES or size > min(_HEADER_MAX, len(said) - _LENGTH_BYTES):
        raise ProtocolError(f"{len(said)} bytes came, which are no message with a header of {size} bytes")
    rest = said[_LENGTH_BYTES + size :]
    taken = False

    def array_of(_: type, value: Any) -> Any:
        nonlocal taken
        match value:
            case [str(kind), [*shape]] if kind in _KINDS and len(shape) <= 2 and not taken:
                if all(type(length) is int and 0 <= length < 2**31 for length in shape):
                    taken = True
                    return _shaped(rest, np.dtype("<" + kind), shape)
        raise ProtocolError(f"{str(value)[:80]} does not describe an array")

    try:
        header = said[_LENGTH_BYTES : _LENGTH_BYTES + size].tobytes()
        message: Message = msgspec.msgpack.decode(header, type=Message, dec_hook=array_of)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise ProtocolError(f"unreadable message: {error}") from None
    if len(rest) and not taken:
        raise ProtocolError(f"{type(message).__name__} has no array, but {len(rest)} bytes of one came")
    return message


def _shaped(rest: Bytes, dtype: np.dtype[Any], shape: list[int]) -> npt.NDArray[Any]:
    wanted = dtype.itemsize
    for length in shape:
        wanted *= length
    if wanted != len(rest):
        raise ProtocolError(f"an array of shape {shape} and type {dtype.str} wants {wanted} bytes, got {len(rest)}")
    return np.frombuffer(rest.tobytes(), dtype).reshape(shape)  # a copy: numbers want to begin at a multiple of 8
