"""Which checkpoint is being written, whose parts of it have come, and when it is complete.

Law 1: at most one checkpoint is being written; it is complete when every role that it asked has written its part, and
given up when one of them cannot.
Law 2: the manifest is written last.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
from collections.abc import Mapping
from pathlib import Path

from flps.checkpoint.record import MANIFEST
from flps.checkpoint.run import (
    Complete,
    complete,
    completed,
    folder_name,
    opening,
    read_complete,
    remove,
    settings_of,
)
from flps.config.job import Job
from flps.errors import ResourceError
from flps.membership import Member
from flps.message import CHECKPOINT, Cut, Wrote
from flps.metrics import EventLog

log = logging.getLogger(__name__)


class Checkpoints:
    """The checkpoints of one run, as its coordinator sees them."""

    def __init__(self, job: Job, events: EventLog, is_first_life: bool = True) -> None:
        """`is_first_life`: of this role; in a later one whatever lies in the folder may be this run's own."""
        self._job = job
        self._events = events
        self._folder = job.checkpoints
        self._pending: Cut | None = None
        self._began = 0.0
        self._missing: set[Member] = set()
        self._files: dict[str, str] = {}
        self.is_replaying = False  # what is told now has happened in an earlier life of this role
        self.newest = ""  # identity of the last one that is complete or was given up
        if is_first_life:
            _forget_later_ones(self._folder, job)

    @property
    def is_writing(self) -> bool:
        """Whether a checkpoint is under way."""
        return self._pending is not None and not self.is_replaying

    def begin(self, epoch: int, step: int, lives: Mapping[Member, int], now: float) -> Cut | None:
        """A new checkpoint of these workers and all servers, or None while another is being written.

        `lives`: each worker's incarnation. When all began anew an epoch comes to the same positions again, and what was
        written there before is of another checkpoint.
        """
        if self._pending is not None and not self.is_replaying:
            log.info("no checkpoint %s: %s is still being written", folder_name(epoch, step), self._name(self._pending))
            return None
        # The same after a restart of this role; another in another run, even of the same command.
        identity = f"{self._job.run_id} {Path(self._job.run_dir).name} {epoch} {step} {sorted(lives.items())}"
        if not self.is_replaying:  # from here on an earlier one of this position is overwritten
            with contextlib.suppress(OSError):
                (self._folder / folder_name(epoch, step) / MANIFEST).unlink(missing_ok=True)
        kept = tuple(path.name for path in completed(self._folder))
        workers = tuple(sorted(member.rank for member in lives))
        self._pending = Cut(hashlib.sha256(identity.encode()).hexdigest()[:16], epoch, step, workers, kept)
        self._began = now
        self._missing = lives.keys() | {*(Member("server", rank) for rank in range(len(self._job.servers)))}
        self._files = {}
        cut = self._pending
        if self.is_replaying and self._is_complete(cut):
            self._pending, self.newest = None, cut.checkpoint
        return cut

    def _is_complete(self, cut: Cut) -> bool:
        """Whether an earlier life of this role has brought that checkpoint to its end."""
        folder = self._folder / self._name(cut)
        return folder in completed(self._folder) and read_complete(folder).checkpoint == cut.checkpoint

    def wrote(self, member: Member, wrote: Wrote, now: float) -> None:
        """A role's part is on its disk, or is not; told again and again."""
        if self._pending is None or wrote.checkpoint != self._pending.checkpoint or member not in self._missing:
            return
        if wrote.failure:
            self._give_up(f"{member} could not write its part: {wrote.failure}")
            return
        self._missing.discard(member)
        self._files[wrote.file] = wrote.sha256
        if not self._missing:
            self._complete(now)

    def lose(self, member: Member) -> None:
        """A role is gone, or began anew; what it was writing will not come."""
        if self._pending is not None and member in self._missing:
            self._give_up(f"{member} is gone")

    def expire(self, now: float) -> None:
        """A checkpoint that takes longer than a barrier may is given up."""
        limit_s = self._job.config.network.barrier_timeout_s
        if self._pending is not None and now > self._began + limit_s:
            waited_for = ", ".join(map(str, sorted(self._missing)))
            self._give_up(f"nothing came from {waited_for} within {limit_s:g} s")

    def _complete(self, now: float) -> None:
        cut, job = self._pending, self._job
        assert cut is not None
        manifest = Complete(
            **opening(cut),
            run=job.run_id,
            workers=job.workers,
            servers=len(job.servers),
            files=dict(sorted(self._files.items())),
            settings=settings_of(job.config),
        )
        try:
            complete(self._folder, manifest, job.config.runner.keep_checkpoint_max)
        except ResourceError as error:
            self._give_up(str(error))
            return
        log.info("checkpoint %s is complete: %s", self._name(cut), self._folder / self._name(cut))
        self._events.write("checkpoint", epoch=cut.epoch, step=cut.step, seconds=now - self._began)
        self._pending, self.newest = None, cut.checkpoint

    def _give_up(self, reason: str) -> None:
        cut = self._pending
        assert cut is not None
        log.warning("checkpoint %s is given up: %s", self._name(cut), reason)
        if not self.is_replaying:
            self._events.write("checkpoint", epoch=cut.epoch, step=cut.step, failure=reason)
        self._pending, self.newest = None, cut.checkpoint

    @staticmethod
    def _name(cut: Cut) -> str:
        return folder_name(cut.epoch, cut.step)


def position_of(barrier: str) -> tuple[int, int] | None:
    """Epoch and step of a barrier called `checkpoint <epoch> <step>`; None for another one."""
    what, *numbers = barrier.split(" ")
    if what != CHECKPOINT or len(numbers) != 2 or not all(n.isdecimal() and len(n) < 12 for n in numbers):
        return None
    return int(numbers[0]), int(numbers[1])


def _forget_later_ones(folder: Path, job: Job) -> None:
    """A run that goes on from an older checkpoint of its own folder makes the later ones anew."""
    if not job.resume_from or Path(job.resume_from).parent != folder:
        return
    later = completed(folder)
    names = [path.name for path in later]
    for path in later[names.index(Path(job.resume_from).name) + 1 :] if Path(job.resume_from).name in names else ():
        log.warning("%s is removed: this run goes on from %s", path, job.resume_from)
        remove(path)
