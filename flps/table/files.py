"""Tables on disk: one safetensors file for one owner's share of some tables.

Tensors are called `<table>/<part>`: keys, values and state of a sparse table, values and state of a dense one.
A file is written beside its place and renamed, so a reader sees the old one or the new one, whole.

    write_tables, read_tables    a file at once
    TensorWriter, TensorFile     piece by piece, by a thread of its own and by whoever reads
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import queue
import struct
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from flps.disk import beside, cannot_write, put_in_place, write_whole
from flps.errors import DataError, ResourceError

Parts = dict[str, NDArray[Any]]
Shape: TypeAlias = tuple[int, ...]
_TYPES = {"float32": "F32", "float64": "F64", "float16": "F16", "uint64": "U64", "int64": "I64", "uint32": "U32",
          "int32": "I32", "uint16": "U16", "int16": "I16", "uint8": "U8", "int8": "I8", "bool": "BOOL"}  # fmt: skip
_DTYPES = {name: dtype for dtype, name in _TYPES.items()}
_WAITING_MAX = 64  # pieces that wait for the disk
_BLOCK_BYTES = 1 << 20
_LINES = 1 << 16


def write_tables(path: Path, tables: Mapping[str, Parts]) -> str:
    """Write the dumps of some tables into one file; returns its sha256. Raises ResourceError."""
    tensors = {f"{name}/{part}": array for name, parts in tables.items() for part, array in parts.items()}
    return write_tensors(path, tensors)


def write_tensors(path: Path, tensors: Mapping[str, NDArray[Any]]) -> str:
    """Write named tensors into one file; returns its sha256. Raises ResourceError."""
    content = safetensors.numpy.save({name: np.asarray(array, order="C") for name, array in tensors.items()})
    write_whole(path, content)
    return hashlib.sha256(content).hexdigest()


def sha256_of(path: Path) -> str:
    """The sha256 of a file, read piece by piece. Raises DataError when it cannot be read."""
    digest = hashlib.sha256()
    try:
        with path.open("rb", buffering=0) as file:
            buffer = memoryview(bytearray(_BLOCK_BYTES))
            while size := file.readinto(buffer):
                digest.update(buffer[:size])
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error
    return digest.hexdigest()


class TensorWriter:
    """Writes a file whose tensors come piece by piece, in any order of pieces, in a thread of its own.

    What is put is kept until it is written, at most `_WAITING_MAX` pieces: `is_full` says when to come later.
    """

    def __init__(
        self, path: Path, layout: Mapping[str, tuple[str, Shape]], done: Callable[[str | ResourceError], None]
    ) -> None:
        """layout: tensor -> (numpy type, shape), in the order of the file. done: is called by the thread, with the
        file's sha256 when it is on the disk, or with what went wrong.
        """
        self._path = path
        self._header, self._places = _header(layout)
        self._done = done
        self._waiting: queue.Queue[tuple[str, int, NDArray[Any]] | None] = queue.Queue()
        self._is_given_up = False
        self._is_over = False  # nothing more is written
        self._thread = threading.Thread(target=self._run, name=f"write-{path.name}", daemon=True)
        self._thread.start()

    @property
    def is_full(self) -> bool:
        """Whether the disk has fallen behind."""
        return self._waiting.qsize() >= _WAITING_MAX and not self._is_over

    def put(self, tensor: str, line: int, lines: NDArray[Any]) -> None:
        """These lines of a tensor, from line number `line` on. They must not change any more."""
        if not self._is_over:
            self._waiting.put((tensor, line, lines))

    def end(self) -> None:
        """Everything has been put."""
        self._waiting.put(None)

    def give_up(self) -> None:
        """The file is not wanted any more: nothing of it stays, and `done` is not called."""
        self._is_given_up = True
        self.end()

    def join(self, timeout_s: float | None = None) -> None:
        """Wait until the thread has ended."""
        self._thread.join(timeout_s)

    def _run(self) -> None:
        try:
            outcome: str | ResourceError = self._write()
        except OSError as error:
            outcome = cannot_write(self._path, error)
        except DataError as error:  # what was just written cannot be read
            outcome = ResourceError(str(error))
        self._is_over = True
        if isinstance(outcome, ResourceError) or self._is_given_up:
            with contextlib.suppress(OSError):
                beside(self._path).unlink(missing_ok=True)
        if not self._is_given_up:
            self._done(outcome)

    def _write(self) -> str:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with beside(self._path).open("w+b", buffering=0) as file:
            _write_at(file.fileno(), 0, self._header)
            while (piece := self._waiting.get()) is not None and not self._is_given_up:
                tensor, line, lines = piece
                start, line_bytes = self._places[tensor]
                _write_at(file.fileno(), start + line * line_bytes, np.ascontiguousarray(lines).reshape(-1).view("u1"))
            if self._is_given_up:
                return ""
            os.fsync(file.fileno())
            digest = sha256_of(beside(self._path))
        put_in_place(self._path)
        return digest


class TensorFile:
    """A file of named tensors that is read piece by piece: no more of it is in memory than what is asked for."""

    def __init__(self, path: Path, sha256: str | None = None) -> None:
        """Raises DataError when it cannot be read or is not the file that was written, whose sha256 this is."""
        self.path = path
        if sha256 is not None and sha256_of(path) != sha256:
            raise _not_what_was_saved(path)
        try:
            file: Any = safe_open(path, framework="numpy")  # its slices keep it open
            self._slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, ValueError, OSError) as error:
            raise DataError(f"{path} is not a safetensors file: {error}") from error

    def tables(self) -> dict[str, list[str]]:
        """The parts of every table that the file holds."""
        found: dict[str, list[str]] = {}
        for name in self._slices:
            table, _, part = name.rpartition("/")
            found.setdefault(table, []).append(part)
        return found

    def shape(self, table: str, part: str) -> tuple[int, ...]:
        """The shape of a part. Raises DataError when there is none."""
        return tuple(self._slice(table, part).get_shape())

    def dtype(self, table: str, part: str) -> str:
        """The numpy name of a part's type. Raises DataError when there is none."""
        return _DTYPES.get(self._slice(table, part).get_dtype(), "unknown")

    def read(self, table: str, part: str, start: int = 0, stop: int | None = None) -> NDArray[Any]:
        """Lines start..stop-1 of a part, all of them when nothing is said. Raises DataError when there is none."""
        found = self._slice(table, part)
        shape = tuple(found.get_shape())
        if 0 in shape:  # the library slices nothing that is empty
            return np.empty(shape, _DTYPES[found.get_dtype()])
        piece: NDArray[Any] = found[start:stop]
        return piece

    def pieces(self, table: str, parts: Sequence[str], lines: int = _LINES) -> Iterator[Parts]:
        """The same lines of some parts, at most `lines` at a time."""
        size = self.shape(table, parts[0])[0] if parts else 0
        for start in range(0, size, lines):
            yield {part: self.read(table, part, start, min(start + lines, size)) for part in parts}

    def _slice(self, table: str, part: str) -> Any:
        try:
            return self._slices[f"{table}/{part}"]
        except KeyError:
            raise DataError(f"{self.path}: table {table} has no part {part}") from None


