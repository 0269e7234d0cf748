"""`flrun --resume` of a split job: the folder of checkpoints that its parties go on from, and whether they may.

Where it is looked for
    --resume                   the newest run in the log folder, or the one that it went on from when it has no
                               checkpoint of its own
    --resume=log/run-...       that run
    --resume=.../checkpoint    a folder of checkpoints, with a folder for each party

Law: here a folder is chosen in which each party of this host has a checkpoint; from which step they go on the parties
agree among themselves, since each has its own on its own host.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from flps.config.split import SplitConfig
from flps.config.split_job import SplitJob, read_job
from flps.errors import ConfigError, DataError
from flps.launch.plan import Role
from flps.launch.resume import JOB

STEPS = "*_step_*.json"
# Of the hyper_parameters those that may change when a run goes on: how long, where things lie, how parties meet.
FREE = (
    *("epochs", "data_path", "device_target", "ckpt_path", "resume", "pre_trained_follower", "pre_trained_leader"),
    *("http_server_address", "remote_server_address", "enable_ssl"),
    *("server_cert_path", "client_cert_path", "ca_cert_path"),
)


def find(said: str, log_dir: Path, local: Sequence[Role], job: SplitJob) -> Path:
    """The folder of checkpoints that `--resume` means, once it is sure that the job may go on from it.

    said: a run's folder, a folder of checkpoints, or "" for the newest run. local: parties of this host.
    Raises ConfigError when there is none, and when it does not fit the job.
    """
    if said:
        place = Path(said).expanduser().absolute()
        folder = _of_run(place, local, job) if (place / JOB).is_file() else place
    else:
        folder = _of_run(_newest_run(log_dir), local, job)
    missing = _without_checkpoint(folder, local, job.config)
    if missing:
        raise DataError(f"--resume={folder}: there is no checkpoint of {', '.join(missing)} in it")
    _expect_fitting(folder, job)
    return folder


def expect_no_earlier_run(local: Sequence[Role], job: SplitJob) -> None:
    """Raises ConfigError when a new run would write among the checkpoints of an earlier one."""
    runner = job.config.runner
    if runner.task == "train" and runner.save_checkpoint_interval and not job.resume_from:
        for role in local:
            folder = job.checkpoints(role.role, role.rank)
            if any(folder.glob(STEPS)):
                raise ConfigError(
                    f"runner.checkpoint_path: {folder} holds checkpoints of an earlier run; go on from them by "
                    f"--resume={folder.parent}, or name another folder"
                )


def _newest_run(log_dir: Path) -> Path:
    runs = sorted(log_dir.glob(f"run-*/{JOB}"), key=lambda path: path.stat().st_mtime_ns)
    if not runs:
        raise DataError(f"--resume: there is no run in {log_dir}; name its folder by --resume=FOLDER, or see --log_dir")
    return runs[-1].parent


def _of_run(run_dir: Path, local: Sequence[Role], job: SplitJob) -> Path:
    """A run's folder of checkpoints, or the one that it went on from itself."""
    earlier = _job_of(run_dir)
    place = run_dir / earlier.config.runner.checkpoint_path
    if not _without_checkpoint(place, local, job.config):
        return place
    if earlier.resume_from and Path(earlier.resume_from).is_dir():
        return Path(earlier.resume_from)
    every = earlier.config.runner.save_checkpoint_interval
    hint = f"its first one was due after {every} steps" if every else "runner.save_checkpoint_interval was 0"
    raise DataError(f"--resume: the run {run_dir} has no checkpoint in {place}: {hint}")


def _job_of(run_dir: Path) -> SplitJob:
    try:
        job = read_job((run_dir / JOB).read_bytes())
    except (OSError, msgspec.MsgspecError) as error:
        raise DataError(f"cannot read {run_dir / JOB}: {error}") from error
    if not isinstance(job, SplitJob):
        raise ConfigError(f"--resume: {run_dir} is a run of a federation, this job is a split one")
    return job


def _without_checkpoint(folder: Path, local: Sequence[Role], config: SplitConfig) -> list[str]:
    """The parties of this host that have no checkpoint in a folder."""
    names = [config.name(role.role, role.rank) for role in local]
    return [name for name in names if not any((folder / name).glob(STEPS))]


def _expect_fitting(folder: Path, job: SplitJob) -> None:
    """Refuse a run whose settings were others, where its folder tells them."""
    if not (folder.parent / JOB).is_file():
        return
    earlier, now = _settings(_job_of(folder.parent).config), _settings(job.config)
    wrong = [
        f"{key} was {earlier.get(key)!r}, now it is {now.get(key)!r}"
        for key in sorted({*earlier, *now})
        if earlier.get(key) != now.get(key)
    ]
    if wrong:
        raise ConfigError(f"this job cannot go on from {folder}: " + "; ".join(wrong))


def _settings(config: SplitConfig) -> dict[str, Any]:
    """What may not change when a run goes on, by dotted key. The nets' yaml files are compared by the parties."""
    said: dict[str, Any] = {"model": config.model, "seed": config.chance}
    aligned = msgspec.to_builtins(config.psi) or {}
    said |= {f"psi.{key}": value for key, value in aligned.items() if key != "cores"}
    said["parties.leader.columns"] = config.parties.leader.columns
    for rank, follower in enumerate(config.parties.followers):
        said |= {f"parties.followers[{rank}].{key}": getattr(follower, key) for key in ("name", "columns")}
    kept = {key: value for key, value in config.hyper_parameters.items() if key not in FREE and "yaml_path" not in key}
    return said | {f"hyper_parameters.{key}": value for key, value in kept.items()}
