"""The first phase of a job whose parties have partly different rows: they find those that all have, and order them.

    RUN/aligned/PARTY/rows.csv        the party's table, aligned; beside it its card, as `flps psi` writes it
                      rows/           what the party's nets are trained on
                      aligned.json    the alignment's digest, the same at all parties, and a digest of each file

Law 1: aligned.json is written last, so a party that has one has all; it is removed before anything else changes.
Law 2: parties go on when each of them has its rows: a party that is started again and has its own knows this of all.
Law 3: while one has none, all align again, however far the others are; what they agree on tells them.
Law 4: rows that training has begun with are never replaced by others.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import msgspec
import torch

from flps.config.split import Psi
from flps.config.split_job import SplitJob
from flps.data.criteo_tables import TableColumns, checked_ids
from flps.disk import beside, put_in_place, write_whole
from flps.errors import ConfigError, DataError, PartyRestarted
from flps.party.agreed import ALIGNMENT, UNUSABLE, Unaligned, fits
from flps.psi.aligned import write_aligned
from flps.psi.ids import Ids, read_ids
from flps.psi.parties import follow, lead
from flps.psi.sources import Csv, Source, open_source
from flps.split.agreement import Summary
from flps.split.communicator import TIMEOUT_S, VerticalFederatedCommunicator

log = logging.getLogger(__name__)
STEPS = "*_step_*.json"  # checkpoints, whichever nets they are of
_WRITTEN = {"written": torch.ones(1, dtype=torch.uint8)}
_BLOCK_BYTES = 1 << 20


@runtime_checkable
class OfTables(Protocol):
    """What a model knows of tables; only jobs with `psi` ask it."""

    def columns(self, label: str) -> TableColumns:
        """What this party's nets need."""

    def prepare(self, table: Path, folder: Path, psi: Psi) -> None:
        """Rows to train on in the new folder, of an aligned csv."""


class Aligned(msgspec.Struct, frozen=True):
    """What stands in aligned.json."""

    digest: str
    rows: int
    files: dict[str, str]  # -> SHA-256


class Aligning:
    """One party's part in it."""

    def __init__(self, job: SplitJob, role: str, rank: int, model: object) -> None:
        """model: what it brings. Raises ConfigError when it knows nothing of tables."""
        assert job.config.psi is not None
        if not isinstance(model, OfTables):
            raise ConfigError(
                f"psi: the model {job.config.model} has no `columns` and `prepare`, so it takes no tables"
            )
        self._psi, self._job, self._role, self._rank, self._model = job.config.psi, job, role, rank, model
        self._folder = job.aligned(role, rank)
        self._said = job.party(role, rank)
        self._read: tuple[Source, Ids] | None = None

    @property
    def rows(self) -> Path:
        """Folder of the rows to train on."""
        return self._folder / "rows"

    def digest(self) -> str:
        """Of the alignment whose rows are here, or in the earlier run; "" when they are not there, or not whole."""
        earlier = self._job.earlier_aligned(self._role, self._rank)
        if earlier is not None and not self._folder.exists() and earlier.is_dir():
            _take_over(earlier, self._folder)
        return _whole(self._folder)

    def summary(self) -> Summary:
        """What the others must know of a party without rows; its table is read for it."""
        told = {ALIGNMENT: "", "psi": {"order": self._psi.order, "train_share": self._psi.train_share}}
        try:
            self._expect_untrained()
            self._table()
        except ConfigError as error:
            log.error("%s", error)
            return told | {UNUSABLE.format(self._name): str(error)}
        return told

    def run(self, links: VerticalFederatedCommunicator) -> None:
        """Align with the others, and write. Raises DataError, at all parties, when there is no row that all have."""
        self._expect_untrained()
        shutil.rmtree(self._folder, ignore_errors=True)
        source, ids = self._table()
        log.info("%s: %d ids to be aligned", source.name, len(ids.points))
        began = time.monotonic()
        followers, cores = self._job.names[1:], self._psi.cores
        if self._role == "leader":
            alignment = lead(ids.points, links, followers, self._psi.order, cores)
        else:
            alignment = follow(ids.points, links, self._job.names[0], cores)
        if not len(alignment.rows):
            raise DataError(
                "the parties' tables have no id in common: look at psi.id_column, and at how ids are written"
            )
        log.info("%d rows are all parties', found in %.1f s", len(alignment.rows), time.monotonic() - began)
        table = self._folder / "rows.csv"
        write_aligned(table, source, ids, alignment, "leader" if self._role == "leader" else "follower", "both")
        self._model.prepare(table, self.rows, self._psi)
        _write_card(self._folder, alignment.digest, len(alignment.rows))
        self._wait_for_others(links)

    def _wait_for_others(self, links: VerticalFederatedCommunicator) -> None:
        """Go on when all have written. Who goes on first begins anew, which says the same to those who still wait."""
        if self._role != "leader":
            links.send_tensors(self._job.names[0], _WRITTEN)
            links.receive(self._job.names[0])
            return
        for name in self._job.names[1:]:
            links.receive(name)
        for name in self._job.names[1:]:
            links.send_tensors(name, _WRITTEN)

    @property
    def _name(self) -> str:
        return self._job.config.name(self._role, self._rank)

    def _table(self) -> tuple[Source, Ids]:
        """The party's table and its ids, read once. Raises DataError, ConfigError when it cannot be trained on."""
        if self._read is None:
            psi, said = self._psi, self._said
            source = open_source(said.input, psi.id_column, said.table or None, said.delimiter)
            needed = self._model.columns(psi.label if self._role == "leader" else "")
            chunks = checked_ids(source.rows(), psi.id_column, needed, source.name, _places(source))
            self._read = source, read_ids(chunks, source.name, psi.duplicates, psi.empty)
        return self._read

    def _expect_untrained(self) -> None:
        """Raises DataError when rows in another order would be of no use."""
        earlier = self._job.earlier_checkpoints(self._role, self._rank)
        folders = [self._job.checkpoints(self._role, self._rank), *([earlier] if earlier else [])]
        if self._job.config.runner.task != "train" or any(next(folder.glob(STEPS), None) for folder in folders):
            raise DataError(
                f"{self._folder}: the aligned rows that {self._name} was trained on are not there, or not whole, and "
                "others would come in another order; begin anew, without the checkpoints"
            )


