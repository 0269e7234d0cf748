"""A model's dense parameters as one flat tensor, so that they travel, and are changed, as one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

Flat = NDArray[np.floating[Any]]


class DensePack:
    """The named parameters of a model; each becomes a view of one flat tensor, and so does its gradient."""

    def __init__(self, model: nn.Module, names: Sequence[str]) -> None:
        """`names`: parameters of `model`, of one type and on one device. The model's values stay as they are."""
        parameters = dict(model.named_parameters())
        chosen = [parameters[name] for name in names]
        self.names = tuple(names)
        self.shapes = [tuple(parameter.shape) for parameter in chosen]
        self._values = torch.cat([parameter.detach().reshape(-1) for parameter in chosen])
        self._gradient = torch.zeros_like(self._values)
        self.size = self._values.numel()
        start = 0
        for parameter in chosen:
            stop = start + parameter.numel()
            parameter.data = self._values[start:stop].view_as(parameter)
            parameter.grad = self._gradient[start:stop].view_as(parameter)
            start = stop

    def values(self) -> Flat:
        """A copy of all values (size,)."""
        return self._values.to("cpu", copy=True).numpy()

    def load(self, values: Flat) -> None:
        """Set all values (size,)."""
        self._values.copy_(torch.from_numpy(values))

    def take_gradient(self) -> Flat:
        """A copy of the gradient (size,), which becomes zero for the next backward."""
        gradient = self._gradient.to("cpu", copy=True).numpy()
        self._gradient.zero_()
        return gradient

    def split(self, values: Flat) -> dict[str, Flat]:
        """`values` (size,) by parameter name, in the parameters' shapes."""
        pieces = {}
        start = 0
        for name, shape in zip(self.names, self.shapes, strict=True):
            stop = start + int(np.prod(shape, dtype=np.int64))
            pieces[name] = values[start:stop].reshape(shape)
            start = stop
        return pieces
