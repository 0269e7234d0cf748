"""The journal gives back what was written, cuts off what a crash cut off, and refuses everything else."""

from __future__ import annotations

import os
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flps.errors import ResourceError
from flps.transport.journal import Durability, Journal

FRAMES = st.lists(st.lists(st.binary(max_size=60), min_size=1, max_size=5), min_size=1, max_size=6)
BOTH: list[Durability] = ["log", "log+fsync"]


def read(folder: Path, durability: Durability = "log", first: int = 0) -> list[tuple[int, list[bytes]]]:
    journal = Journal(folder, durability)
    try:
        return [(record.kind, [bytes(frame) for frame in record.frames]) for record in journal.records(first)]
    finally:
        journal.close()


def write(folder: Path, said: list[list[bytes]], durability: Durability = "log") -> None:
    journal = Journal(folder, durability, clock=lambda: 5.0)
    for number, frames in enumerate(said):
        journal.append(number % 3, frames)
    journal.sync()
    assert journal.bytes == newest(folder).stat().st_size
    journal.close()


def expected(said: list[list[bytes]]) -> list[tuple[int, list[bytes]]]:
    return [(number % 3, frames) for number, frames in enumerate(said)]


def newest(folder: Path) -> Path:
    return max(folder.glob("segment-*.log"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "journal" / "server-0"


@pytest.mark.parametrize("durability", BOTH)
def test_what_was_written_is_read(folder: Path, durability: Durability) -> None:
    said = [[b"one"], [b"", b"x" * 100_000, b""], [b"z"] * 1023]
    write(folder, said, durability)
    assert read(folder, durability) == expected(said)
    assert folder.stat().st_mode & 0o777 == 0o700
    assert newest(folder).stat().st_mode & 0o777 == 0o600
    with_time = Journal(folder, durability)
    assert [record.time for record in with_time.records()] == [5.0] * 3
    with_time.close()


@settings(max_examples=60)
@given(said=FRAMES, at=st.floats(0, 1), more=FRAMES, durability=st.sampled_from(BOTH))
def test_a_cut_leaves_whole_records_and_writing_goes_on(
    said: list[list[bytes]],
    at: float,
    more: list[list[bytes]],
    durability: Durability,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = tmp_path_factory.mktemp("journal")
    write(folder, said, durability)
    whole = newest(folder).stat().st_size
    os.truncate(newest(folder), int(at * whole))
    kept = read(folder, durability)
    assert kept == expected(said)[: len(kept)]
    assert at < 1 or len(kept) == len(said)
    write(folder, more, durability)
    assert read(folder, durability) == kept + expected(more)


@settings(max_examples=60)
@given(said=FRAMES, zeros=st.integers(1, 5000), durability=st.sampled_from(BOTH))
def test_zeros_at_the_end_are_a_cut(
    said: list[list[bytes]], zeros: int, durability: Durability, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("journal")
    write(folder, said, durability)
    with newest(folder).open("ab") as file:
        file.write(bytes(zeros))
    assert read(folder, durability) == expected(said)
    assert read(folder, durability) == expected(said)


@settings(max_examples=120)
@given(at=st.integers(0, 10**9), bit=st.integers(0, 7))
def test_a_flipped_bit_before_the_last_record_is_refused_with_its_place(
    at: int, bit: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("journal")
    said = [[b"head", b"frame"], [b"other"], [b"the last"]]
    write(folder, said, "log+fsync")
    before_last = newest(folder).stat().st_size - (32 + 8 + len(b"the last") + 4)
    raw = bytearray(newest(folder).read_bytes())
    raw[at % before_last] ^= 1 << bit
    newest(folder).write_bytes(raw)
    with pytest.raises(ResourceError, match=r"segment-00000001\.log"):
        read(folder, "log+fsync")


def test_with_log_a_tensor_is_not_summed_up(folder: Path) -> None:
    """`log` guards against a killed process, which damages nothing that it has written: only heads are checked."""
    write(folder, [[b"head", b"tensor"], [b"head"]])
    raw = newest(folder).read_bytes().replace(b"tensor", b"tonsor")
    newest(folder).write_bytes(raw)
    assert read(folder)[0] == (0, [b"head", b"tonsor"])
    newest(folder).write_bytes(raw.replace(b"head", b"heat"))
    with pytest.raises(ResourceError, match="a record with a wrong checksum at byte 16"):
        read(folder)


def test_segments_are_read_in_order_and_dropped(folder: Path) -> None:
    journal = Journal(folder, "log")
    for number in range(1, 5):
        assert journal.segment == number
        journal.append(1, [b"%d" % number])
        journal.rotate()
    size = journal.bytes
    journal.drop_before(3)
    assert journal.bytes < size
    assert sorted(path.name for path in folder.iterdir()) == [f"segment-{n:08}.log" for n in (3, 4, 5)]
    journal.close()
    assert read(folder) == [(1, [b"3"]), (1, [b"4"])]
    assert read(folder, first=4) == [(1, [b"4"])]


def test_a_missing_segment_is_noticed(folder: Path) -> None:
    journal = Journal(folder, "log")
    journal.rotate()
    journal.rotate()
    journal.close()
    (folder / "segment-00000002.log").unlink()
    with pytest.raises(ResourceError, match=r"holds segments \[1, 3\]"):
        read(folder)
    with pytest.raises(ResourceError, match="expected all from 2 on"):
        read(folder, first=2)


def test_an_older_segment_may_not_be_cut(folder: Path) -> None:
    journal = Journal(folder, "log")
    journal.append(1, [b"one"])
    journal.rotate()
    journal.close()
    older = folder / "segment-00000001.log"
    os.truncate(older, older.stat().st_size - 1)
    with pytest.raises(ResourceError, match="an unfinished record at byte 16"):
        read(folder)


def test_another_file_is_no_journal(folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "segment-00000001.log").write_bytes(b"something else entirely")
    with pytest.raises(ResourceError, match="is no journal of this version"):
        read(folder)


@contextmanager
def small_disk() -> Iterator[None]:
    """Files may not grow beyond 4096 bytes; not a fixture, since pytest writes to a file of its own between tests."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize("durability", BOTH)
def test_a_large_record_that_does_not_fit_is_told_by_sync(folder: Path, durability: Durability) -> None:
    with small_disk():
        journal = Journal(folder, durability)
        journal.append(1, [b"before"])
        journal.append(2, [b"head", bytes(1 << 20)])
        with pytest.raises(ResourceError, match=r"cannot append 10\d+ bytes to the journal"):
            journal.sync()
        journal.append(3, [b"after"])
        journal.close()
    assert read(folder, durability) == [(1, [b"before"]), (3, [b"after"])]


@pytest.mark.parametrize("durability", BOTH)
def test_large_records_keep_their_order(folder: Path, durability: Durability) -> None:
    said = [[b"%d" % n, bytes([n]) * (1 << 18 if n % 2 else 10)] for n in range(20)]
    write(folder, said, durability)
    assert read(folder, durability) == expected(said)


@pytest.mark.parametrize("durability", BOTH)
def test_what_does_not_fit_is_taken_back(folder: Path, durability: Durability) -> None:
    with small_disk():
        journal = Journal(folder, durability)
        journal.append(1, [b"before"])
        with pytest.raises(ResourceError, match=r"cannot append 5\d\d\d bytes to the journal .*Make room") as caught:
            journal.append(2, [b"head", bytes(5000)])
        assert caught.value.exit_code == 6
        assert journal.bytes == newest(folder).stat().st_size
        journal.append(3, [b"after"])
        journal.close()
    assert read(folder, durability) == [(1, [b"before"]), (3, [b"after"])]


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ResourceError, match="cannot open the journal"):
        Journal(tmp_path / "file" / "journal", "log")
