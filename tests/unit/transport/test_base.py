"""Where a journal begins: files of bases, and what a crash leaves of them."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flps.errors import ResourceError
from flps.ledger import Ledger
from flps.transport.base import Bases, has_base
from flps.transport.journal import Journal


class Crash(BaseException):
    """kill -9."""


class Counter:
    """A service whose state is one number."""

    def __init__(self) -> None:
        self.number = 0

    def image(self) -> bytes:
        return bytes([self.number])

    def take_up_image(self, image: bytes, tables: Path | None, sha256: str) -> None:
        self.number = image[0]


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    made = Journal(tmp_path / "journal", "log")
    yield made
    made.close()


def bases_of(journal: Journal, counter: Counter, bytes_max: int = 0) -> Bases:
    return Bases(journal, Ledger[list[Any]](), [counter], "run", bytes_max)


def names(journal: Journal) -> list[str]:
    return sorted(path.name for path in journal.folder.iterdir())


def test_a_base_is_the_owners_and_takes_the_place_of_older_ones(journal: Journal) -> None:
    counter = Counter()
    bases = bases_of(journal, counter)
    for number in (1, 2, 3):
        counter.number = number
        bases.work()
    assert names(journal) == [
        *("base-00000003.msgpack", "base-00000004.msgpack"),  # the older one goes when the role next looks
        *("segment-00000003.log", "segment-00000004.log"),
    ]
    again = Counter()
    assert bases_of(journal, again).restore() == journal.segment == 4
    assert again.number == 3
    assert stat.S_IMODE((journal.folder / names(journal)[0]).stat().st_mode) == 0o600


def test_what_a_crash_leaves_of_a_base_goes_with_the_next_one(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(path: Path) -> None:
        raise Crash

    with monkeypatch.context() as patch:
        patch.setattr("flps.disk.put_in_place", crash)
        with pytest.raises(Crash):
            bases_of(journal, Counter()).work()
    assert not has_base(journal)
    assert "base-00000002.msgpack.partial" in names(journal)
    bases = bases_of(journal, Counter(), bytes_max=20)  # the next life; one segment may stand
    assert bases.restore() == 0
    bases.work()
    bases.work()
    assert names(journal) == ["base-00000003.msgpack", "segment-00000003.log"]


def test_a_base_that_cannot_be_written_leaves_the_journal_as_it_was(
    journal: Journal, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(path: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("flps.disk.put_in_place", full)
    bases_of(journal, Counter()).work()
    assert names(journal) == ["segment-00000001.log", "segment-00000002.log"]
    assert "cannot shorten the journal" in caplog.text
    assert "base-00000002.msgpack: No space left on device" in caplog.text
    (journal.folder / "base-00000002.msgpack").write_bytes(b"?")
    with pytest.raises(ResourceError, match="cannot read"):
        bases_of(journal, Counter()).restore()
