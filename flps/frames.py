"""How a message looks as frames: frame 0 is the header (msgpack of `Envelope`), frames 1.. are the tensors in the
order of their numbers.

Law 1: nothing here opens a socket, reads a clock or starts a thread.
Law 2: whatever a peer can send wrong is refused here, by ProtocolError, before anything is allocated for it.
Law 3: a tensor is a raw little-endian frame behind the header; its dtype and shape stand in the header. Keys that fit
into four bytes travel in four. Rows may travel packed (`flps.packing`); who decodes them gets them unpacked.
Law 4: there is no way to write a private tensor (`flps.privacy`): the encoder says its owner's name and stops.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from contextlib import suppress
from typing import Any

import msgspec
import numpy as np

from flps.errors import ConfigError, PrivacyError, ProtocolError
from flps.message import VERSION, Envelope, Tensor
from flps.packing import Packed, scales_of, unpack
from flps.privacy import owner_of

HEADER_BYTES_MAX = 1 << 20
_DTYPES = {"f4", "f8", "u8", "i8", "u1"}
_SHORT_KEYS = "u4"  # on the wire only: 64-bit keys that are all below 2**32
_PACKED_KINDS = {"f2", "i1"}
_DIMS_MAX = 4


class Limits(msgspec.Struct, frozen=True):
    """How much a peer may send in one message."""

    frames: int = 1024
    frame_bytes: int = 256 * 2**20
    message_bytes: int = 2**30  # of all frames together


class _Encoding:
    """Collects the tensors of one message while its header is written."""

    def __init__(self) -> None:
        self.tensors: list[Tensor] = []

    def hook(self, value: Any) -> list[Any]:
        if isinstance(value, Packed):
            values = self._described(value.values, _PACKED_KINDS)
            return [values, None if value.scales is None else self._described(value.scales, {"f4"}), value.dtype]
        return self._described(value, _DTYPES)

    def _described(self, value: Any, kinds: Collection[str]) -> list[Any]:
        """What stands in the header for a tensor, which is noted down to be sent."""
        if not isinstance(value, np.ndarray):
            raise TypeError(f"{type(value).__name__} cannot be sent")
        owner = owner_of(value)
        if owner is not None:
            raise PrivacyError(f"table {owner!r} is private: its rows may not leave this process")
        kind = value.dtype.newbyteorder("<").str[1:]
        if kind not in kinds:
            raise TypeError(f"a tensor of {value.dtype} cannot be sent; use one of {sorted(_DTYPES)}")
        if value.ndim > _DIMS_MAX:
            raise TypeError(f"a tensor of {value.ndim} dimensions cannot be sent, at most {_DIMS_MAX} can")
        if kind == "u8" and value.size and value.max() < 2**32:
            kind, value = _SHORT_KEYS, value.astype(np.uint32)
        self.tensors.append(np.ascontiguousarray(value, value.dtype.newbyteorder("<")))
        return [len(self.tensors), kind, list(value.shape)]


class _Decoding:
    """Turns the tensors' descriptions in a header into views of the frames, each frame once."""

    def __init__(self, frames: Sequence[Any]) -> None:
        self.frames = frames
        self.used = 0

    def hook(self, _: type, value: Any) -> Tensor:
        match value:
            case [list(values), None | list() as scales, "f4" | "f8" as dtype]:
                return self._unpacked(values, scales, dtype)
        tensor = self._frame(value, _DTYPES | {_SHORT_KEYS})
        return tensor.astype(np.uint64) if tensor.dtype == np.uint32 else tensor

    def _frame(self, value: Any, kinds: Collection[str]) -> Tensor:
        number, kind, shape = _description(value, kinds)
        if number != self.used + 1 or number >= len(self.frames):
            raise ProtocolError(f"the header names frame {number}, expected {self.used + 1} of {len(self.frames) - 1}")
        self.used = number
        dtype = np.dtype("<" + kind)
        wanted = math.prod(shape) * dtype.itemsize
        frame = memoryview(self.frames[number])
        if frame.nbytes != wanted:
            raise ProtocolError(
                f"frame {number} of shape {shape} and type {kind} wants {wanted} bytes, got {frame.nbytes}"
            )
        return np.frombuffer(frame, dtype).reshape(shape) if wanted else np.empty(shape, dtype)

    def _unpacked(self, values: Any, scales: Any, dtype: str) -> Tensor:
        numbers = self._frame(values, {"f2"} if scales is None else {"i1"})
        if numbers.ndim not in (1, 2):
            raise ProtocolError(f"packed rows have one or two dimensions, not {numbers.ndim}")
        if scales is None:
            return unpack(Packed(numbers, None, dtype))
        factors = self._frame(scales, {"f4"})
        if factors.shape != (scales_of(numbers.shape),):
            raise ProtocolError(
                f"rows of shape {numbers.shape} want {scales_of(numbers.shape)} scales, got {factors.shape}"
            )
        return unpack(Packed(numbers, factors, dtype))


