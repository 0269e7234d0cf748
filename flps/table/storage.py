"""Where the rows of a table stand: columns side by side, one line a slot.

Law 1: no view of the storage leaves this file: what is returned is a copy.
Law 2: storage grows without copying what stands: address space is reserved ahead, memory is taken when it is touched.
Law 3: `write` is the only place where rows change; `before_write` sees the slots first.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

Slots: TypeAlias = NDArray[np.int64]
Lines: TypeAlias = NDArray[Any]

_SMALL_BYTES = 4 << 20  # below, an array is an ordinary one that is copied when it grows
_RESERVE = 8  # address space is reserved for so many times the lines that are there
_ROWS_A_PART = 1 << 16
_NORESERVE = getattr(mmap, "MAP_NORESERVE", 0x4000)  # a constant of Python from 3.13 on


class Column(NamedTuple):
    """One part of every row: `width` numbers of one kind."""

    name: str
    width: int
    dtype: str

    @property
    def row_bytes(self) -> int:
        """Bytes of one row's share."""
        return self.width * np.dtype(self.dtype).itemsize


class GrowingArray:
    """Lines of one shape in one block of memory that grows at its end."""

    def __init__(self, width: int | None, dtype: str) -> None:
        """`width`: numbers a line; None: one number a line, and the array is flat."""
        self._shape = () if width is None else (width,)
        self._dtype = np.dtype(dtype)
        self._line_bytes = self._dtype.itemsize * (1 if width is None else width)
        self._rows = 0
        self._memory: mmap.mmap | None = None
        self.lines: Lines = np.empty((0, *self._shape), dtype)

    @property
    def nbytes(self) -> int:
        """Bytes of the lines that were asked for."""
        return self._rows * self._line_bytes

    def reserve(self, rows: int) -> None:
        """Make room for so many lines; what is in new ones is not defined. Raises MemoryError."""
        self._rows = max(self._rows, rows)
        if rows <= len(self.lines):
            return
        grown = self._larger(rows)
        grown[: len(self.lines)] = self.lines
        self.lines = grown

    def truncate(self, rows: int) -> None:
        """Only the first lines stay; the memory of whole pages behind them goes back."""
        self._rows = min(self._rows, rows)
        kept = -(-self._rows * self._line_bytes // mmap.PAGESIZE) * mmap.PAGESIZE
        if self._memory is not None and kept < len(self._memory):
            self._memory.madvise(mmap.MADV_DONTNEED, kept, len(self._memory) - kept)

    def _larger(self, rows: int) -> Lines:
        if rows * self._line_bytes < _SMALL_BYTES:
            return np.empty((max(rows, 2 * len(self.lines)), *self._shape), self._dtype)
        try:
            return self._mapped(rows * _RESERVE)
        except OSError:  # a limit of address space: take what is needed
            self._memory = None
            return np.empty((max(rows, len(self.lines) * 5 // 4), *self._shape), self._dtype)

    def _mapped(self, rows: int) -> Lines:
        memory = random_access_memory(rows * self._line_bytes)
        self._memory = memory
        count = rows * self._line_bytes // self._dtype.itemsize
        return np.frombuffer(memory, self._dtype, count).reshape(rows, *self._shape)


def random_access_memory(size: int) -> mmap.mmap:
    """So many bytes of zeros, made for reads here and there. Raises OSError.

    They take memory when they are touched, in huge pages where there are any: of a read in a large block half of the
    time goes to page tables.
    """
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _NORESERVE)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        memory.madvise(mmap.MADV_HUGEPAGE)
    return memory


class MemoryStorage:
    """Rows in memory."""

    def __init__(self, columns: Sequence[Column]) -> None:
        self.columns = tuple(columns)
        self.before_write: Callable[[Slots], None] | None = None  # a running snapshot saves the rows in these slots
        self._arrays = [GrowingArray(column.width, column.dtype) for column in columns]
        self._wholes = [np.dtype((np.void, column.row_bytes)) for column in columns]

    @property
    def nbytes(self) -> int:
        """Bytes held for rows."""
        return sum(array.nbytes for array in self._arrays)

    def reserve(self, rows: int) -> None:
        """Make room for slots 0..rows-1; what stands in new ones is not defined until they are written."""
        for array in self._arrays:
            array.reserve(rows)

    def read(self, column: int, slots: Slots) -> Lines:
        """That column's part (N, width) of the rows in these slots (N,)."""
        return self._arrays[column].lines.take(slots, axis=0)

    def write(self, column: int, slots: Slots, rows: Lines) -> None:
        """Replace that column's part of the rows in these slots (N,) by `rows` (N, width)."""
        if self.before_write is not None:
            self.before_write(slots)
        if not rows.size:
            return
        # Rows as one item each are copied in a quarter of the time of rows of numbers.
        whole, lines = self._wholes[column], self._arrays[column].lines
        rows = np.ascontiguousarray(rows, lines.dtype)
        lines.view(whole)[slots, 0] = rows.view(whole)[:, 0]

    def slice(self, column: int, start: int, stop: int) -> Lines:
        """That column's part (stop - start, width) of the rows in slots start..stop-1."""
        return self._arrays[column].lines[start:stop].copy()

    def close(self) -> None:
        """The rows are gone."""
        self._arrays.clear()

    def keep(self, slots: Slots) -> None:
        """Only the rows in these ascending slots (M,) stay, as slots 0..M-1. Not while a snapshot runs."""
        assert self.before_write is None, "a snapshot counts on every row to stay in its slot"
        for array in self._arrays:
            for start in range(0, slots.size, _ROWS_A_PART):  # what is read stands behind all that was written
                part = slots[start : start + _ROWS_A_PART]
                array.lines[start : start + part.size] = array.lines.take(part, axis=0)
            array.truncate(slots.size)
