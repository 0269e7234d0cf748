"""Small files beside large ones: JSON that is there whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TypeVar

import msgspec

from flps.errors import DataError, ResourceError

MANIFEST = "manifest.json"
Record = TypeVar("Record", bound=msgspec.Struct)


def write_record(path: Path, record: msgspec.Struct) -> None:
    """Write a record beside its place and rename it. Raises ResourceError."""
    beside = path.with_name(path.name + ".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)  # the files it tells of may all lie on other hosts
        with beside.open("wb") as file:
            file.write(msgspec.json.format(msgspec.json.encode(record)))
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        raise ResourceError(f"cannot write {path}: {error.strerror}") from error


def read_record(path: Path, kind: type[Record], missing: str) -> Record:
    """The record in a file; `missing`: what to say when there is none. Raises DataError."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except FileNotFoundError:
        raise DataError(missing) from None
    except (OSError, msgspec.MsgspecError) as error:
        raise DataError(f"cannot read {path}: {error}") from error


def _sync_folder(folder: Path) -> None:
    """A rename is on disk when its folder is."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
