"""A sparse table: 64-bit key -> row of weights and rule state.

Law 1: rows are made on first touch; their first value depends on (seed, key) alone.
Law 2: only logic is here: which slot a key has is the index's business, where a slot's row stands is the storage's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from flps.table.accessor import COUNTERS, WIDTH
from flps.table.index import MISSING, Keys, Slots, make_index
from flps.table.rules import Rows
from flps.table.spec import TableSpec
from flps.table.spill import SpilledStorage
from flps.table.storage import Column, MemoryStorage

_ROWS_A_PART = 1 << 16  # what is made of new rows on the way stays small
_VALUES, _STATE = 0, 1  # columns of the storage: the weights, then the rule's state arrays
_LAYERS = 16  # more pushes to one slot than that are added in another way
Whole = TypeVar("Whole", np.int64, np.uint64)


def row_columns(spec: TableSpec) -> tuple[Column, ...]:
    """What a row of this table is made of: values, state.0, state.1, ..., and the counters of its accessor."""
    state = (Column(f"state.{n}", width, spec.dtype) for n, width in enumerate(spec.rule.state_widths(spec.dim)))
    counters = () if spec.accessor is None else (Column(COUNTERS, WIDTH, "float32"),)
    return Column("values", spec.dim, spec.dtype), *state, *counters


def make_storage(
    columns: Sequence[Column], memory_bytes_max: int | None, spill_in: Path | None
) -> MemoryStorage | SpilledStorage:
    """Where rows of these columns stand, with or without a bound of memory."""
    if memory_bytes_max is None or not sum(column.row_bytes for column in columns):
        return MemoryStorage(columns)
    return SpilledStorage(columns, memory_bytes_max, spill_in)


class SparseTable:
    """Rows of one table (or of one server's share of it)."""

    def __init__(self, spec: TableSpec, spill_in: Path | None = None) -> None:
        """`spill_in`: where the rows beyond `spec.memory_bytes_max` lie; None: the folder of temporary files."""
        self.spec = spec
        self.storage = make_storage(row_columns(spec), spec.memory_bytes_max, spill_in)
        self._trained = range(1 + len(spec.rule.first_state()))  # columns that the rule sees
        self._index = make_index(spec.bound)

    def __len__(self) -> int:
        return self._index.size

    @property
    def nbytes(self) -> int:
        """Bytes held for keys and rows, without the index."""
        return self._index.keys.nbytes + self.storage.nbytes

    @property
    def columns(self) -> tuple[str, ...]:
        """What `dump` and `part` call the parts of the table: keys, values, state.0, ..."""
        return "keys", *(column.name for column in self.storage.columns)

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
        self._apply(slots, pushed)
        return slots

    def read(self, slots: Slots) -> Rows:
        """The rows (N, dim) that stand in these slots (N,)."""
        return self.storage.read(_VALUES, slots)

    def write(self, slots: Slots, values: Rows) -> None:
        """Replace the weights of rows; their rule state stays."""
        self.storage.write(_VALUES, slots, values)

    def keys(self, slots: Slots | None = None) -> Keys:
        """The keys whose rows stand in these slots; without slots every key, ordered by slot."""
        return self._index.keys.between(0, len(self)) if slots is None else self._index.keys.at(slots)

    def part(self, column: str, start: int, stop: int) -> NDArray[Any]:
        """One of `columns` for the rows in slots start..stop-1, a copy."""
        if column == "keys":
            return self._index.keys.between(start, stop)
        return self.storage.slice(self.columns.index(column) - 1, start, stop)

    def dump(self) -> dict[str, NDArray[Any]]:
        """Everything the table holds: keys (R,), values (R, dim), state.0, state.1, ... (R, S)."""
        return {column: self.part(column, 0, len(self)) for column in self.columns}

    def load(self, dumped: Mapping[str, NDArray[Any]], which: NDArray[np.bool_] | slice = slice(None)) -> Slots:
        """Put rows back as `dump` gave them, or those of them that `which` picks; rows of other keys stay.

        A part that `dumped` has not stays as it is in a row. Returns their slots.
        """
        slots = self.slots(dumped["keys"][which])
        for n, column in enumerate(self.storage.columns):
            if column.name in dumped:
                self.storage.write(n, slots, dumped[column.name][which])
        return slots

    def remove(self, slots: Slots) -> None:
        """The rows in these slots (N,) and their keys go; the others close ranks in the order of their slots.

        So slots mean other rows than before: change logs of this table must `restart()`, slots that somebody keeps
        are void, and no snapshot may be running. A key that comes again gets a new row.
        """
        is_kept = np.ones(len(self), bool)
        is_kept[slots] = False
        kept = np.flatnonzero(is_kept)
        if kept.size < is_kept.size:
            self.storage.keep(kept)
            self._index.keep(kept)

    def _apply(self, slots: Slots, pushed: Rows) -> None:
        """Change the rows in these slots (N,), each named once, by the rule."""
        values, *state = (self.storage.read(column, slots) for column in self._trained)
        self.spec.rule.apply(values, state, pushed)
        for column, rows in enumerate((values, *state)):
            self.storage.write(column, slots, rows)

    def close(self) -> None:
        """The rows are gone, from the disk too."""
        self.storage.close()

    def _create(self, keys: Keys) -> None:
        self.storage.reserve(self._index.size + keys.size)  # first, for it may fail
        slots = self._index.insert(keys)
        for start in range(0, keys.size, _ROWS_A_PART):
            self._begin(slots[start : start + _ROWS_A_PART], keys[start : start + _ROWS_A_PART])

    def _begin(self, slots: Slots, keys: Keys) -> None:
        """Write the first values of the rows of `keys` (N,) into these slots (N,)."""
        spec = self.spec
        self.storage.write(_VALUES, slots, spec.init.rows(keys, spec.dim, spec.seed, spec.dtype))
        columns = self.storage.columns
        firsts = (*spec.rule.first_state(), 0.0)  # counters begin with 0
        for n, first in zip(range(_STATE, len(columns)), firsts, strict=False):
            self.storage.write(n, slots, np.full((slots.size, columns[n].width), first, columns[n].dtype))


def merge_duplicates(slots: NDArray[Whole], pushed: Rows) -> tuple[NDArray[Whole], Rows]:
    """Each slot (or key) once (M,), with the sum of what was pushed to it (M, D), added in the order of arrival."""
    if not _has_duplicates(slots):
        return slots, pushed
    order = np.argsort(slots, kind="stable")
    ordered = slots[order]
    first = np.flatnonzero(np.concatenate(([True], ordered[1:] != ordered[:-1])))
    sizes = np.diff(first, append=slots.size)
    if sizes.max() > _LAYERS:
        return ordered[first], np.add.reduceat(np.take(pushed, order, axis=0), first, axis=0)
    # Few pushes to one slot: first ones, then second ones, ... each a sum of whole arrays.
    total = pushed.take(order.take(first), axis=0)
    for n in range(1, sizes.max()):
        again = np.flatnonzero(sizes > n)
        total[again] += pushed.take(order.take(first.take(again) + n), axis=0)
    return ordered[first], total


def _has_duplicates(slots: NDArray[Whole]) -> bool:
    """Sorting them is much quicker than learning their order, more so as 32 bits."""
    is_short = slots.size and slots.min() >= 0 and slots.max() <= np.iinfo(np.int32).max
    ordered = np.sort(slots.astype(np.int32) if is_short else slots)
    return bool((ordered[1:] == ordered[:-1]).any())
