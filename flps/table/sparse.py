"""A sparse table: 64-bit key -> row of weights and rule state.

Law 1: rows are made on first touch; their first value depends on (seed, key) alone.
Law 2: storage grows without copying what stands (the allocator moves pages, not bytes).
Law 3: no view of the storage leaves this file: what is returned is a copy.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from flps.table.index import MISSING, Keys, Slots, make_index
from flps.table.rules import Rows
from flps.table.spec import TableSpec

_FIRST_ROWS = 1024


class SparseTable:
    """Rows of one table (or of one server's share of it)."""

    def __init__(self, spec: TableSpec) -> None:
        self.spec = spec
        self._index = make_index(spec.bound)
        self._keys: Keys = np.empty(0, np.uint64)
        self._values: Rows = np.empty((0, spec.dim), spec.dtype)
        self._state: Rows = np.empty((0, spec.rule.state_width(spec.dim)), spec.dtype)

    def __len__(self) -> int:
        return self._index.size

    @property
    def nbytes(self) -> int:
        """Bytes of storage held for rows."""
        return self._keys.nbytes + self._values.nbytes + self._state.nbytes

    def slots(self, keys: Keys) -> Slots:
        """Slot of each key (N,), making rows for keys that are new. Raises Refused for keys out of range."""
        slots = self._index.lookup(keys)
        missing = slots == MISSING
        if missing.any():
            self._create(np.unique(keys[missing]))
            slots = self._index.lookup(keys)
        return slots

    def pull(self, keys: Keys) -> Rows:
        """The rows (N, dim) of `keys` (N,), duplicates allowed."""
        return self.read(self.slots(keys))

    def push(self, keys: Keys, pushed: Rows) -> Slots:
        """Apply the rule to the rows of `keys` (N,), `pushed` (N, dim); duplicates are merged first.

        Returns the slots (M,) of the rows that changed, each once.
        """
        slots = self.slots(keys)
        slots, pushed = merge_duplicates(slots, pushed)
        values, state = self.read(slots), np.take(self._state, slots, axis=0)
        self.spec.rule.apply(values, state, pushed)
        self._values[slots] = values
        if state.shape[1]:
            self._state[slots] = state
        return slots

    def read(self, slots: Slots) -> Rows:
        """The rows (N, dim) that stand in these slots (N,)."""
        return np.take(self._values, slots, axis=0)

    def write(self, slots: Slots, values: Rows) -> None:
        """Replace the weights of rows; their rule state stays."""
        self._values[slots] = values

    def keys(self, slots: Slots | None = None) -> Keys:
        """The keys whose rows stand in these slots; without slots every key, ordered by slot."""
        return self._keys[: len(self)].copy() if slots is None else np.take(self._keys, slots)

    def dump(self) -> dict[str, NDArray[np.generic]]:
        """Everything the table holds: keys (R,), values (R, dim), state (R, S)."""
        size = len(self)
        return {"keys": self.keys(), "values": self._values[:size].copy(), "state": self._state[:size].copy()}

    def load(self, keys: Keys, values: Rows, state: Rows) -> None:
        """Put rows back as `dump` gave them; rows of other keys stay."""
        slots = self.slots(keys)
        self._values[slots] = values
        self._state[slots] = state

    def _create(self, keys: Keys) -> None:
        slots = self._index.insert(keys)
        self._reserve(self._index.size)
        spec = self.spec
        self._keys[slots] = keys
        self._values[slots] = spec.init.rows(keys, spec.dim, spec.seed, spec.dtype)
        self._state[slots] = spec.rule.first_state()

    def _reserve(self, rows: int) -> None:
        if rows <= len(self._values):
            return
        # realloc of a large block remaps its pages; refcheck is off because law 3 holds.
        capacity = max(rows, _FIRST_ROWS, len(self._values) * 5 // 4)
        if self.spec.bound is not None:
            capacity = max(rows, min(capacity, self.spec.bound))
        self._keys.resize(capacity, refcheck=False)
        self._values.resize((capacity, self._values.shape[1]), refcheck=False)
        self._state.resize((capacity, self._state.shape[1]), refcheck=False)


def merge_duplicates(slots: Slots, pushed: Rows) -> tuple[Slots, Rows]:
    """Each slot once (M,), with the sum of what was pushed to it (M, D), added in the order of arrival."""
    order = np.argsort(slots, kind="stable")
    ordered = slots[order]
    first = np.flatnonzero(np.diff(ordered, prepend=-1))
    if first.size == slots.size:
        return slots, pushed
    return ordered[first], np.add.reduceat(np.take(pushed, order, axis=0), first, axis=0)
