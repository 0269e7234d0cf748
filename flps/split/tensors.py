"""Tensors of a net as pieces of a parcel, and back.

Law 1: what arrives equals what was sent, bit for bit and type for type (bfloat16, whole numbers and bools too), unless
a codec was asked for.
Law 2: what was handed over is copied before it travels: the caller may change a tensor, such as a weight that is sent,
as soon as `pack` has returned. What arrives is a view of the bytes that came.
Law 3: what a peer can say wrong is a ProtocolError that names the tensor.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, Protocol, TypeAlias

import numpy as np
import torch
from torch import Tensor

from flps.errors import ConfigError, ProtocolError
from flps.frames import Limits
from flps.message import Piece

Group: TypeAlias = Mapping[str, Tensor]
Tensors: TypeAlias = Mapping[str, "Tensor | Group"]
Received: TypeAlias = "OrderedDict[str, Any]"  # Tensor, or OrderedDict[str, Tensor]
Bytes: TypeAlias = "np.ndarray[Any, np.dtype[np.uint8]]"

DTYPES = {
    "f2": torch.float16,
    "f4": torch.float32,
    "f8": torch.float64,
    "bf16": torch.bfloat16,
    "i1": torch.int8,
    "i2": torch.int16,
    "i4": torch.int32,
    "i8": torch.int64,
    "u1": torch.uint8,
    "b1": torch.bool,
}
TAGS = {dtype: tag for tag, dtype in DTYPES.items()}
_HEADER_BYTES = 300  # at most, what stands in a message's header for one tensor besides its names


class Codec(Protocol):
    """Packs the tensors that it knows by name into fewer bytes."""

    def pack(self, label: str, name: str, tensor: Tensor) -> Piece | None:
        """The tensor packed; None: it travels as it is."""

    def unpack(self, piece: Piece) -> Tensor:
        """The tensor of a piece that is packed. Raises ProtocolError for what no packing gives."""


def pack(tensors: Tensors, codec: Codec | None = None) -> tuple[Piece, ...]:
    """{name: tensor} or {label: {name: tensor}}, in their order.

    Raises:
        ConfigError: something that is no tensor, of a type that cannot travel, or no tensor at all.
    """
    if not isinstance(tensors, Mapping) or not tensors:
        raise ConfigError(f"tensors to send are a dictionary of name to tensor, got {_shown(tensors)}")
    pieces = []
    for name, value in tensors.items():
        if isinstance(value, Mapping):
            if not name or not value:
                raise ConfigError(f"the group {name!r} of tensors to send has no name, or no tensors")
            pieces += [_packed(name, inner, tensor, codec) for inner, tensor in value.items()]
        else:
            pieces.append(_packed("", name, value, codec))
    return tuple(pieces)


def unpack(pieces: tuple[Piece, ...], codec: Codec | None = None) -> Received:
    """What `pack` was given. Raises ProtocolError for a piece that is no tensor, or comes twice."""
    tensors: Received = OrderedDict()
    for piece in pieces:
        group = tensors.setdefault(piece.label, OrderedDict()) if piece.label else tensors
        if not isinstance(group, OrderedDict) or piece.name in group:
            raise ProtocolError(f"{_name(piece)} comes twice in one message")
        group[piece.name] = _unpacked(piece, codec)
    return tensors


def check_sizes(pieces: tuple[Piece, ...], limits: Limits) -> None:
    """Raises ConfigError when a peer with the same limits would refuse a parcel of these pieces."""
    total = frames = 0
    for piece in pieces:
        largest = max((array.nbytes for array in piece.arrays), default=0)
        if largest > limits.frame_bytes:
            raise ConfigError(
                f"tensor {_name(piece)} of shape {list(piece.shape)} has {largest} bytes, over frame_bytes_max "
                f"{limits.frame_bytes}; raise network.frame_bytes_max at every party, or send it in parts"
            )
        total += sum(array.nbytes for array in piece.arrays) + len(piece.label) + len(piece.name) + _HEADER_BYTES
        frames += len(piece.arrays)
    if total > limits.message_bytes:
        raise ConfigError(
            f"{len(pieces)} tensors with {total} bytes are over message_bytes_max {limits.message_bytes}; raise "
            "network.message_bytes_max at every party, or send them in several messages"
        )
    if frames >= limits.frames:
        raise ConfigError(f"{frames} tensors in one message are over frames_max {limits.frames}")


def _packed(label: str, name: str, tensor: Any, codec: Codec | None) -> Piece:
    shown = repr(f"{label}/{name}" if label else name)
    if not isinstance(name, str) or not name:
        raise ConfigError(f"a tensor to send is called {name!r}, expected a name")
    if not isinstance(tensor, Tensor):
        raise ConfigError(f"{shown} is {_shown(tensor)}, expected a torch tensor")
    if tensor.dtype not in TAGS or tensor.layout != torch.strided:
        raise ConfigError(
            f"{shown} is of {tensor.dtype} ({tensor.layout}), which cannot be sent; there are {', '.join(DTYPES)}"
        )
    piece = codec.pack(label, name, tensor) if codec is not None else None
    return piece or Piece(label, name, TAGS[tensor.dtype], tuple(tensor.shape), (_bytes_of(tensor),))


def _bytes_of(tensor: Tensor) -> Bytes:
    """A copy of the tensor's numbers, (nbytes,) uint8."""
    if not tensor.numel():
        return np.empty(0, np.uint8)  # its stride may be 0, which no view bears
    own = tensor.detach().to("cpu").contiguous()
    if own.data_ptr() == tensor.data_ptr():
        own = own.clone()
    array: Bytes = own.reshape(-1).view(torch.uint8).numpy()
    return array


def _unpacked(piece: Piece, codec: Codec | None) -> Tensor:
    if piece.packed is not None:
        if codec is None:
            raise ProtocolError(f"{_name(piece)} comes packed, and no compress_configs were given at this party")
        return codec.unpack(piece)
    dtype = DTYPES.get(piece.dtype)
    if dtype is None:
        raise ProtocolError(f"{_name(piece)} is of type {piece.dtype!r}; there are {', '.join(DTYPES)}")
    wanted = math.prod(piece.shape) * dtype.itemsize
    if len(piece.arrays) != 1 or piece.arrays[0].shape != (wanted,) or piece.arrays[0].dtype != np.uint8:
        got = [f"{array.dtype} {array.shape}" for array in piece.arrays]
        raise ProtocolError(f"{_name(piece)} of shape {piece.shape} wants {wanted} bytes, got {', '.join(got)}")
    tensor = _of_bytes(piece.arrays[0], dtype).reshape(piece.shape)
    if dtype == torch.bool and wanted and int(tensor.view(torch.uint8).max()) > 1:
        raise ProtocolError(f"{_name(piece)} is of bools, and holds a byte that is neither 0 nor 1")
    return tensor


def _of_bytes(array: Bytes, dtype: torch.dtype) -> Tensor:
    """A view of the bytes, (N,) of that type; a copy where they begin at an address that it does not allow."""
    if not array.size:
        return torch.empty(0, dtype=dtype)
    if not array.flags.writeable or array.ctypes.data % dtype.itemsize:
        array = array.copy()
    return torch.from_numpy(array).view(dtype)


def _name(piece: Piece) -> str:
    return repr(f"{piece.label}/{piece.name}" if piece.label else piece.name)


def _shown(value: Any) -> str:
    return f"{str(value)[:40]!r} ({type(value).__name__})" if not isinstance(value, Mapping) else "an empty one"
