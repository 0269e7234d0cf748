"""The columnar file `N.flps`: named arrays that a worker maps into memory instead of parsing text.

Layout, little-endian throughout:

    0   8 bytes   magic "FLPSCOL1" (the digit is the version)
    8   4 bytes   length of the header, uint32
    12  4 bytes   CRC-32 of the header, uint32
    16  header    JSON: {"meta": {...}, "columns": [{"name", "dtype", "shape", "offset"}, ...]}
    ..  columns   raw, each at a multiple of 64 bytes

Law: what a header promises is checked against the file's size before anything is mapped.
"""

from __future__ import annotations

import json
import math
import os
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from flps.errors import DataError

MAGIC = b"FLPSCOL1"
ALIGNMENT = 64
DTYPES = ("<i8", "<i4", "<i2", "<f4", "|u1")
PREFIX = struct.Struct("<8sII")


class Columns(NamedTuple):
    """A mapped file: the writer's notes and the arrays, read-only."""

    meta: dict[str, Any]
    arrays: dict[str, NDArray[Any]]


def write_columns(path: Path, arrays: Mapping[str, NDArray[Any]], meta: Mapping[str, Any]) -> None:
    """Write arrays of any shape beside `path` and rename, so that a reader never sees half a file.

    Raises:
        ValueError: an array has a dtype that the format does not know.
    """
    columns: list[dict[str, Any]] = []
    offset = 0
    for name, array in arrays.items():
        dtype = array.dtype.newbyteorder("<").str
        if dtype not in DTYPES:
            raise ValueError(f"column {name!r} has dtype {dtype}, the format knows {', '.join(DTYPES)}")
        columns.append({"name": name, "dtype": dtype, "shape": list(array.shape), "offset": offset})
        offset = aligned(offset + array.nbytes)
    header = json.dumps({"meta": dict(meta), "columns": columns}, separators=(",", ":")).encode()
    beside = path.with_name(f"{path.name}.{os.getpid()}.part")
    with beside.open("wb") as file:
        file.write(PREFIX.pack(MAGIC, len(header), zlib.crc32(header)) + header)
        start = aligned(file.tell())
        for column, array in zip(columns, arrays.values(), strict=True):
            file.write(bytes(start + column["offset"] - file.tell()))
            np.ascontiguousarray(array, dtype=column["dtype"]).tofile(file)
    beside.replace(path)


def read_columns(path: Path) -> Columns:
    """Map a file; no column is read before it is touched.

    Raises:
        DataError: the file is cut short, damaged, or none of ours.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        prefix = file.read(PREFIX.size)
        header = parse_prefix(path, prefix, file.read(header_length(prefix, size)))
    start = aligned(PREFIX.size + header_length(prefix, size))
    whole = np.memmap(path, dtype=np.uint8, mode="r")
    arrays = {c["name"]: view(path, whole, c, start) for c in header["columns"]}
    return Columns(header["meta"], arrays)


def header_length(prefix: bytes, limit: int) -> int:
    """The header's length as the prefix says, never more than the file holds."""
    return min(int(PREFIX.unpack(prefix)[1]), limit) if len(prefix) == PREFIX.size else 0


def parse_prefix(path: Path, prefix: bytes, header: bytes) -> dict[str, Any]:
    """The header as a dict, once magic, length and checksum agree."""
    if len(prefix) < PREFIX.size or not prefix.startswith(MAGIC[:-1]):
        raise DataError(
            f"{path}: not a columnar file of flps (no {MAGIC.decode()} at its start); delete it, or write it again"
        )
    magic, length, checksum = PREFIX.unpack(prefix)
    if magic != MAGIC:
        raise DataError(
            f"{path}: columnar format version {chr(magic[-1])!r}, this flps reads version 1; write it again"
        )
    if len(header) != length or zlib.crc32(header) != checksum:
        raise DataError(f"{path}: header cut short or damaged; write the file again with gen_heter_data")
    parsed: dict[str, Any] = json.loads(header)
    return parsed


def view(path: Path, whole: NDArray[np.uint8], column: dict[str, Any], start: int) -> NDArray[Any]:
    """One column of the mapped file, without a copy."""
    dtype, shape = column["dtype"], tuple(column["shape"])
    if dtype not in DTYPES or any(n < 0 for n in shape):
        raise DataError(
            f"{path}: column {column['name']!r} has dtype {dtype} and shape {shape}, which no writer of ours makes"
        )
    first = start + int(column["offset"])
    wanted = math.prod(shape) * np.dtype(dtype).itemsize
    if wanted and first + wanted > whole.size:
        raise DataError(
            f"{path}: cut short: column {column['name']!r} ends at byte {first + wanted}, the file has {whole.size}"
        )
    column_array: NDArray[Any] = whole[first : first + wanted].view(dtype).reshape(shape)
    return column_array


def aligned(offset: int) -> int:
    """The next multiple of the alignment."""
    return -(-offset // ALIGNMENT) * ALIGNMENT


def compact(ids: NDArray[np.int64]) -> NDArray[Any]:
    """The ids in four bytes each where they fit, else in eight."""
    fits = ids.size == 0 or (int(ids.max()) < 2**31 and int(ids.min()) >= -(2**31))
    return ids.astype(np.int32 if fits else np.int64, copy=False)
