"""Tables on disk: one safetensors file for one owner's share of some tables.

Tensors are called `<table>/<part>`: keys, values and state of a sparse table, values and state of a dense one.
A file is written beside its place and renamed, so a reader sees the old one or the new one, whole.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray
from safetensors import SafetensorError

from flps.errors import DataError, ResourceError

Parts = dict[str, NDArray[Any]]


def write_tables(path: Path, tables: Mapping[str, Parts]) -> str:
    """Write the dumps of some tables into one file; returns its sha256. Raises ResourceError."""
    tensors = {f"{name}/{part}": array for name, parts in tables.items() for part, array in parts.items()}
    return write_tensors(path, tensors)


def write_tensors(path: Path, tensors: Mapping[str, NDArray[Any]]) -> str:
    """Write named tensors into one file; returns its sha256. Raises ResourceError."""
    content = safetensors.numpy.save({name: np.asarray(array, order="C") for name, array in tensors.items()})
    beside = path.with_name(path.name + ".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with beside.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except OSError as error:
        raise ResourceError(
            f"cannot write {path}: {error.strerror}; is there room, and may this user write?"
        ) from error
    return hashlib.sha256(content).hexdigest()


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
        raise DataError(f"{path} is not what was saved: its sha256 differs from the manifest's")
    try:
        tensors: dict[str, NDArray[Any]] = safetensors.numpy.load(content)
    except (SafetensorError, ValueError) as error:
        raise DataError(f"{path} is not a safetensors file: {error}") from error
    return tensors
