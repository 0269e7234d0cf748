"""What a worker remembers at a checkpoint, written while it trains on, and taken up by the worker that goes on.

In its file: private tables, the copies that are trained here in geo, the counts of the epoch so far, and the state of
torch's random numbers. What the servers hold is theirs to write; the order of the samples and the negatives are drawn
from (seed, client, epoch), so that a position says it all.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import msgspec
import numpy as np
import torch

from flps.checkpoint.run import OwnParts, completed, part_name, positions, read_complete, read_part, state_of
from flps.config.job import Job
from flps.errors import DataError
from flps.message import Cut, Wrote
from flps.metrics import AucHistogram
from flps.table import TableSpec
from flps.table.files import TensorFile
from flps.table.snapshot import Content, Snapshot
from flps.worker.homes import Home, LocalHome
from flps.worker.train import Totals

log = logging.getLogger(__name__)
_SLICE_S = 0.001  # a training step is held up no longer than this for a checkpoint
_COUNTS, _TORCH = "totals", "torch"


class Standing(msgspec.Struct, frozen=True):
    """Where a worker is: before step `step` of an epoch, or at its end."""

    epoch: int
    step: int
    is_trained: bool  # nothing of the epoch is left to train; its end has been told to the servers
    totals: Totals


class WorkerState(msgspec.Struct, frozen=True):
    """What a worker's part holds beside tensors."""

    epoch: int
    step: int
    is_trained: bool
    samples: int
    loss: float
    reported: tuple[int, float]
    epoch_samples: int  # of this client, to recognise its data by
    users: int


class Memory:
    """One worker's parts of checkpoints."""

    def __init__(self, job: Job, rank: int, tell: Callable[[Wrote], None]) -> None:
        """`tell`: brings news of a part to the coordinator."""
        self._job = job
        self._file = part_name("private", rank, job.workers)
        self._own = OwnParts(job.checkpoints, self._file, tell)
        self._snapshot: Snapshot | None = None
        self.last_cut = ""

    def write(
        self, cut: Cut, standing: Standing, homes: Iterable[Home], specs: Sequence[TableSpec], samples: tuple[int, int]
    ) -> None:
        """Begin to write what the homes remember now; `advance` goes on with it. `samples`: of an epoch, and users."""
        self.finish()
        self.last_cut = cut.checkpoint
        totals = standing.totals
        totals.settle()
        state = WorkerState(
            standing.epoch, standing.step, standing.is_trained, totals.samples, totals.loss, totals.reported, *samples
        )
        content = Content(
            {}, {_COUNTS: {"auc": np.array(totals.auc.counts)}, _TORCH: {"rng": torch.get_rng_state().numpy().copy()}}
        )
        for home in homes:
            content = content.joined(home.content())
        self._own.write(cut, specs, state, lambda path, done: self._begin(Snapshot(path, content, done)))

    def advance(self) -> None:
        """Between two steps: go on with what is being written."""
        if self._snapshot is not None and self._snapshot.is_copying:
            self._snapshot.advance(_SLICE_S)

    def finish(self) -> None:
        """Copy all that is left."""
        if self._snapshot is not None:
            self._snapshot.finish()

    def take_up(self, homes: Iterable[Home], specs: Sequence[TableSpec], samples: tuple[int, int]) -> Standing | None:
        """Fill the homes from the checkpoint that the job goes on from; where the worker stood then.

        None when it had been lost by then: it has no part in it. Raises DataError.
        """
        folder = Path(self._job.resume_from)
        if self._was_lost(folder):
            return None
        part = read_part(folder, self._file, self._job.checkpoint)
        path = folder / self._file
        _expect_tables(path, part.tables, specs)
        state: WorkerState = state_of(folder, part, WorkerState)
        if (state.epoch_samples, state.users) != samples:
            raise DataError(
                f"{path} was written by a client with {state.epoch_samples} samples of {state.users} users an epoch, "
                f"here are {samples[0]} of {samples[1]}: go on with the same runner.train_data_dir"
            )
        file = TensorFile(path, part.sha256)
        for home in homes:
            home.take_up(file)
        torch.set_rng_state(torch.from_numpy(file.read(_TORCH, "rng")))
        totals = Totals(state.samples, state.loss, AucHistogram.from_counts(file.read(_COUNTS, "auc")), state.reported)
        return Standing(state.epoch, state.step, state.is_trained, totals)

    def restore_private(self, local: LocalHome, specs: Sequence[TableSpec]) -> bool:
        """Fill the private tables from this worker's newest own part; False when there is none that fits.

        For a worker that has begun anew alone: what it trained since then is gone.
        """
        folders = [*reversed(positions(self._job.checkpoints))]
        folders += [Path(self._job.resume_from)] if self._job.resume_from else []
        for folder in folders:
            try:
                part = read_part(folder, self._file)
                _expect_tables(folder / self._file, part.tables, specs)
                local.take_up(TensorFile(folder / self._file, part.sha256))
            except DataError as error:
                log.warning("not from %s: %s", folder, error)
            else:
                log.info("private tables are those of %s", folder)
                return True
        return False

    def _begin(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot

    def _was_lost(self, folder: Path) -> bool:
        """Whether the checkpoint is complete without a part of this worker."""
        if (folder / self._file).is_file() or folder not in completed(folder.parent):
            return False
        return self._file not in read_complete(folder).files


def _expect_tables(path: Path, saved: Sequence[TableSpec], now: Sequence[TableSpec]) -> None:
    """Raises DataError, naming what differs, unless the tables are the same."""
    if list(saved) == list(now):
        return
    there, here = ({spec.name: spec for spec in specs} for specs in (saved, now))
    for name in [*there, *here]:
        if there.get(name) != here.get(name):
            raise DataError(f"{path}: table {name} was {_in_words(there.get(name))}, is {_in_words(here.get(name))}")


def _in_words(spec: TableSpec | None) -> str:
    if spec is None:
        return "not there"
    return msgspec.json.encode(spec).decode()
