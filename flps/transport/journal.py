"""What a role was told, in order, on the disk: a role that dies is started again and reads what it had known.

    <folder>/segment-00000001.log   a head of 16 bytes, then records one behind the other

    record    head | length of each frame | frames | tail
    head      mark, kind, number of frames, bytes of all frames, unix time, checksum of this head
    tail      checksum of the lengths and the first frame; with `log+fsync` of all frames

Law 1: a record is written, and with `log+fsync` it is on the disk, before anything that follows from it is answered.
Law 2: a record that was cut off at the end of the newest segment had no consequences, and is cut off; whatever else
cannot be read is refused with its place.
Law 3: what does not fit on the disk is taken back, so that a full disk leaves a journal that can be read.

A large record is written by a thread while what it says is carried out: that costs half as much. Whoever answers waits
for `sync`.

`log` outlives the process: what was written lies in the kernel's memory, whatever happens to the writer. `log+fsync`
outlives the machine, too.
"""

from __future__ import annotations

import mmap
import os
import re
import struct
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal, NamedTuple

from flps.disk import sync_folder
from flps.errors import ResourceError

Durability = Literal["log", "log+fsync"]
_OPENING = struct.pack("<8sII", b"flpsjrnl", 1, 0)
_HEAD = struct.Struct("<4sIIQdI")
_TAIL = struct.Struct("<I")
_MARK = b"REC\n"
_CHECKED = 1 << 16  # set in the kind: the tail is a checksum of all frames
_NAME = re.compile(r"segment-(\d{8})\.log")
_LARGE = 1 << 17  # bytes; handing over less to a thread costs more than writing it
_PIECES_MAX = 1000  # the kernel takes 1024 pieces in one write


class Record(NamedTuple):
    """One thing that the role was told."""

    kind: int
    time: float  # unix time in seconds when it was written
    frames: list[memoryview]


class Journal:
    """Segments of one role, written at the end of the newest one."""

    def __init__(self, folder: Path, durability: Durability, clock: Callable[[], float] = time.time) -> None:
        """Opens what stands in `folder` (mode 700, made when missing), or begins the first segment.

        Read `records` to the end before the first `append`: that is where a record that was cut off is removed.
        """
        self.folder = folder
        self._syncs = durability == "log+fsync"
        self._clock = clock
        self._is_dirty = False
        self._writer = ThreadPoolExecutor(1, f"write-{folder.name}")
        self._writing: Future[None] | None = None
        self._sizes: dict[int, int] = {}
        self._descriptor = -1
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._sizes = {number: self._path(number).stat().st_size for number in self._found()}
            self._open(max(self._sizes, default=1))
        except OSError as error:
            raise ResourceError(f"cannot open the journal {folder}: {error.strerror}") from error

    @property
    def bytes(self) -> int:
        """Bytes of all segments."""
        return sum(self._sizes.values())

    @property
    def syncs(self) -> bool:
        """Whether records are brought to the disk before anything is answered: then several are better than one."""
        return self._syncs

    @property
    def segment(self) -> int:
        """Number of the segment that is written."""
        return self._number

    def records(self, first: int = 0) -> Iterator[Record]:
        """Every record from segment `first` on, in the order in which they were written. Frames are views of the file.

        Raises ResourceError, naming file and offset, for what cannot be read and was not just cut off by a crash, and
        when segments are missing.
        """
        numbers = [number for number in sorted(self._sizes) if number >= first]
        begin = first or min(numbers, default=1)
        if not numbers or numbers != list(range(begin, begin + len(numbers))):
            raise ResourceError(f"{self.folder} holds segments {numbers}, expected all from {first or 1} on")
        for number in numbers:
            yield from self._read(number, is_last=number == numbers[-1])

    def append(self, kind: int, frames: Sequence[Any]) -> None:
        """Write one record; `frames` are bytes-like and do not change until `sync`.

        Raises ResourceError when this one or the one before did not fit; nothing of it stays.
        """
        self._finish()
        views = [memoryview(frame).cast("B") for frame in frames]
        lengths = struct.pack(f"<{len(views)}Q", *map(len, views))
        size = sum(map(len, views))
        flags = kind | (_CHECKED if self._syncs else 0)
        head = _head(flags, len(views), size, self._clock())
        tail = _checksum([lengths, *(views if self._syncs else views[:1])])
        pieces = [head, lengths, *views, _TAIL.pack(tail)]
        if size < _LARGE:
            self._write(pieces)
        else:
            self._writing = self._writer.submit(self._write, pieces)
        self._is_dirty = True

    def sync(self) -> None:
        """When this returns every record has been written; with `log+fsync` it is on the disk. Raises ResourceError."""
        self._finish()
        if not (self._syncs and self._is_dirty):
            return
        try:
            os.fdatasync(self._descriptor)
        except OSError as error:
            raise self._failed("bring to the disk", error) from error
        self._is_dirty = False

    def rotate(self) -> int:
        """Begin a new segment; returns its number."""
        self.sync()
        try:
            os.close(self._descriptor)
            self._open(self._number + 1)
        except OSError as error:
            raise self._failed("begin a new segment", error) from error
        return self._number

    def drop_before(self, number: int) -> None:
        """Remove the segments before this one: what they say is kept elsewhere."""
        for old in [segment for segment in self._sizes if segment < number]:
            self._path(old).unlink(missing_ok=True)
            del self._sizes[old]

    def close(self) -> None:
        """Let go of the file."""
        self._writer.shutdown()
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _finish(self) -> None:
        """Wait for what is being written."""
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    # --- writing -----------------------------------------------------------------------------------------------------

    def _open(self, number: int) -> None:
        self._number = number
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        self._descriptor = os.open(self._path(number), flags, 0o600)
        self._sizes[number] = os.fstat(self._descriptor).st_size
        if self._sizes[number] < len(_OPENING):  # a crash may have come before its head was whole
            os.ftruncate(self._descriptor, 0)
            self._sizes[number] = 0
            self._write([_OPENING])
        if self._syncs:
            os.fsync(self._descriptor)
            sync_folder(self.folder)

    def _write(self, pieces: Sequence[Any]) -> None:
        """Append the pieces whole, or take back what was written and raise ResourceError."""
        size = sum(map(len, pieces))
        try:
            written = 0
            for at in range(0, len(pieces), _PIECES_MAX):
                some = pieces[at : at + _PIECES_MAX]
                written = os.writev(self._descriptor, some)
                if written < sum(map(len, some)):
                    _write_rest(self._descriptor, some, written)
        except OSError as error:
            os.ftruncate(self._descriptor, self._sizes[self._number])
            raise self._failed(f"append {size} bytes to", error) from error
        self._sizes[self._number] += size

    def _failed(self, what: str, error: OSError) -> ResourceError:
        return ResourceError(
            f"cannot {what} the journal {self._path(self._number)}: {error.strerror}; everything that was acknowledged "
            "is in it. Make room there (checkpoints and runner.journal_bytes_max keep it short), or say "
            "runner.durability: off"
        )

    # --- reading -----------------------------------------------------------------------------------------------------

    def _path(self, number: int) -> Path:
        return self.folder / f"segment-{number:08}.log"

    def _found(self) -> list[int]:
        return [int(match[1]) for path in self.folder.iterdir() if (match := _NAME.fullmatch(path.name))]

    def _read(self, number: int, *, is_last: bool) -> Iterator[Record]:
        path, size = self._path(number), self._sizes[number]
        with path.open("rb") as file:
            view = memoryview(mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ))
        if view[: len(_OPENING)] != _OPENING:
            raise ResourceError(f"{path} is no journal of this version")
        at = len(_OPENING)
        while at < size:
            record, end, fault = _record_at(view, at)
            if record is None:
                if not (is_last and _is_cut_off(view, at, end)):
                    raise ResourceError(f"{path}: {fault} at byte {at} of {size}; this journal cannot be trusted")
                os.ftruncate(self._descriptor, at)
                self._sizes[number] = at
                return
            yield record
            at = end


