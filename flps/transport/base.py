"""Where a journal begins: the state of a role at one moment, in place of everything that it was told until then.

    <journal>/base-00000007.msgpack         the small state when segment 7 began, and which file holds the tables
    <journal>/tables-00000007.safetensors   the tables as they were then; written while the role goes on

Law 1: a base counts when its file stands under its name; what came before it goes only then.
Law 2: a base is taken between two requests that have consequences; what was admitted and not answered by then was a
question, and comes again.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import msgspec

from flps.disk import write_whole
from flps.errors import ResourceError
from flps.ledger import Account, Ledger
from flps.transport.journal import Journal

log = logging.getLogger(__name__)
_FILE = re.compile(r"(?:base|tables)-(\d{8})\.(?:msgpack|safetensors)(?:\.partial)?")
_FORMAT = 1
Written: TypeAlias = Callable[[str | ResourceError], None]  # gets the sha256 of the tables' file, or what went wrong


class Durable(Protocol):
    """A service whose state can be kept."""

    def image(self) -> bytes | None:
        """Its state, but for tables; None while something is half done."""

    def take_up_image(self, image: bytes, tables: Path | None, sha256: str) -> None:
        """Be what the image says, with the tables of that file. Raises FlpsError when they do not fit."""


class Tables(Protocol):
    """What is too large to be kept at once."""

    @property
    def is_copying(self) -> bool:
        """Whether a file of tables is being written."""

    def snapshot(self, path: Path, done: Written) -> None:
        """Write the tables as they are now to a file; `done` is called from any thread."""


class _Account(msgspec.Struct, frozen=True):
    """A client's account."""

    incarnation: int
    last: int
    settled: int
    skipped: tuple[int, ...]
    answers: dict[int, tuple[bytes, ...]]  # frames


class _Base(msgspec.Struct, frozen=True):
    """The content of a base file."""

    format: int
    run: str
    segment: int
    accounts: dict[str, _Account]
    images: tuple[bytes, ...]  # of the services, in their order
    tables: str = ""  # file; "": there is none
    sha256: str = ""


class Bases:
    """The bases of one role's journal; the newest one counts."""

    def __init__(
        self,
        journal: Journal,
        ledger: Ledger[list[Any]],
        services: Sequence[Durable],
        run: str,
        bytes_max: int,
        tables: Tables | None = None,
    ) -> None:
        """`run`: its id; `bytes_max`: a longer journal gets a new base."""
        self._journal, self._ledger, self._services = journal, ledger, services
        self._run, self._tables = run, tables
        self._bytes_max = self._wanted_at = bytes_max
        self._is_under_way = False
        self._standing = 0  # the segment of a base that has come to the disk since `work` looked

    def restore(self) -> int:
        """Take up the newest base; returns the segment from which the journal is to be carried out, 0 without a base.

        Raises ResourceError for one that cannot be read, FlpsError when it does not fit.
        """
        found = sorted(self._journal.folder.glob("base-*.msgpack"))
        if not found:
            return 0
        try:
            base = msgspec.msgpack.decode(found[-1].read_bytes(), type=_Base)
        except (OSError, msgspec.MsgspecError) as error:
            raise ResourceError(f"cannot read {found[-1]}: {error}") from error
        if (base.format, base.run, len(base.images)) != (_FORMAT, self._run, len(self._services)):
            raise ResourceError(f"{found[-1]} is not of this version, run and role")
        for client, account in base.accounts.items():
            answers = {sequence: list[Any](frames) for sequence, frames in account.answers.items()}
            kept = Account(account.incarnation, account.last, account.settled, answers, set(account.skipped))
            self._ledger.restore(client, kept)
        tables = self._journal.folder / base.tables if base.tables else None
        for service, image in zip(self._services, base.images, strict=True):
            service.take_up_image(image, tables, base.sha256)
        log.info("took up %s", found[-1])
        return base.segment

    def work(self) -> None:
        """Between two requests: drop what a finished base stands for, and begin one when the journal is long."""
        if self._standing:
            self._drop_before(self._standing)
            self._standing = 0
        is_free = not self._is_under_way and not (self._tables is not None and self._tables.is_copying)
        if self._journal.bytes <= self._wanted_at or not is_free:
            return
        if self._tables is None:
            done = self.begin(None)
            if done is not None:
                done("")
            return
        path = self._journal.folder / f"tables-{self._journal.segment + 1:08}.safetensors"
        done = self.begin(path)
        if done is not None:
            self._tables.snapshot(path, done)

    def begin(self, tables: Path | None) -> Written | None:
        """Keep the state of this moment and begin a segment. `tables`: the file that they are being written to.

        Returns what is to be called when they are there; None while something is half done: then `work` comes back
        to it.
        """
        images = [service.image() for service in self._services]
        whole = tuple(image for image in images if image is not None)
        if self._is_under_way or len(whole) < len(images):
            self._wanted_at = 0
            return None
        segment = self._journal.rotate()
        accounts = {client: _kept(account) for client, account in self._ledger.accounts()}
        base = _Base(_FORMAT, self._run, segment, accounts, whole)
        self._is_under_way, self._wanted_at = True, self._journal.bytes + self._bytes_max

        def done(outcome: str | ResourceError) -> None:
            try:
                if isinstance(outcome, ResourceError):
                    raise outcome
                self._write(base, tables, outcome)
                self._standing = segment
            except (OSError, ResourceError) as error:
                log.error("cannot shorten the journal %s: %s", self._journal.folder, error)
            self._is_under_way = False

        return done

    def _write(self, base: _Base, tables: Path | None, sha256: str) -> None:
        folder = self._journal.folder
        if tables is not None:
            name = f"tables-{base.segment:08}.safetensors"
            if tables != folder / name:  # part of a checkpoint, which has its own time to go
                _second_name(tables, folder / name)
            base = msgspec.structs.replace(base, tables=name, sha256=sha256)
        write_whole(folder / f"base-{base.segment:08}.msgpack", msgspec.msgpack.encode(base), 0o600)

    def _drop_before(self, segment: int) -> None:
        self._journal.drop_before(segment)
        for path in self._journal.folder.iterdir():
            match = _FILE.fullmatch(path.name)
            if match and int(match[1]) < segment:
                path.unlink(missing_ok=True)
        self._wanted_at = self._bytes_max


def has_base(journal: Journal | None) -> bool:
    """Whether a role's journal begins with its state at some moment, tables included."""
    return journal is not None and any(journal.folder.glob("base-*.msgpack"))


def _kept(account: Account[list[Any]]) -> _Account:
    """An account as it is kept; what was admitted and has no answer will come again."""
    answers = {sequence: tuple(bytes(memoryview(f)) for f in frames) for sequence, frames in account.answers.items()}
    unanswered = {n for n in range(account.settled + 1, account.last + 1) if n not in answers}
    return _Account(account.incarnation, account.last, account.settled, tuple(sorted(unanswered)), answers)


def _second_name(tables: Path, name: Path) -> None:
    try:
        os.link(tables, name)
    except OSError:  # another disk
        with tables.open("rb") as source, name.open("wb") as copy:
            shutil.copyfileobj(source, copy)
            copy.flush()
            os.fsync(copy.fileno())
