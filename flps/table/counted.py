"""A sparse table that counts: keys are let in by a filter, old rows are removed, a save may hold only what is new.

Law 1: a pull makes no row: a key that nobody pushed, or that is not let in, is answered with its first value.
Law 2: what a push adds to a key's counters and whether it lets the key in depends on the pushes to that key alone.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from flps.table.accessor import (
    ADMITTED,
    COUNTERS,
    COUNTS_WIDTH,
    SHOW,
    SLOT,
    Accessor,
    Counters,
    Counts,
    Mode,
    Which,
    merge_counts,
)
from flps.table.index import MISSING, Keys, Slots
from flps.table.rules import AnyRule, Rows
from flps.table.sparse import SparseTable, merge_duplicates
from flps.table.spec import TableSpec

_ROWS_A_PART = 1 << 16


class Shrunk(NamedTuple):
    """What a shrink did."""

    keys: Keys  # that are gone
    kept: Which  # (R,) of the rows that there were: whether it stays


class CountedTable(SparseTable):
    """Rows with the counters of an accessor."""

    def __init__(self, spec: TableSpec, spill_in: Path | None = None) -> None:
        assert spec.accessor is not None
        super().__init__(spec, spill_in)
        self.accessor: Accessor = spec.accessor
        self._counters = [column.name for column in self.storage.columns].index(COUNTERS)

    def pull(self, keys: Keys) -> Rows:
        """The rows (N, dim) of `keys` (N,); those that are not there as they would begin."""
        slots = self._index.lookup(keys)
        missing = np.flatnonzero(slots == MISSING)
        if not missing.size:
            return self.read(slots)
        rows: Rows = np.empty((keys.size, self.spec.dim), self.spec.dtype)
        there = np.flatnonzero(slots != MISSING)
        rows[there] = self.read(slots[there])
        rows[missing] = self.first_values(keys[missing])
        return rows

    def first_values(self, keys: Keys) -> Rows:
        """How the rows (N, dim) of these keys (N,) begin."""
        return self.spec.init.rows(keys, self.spec.dim, self.spec.seed, self.spec.dtype)

    def push(self, keys: Keys, pushed: Rows, unique: bool = False, counts: Counts | None = None) -> Slots:
        """Count `counts` (N, 3) of `keys` (N,), and apply the rule to the rows of those that are let in.

        Without counts each key was shown once. Returns the slots (M,) of the rows whose weights changed, each once.
        """
        if counts is None:
            counts = np.zeros((keys.size, COUNTS_WIDTH), np.float32)
            counts[:, SHOW] = 1
        if not unique:
            merged, pushed = merge_duplicates(keys, pushed)
            if merged.size < keys.size:
                keys, counts = merge_counts(keys, counts)
        slots = self.slots(keys)
        counters = self.counters(slots)
        admitted = self.accessor.count(counters, counts, keys, self.spec.seed)
        self.storage.write(self._counters, slots, counters)
        if not admitted.all():
            slots, pushed, counts = slots[admitted], pushed[admitted], counts[admitted]
        if self.accessor.show_scale:
            pushed = scaled(self.spec.rule, pushed, counts)
        self._apply(slots, pushed)
        return slots

    def counters(self, slots: Slots) -> Counters:
        """The counters (N, 7) of the rows in these slots (N,)."""
        counters: Counters = self.storage.read(self._counters, slots)
        return counters

    def admitted(self, keys: Keys) -> Which:
        """Whether each key (N,) has been let in."""
        slots = self._index.lookup(keys)
        there = np.flatnonzero(slots != MISSING)
        admitted = np.zeros(keys.size, bool)
        admitted[there] = self.counters(slots[there])[:, ADMITTED] > 0
        return admitted

    def shrink(self, is_day: bool = False) -> Shrunk:
        """Decay shows and clicks, remove rows of a low score and rows that nobody pushed for long.

        is_day: then a day ends: every row that stays has been unseen for one day more. Change logs of this table must
        restart, and no snapshot may be running.
        """
        stale = [np.zeros(0, bool)]
        for slots, counters in self._parts():
            stale.append(self.accessor.decay(counters))
            if is_day:
                self.accessor.settle(counters, "batch")
            self.storage.write(self._counters, slots, counters)
        gone = np.concatenate(stale)
        removed = np.flatnonzero(gone)
        keys = self.keys(removed)
        self.remove(removed)
        return Shrunk(keys, ~gone)

    def chosen(self, mode: Mode, slots: Collection[int] | None = None) -> Which:
        """Which rows (R,) a save of this mode holds, in the order of `dump`; `slots`: of these features only."""
        chosen = [np.zeros(0, bool)]
        for _, counters in self._parts():
            chosen.append(self.accessor.is_saved(counters, mode))
            if slots is not None:
                chosen[-1] &= np.isin(counters[:, SLOT], list(slots))
        return np.concatenate(chosen)

    def settle(self, mode: Mode) -> None:
        """A save of this mode is safe on the disk: delta scores of the rows that it holds begin anew, or a day ends."""
        if mode == "all":
            return
        for slots, counters in self._parts():
            self.accessor.settle(counters, mode)
            self.storage.write(self._counters, slots, counters)

    def rows_by_slot(self) -> dict[str, int]:
        """How many rows belong to each slot, by its name, or by its number where it has none."""
        total: dict[str, int] = {}
        names = self.accessor.slots
        for _, counters in self._parts():
            for slot, rows in zip(*np.unique(counters[:, SLOT].astype(np.int64), return_counts=True), strict=True):
                name = names[slot] if slot < len(names) else str(slot)
                total[name] = total.get(name, 0) + int(rows)
        return total

    def dump(self, chosen: Which | None = None) -> dict[str, NDArray[Any]]:
        """Everything the table holds, or the rows (R,) of it that are chosen."""
        whole = super().dump()
        return whole if chosen is None else {part: array[chosen] for part, array in whole.items()}

    def load(self, dumped: Mapping[str, NDArray[Any]], which: NDArray[np.bool_] | slice = slice(None)) -> Slots:
        """Put rows back; rows that come without counters have been trained elsewhere, and are let in."""
        slots = super().load(dumped, which)
        if COUNTERS not in dumped:
            counters = self.counters(slots)
            counters[:, ADMITTED] = 1
            self.storage.write(self._counters, slots, counters)
        return slots

    def _parts(self) -> Iterator[tuple[Slots, Counters]]:
        """All rows' counters, some at a time."""
        for start in range(0, len(self), _ROWS_A_PART):
            stop = min(start + _ROWS_A_PART, len(self))
            yield np.arange(start, stop), self.storage.slice(self._counters, start, stop)


def make_sparse(spec: TableSpec, spill_in: Path | None = None) -> SparseTable:
    """The table that a description means: with counters where it has an accessor."""
    return SparseTable(spec, spill_in) if spec.accessor is None else CountedTable(spec, spill_in)


def scaled(rule: AnyRule, pushed: Rows, counts: Counts) -> Rows:
    """`pushed` (N, D) for one show each, for rules that are made for it."""
    if not rule.scales_by_show:
        return pushed
    return pushed / np.maximum(counts[:, :1], 1).astype(pushed.dtype)
