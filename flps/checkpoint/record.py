"""Small files beside large ones: JSON that is there whole or not at all, and as it was written.

Its last key, `digest`, is the sha256 of the rest: a record that was damaged or changed by hand is refused.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from flps.disk import write_whole
from flps.errors import DataError

MANIFEST = "manifest.json"
Record = TypeVar("Record", bound=msgspec.Struct)


def write_record(path: Path, record: msgspec.Struct) -> None:
    """Write a record into a folder, which is made: the files it tells of may all lie on other hosts.

    Raises ResourceError.
    """
    write_whole(path, sealed(msgspec.json.decode(msgspec.json.encode(record))))


def read_record(path: Path, kind: type[Record], missing: str) -> Record:
    """The record in a file; `missing`: what to say when there is none. Raises DataError."""
    try:
        content = path.read_bytes()
        record = msgspec.json.decode(content, type=kind)
        whole = msgspec.json.decode(content)
    except FileNotFoundError:
        raise DataError(missing) from None
    except (OSError, msgspec.MsgspecError) as error:
        raise DataError(f"cannot read {path}: {error}; it is damaged: take an older one, or a copy") from error
    said = whole.pop("digest", None)
    if said != _digest(whole):
        raise DataError(f"{path} is not what was written: its digest differs; take an older one, or a copy")
    return record


def sealed(content: Mapping[str, Any]) -> bytes:
    """The bytes of a record, with the digest of what it says."""
    rest = {key: value for key, value in content.items() if key != "digest"}
    return msgspec.json.format(msgspec.json.encode({**rest, "digest": _digest(rest)}))


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(msgspec.json.encode(content, order="sorted")).hexdigest()
