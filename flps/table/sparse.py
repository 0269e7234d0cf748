"""A sparse table: 64-bit key -> row of weights and rule state.

Law 1: rows are made on first touch; their first value depends on (seed, key) alone.
Law 2: storage grows without copying what stands (the allocator moves pages, not bytes).
Law 3: no view of the storage leaves this file: what is returned is a copy.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from flps.table.index import MISSING, Keys, Slots, make_index
from flps.table.rules import Rows
from flps.table.spec import TableSpec

_FIRST_ROWS = 1024
Whole = TypeVar("Whole", np.int64, np.uint64)


class SparseTable:
    """Rows of one table (or of one server's share of it)."""

    def __init__(self, spec: TableSpec) -> None:
        self.spec = spec
        self._index = make_index(spec.bound)
        self._keys: Keys = np.empty(0, np.uint64)
        self._values: Rows = np.empty((0, spec.dim), spec.dtype)
        self._state: list[Rows] = [np.empty((0, width), spec.dtype) for width in spec.rule.state_widths(spec.dim)]

    def __len__(self) -> int:
        return self._index.size

    @property
    def nbytes(self) -> int:
        """Bytes of storage held for rows."""
        return sum(array.nbytes for array in (self._keys, self._values, *self._state))

    def slots(self, keys: Keys) -> Slots:
        """Slot of each key (N,), making rows for keys that are new. Raises Refused for keys out of range."""
        slots = self._index.lookup(keys)
        if slots.size and slots.min() == MISSING:
            self._create(np.unique(keys[slots == MISSING]))
            slots = self._index.lookup(keys)
        return slots

    def pull(self, keys: Keys) -> Rows:
        """The rows (N, dim) of `keys` (N,), duplicates allowed."""
        return self.read(self.slots(keys))

    def push(self, keys: Keys, pushed: Rows, unique: bool = False) -> Slots:
        """Apply the rule to the rows of `keys` (N,), `pushed` (N, dim); duplicates are merged first.

        `unique`: the caller knows that there are none. Returns the slots (M,) of the rows that changed, each once.
        """
        slots = self.slots(keys)
        if not unique:
            slots, pushed = merge_duplicates(slots, pushed)
        values = self.read(slots)
        state = [array.take(slots, axis=0) for array in self._state]
        self.spec.rule.apply(values, state, pushed)
        self._values[slots] = values
        for array, rows in zip(self._state, state, strict=True):
            array[slots] = rows
        return slots

    def read(self, slots: Slots) -> Rows:
        """The rows (N, dim) that stand in these slots (N,)."""
        return self._values.take(slots, axis=0)

    def write(self, slots: Slots, values: Rows) -> None:
        """Replace the weights of rows; their rule state stays."""
        self._values[slots] = values

    def keys(self, slots: Slots | None = None) -> Keys:
        """The keys whose rows stand in these slots; without slots every key, ordered by slot."""
        return self._keys[: len(self)].copy() if slots is None else self._keys.take(slots)

    def dump(self) -> dict[str, NDArray[Any]]:
        """Everything the table holds: keys (R,), values (R, dim), state.0, state.1, ... (R, S)."""
        size = len(self)
        arrays = {"keys": self._keys, "values": self._values}
        arrays.update({f"state.{n}": array for n, array in enumerate(self._state)})
        return {name: array[:size].copy() for name, array in arrays.items()}

    def load(self, dumped: Mapping[str, NDArray[Any]], which: NDArray[np.bool_] | slice = slice(None)) -> Slots:
        """Put rows back as `dump` gave them, or those of them that `which` picks; rows of other keys stay.

        Returns their slots.
        """
        slots = self.slots(dumped["keys"][which])
        self._values[slots] = dumped["values"][which]
        for n, array in enumerate(self._state):
            array[slots] = dumped[f"state.{n}"][which]
        return slots

    def _create(self, keys: Keys) -> None:
        slots = self._index.insert(keys)
        self._reserve(self._index.size)
        spec = self.spec
        self._keys[slots] = keys
        self._values[slots] = spec.init.rows(keys, spec.dim, spec.seed, spec.dtype)
        for array, first in zip(self._state, spec.rule.first_state(), strict=True):
            array[slots] = first

    def _reserve(self, rows: int) -> None:
        if rows <= len(self._values):
            return
        # realloc of a large block remaps its pages; refcheck is off because law 3 holds.
        capacity = max(rows, _FIRST_ROWS, len(self._values) * 5 // 4)
        if self.spec.bound is not None:
            capacity = max(rows, min(capacity, self.spec.bound))
        self._keys.resize(capacity, refcheck=False)
        self._values.resize((capacity, self._values.shape[1]), refcheck=False)
        for array in self._state:
            array.resize((capacity, array.shape[1]), refcheck=False)


def merge_duplicates(slots: NDArray[Whole], pushed: Rows) -> tuple[NDArray[Whole], Rows]:
    """Each slot (or key) once (M,), with the sum of what was pushed to it (M, D), added in the order of arrival."""
    order = np.argsort(slots, kind="stable")
    ordered = slots[order]
    if not slots.size:
        return slots, pushed
    first = np.flatnonzero(np.concatenate(([True], ordered[1:] != ordered[:-1])))
    if first.size == slots.size:
        return slots, pushed
    return ordered[first], np.add.reduceat(np.take(pushed, order, axis=0), first, axis=0)