def _description(value: Any, kinds: Collection[str]) -> tuple[int, str, list[int]]:
    match value:
        case [int(number), str(kind), list(shape)] if kind in kinds and len(shape) <= _DIMS_MAX:
            if all(type(size) is int and 0 <= size < 2**48 for size in shape):
                return number, kind, shape
    raise ProtocolError(f"{str(value)[:80]} does not describe a tensor")


def encode(envelope: Envelope, limits: Limits = Limits()) -> list[bytes | Tensor]:  # noqa: B008  frozen
    """The frames of a message. Raises PrivacyError when it holds something private, ConfigError when it is larger
    than what a peer with the same limits takes.
    """
    encoding = _Encoding()
    header = msgspec.msgpack.encode(envelope, enc_hook=encoding.hook)
    largest = max((tensor.nbytes for tensor in encoding.tensors), default=0)
    if largest > limits.frame_bytes:
        raise ConfigError(
            f"a tensor of {largest} bytes is over network.frame_bytes_max, {limits.frame_bytes}; raise it for all roles"
        )
    if len(encoding.tensors) >= limits.frames or len(header) > min(HEADER_BYTES_MAX, limits.frame_bytes):
        raise ConfigError(
            f"{type(envelope.body).__name__} with {len(encoding.tensors)} tensors and a header of {len(header)} bytes "
            f"is over the limits: network.frames_max {limits.frames}, headers of {HEADER_BYTES_MAX} bytes"
        )
    total = len(header) + sum(tensor.nbytes for tensor in encoding.tensors)
    if total > limits.message_bytes:
        raise ConfigError(
            f"{type(envelope.body).__name__} of {total} bytes is over network.message_bytes_max, "
            f"{limits.message_bytes}; raise it for all roles"
        )
    return [header, *encoding.tensors]


def decode(frames: Sequence[Any], limits: Limits) -> Envelope:
    """The message in these frames (bytes-like each); tensors are views of them. Raises ProtocolError."""
    if not 1 <= len(frames) <= limits.frames:
        raise ProtocolError(f"a message has 1 to {limits.frames} frames, got {len(frames)}")
    sizes = [memoryview(frame).nbytes for frame in frames]
    if sizes[0] > HEADER_BYTES_MAX or max(sizes) > limits.frame_bytes:
        raise ProtocolError(f"frames of {sizes[0]} (header) and at most {max(sizes)} bytes are over the limits")
    if sum(sizes) > limits.message_bytes:
        raise ProtocolError(f"a message of {sum(sizes)} bytes is over the limit of {limits.message_bytes}")
    decoding = _Decoding(frames)
    try:
        envelope = msgspec.msgpack.decode(frames[0], type=Envelope, dec_hook=decoding.hook)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        _check_version(frames[0])  # what cannot be read may be said in another version
        raise ProtocolError(f"unreadable header: {error}") from None
    if envelope.version != VERSION:
        raise _other_version(envelope.version)
    if decoding.used != len(frames) - 1:
        raise ProtocolError(f"{len(frames) - 1} tensors came, the header names {decoding.used}")
    return envelope


class _Opening(msgspec.Struct, frozen=True, array_like=True):
    """What headers of every version begin with."""

    version: int


# msgspec works out how to read a type when it first reads it, and crashes the process when two threads do so at once
# (a heartbeat and a journal that is carried out again): it is worked out here, once.
for _kind in (Envelope, _Opening):
    msgspec.msgpack.Decoder(_kind, dec_hook=lambda kind, value: value)


def _check_version(header: Any) -> None:
    with suppress(msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        version = msgspec.msgpack.decode(header, type=_Opening).version
        if version != VERSION:
            raise _other_version(version)


def _other_version(version: int) -> ProtocolError:
    return ProtocolError(f"this is protocol version {VERSION}, the peer speaks {version}")
