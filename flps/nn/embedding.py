"""An embedding whose rows live in a table: in this process, or behind servers.

Law 1: the module holds no parameter; the rows of a forward are leaves of the graph, and their gradients are handed on.
Law 2: each look-up has a row of its own in the graph; gradients of one key are added up, in the order of the look-ups,
when they are taken. (One leaf for all look-ups of a key costs a gather and a scatter within the graph.)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from flps.privacy import reveal
from flps.table import Adam, Initializer, SparseTable, TableSpec
from flps.table.accessor import Counts, counts_of, merge_counts
from flps.table.distinct import distinct_each
from flps.table.rules import AnyRule
from flps.table.sparse import merge_duplicates

Keys = NDArray[np.uint64]
Rows = NDArray[np.floating[Any]]


class Lookup(NamedTuple):
    """The keys of a batch, and the different ones among them."""

    keys: Keys  # (L,) as they are looked up
    unique: Keys  # (N,)
    places: NDArray[np.int64]  # (L,) keys == unique[places]


class RowSource(Protocol):
    """What an embedding needs of its table."""

    def pull(self, keys: Keys) -> Rows:
        """The rows (N, dim) of `keys` (N,); keys may come twice."""

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
        self._lookup: Lookup | None = None
        self._staged: Rows | None = None
        self.is_counted = False  # shows and clicks of a step are worked out with its gradients
        self.labels: NDArray[Any] | None = None  # (B,) of the batch that is trained, where they are counted
        self.counts: Counts | None = None  # of the keys that `take_gradient` gave last, where they are counted
        self._touched: list[tuple[Keys, Lookup | None, Tensor]] = []
        self._columns = 1  # look-ups of one sample that stand side by side

    def lookups(self, batches: Sequence[Keys]) -> list[Lookup]:
        """What the coming batches look up, each (L,); for many of them at once it takes less time."""
        found = distinct_each(batches, self.spec.bound)
        return [Lookup(keys, *unique) for keys, unique in zip(batches, found, strict=True)]

    def expect(self, lookup: Lookup, rows: Rows | None = None) -> None:
        """The next batch is known; `rows` (N, dim): those of its unique keys, when they have been fetched."""
        if rows is not None or self._lookup is not lookup:  # who says it again does not take the rows back
            self._lookup, self._staged = lookup, rows

    def forward(self, keys: Tensor) -> Tensor:
        """Rows (*, dim) of integer keys (*). Raises TypeError for keys that are no integers."""
        whole = self._flat(keys)
        lookup = self._lookup
        if lookup is not None and not (lookup.keys.size == whole.size and (lookup.keys == whole).all()):
            lookup = None
        leaf = torch.from_numpy(self._rows(whole, lookup)).to(keys.device)
        if self.training and torch.is_grad_enabled():
            leaf.requires_grad_()
            self._touched.append((whole, lookup, leaf))
            self._columns = keys.shape[-1] if keys.dim() > 1 else 1
        return leaf if keys.dim() == 1 else leaf.reshape(*keys.shape, self.spec.dim)

    def take_gradient(self) -> tuple[Keys, Rows] | None:
        """Keys (N,), each once, and gradients (N, dim) of every forward since the last call; None without any."""
        touched, self._touched = self._touched, []
        self._lookup = self._staged = None
        if self.is_counted:
            self.counts = self._counted([(keys, lookup) for keys, lookup, leaf in touched if leaf.grad is not None])
        parts = [self._added_up(keys, lookup, leaf.grad) for keys, lookup, leaf in touched if leaf.grad is not None]
        if len(parts) < 2:
            return parts[0] if parts else None
        keys, gradients = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        return merge_duplicates(keys, gradients)

    def _added_up(self, keys: Keys, lookup: Lookup | None, gradient: Tensor) -> tuple[Keys, Rows]:
        """Gradients (N, dim) of the unique keys, from those of the look-ups (L, dim)."""
        _, unique, places = lookup or self.lookups([keys])[0]
        total = gradient.new_zeros(unique.size, self.spec.dim)
        total.index_add_(0, torch.from_numpy(places).to(gradient.device), gradient)
        return unique, total.cpu().numpy()

    def _counted(self, touched: Sequence[tuple[Keys, Lookup | None]]) -> Counts | None:
        """Shows and clicks in the order in which `take_gradient` gives the keys."""
        parts = []
        for keys, lookup in touched:
            _, unique, places = lookup or self.lookups([keys])[0]
            parts.append((unique, counts_of(places, unique.size, self._clicks(keys.size), self._columns)))
        if len(parts) < 2:
            return parts[0][1] if parts else None
        keys, counts = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        once, merged = merge_counts(keys, counts)
        return merged if once.size < keys.size else counts

    def _clicks(self, lookups: int) -> NDArray[np.bool_] | None:
        """Whether each look-up was of a sample whose label is 1; None where look-ups are not those of the samples."""
        if self.labels is None or not self.labels.size or lookups % self.labels.size:
            return None
        return np.repeat(self.labels.reshape(-1) == 1, lookups // self.labels.size)

    def extra_repr(self) -> str:
        return f"{self.name!r}, dim={self.spec.dim}, rows={self.spec.bound}, placement={self.placement}"

    def _flat(self, keys: Tensor) -> Keys:
        """`keys` (*) as a table wants them (L,); negative ones are keys from 2**63 on."""
        if keys.dtype != torch.int64:
            if keys.is_floating_point() or keys.is_complex() or keys.dtype == torch.bool:
                raise TypeError(f"embedding {self.name} is looked up by integers, got {keys.dtype}")
            keys = keys.long()
        return keys.numpy(force=True).reshape(-1).view(np.uint64)

    def _rows(self, keys: Keys, lookup: Lookup | None) -> Rows:
        """A row (L, dim) for each look-up."""
        if lookup is None:
            return reveal(self.table.pull(keys))
        rows = reveal(self.table.pull(lookup.unique)) if self._staged is None else self._staged
        return rows.take(lookup.places, axis=0)


def apply_gradients(model: nn.Module) -> None:
    """After `backward`: let each embedding's own table take its gradients (training without servers)."""
    for module in model.modules():
        if isinstance(module, Embedding):
            gradient = module.take_gradient()
            if gradient is not None:
                module.table.push(*gradient, unique=True)
