"""A table that never leaves its owner's process."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flps.privacy import PrivateArray, conceal, reveal
from flps.table import CountedTable, TableSpec, make_sparse
from flps.table.accessor import Counts, Mode
from flps.table.snapshot import Content


class PrivateTable:
    """A sparse table whose every answer is a `PrivateArray`, which no message can hold."""

    def __init__(self, spec: TableSpec) -> None:
        self.spec = spec
        self._table = make_sparse(spec)
        self._warm = np.zeros(0, bool)

    def __len__(self) -> int:
        return len(self._table)

    @property
    def columns(self) -> tuple[str, ...]:
        """What `dump` and `load` call the parts of the table."""
        return self._table.columns

    def pull(self, keys: NDArray[np.uint64]) -> PrivateArray:
        """The rows (N, dim) of `keys` (N,)."""
        return conceal(self._table.pull(keys), self.spec.name)

    def push(
        self,
        keys: NDArray[np.uint64],
        pushed: NDArray[np.floating[Any]],
        unique: bool = False,
        counts: Counts | None = None,
    ) -> None:
        """Apply the rule to the rows of `keys` (N,) with `pushed` (N, dim); `unique`: no key comes twice; `counts`
        (N, 3): what a table with an accessor counts.
        """
        if isinstance(self._table, CountedTable):
            self._mark(self._table.push(keys, reveal(pushed), unique, counts))
        else:
            self._mark(self._table.push(keys, reveal(pushed), unique))

    def warm(self, keys: NDArray[np.uint64]) -> NDArray[np.bool_]:
        """Whether the row of each key (N,) has ever been trained or loaded."""
        if isinstance(self._table, CountedTable):
            return self._table.admitted(keys)
        slots = self._table.slots(keys)
        self._fit(len(self._table))
        return self._warm[slots]

    def shrink(self, is_day: bool) -> None:
        """Forget old rows, where the table has an accessor; `is_day`: then a day ends for those that stay."""
        if isinstance(self._table, CountedTable):
            self._table.shrink(is_day)

    def settle(self, mode: Mode) -> None:
        """A save of this mode is complete."""
        if isinstance(self._table, CountedTable):
            self._table.settle(mode)

    def dump(self, mode: Mode = "all") -> dict[str, NDArray[Any]]:
        """Keys, values and state of every row that was trained or loaded, for the owner's own disk.

        A row that was only looked at is left out: it is made again from its seed, and is not warm then either.
        mode: which rows of a table with an accessor; those that wait to be let in are there, too.
        """
        self._fit(len(self._table))
        warm = self._warm[: len(self._table)]
        if isinstance(self._table, CountedTable):
            warm = self._table.chosen(mode)
        return {part: conceal(array[warm], self.spec.name) for part, array in self._table.dump().items()}

    def content(self, name: str) -> Content:
        """The same as `dump`, for a snapshot on the owner's own disk; `name`: what the table is called there."""
        if isinstance(self._table, CountedTable):  # looking makes no row
            return Content({name: self._table}, {})
        self._fit(len(self._table))
        return Content({name: self._table}, {}, {name: self._warm[: len(self._table)]})

    def load(self, dumped: Mapping[str, NDArray[Any]], which: NDArray[np.bool_] | slice = slice(None)) -> None:
        """Put rows back as `dump` gave them, or those of them that `which` picks."""
        self._mark(self._table.load({part: reveal(array) for part, array in dumped.items()}, which))

    def _mark(self, slots: NDArray[np.int64]) -> None:
        self._fit(len(self._table))
        self._warm[slots] = True

    def _fit(self, rows: int) -> None:
        if rows > self._warm.size:
            self._warm = np.concatenate([self._warm, np.zeros(max(rows, 1024), bool)])
