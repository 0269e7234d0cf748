"""An embedding whose rows live in a table: in this process, or behind servers.

Law 1: the module holds no parameter; the rows of a forward are leaves of the graph, and their gradients are handed on.
Law 2: duplicates of a key in a batch are one leaf, so their gradients arrive already added up.
"""

from __future__ import annotations

from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from flps.privacy import reveal
from flps.table import Adam, Initializer, SparseTable, TableSpec, distinct
from flps.table.rules import AnyRule
from flps.table.sparse import merge_duplicates

Keys = NDArray[np.uint64]
Rows = NDArray[np.floating[Any]]


class RowSource(Protocol):
    """What an embedding needs of its table."""

    def pull(self, keys: Keys) -> Rows:
        """The rows (N, dim) of `keys` (N,)."""

    def push(self, keys: Keys, pushed: Rows, unique: bool = False) -> Any:
        """Apply gradients (N, dim) to the rows of `keys` (N,); `unique`: no key comes twice."""


class Embedding(nn.Module):
    """Looks rows up by key. Without servers its table is in this process, so a model trains alone, unchanged."""

    def __init__(
        self,
        name: str,
        dim: int,
        *,
        rows: int | None = None,
        feature: str = "",
        init: Initializer | None = None,
        placement: Literal["shared", "private"] = "shared",
        rule: AnyRule | None = None,
        seed: int = 0,
    ) -> None:
        """`dim`: width of a row; `rows`: keys are 0..rows-1, or any 64-bit number when None; `feature`: the part of a
        batch that is looked up here, so that rows can be fetched ahead; `init`: first value of a row; `placement`:
        what the model suggests, the configuration may say otherwise; `rule`: how gradients change rows without servers.
        """
        super().__init__()
        self.name = name
        self.feature = feature
        self.placement = placement
        self.begins_by_default = init is None  # the model does not say how its rows begin
        init, rule = init or Initializer(), rule or Adam()
        self.spec = TableSpec(name=name, kind="sparse", dim=dim, rule=rule, bound=rows, init=init, seed=seed)
        self.table: RowSource = SparseTable(self.spec)
        self._staged: tuple[Keys, Rows] | None = None
        self._touched: list[tuple[Keys, Tensor]] = []

    def stage(self, keys: Keys, rows: Rows) -> None:
        """Rows (N, dim) that have been fetched for the coming batch, whose sorted unique keys are `keys` (N,)."""
        self._staged = (keys, rows)

    def forward(self, keys: Tensor) -> Tensor:
        """Rows (*, dim) of integer keys (*). Raises TypeError for keys that are no integers."""
        if keys.is_floating_point() or keys.is_complex() or keys.dtype == torch.bool:
            raise TypeError(f"embedding {self.name} is looked up by integers, got {keys.dtype}")
        whole = keys.reshape(-1).to("cpu", torch.int64).numpy().view(np.uint64)  # negative ones: keys from 2**63 on
        unique, inverse = distinct(whole, self.spec.bound)
        leaf = torch.from_numpy(self._rows(unique)).to(keys.device)
        if self.training and torch.is_grad_enabled():
            leaf.requires_grad_()
            self._touched.append((unique, leaf))
        picked = leaf.index_select(0, torch.from_numpy(inverse).to(keys.device))
        return picked.reshape(*keys.shape, self.spec.dim)

    def take_gradient(self) -> tuple[Keys, Rows] | None:
        """Keys (N,), each once, and gradients (N, dim) of every forward since the last call; None without any."""
        touched, self._touched = self._touched, []
        self._staged = None
        parts = [(keys, leaf.grad.cpu().numpy()) for keys, leaf in touched if leaf.grad is not None]
        if len(parts) < 2:
            return parts[0] if parts else None
        keys, gradients = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        return merge_duplicates(keys, gradients)

    def extra_repr(self) -> str:
        return f"{self.name!r}, dim={self.spec.dim}, rows={self.spec.bound}, placement={self.placement}"

    def _rows(self, unique: Keys) -> Rows:
        if self._staged is not None and np.array_equal(self._staged[0], unique):
            return self._staged[1]
        return reveal(self.table.pull(unique))


def apply_gradients(model: nn.Module) -> None:
    """After `backward`: let each embedding's own table take its gradients (training without servers)."""
    for module in model.modules():
        if isinstance(module, Embedding):
            gradient = module.take_gradient()
            if gradient is not None:
                module.table.push(*gradient, unique=True)
