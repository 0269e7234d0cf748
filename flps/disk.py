"""Files that are there whole or not at all: written beside their place, brought to the disk, renamed.

Law 1: who reads `path` finds the old content or the new one, whenever the writer dies; once a writer here returns, the
new one outlives the machine, too.
Law 2: what a dead writer leaves behind stands at `beside(path)`, never elsewhere; the next one writes over it.

    write_whole                  a content at once
    beside, put_in_place         for who writes piece by piece: to `beside(path)`, which then takes its place
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from flps.errors import ResourceError


def write_whole(path: Path, content: bytes, mode: int = 0o666) -> None:
    """Write a file; missing folders are made. `mode`: of the new file, less the umask.

    Raises ResourceError, naming the file, when it cannot be written; nothing is left beside it then.
    """
    partial = beside(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        put_in_place(path)
    except OSError as error:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        raise cannot_write(path, error) from error


def beside(path: Path) -> Path:
    """Where a file is written before it takes its place."""
    return path.with_name(path.name + ".partial")


def put_in_place(path: Path) -> None:
    """Rename what was written, and brought to the disk, at `beside(path)`. Raises OSError."""
    beside(path).replace(path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Bring the names that were given in a folder to the disk. Raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def cannot_write(path: Path, error: OSError) -> ResourceError:
    """What is said of a file that could not be written."""
    return ResourceError(f"cannot write {path}: {error.strerror}; is there room, and may this user write?")
