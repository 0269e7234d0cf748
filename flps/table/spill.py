"""Rows of which the hot ones are in memory and the others on disk.

A row stands in a frame of memory or lies in the cold file. Who touches a row that lies there gets it into a frame;
when no frame is free, rows that were not touched for a while leave theirs (the clock of Corbato 1968: a hand goes
round the frames, takes what was not touched since it last came by, and forgets that the others were).

Law 1: what is read and written is bit for bit what `MemoryStorage` gives; only the time differs.
Law 2: rows in frames take at most `memory_bytes_max`; 4 bytes a slot stand beside them to find the frame.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from flps.table.cold import ColdFile
from flps.table.storage import Column, GrowingArray, Lines, MemoryStorage, Slots

_NEW, _COLD = -2, -1  # instead of a frame: not written yet; in the file
_UNTOUCHED, _TOUCHED, _HELD = 0, 1, 2  # what the hand finds at a frame; held: needed by the request under way
_FRAME_BYTES = 6  # what is known about a frame: slot, touched, changed
_FRAMES_MIN = 16
_ROWS_A_PART = 1 << 16
Frames = Slots


class SpilledStorage:
    """Rows in frames of memory, and beyond them in a file."""

    def __init__(self, columns: Sequence[Column], memory_bytes_max: int, folder: Path | None) -> None:
        """`folder`: where the file lies once it is needed; None: the system's folder of temporary files."""
        self.columns = tuple(columns)
        self.before_write: Callable[[Slots], None] | None = None
        self._row_bytes = sum(column.row_bytes for column in columns)
        self._capacity = max(_FRAMES_MIN, memory_bytes_max // (self._row_bytes + _FRAME_BYTES))
        self._part = min(self._capacity // 2, _ROWS_A_PART)  # rows of a request that are held at a time
        self._folder = folder
        self._cold: ColdFile | None = None
        self._rows = 0
        self._frame_of = GrowingArray(None, "int32")
        self._frames = 0  # frames in use or free
        self._free: Frames = np.empty(0, np.int64)
        self._hand = 0
        self._hot = MemoryStorage(columns)
        self._slot_of = GrowingArray(None, "int32")
        self._touched = GrowingArray(None, "uint8")
        self._changed = GrowingArray(None, "bool")

    @property
    def nbytes(self) -> int:
        """Bytes of memory held for rows."""
        arrays = (self._frame_of, self._slot_of, self._touched, self._changed)
        return self._hot.nbytes + sum(array.nbytes for array in arrays)

    @property
    def cold_nbytes(self) -> int:
        """Bytes on disk."""
        return 0 if self._cold is None else self._cold.nbytes

    def reserve(self, rows: int) -> None:
        """Make room for slots 0..rows-1; what stands in new ones is not defined until they are written.

        Raises ResourceError and changes nothing when the disk has no room for what memory may not hold.
        """
        if rows > self._capacity:
            self._cold = self._cold or ColdFile(self._folder, self._row_bytes)
            self._cold.reserve(rows)
        if rows > self._rows:
            self._frame_of.reserve(rows)
            self._frame_of.lines[self._rows : rows] = _NEW
            self._rows = rows

    def read(self, column: int, slots: Slots) -> Lines:
        """That column's part (N, width) of the rows in these slots (N,)."""
        if slots.size <= self._part:
            return self._hot.read(column, self._resident(slots))
        rows = np.empty((slots.size, self.columns[column].width), self.columns[column].dtype)
        for part in _parts(slots.size, self._part):
            rows[part] = self._hot.read(column, self._resident(slots[part]))
        return rows

    def write(self, column: int, slots: Slots, rows: Lines) -> None:
        """Replace that column's part of the rows in these slots (N,) by `rows` (N, width)."""
        if self.before_write is not None:
            self.before_write(slots)
        for part in _parts(slots.size, self._part):
            frames = self._resident(slots[part])
            self._hot.write(column, frames, rows[part])
            self._changed.lines[frames] = True

    def slice(self, column: int, start: int, stop: int) -> Lines:
        """That column's part (stop - start, width) of the rows in slots start..stop-1; which rows are hot stays."""
        frames = self._frame_of.lines[start : min(stop, self._rows)]
        rows = np.empty((frames.size, self.columns[column].width), self.columns[column].dtype)
        is_hot = frames >= 0
        rows[is_hot] = self._hot.read(column, frames[is_hot])
        cold = np.flatnonzero(frames == _COLD)
        for part in _parts(cold.size, self._part):
            rows[cold[part]] = self._split(self._file.read(start + cold[part]))[column]
        return rows

    def keep(self, slots: Slots) -> None:
        """Only the rows in these ascending slots (M,) stay, as slots 0..M-1. Not while a snapshot runs."""
        assert self.before_write is None, "a snapshot counts on every row to stay in its slot"
        frame_of = self._frame_of.lines[slots]
        for part in _parts(slots.size, self._part):  # what is read lies behind all that was written
            cold = np.flatnonzero(frame_of[part] == _COLD) + part.start
            if cold.size:
                self._file.write(cold, self._file.read(slots[cold]))
        hot = np.flatnonzero(frame_of >= 0)
        frames = frame_of[hot]
        self._slot_of.lines[frames] = hot
        is_free = np.ones(self._frames, bool)
        is_free[frames] = False
        self._free = np.flatnonzero(is_free)
        self._changed.lines[frames] = True  # what lies in the file is another row now
        self._frame_of.lines[: slots.size] = frame_of
        self._frame_of.truncate(slots.size)
        self._rows = slots.size
        if self._cold is not None:
            self._cold.truncate(slots.size)

    def close(self) -> None:
        """The rows are gone, and the file with them."""
        if self._cold is not None:
            self._cold.close()

    @property
    def _file(self) -> ColdFile:
        assert self._cold is not None, "a cold row lies in the file"
        return self._cold

    def _resident(self, slots: Slots) -> Frames:
        """The frames in which these rows (N, at most a part) stand; they are brought there where they do not."""
        frames: Frames = self._frame_of.lines.take(slots).astype(np.int64)
        is_away = frames < 0
        if not is_away.any():
            self._touched.lines[frames] = _TOUCHED
            return frames
        held = frames[~is_away]
        away = np.unique(slots[is_away])
        self._touched.lines[held] = _HELD
        fresh = self._free_frames(away.size)
        self._touched.lines[held] = _TOUCHED
        cold = np.flatnonzero(self._frame_of.lines[away] == _COLD)
        if cold.size:
            parts = self._split(self._file.read(away[cold]))
            for n, rows in enumerate(parts):
                self._hot.write(n, fresh[cold], rows)
        self._slot_of.lines[fresh] = away
        self._frame_of.lines[away] = fresh
        return self._frame_of.lines.take(slots).astype(np.int64)

    def _free_frames(self, count: int) -> Frames:
        """So many frames (N,) for rows that come in: not touched yet, not changed."""
        frames, self._free = self._free[:count], self._free[count:]
        first = self._frames
        self._frames = min(first + count - frames.size, self._capacity)
        self._hot.reserve(self._frames)
        for array in (self._slot_of, self._touched, self._changed):
            array.reserve(self._frames)
        frames = np.concatenate((frames, np.arange(first, self._frames)))
        self._touched.lines[frames] = _HELD
        if frames.size < count:
            frames = np.concatenate((frames, self._evict(count - frames.size)))
        self._touched.lines[frames] = _UNTOUCHED
        self._changed.lines[frames] = False
        return frames

    def _evict(self, count: int) -> Frames:
        """Take so many frames from rows that were not touched lately; rows that changed go to the file."""
        found: list[Frames] = []
        while count:
            seen = np.arange(self._hand, min(self._hand + max(2 * count, 1024), self._frames))
            touched = self._touched.lines[seen]
            victims = np.flatnonzero(touched == _UNTOUCHED)[:count]
            if victims.size == count:  # the hand stops behind the last one
                seen, touched = seen[: victims[-1] + 1], touched[: victims[-1] + 1]
            self._touched.lines[seen[touched == _TOUCHED]] = _UNTOUCHED
            found.append(seen[victims])
            self._touched.lines[found[-1]] = _HELD
            count -= victims.size
            self._hand = int(seen[-1] + 1) % self._frames
        frames: Frames = np.concatenate(found)
        self._put_away(frames)
        return frames

    def _put_away(self, frames: Frames) -> None:
        """Rows leave these frames; those that changed go to the file, by ascending slot."""
        slots = self._slot_of.lines[frames]
        self._frame_of.lines[slots] = _COLD
        changed = np.flatnonzero(self._changed.lines[frames])
        order = changed[np.argsort(slots[changed])]
        if order.size:
            self._file.write(slots[order], self._join([self._hot.read(n, frames[order]) for n in self._columns()]))

    def _columns(self) -> range:
        return range(len(self.columns))

    def _join(self, parts: Sequence[Lines]) -> Lines:
        """One record (N,) for each row, of its parts (N, width)."""
        joined = np.concatenate([np.ascontiguousarray(part).view(np.uint8) for part in parts], axis=1)
        return joined.view(np.dtype((np.void, self._row_bytes)))[:, 0]

    def _split(self, records: Lines) -> list[Lines]:
        """The parts (N, width) of records (N,)."""
        whole = records.view(np.uint8).reshape(records.size, self._row_bytes)
        ends = np.cumsum([column.row_bytes for column in self.columns])
        return [
            np.ascontiguousarray(whole[:, end - column.row_bytes : end]).view(column.dtype)
            for column, end in zip(self.columns, ends, strict=True)
        ]


def _parts(rows: int, most: int) -> Iterator[slice]:
    return (slice(start, start + most) for start in range(0, rows, most))
