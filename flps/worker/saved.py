"""Saved models of runs, found.

Which models are meant
    a run's folder (log/run-...)     the models at its configuration's `model_save_path`
    a folder of saved models         each <epoch>/ in it that is complete
    one saved model (.../<epoch>)    that one
Its job and configuration are those of the run folder it lies in (job.json), unless a yaml is given.
A folder without a manifest is no saved model.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import msgspec

from flps.checkpoint import MANIFEST, epochs, read_manifest
from flps.config.job import Job
from flps.config.types import Config
from flps.errors import DataError
from flps.worker.samples import Samples

JOB = "job.json"


class Found(NamedTuple):
    """Saved models of one job: epochs done -> folder, ascending, and the run's own job when they lie in a run."""

    models: dict[int, Path]
    job: Job | None
    run_dir: Path | None

    @property
    def workers(self) -> int:
        """Workers of the job that saved them."""
        manifest = read_manifest(next(iter(self.models.values())))
        return manifest.workers or max(manifest.clients, default=0) + 1


def find(folder: Path) -> Found:
    """What is saved in a run's folder, in a folder of saved models, or in the folder of one. Raises DataError."""
    folder = folder.expanduser().absolute()
    if not folder.is_dir():
        raise DataError(f"{folder}: there is no such folder")
    run_dir = next((path for path in (folder, *folder.parents) if (path / JOB).is_file()), None)
    job = _read_job(run_dir / JOB) if run_dir else None
    if (folder / MANIFEST).is_file():
        return Found({read_manifest(folder).epoch: folder}, job, run_dir)
    place = folder / job.config.runner.model_save_path if job and folder == run_dir else folder
    models = {epoch: place / str(epoch) for epoch in epochs(place)}
    if not models:
        what = "no complete saved model" if job else "neither a run's folder (job.json) nor a folder of saved models"
        raise DataError(f"{place}: {what}; give log/run-<time> of a run that has saved, or one of its saved epochs")
    return Found(models, job, run_dir)


def find_for(config: Config, config_dir: Path, run_dir: Path | None, log_dir: Path) -> Found:
    """The saved models that a yaml means by `infer_load_path`, or by `model_save_path` when it is left out.

    An absolute path is taken as it is; a relative one is looked for in the run folder given, else in the newest run
    of `log_dir` and then beside the yaml. Raises DataError that names the places.
    """
    path = Path(config.runner.infer_load_path or config.runner.model_save_path)
    newest = newest_run(log_dir)
    places = [run_dir / path] if run_dir else [*([newest / path] if newest else []), config_dir / path]
    for place in places:
        if place.is_dir() and ((place / MANIFEST).is_file() or epochs(place)):
            return find(place)
    looked = ", nor in ".join(str(place) for place in dict.fromkeys(places))
    raise DataError(f"infer_load_path {path}: no complete saved model in {looked}")


def newest_run(log_dir: Path) -> Path | None:
    """The folder of the newest run: where the links of the log folder point, else the last name."""
    for link in sorted(log_dir.glob("*log.*")):
        if link.is_symlink() and (link.resolve().parent / JOB).is_file():
            return link.resolve().parent
    runs = sorted(path.parent for path in log_dir.glob(f"run-*/{JOB}"))
    return runs[-1] if runs else None


def chosen(found: Found, config: Config) -> dict[int, Path]:
    """The models with infer_start_epoch <= epoch < infer_end_epoch. Raises DataError when there are none."""
    first, end = config.runner.infer_start_epoch, config.runner.infer_end_epoch
    models = {n: path for n, path in found.models.items() if first <= n and (end is None or n < end)}
    if not models:
        until = "" if end is None else f" and below infer_end_epoch {end}"
        there = ", ".join(map(str, found.models))
        raise DataError(f"no saved epoch from infer_start_epoch {first} on{until}; there are {there}")
    return models


def of_run(found: Found) -> Samples:
    """The samples of the run that the models lie in. Raises DataError when they lie in none."""
    if found.job is None or found.run_dir is None:
        place = next(iter(found.models.values()))
        raise DataError(f"{place} lies in no run folder (job.json); name its yaml with -m")
    job = found.job
    return Samples(job.config, Path(job.config_dir), found.run_dir / "config.yaml", job.workers)


def of_yaml(found: Found, config: Config, path: Path) -> Samples:
    """The samples that a yaml describes, for as many clients as the models are of."""
    return Samples(config, path.absolute().parent, path.absolute(), found.workers)


def _read_job(path: Path) -> Job:
    try:
        return msgspec.json.decode(path.read_bytes(), type=Job)
    except (OSError, msgspec.MsgspecError) as error:
        raise DataError(f"cannot read {path}: {error}") from error
