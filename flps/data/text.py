"""Integers as text, both ways, without a Python loop over the rows; and the line that is wrong, when one is.

Law: fast code reads the good files; only after it has failed does slow code look for the line to blame.
"""

from __future__ import annotations

import gzip
import io
import lzma
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from flps.data.batch import Ids, Rows
from flps.errors import DataError

CHUNK_ROWS = 1 << 20
CHUNK_BYTES = 1 << 20
WRITTEN_ROWS = 1 << 17
ORIGINALS_HEADER = b"0,1,2"  # what pandas' to_csv writes above a frame without names; no sample: its label would be 2

Complaint = Callable[[str], str]


def open_bytes(path: Path) -> BinaryIO:
    """Open a plain, .gz or .xz file for reading.

    Raises:
        DataError: there is no such file.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    openers: dict[str, Any] = {".gz": gzip.open, ".xz": lzma.open}
    opened: BinaryIO = openers.get(path.suffix, open)(path, "rb")
    return opened


def read_bytes(path: Path) -> bytes:
    """All bytes of a plain, .gz or .xz file.

    Raises:
        DataError: no such file, or an archive that is cut short or damaged.
    """
    try:
        with open_bytes(path) as file:
            return file.read()
    except (EOFError, lzma.LZMAError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path}: archive cut short or damaged ({error}); fetch it again") from error


def first_line(path: Path) -> bytes:
    """The first line without its end; empty for an empty file."""
    try:
        with open_bytes(path) as file:
            return file.readline(4096).rstrip(b"\r\n")
    except (EOFError, lzma.LZMAError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path}: archive cut short or damaged ({error}); fetch it again") from error


def is_header(line: bytes) -> bool:
    """Whether the first line of a csv names its columns instead of being a sample: it does not begin with a number."""
    start = line.strip()[:1]
    return line.strip() == ORIGINALS_HEADER or (bool(start) and not start.isdigit() and start != b"-")


def read_numbers(
    content: BinaryIO | io.BytesIO, separator: str, types: list[Any]
) -> Iterator[tuple[NDArray[Any], ...]]:
    """Chunks of columns from separated text without header; blank lines are passed over.

    Raises:
        ValueError: a field is no number of its type, or a line has another number of fields.
    """
    import pandas as pd  # takes 0.4 s to import, and a worker that maps columns never comes here

    options: dict[str, Any] = {"sep": separator, "header": None, "dtype": dict(enumerate(types)), "quoting": 3}
    try:
        for frame in pd.read_csv(content, chunksize=CHUNK_ROWS, na_filter=True, **options):
            if frame.shape[1] != len(types):
                raise ValueError(f"{frame.shape[1]} columns")
            yield tuple(frame[i].to_numpy() for i in range(len(types)))
    except pd.errors.EmptyDataError:
        return
    except (OverflowError, TypeError) as error:
        raise ValueError(str(error)) from error


def read_samples(path: Path) -> Iterator[Rows]:
    """Samples of a `user,item,label` csv (plain, .gz, .xz), with or without header, in chunks.

    Raises:
        DataError: with file and line: wrong number of columns, no integer, a negative id, a label outside [0, 1].
    """
    try:
        skipped = is_header(first_line(path))
        with open_bytes(path) as file:
            if skipped:
                file.readline()
            for users, items, labels in read_numbers(file, ",", [np.int64, np.int64, np.float32]):
                refuse_bad_values(users, items, labels)
                yield Rows(users, items, labels)
    except (EOFError, lzma.LZMAError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path}: archive cut short or damaged ({error}); fetch it again") from error
    except ValueError as error:
        raise blame(path, sample_complaint, skipped, error) from error


def refuse_bad_values(users: Ids, items: Ids, labels: NDArray[np.float32]) -> None:
    """Raise ValueError for a negative id or a label outside [0, 1]."""
    if users.size and (users.min() < 0 or items.min() < 0):
        raise ValueError("a negative id")
    if labels.size and not (labels.min() >= 0 and labels.max() <= 1):
        raise ValueError("a label outside [0, 1]")


def sample_complaint(line: str) -> str:
    """What is wrong with one csv line, or nothing."""
    fields = line.split(",")
    if len(fields) != 3:
        return f"expected 3 columns user,item,label, found {len(fields)}"
    if not all(is_id(field) for field in fields[:2]):
        return "expected user and item as integers from 0 to 2^63 - 1"
    try:
        return "" if 0 <= float(fields[2]) <= 1 else "expected a label in [0, 1]"
    except ValueError:
        return "expected a label in [0, 1]"


def is_id(field: str) -> bool:
    """Whether the text is an integer that a 64-bit key holds."""
    return field.strip().isascii() and field.strip().isdigit() and int(field) < 2**63


def blame(path: Path, complaint: Complaint, skip: int | bool, error: Exception) -> DataError:
    """The error that names the first line with a complaint; the reader's own words when no line has one."""
    for number, line in enumerate(io.BytesIO(read_bytes(path)), 1):
        if number <= skip or not line.strip():
            continue
        found = line_complaint(line, complaint)
        if found:
            shown = line[:80].rstrip(b"\r\n").decode("utf-8", "backslashreplace")
            return DataError(f"{path}:{number}: {found}: {shown!r}")
    return DataError(f"{path}: cannot be read: {error}")


def line_complaint(line: bytes, complaint: Complaint) -> str:
    """What is wrong with one line, its encoding first."""
    try:
        return complaint(line.decode("utf-8").rstrip("\r\n"))
    except UnicodeDecodeError:
        return "not UTF-8 text"


def write_samples(file: BinaryIO, users: Ids, items: Ids, labels: NDArray[Any]) -> None:
    """Append `user,item,label` lines; labels are written as integers."""
    write_lines(file, [users, items, labels.astype(np.int64)], [b",", b",", b"\n"])


def write_lines(file: BinaryIO, columns: list[Ids], ends: list[bytes]) -> None:
    """Append one line per row: each column's number followed by its end, e.g. b"::" or b"\\n". Numbers are >= 0."""
    for lo in range(0, len(columns[0]), WRITTEN_ROWS):
        parts: list[NDArray[np.uint8]] = []
        for column, end in zip(columns, ends, strict=True):
            part = digits(column[lo : lo + WRITTEN_ROWS])
            parts += [part, np.broadcast_to(np.frombuffer(end, np.uint8), (len(part), len(end)))]
        text = np.concatenate(parts, axis=1)
        file.write(text[text != 0].tobytes())


def digits(numbers: Ids) -> NDArray[np.uint8]:
    """ASCII digits, right-aligned (N, W); leading places are zero bytes, which the caller drops."""
    largest = int(numbers.max()) if numbers.size else 0
    rest: NDArray[Any] = numbers.astype(np.uint32 if largest < 2**32 else np.uint64)
    text = np.zeros((len(rest), len(str(largest))), np.uint8)
    for place in range(text.shape[1] - 1, -1, -1):
        quotient = rest // 10
        text[:, place] = np.where(rest + (place == text.shape[1] - 1) > 0, rest - quotient * 10 + 48, 0)
        rest = quotient
    return text
