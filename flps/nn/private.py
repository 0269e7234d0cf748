"""A table that never leaves its owner's process."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from flps.privacy import PrivateArray, conceal, reveal
from flps.table import SparseTable, TableSpec


class PrivateTable:
    """A sparse table whose every answer is a `PrivateArray`, which no message can hold."""

    def __init__(self, spec: TableSpec) -> None:
        self.spec = spec
        self._table = SparseTable(spec)
        self._warm = np.zeros(0, bool)

    def __len__(self) -> int:
        return len(self._table)

    def pull(self, keys: NDArray[np.uint64]) -> PrivateArray:
        """The rows (N, dim) of `keys` (N,)."""
        return conceal(self._table.pull(keys), self.spec.name)

    def push(self, keys: NDArray[np.uint64], pushed: NDArray[np.floating[Any]]) -> None:
        """Apply the rule to the rows of `keys` (N,) with `pushed` (N, dim)."""
        self._mark(self._table.push(keys, reveal(pushed)))

    def warm(self, keys: NDArray[np.uint64]) -> NDArray[np.bool_]:
        """Whether the row of each key (N,) has ever been trained or loaded."""
        slots = self._table.slots(keys)
        self._fit(len(self._table))
        return self._warm[slots]

    def dump(self) -> dict[str, NDArray[Any]]:
        """Everything the table holds, for the owner's own disk: keys, values, state."""
        return {part: conceal(array, self.spec.name) for part, array in self._table.dump().items()}

    def load(self, keys: NDArray[Any], values: NDArray[Any], state: NDArray[Any]) -> None:
        """Put rows back as `dump` gave them."""
        self._table.load(reveal(keys), reveal(values), reveal(state))
        self._mark(self._table.slots(reveal(keys)))

    def _mark(self, slots: NDArray[np.int64]) -> None:
        self._fit(len(self._table))
        self._warm[slots] = True

    def _fit(self, rows: int) -> None:
        if rows > self._warm.size:
            self._warm = np.concatenate([self._warm, np.zeros(max(rows, 1024), bool)])