def read_tables(path: Path) -> dict[str, Parts]:
    """The dumps of the tables in a file, by table name. Raises DataError."""
    tables: dict[str, Parts] = {}
    for name, array in read_tensors(path).items():
        table, _, part = name.rpartition("/")
        tables.setdefault(table, {})[part] = array
    return tables


def read_tensors(path: Path, sha256: str | None = None) -> dict[str, NDArray[Any]]:
    """The named tensors of a file. Raises DataError when it cannot be read or is not the file that was written."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error
    if sha256 is not None and hashlib.sha256(content).hexdigest() != sha256:
        raise _not_what_was_saved(path)
    try:
        tensors: dict[str, NDArray[Any]] = safetensors.numpy.load(content)
    except (SafetensorError, ValueError) as error:
        raise DataError(f"{path} is not a safetensors file: {error}") from error
    return tensors


def _not_what_was_saved(path: Path) -> DataError:
    return DataError(
        f"{path} is not what was saved: its sha256 differs from the one in its manifest; take another copy of it"
    )


def _header(layout: Mapping[str, tuple[str, Shape]]) -> tuple[bytes, dict[str, tuple[int, int]]]:
    """What stands before the tensors in the file, and of each tensor its place and the bytes of one line."""
    entries, places, end = {}, {}, 0
    for name, (dtype, shape) in layout.items():
        size = math.prod(shape) * np.dtype(dtype).itemsize
        entries[name] = {"dtype": _TYPES[np.dtype(dtype).name], "shape": list(shape), "data_offsets": [end, end + size]}
        places[name] = end, size // shape[0] if shape and shape[0] else 0
        end += size
    text = json.dumps(entries).encode()
    text += b" " * (-len(text) % 8)  # tensors begin where numbers of eight bytes may
    start = 8 + len(text)
    return struct.pack("<Q", len(text)) + text, {name: (start + at, size) for name, (at, size) in places.items()}


def _write_at(descriptor: int, place: int, content: Any) -> None:
    view = memoryview(content)
    while view.nbytes:
        written = os.pwrite(descriptor, view, place)
        view, place = view[written:], place + written
