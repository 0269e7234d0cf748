"""Files that are there whole or not at all."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from flps import disk
from flps.disk import beside, put_in_place, write_whole
from flps.errors import ResourceError


class Crash(BaseException):
    """kill -9, or the machine's end."""


def crash(*_: object) -> None:
    raise Crash


def test_a_file_takes_the_place_of_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "file.json"
    for content in (b"a long first content", b"short", b""):
        write_whole(path, content)
        assert path.read_bytes() == content
        assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("at", ["put_in_place", "sync_folder", "os.fsync"])
def test_a_crash_leaves_the_old_file_or_the_new_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: str) -> None:
    path = tmp_path / "file"
    write_whole(path, b"old")
    with monkeypatch.context() as patch:
        patch.setattr(f"flps.disk.{at}", crash)
        with pytest.raises(Crash):
            write_whole(path, b"new content")
    is_renamed = at == "sync_folder"
    assert path.read_bytes() == (b"new content" if is_renamed else b"old")
    assert beside(path).exists() is not is_renamed
    write_whole(path, b"third")  # over what the crash has left
    assert path.read_bytes() == b"third"
    assert list(tmp_path.iterdir()) == [path]


def test_the_content_is_on_the_disk_before_the_name_and_the_name_before_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def synced(descriptor: int) -> None:
        steps.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "content")
        fsync(descriptor)

    def replaced(source: Path, target: Path) -> Path:
        steps.append("name")
        return replace(source, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "replace", replaced)
    write_whole(tmp_path / "file", b"content")
    assert steps == ["content", "name", "folder"]


@pytest.mark.parametrize("mode", [0o600, 0o644])
def test_the_mode_is_as_asked(tmp_path: Path, mode: int) -> None:
    before = os.umask(0o022)
    try:
        write_whole(tmp_path / "file", b"x", mode)
        write_whole(tmp_path / "usual", b"x")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == mode
    assert stat.S_IMODE((tmp_path / "usual").stat().st_mode) == 0o644


def test_an_error_names_the_file_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file.json"
    write_whole(path, b"old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ResourceError, match=r"cannot write .*/file\.json: No space left on device; is there room"):
        write_whole(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(ResourceError, match=r"cannot write .*/file\.json/inner: "):
        write_whole(path / "inner", b"x")


def test_who_writes_piece_by_piece_puts_it_in_place(tmp_path: Path) -> None:
    path = tmp_path / "file"
    disk.beside(path).write_bytes(b"in pieces")
    put_in_place(path)
    assert path.read_bytes() == b"in pieces"
    assert list(tmp_path.iterdir()) == [path]
