"""What some tables held at one moment, written to a file while they go on changing.

Rows are copied slice by slice, a few thousand at a time, between two requests. A row that is about to change before
its slice has come is copied aside first. So nobody waits longer than for one slice, and memory is taken only for the
rows that change meanwhile.

Law: the file holds, bit for bit, what `dump` would have given when the snapshot began.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from flps.errors import ResourceError
from flps.table.files import Parts, TensorWriter
from flps.table.index import Slots
from flps.table.sparse import SparseTable
from flps.table.storage import GrowingArray

_SLICE_BYTES = 1 << 19


class Content(NamedTuple):
    """What goes into a snapshot."""

    rows: Mapping[str, SparseTable]  # sparse tables by name
    others: Mapping[str, Parts]  # what is small: it has been copied
    only: Mapping[str, NDArray[np.bool_]] = MappingProxyType({})  # table -> which of its rows (R,) are wanted; else all

    def joined(self, other: Content) -> Content:
        """Both."""
        return Content({**self.rows, **other.rows}, {**self.others, **other.others}, {**self.only, **other.only})


class Snapshot:
    """Some tables as they are now, on their way to a file. All methods are for the thread that changes the tables."""

    def __init__(self, path: Path, content: Content, done: Callable[[str | ResourceError], None]) -> None:
        """done: called from another thread, with the file's sha256 when it is on the disk or with what went wrong."""
        rows, others, only = content
        self._copies = [_Copy(name, table, only.get(name)) for name, table in rows.items()]
        layout = {name: form for copy in self._copies for name, form in copy.layout().items()}
        small = {f"{name}/{part}": array for name, parts in others.items() for part, array in parts.items()}
        layout |= {name: (array.dtype.name, array.shape) for name, array in small.items()}
        self._writer = TensorWriter(path, layout, done)
        for name, array in small.items():
            self._writer.put(name, 0, array)
        self._is_ended = False

    @property
    def is_copying(self) -> bool:
        """Whether there are rows that have not been copied."""
        return not self._is_ended

    def advance(self, budget_s: float) -> bool:
        """Copy slices for about so long; returns whether there is more that could be done at once."""
        deadline = time.perf_counter() + budget_s
        while not self._is_ended and not self._writer.is_full:
            self._copy_slice()
            if time.perf_counter() > deadline:
                break
        return not self._is_ended and not self._writer.is_full

    def finish(self) -> None:
        """Copy all that is left, at once; the file is on the disk when `done` is called."""
        while not self._is_ended:
            self._copy_slice()

    def wait(self, timeout_s: float | None = None) -> None:
        """Wait until the file is on the disk, after `finish`."""
        self._writer.join(timeout_s)

    def give_up(self) -> None:
        """The file is not wanted any more; nothing of it stays, and `done` is not called."""
        for copy in self._copies:
            copy.let_go()
        self._copies.clear()
        self._is_ended = True
        self._writer.give_up()

    def _copy_slice(self) -> None:
        if not self._copies:
            self._is_ended = True
            self._writer.end()
            return
        copy = self._copies[0]
        for name, line, lines in copy.take():
            self._writer.put(name, line, lines)
        if copy.is_done:
            copy.let_go()
            del self._copies[0]


class _Copy:
    """One table on its way into the file."""

    def __init__(self, name: str, table: SparseTable, only: NDArray[np.bool_] | None) -> None:
        assert table.storage.before_write is None, f"two snapshots of table {name} at once"
        self._name = name
        self._table = table
        self._rows = len(table)
        self._only = None if only is None else only[: self._rows].copy()
        self._line = 0  # in the file
        self._taken = 0  # rows in slots before this one have been copied
        columns = table.storage.columns
        self._lines = max(64, _SLICE_BYTES // (8 + sum(column.row_bytes for column in columns)))
        self._aside = [GrowingArray(column.width, column.dtype) for column in columns]
        for aside in self._aside:
            aside.reserve(self._rows)  # address space; memory comes with the rows
        self._count = 0  # of rows aside
        self._place = np.zeros(self._rows, np.uint32)  # slot -> 1 + its line aside; 0: not aside
        table.storage.before_write = self._save

    @property
    def is_done(self) -> bool:
        return self._taken == self._rows

    def layout(self) -> dict[str, tuple[str, tuple[int, ...]]]:
        """Tensor -> type and shape."""
        rows = self._rows if self._only is None else int(np.count_nonzero(self._only))
        columns = self._table.storage.columns
        return {f"{self._name}/keys": ("uint64", (rows,))} | {
            f"{self._name}/{column.name}": (column.dtype, (rows, column.width)) for column in columns
        }

    def take(self) -> list[tuple[str, int, NDArray[Any]]]:
        """The next slice: (tensor, first line, lines) of each column."""
        start, stop = self._taken, min(self._taken + self._lines, self._rows)
        self._taken = stop
        wanted = slice(None) if self._only is None else self._only[start:stop]
        aside = np.flatnonzero(self._place[start:stop])
        places = self._place[start:stop][aside].astype(np.int64) - 1
        pieces = [(f"{self._name}/keys", self._line, self._table.part("keys", start, stop)[wanted])]
        for n, column in enumerate(self._table.storage.columns):
            lines = self._table.storage.slice(n, start, stop)
            lines[aside] = self._aside[n].lines[places]
            pieces.append((f"{self._name}/{column.name}", self._line, lines[wanted]))
        self._line += len(pieces[0][2])
        return pieces

    def let_go(self) -> None:
        """The table changes freely again."""
        self._table.storage.before_write = None

    def _save(self, slots: Slots) -> None:
        """Rows in these slots are about to change."""
        ours = slots[(slots >= self._taken) & (slots < self._rows)]
        ours = ours[self._place[ours] == 0]
        if not ours.size:
            return
        end = self._count + ours.size
        for n, aside in enumerate(self._aside):
            aside.lines[self._count : end] = self._table.storage.read(n, ours)
        self._place[ours] = np.arange(self._count + 1, end + 1)
        self._count = end
