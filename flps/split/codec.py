"""Tensors that travel packed, as `compress_configs` says: the way from torch to `flps.compression` and back.

Law 1: what stands in a group ({label: {name: tensor}}) is a gradient, everything else an activation; each is packed as
its configuration says of it.
Law 2: bfloat16 is packed as float32 and becomes bfloat16 again.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
import torch
from torch import Tensor

from flps.compression import CompressConfig, Feedback, Packed, compress, expand
from flps.errors import ConfigError, ProtocolError
from flps.message import Piece
from flps.split.tensors import DTYPES, TAGS


class Compressing:
    """Packs what goes to one other party, and unpacks what comes from it."""

    def __init__(self, configs: Mapping[str, CompressConfig], bytes_max: int) -> None:
        """configs: tensor name -> how; bytes_max: how large a tensor that comes may become."""
        self.feedback = Feedback()  # of gradients that went to this party; belongs into a checkpoint
        self._configs = check_configs(configs)
        self._bytes_max = bytes_max

    def pack(self, label: str, name: str, tensor: Tensor) -> Piece | None:
        """The tensor packed; None when nothing is said of its name. Raises NotFinite for NaN and infinity."""
        config = self._configs.get(name)
        if config is None:
            return None
        config = config.gradients if label else config.activations
        own = tensor.detach().to("cpu")
        array = (own.float() if own.dtype == torch.bfloat16 else own).numpy()
        packed = compress(f"{label}/{name}" if label else name, array, config, self.feedback)
        fields = {field: getattr(packed, field) for field in packed.__struct_fields__ if field != "arrays"}
        return Piece(label, name, TAGS[tensor.dtype], tuple(tensor.shape), packed.arrays, fields)

    def unpack(self, piece: Piece) -> Tensor:
        """The tensor. Raises ProtocolError for what no packing gives."""
        try:
            said = msgspec.convert({**(piece.packed or {}), "arrays": ()}, Packed)
        except msgspec.ValidationError as error:
            raise ProtocolError(f"{piece.name!r} comes packed in a way that cannot be read: {error}") from None
        dtype = DTYPES.get(piece.dtype)
        if said.shape != piece.shape or dtype is None:
            raise ProtocolError(f"{piece.name!r} of shape {piece.shape} comes packed as {said.dtype} {said.shape}")
        tensor = torch.from_numpy(expand(msgspec.structs.replace(said, arrays=piece.arrays), self._bytes_max))
        if tensor.dtype != dtype and (tensor.dtype, dtype) != (torch.float32, torch.bfloat16):
            raise ProtocolError(f"{piece.name!r} of type {piece.dtype} comes packed as {said.dtype}")
        return tensor.to(dtype)


def check_configs(configs: Mapping[str, CompressConfig]) -> dict[str, CompressConfig]:
    """Raises ConfigError for what does not say how a tensor is packed."""
    for name, config in configs.items():
        if not isinstance(config, CompressConfig):
            raise ConfigError(f"compress_configs: {name!r} is {str(config)[:80]!r}, expected a CompressConfig")
    return dict(configs)
