"""Records by slot in a file without a name: where cold rows lie.

Law 1: room on the disk is taken before a record needs it, so a full disk is told by `reserve` and loses nothing.
Law 2: the file is gone when it is closed, whatever ends the program.
The file is mapped: its pages are the kernel's, which keeps them while there is memory and takes them back when not.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import resource
import tempfile
import weakref
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from flps.errors import ResourceError
from flps.table.storage import Lines, Slots

_EXTENT_BYTES = 64 << 20  # the file grows by so much at least, or by an eighth
_FAULTS_OF_A_DISK = 1 / 16  # of the records touched: from here on the disk is what is waited for
_TRIES = 32  # so many times pages are announced before it is tried whether that is still needed


class ColdFile:
    """A file of records of one size."""

    def __init__(self, folder: Path | None, row_bytes: int) -> None:
        """`folder`: where the file lies; None: the system's folder of temporary files. Raises ResourceError."""
        self._folder = Path(tempfile.gettempdir()) if folder is None else folder
        self._row_bytes = row_bytes
        self._record = np.dtype((np.void, row_bytes))
        self._size = 0
        self._announced = 0  # times that pages are still to be announced
        self._records: Lines = np.empty(0, self._record)
        try:
            with tempfile.TemporaryFile(dir=self._folder, prefix="rows-") as file:
                self._file = os.dup(file.fileno())
        except OSError as error:
            raise self._no_room(error, 0) from error
        self._give_back = weakref.finalize(self, os.close, self._file)

    @property
    def nbytes(self) -> int:
        """Bytes of the file."""
        return self._size

    def reserve(self, rows: int) -> None:
        """Take room for records 0..rows-1. Raises ResourceError and changes nothing when there is not so much."""
        if rows <= self._records.size:
            return
        size = max(rows * self._row_bytes, self._size * 9 // 8)
        size = -(-size // _EXTENT_BYTES) * _EXTENT_BYTES
        try:
            os.posix_fallocate(self._file, 0, size)
            self._map(size)
        except OSError as error:
            os.ftruncate(self._file, self._size)  # of what was taken on the way, nothing stays taken
            raise self._no_room(error, size) from error

    def read(self, slots: Slots) -> Lines:
        """The records (N,) in these ascending slots (N,), each `row_bytes` of anything."""
        with self._watched(slots):
            return self._records.take(slots)

    def write(self, slots: Slots, records: Lines) -> None:
        """Replace the records in these ascending slots (N,)."""
        with self._watched(slots):
            self._records[slots] = records

    def truncate(self, rows: int) -> None:
        """Give the room of all but the first records back."""
        size = -(-rows * self._row_bytes // _EXTENT_BYTES) * _EXTENT_BYTES
        if size < self._size:
            self._map(size)
            os.ftruncate(self._file, size)

    def close(self) -> None:
        """The file and its records are gone."""
        self._map(0)
        self._give_back()

    def _map(self, size: int) -> None:
        if not size:
            self._records, self._size = np.empty(0, self._record), 0
            return
        memory = mmap.mmap(self._file, size)
        memory.madvise(mmap.MADV_RANDOM)
        self._records = np.frombuffer(memory, self._record, size // self._row_bytes)
        self._size = size

    @contextlib.contextmanager
    def _watched(self, slots: Slots) -> Iterator[None]:
        """While records are touched: whether the disk is waited for, and if it was, what it should bring."""
        if self._announced:
            self._announced -= 1
            self._announce(slots)
            yield
            return
        before = resource.getrusage(resource.RUSAGE_SELF).ru_majflt
        yield
        if resource.getrusage(resource.RUSAGE_SELF).ru_majflt - before > slots.size * _FAULTS_OF_A_DISK:
            self._announced = _TRIES

    def _announce(self, slots: Slots) -> None:
        """Tell the kernel which pages will be read, so that the disk brings many at a time and not one by one."""
        pages = slots * self._row_bytes // mmap.PAGESIZE
        for page in pages[np.concatenate(([True], pages[1:] != pages[:-1]))].tolist():
            os.posix_fadvise(self._file, page * mmap.PAGESIZE, mmap.PAGESIZE, os.POSIX_FADV_WILLNEED)

    def _no_room(self, error: OSError, size: int) -> ResourceError:
        return ResourceError(
            f"cannot keep rows on disk in {self._folder}: {error.strerror}; {size >> 20} MB are needed there: make "
            "room, or raise table_parameters.<table>.memory_bytes_max"
        )