def play_aligned(aligning: Aligning, links: VerticalFederatedCommunicator, play: Callable[[Path, str], None]) -> None:
    """Align, unless that has been done, and play on the rows.

    play: gets their folder and the alignment's digest, which the parties compare; raises Unaligned when another party
    has no rows.
    """
    while True:
        try:
            digest = aligning.digest()
            if not digest:
                links.agree(aligning.summary(), fits=fits, timeout_s=TIMEOUT_S)  # reading a table takes its time
            elif _has_played(play, aligning.rows, digest):
                return
            aligning.run(links)
        except PartyRestarted as error:
            log.warning("%s", error)


def _has_played(play: Callable[[Path, str], None], rows: Path, digest: str) -> bool:
    try:
        play(rows, digest)
    except Unaligned as news:
        log.warning("%s", news)
        return False
    return True


def _places(source: Source) -> Callable[[int], str]:
    """What a row is called: in a csv by its line, after the header."""
    if isinstance(source, Csv):
        return lambda row: f"{source.name}:{row + 2}"
    return lambda row: f"{source.name}, row {row} (from 0)"


def _write_card(folder: Path, digest: str, rows: int) -> None:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    card = Aligned(digest, rows, {str(path.relative_to(folder)): _sha256(path) for path in files})
    write_whole(folder / "aligned.json", msgspec.json.format(msgspec.json.encode(card), indent=2) + b"\n")


def _whole(folder: Path) -> str:
    """The digest of the alignment in a folder; "" when there is none, or not all of it."""
    try:
        card = msgspec.json.decode((folder / "aligned.json").read_bytes(), type=Aligned)
        wrong = [name for name, digest in card.files.items() if _sha256(folder / name) != digest]
    except FileNotFoundError:
        return ""
    except (OSError, msgspec.MsgspecError) as error:
        wrong = [str(error)]
    if wrong:
        log.warning("%s is not whole: %s", folder, ", ".join(wrong))
        return ""
    return card.digest


def _sha256(path: Path) -> str:
    made = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            made.update(block)
    return made.hexdigest()


def _take_over(earlier: Path, folder: Path) -> None:
    """The rows of an earlier run, linked where the disk can, so that this run's folder has all it needs."""

    def linked(source: str, target: str) -> Any:
        try:
            return os.link(source, target)
        except OSError:
            return shutil.copy2(source, target)

    partial = beside(folder)
    try:
        shutil.rmtree(partial, ignore_errors=True)
        shutil.copytree(earlier, partial, copy_function=linked)
        put_in_place(folder)
    except (OSError, shutil.Error) as error:
        raise DataError(f"the aligned rows in {earlier} cannot be taken over: {error}") from error