def _record_at(view: memoryview, at: int) -> tuple[Record | None, int, str]:
    """The record that begins there, where it ends, and what is wrong with it."""
    size = len(view)
    if size - at < _HEAD.size:
        return None, size + 1, "an unfinished record"
    mark, flags, count, payload, written_at, _ = _HEAD.unpack_from(view, at)
    if mark != _MARK or view[at : at + _HEAD.size] != _head(flags, count, payload, written_at):
        return None, at, "no record"
    begin = at + _HEAD.size + 8 * count
    end = begin + payload + _TAIL.size
    if end > size:
        return None, end, "an unfinished record"
    lengths = view[at + _HEAD.size : begin]
    frames = _divided(view, begin, struct.unpack(f"<{count}Q", lengths))
    checked = _checksum([lengths, *(frames if flags & _CHECKED else frames[:1])])
    if checked != _TAIL.unpack_from(view, end - _TAIL.size)[0] or sum(map(len, frames)) != payload:
        return None, end, "a record with a wrong checksum"
    return Record(flags & ~_CHECKED, written_at, frames), end, ""


def _head(flags: int, count: int, payload: int, written_at: float) -> bytes:
    blank = _HEAD.pack(_MARK, flags, count, payload, written_at, 0)
    return blank[:-4] + struct.pack("<I", zlib.crc32(blank))


def _is_cut_off(view: memoryview, at: int, end: int) -> bool:
    """Whether an unreadable record is what a crash leaves: nothing stands behind it.

    After a crash of the machine the end of a file may be there in length only; it reads as zeros.
    """
    return end >= len(view) or not any(view[at:])


def _divided(view: memoryview, at: int, lengths: Sequence[int]) -> list[memoryview]:
    frames = []
    for length in lengths:
        frames.append(view[at : at + length])
        at += length
    return frames


def _checksum(frames: Sequence[Any]) -> int:
    check = 0
    for frame in frames:
        check = zlib.crc32(frame, check)
    return check


def _write_rest(descriptor: int, pieces: Sequence[Any], written: int) -> None:
    """What a short write has left over, piece by piece."""
    for piece in pieces:
        rest = memoryview(piece)[min(written, len(piece)) :]
        written -= min(written, len(piece))
        while rest:
            rest = rest[os.write(descriptor, rest) :]
