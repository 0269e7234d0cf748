"""`flrun --resume`: which checkpoint a run goes on from, and whether it may.

Where it is looked for
    --resume                the newest complete checkpoint of the newest run in the log folder, or of the run that this
                            one went on from when it came to none of its own
    --resume=log/run-...    the newest complete checkpoint of that run
    --resume=.../3-200      that one, after three epochs and 200 steps

Law: what does not fit is refused here, before a role starts, with everything that differs. A host without the
manifest, which lies with the coordinator, looks at the parts of its own roles; that all hosts go on from the same
checkpoint is checked by the coordinator when they say hello.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from flps.checkpoint.record import MANIFEST
from flps.checkpoint.run import (
    Complete,
    completed,
    differences,
    is_position,
    part_name,
    positions,
    read_complete,
    read_part,
    remove,
    settings_of,
)
from flps.config.job import Job
from flps.errors import ConfigError, DataError
from flps.launch.plan import Role

JOB = "job.json"


class Start(NamedTuple):
    """The checkpoint that a run goes on from."""

    folder: Path
    checkpoint: str  # its identity
    epoch: int
    step: int  # steps of that epoch that are done

    def __str__(self) -> str:
        return f"{self.folder}, after {self.epoch} epochs and {self.step} steps"

    def is_end(self, epochs: int) -> bool:
        """Whether a run of so many epochs has nothing left to do."""
        return self.epoch >= epochs


def find(said: str, log_dir: Path, local: Sequence[Role], job: Job) -> Start:
    """The checkpoint that `--resume` means, once it is sure that the job may go on from it.

    said: a run's folder, a folder of checkpoints, one checkpoint, or "" for the newest. local: roles of this host.
    Raises ConfigError when there is none, and when it does not fit the job.
    """
    # Where the manifests are written, a checkpoint without one is none; elsewhere its parts must do.
    writer = ("coordinator" if job.coordinators else "server", 0)
    writes_here = any((role.role, role.rank) == writer for role in local)
    files = [] if writes_here else [part_name(*_part_of(role, job)) for role in local]
    folder = _newest_run(log_dir, files) if not said else _named(Path(said).expanduser().absolute(), files)
    if (folder / MANIFEST).is_file():
        manifest = read_complete(folder)
        _expect_fitting(folder, manifest, job)
        _expect_parts(folder, manifest, local, job)
        return Start(folder, manifest.checkpoint, manifest.epoch, manifest.step)
    parts = [read_part(folder, file) for file in files]
    if not parts:
        raise DataError(
            f"{folder} is no complete checkpoint: it has no {MANIFEST} (the run may have ended meanwhile); "
            "name another one, or the run's folder"
        )
    for part in parts[1:]:
        read_part(folder, part.file, parts[0].checkpoint)
    return Start(folder, parts[0].checkpoint, parts[0].epoch, parts[0].step)


def tidy(start: Start) -> None:
    """Remove what the run before was still writing when it ended."""
    if (start.folder / MANIFEST).is_file():
        for path in positions(start.folder.parent):
            if not (path / MANIFEST).is_file():
                remove(path)


def expect_no_earlier_run(job: Job) -> None:
    """Raises ConfigError when a new run would write among the checkpoints of an earlier one."""
    runner = job.config.runner
    earlier = completed(job.checkpoints) if runner.save_checkpoint_interval else []
    if earlier and not job.resume_from:
        raise ConfigError(
            f"runner.checkpoint_path: {job.checkpoints} holds checkpoints of an earlier run, up to {earlier[-1].name}; "
            f"go on from them by --resume={job.checkpoints}, or name another folder"
        )


# --- finding ---------------------------------------------------------------------------------------------------------


def _newest_run(log_dir: Path, files: Sequence[str]) -> Path:
    runs = sorted(log_dir.glob(f"run-*/{JOB}"), key=lambda path: path.stat().st_mtime_ns)
    if not runs:
        raise DataError(f"--resume: there is no run in {log_dir}; name its folder by --resume=FOLDER, or see --log_dir")
    return _of_run(runs[-1].parent, files)


def _of_run(run_dir: Path, files: Sequence[str]) -> Path:
    """The newest checkpoint of a run, or the one that it went on from itself."""
    try:
        job = msgspec.json.decode((run_dir / JOB).read_bytes(), type=Job)
    except (OSError, msgspec.MsgspecError) as error:
        raise DataError(f"cannot read {run_dir / JOB}: {error}") from error
    place = run_dir / job.config.runner.checkpoint_path
    found = _newest(place, files)
    if found is not None:
        return found
    if job.resume_from and Path(job.resume_from).is_dir():
        return Path(job.resume_from)
    every = job.config.runner.save_checkpoint_interval
    hint = f"its first one was due after {every} steps" if every else "runner.save_checkpoint_interval was 0"
    raise DataError(f"--resume: the run {run_dir} has no complete checkpoint in {place}: {hint}")


def _named(folder: Path, files: Sequence[str]) -> Path:
    if (folder / JOB).is_file():
        return _of_run(folder, files)
    if is_position(folder) and folder.is_dir():
        return folder
    found = _newest(folder, files)
    if found is None:
        what = f"neither a run's folder ({JOB}), nor one complete checkpoint, nor a folder of them"
        if not folder.is_dir():
            what = "there is no such folder"
        elif (folder / MANIFEST).is_file():
            what += "; a checkpoint keeps its name (3-200), and to start from a saved model is runner.warmup_model_path"
        raise DataError(f"--resume={folder}: {what}")
    return found


def _newest(place: Path, files: Sequence[str]) -> Path | None:
    """The newest complete checkpoint; where manifests lie elsewhere, the newest one with all of these parts."""
    whole = completed(place)
    if whole:
        return whole[-1]
    own = [path for path in positions(place) if files and all((path / f"{file}.json").is_file() for file in files)]
    return own[-1] if own else None


# --- checking --------------------------------------------------------------------------------------------------------


def _part_of(role: Role, job: Job) -> tuple[str, int, int]:
    if role.is_worker:
        return ("private", job.seat(role.role, role.rank), job.workers)
    return ("shared", role.rank, len(job.servers))


def _expect_fitting(folder: Path, manifest: Complete, job: Job) -> None:
    wrong = differences(manifest.settings, settings_of(job.config))
    if manifest.workers != job.workers:
        wrong.insert(0, f"there were {manifest.workers} workers, now there are {job.workers}")
    if wrong:
        raise ConfigError(f"this job cannot go on from {folder}: " + "; ".join(wrong))


def _expect_parts(folder: Path, manifest: Complete, local: Sequence[Role], job: Job) -> None:
    """Every part that a role of this host will read lies there, and is of this checkpoint."""
    wanted = []
    for role in local:
        if role.is_worker:
            wanted += [name for name in [part_name(*_part_of(role, job))] if name in manifest.files]
        elif role.role == "server":
            own = part_name(*_part_of(role, job))
            wanted += [own] if own in manifest.files else [n for n in manifest.files if n.startswith("shared-")]
    for name in dict.fromkeys(wanted):
        part = read_part(folder, name, manifest.checkpoint)
        if part.sha256 != manifest.files[name]:
            raise DataError(f"{folder / name}.json names another sha256 than {folder / MANIFEST}: take another copy")
