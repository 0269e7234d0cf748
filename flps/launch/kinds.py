"""What differs between the kinds of jobs: how one is read, laid out, made ready and summed up.

A kind is chosen by the yaml's `job:`; everything else that `flrun` does is the same for all of them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import msgspec
from rich.table import Table

from flps.config import Config, SplitConfig, kind_of, load, load_split
from flps.config.job import Job
from flps.config.split_job import SCORES, SplitJob
from flps.errors import ConfigError
from flps.launch import prepare, prepare_parties, resume, resume_parties
from flps.launch.arguments import Arguments, with_environment
from flps.launch.board import Board
from flps.launch.federation import make_plan
from flps.launch.kind import expect_flags_of
from flps.launch.live import result_table, split_result_table
from flps.launch.parties import make_split_plan
from flps.launch.plan import Plan, Surroundings
from flps.launch.spawn import PARTY_TARGET, ROLE_TARGET
from flps.models.catalog import SPLIT, schemas


class Kind(Protocol):
    """A kind of job."""

    target: str  # what a role runs

    def with_environment(
        self, arguments: Arguments, environment: Mapping[str, str]
    ) -> tuple[Arguments, tuple[str, ...]]:
        """The arguments with what the environment says, and the notes about them."""

    def plan(self, arguments: Arguments, around: Surroundings) -> tuple[Plan[Any], str]:
        """The plan, and why nothing is left to do; "" when there is. Raises ConfigError for what is wrong."""

    def completed(self, plan: Plan[Any], environment: Mapping[str, str]) -> Plan[Any]:
        """The plan with real folders in the place of generated rows, which are made when they are not there."""

    def result(self, plan: Plan[Any], board: Board, wall_s: float) -> Table:
        """What came out of a run that ended well."""


class Federation:
    """Workers with rows of the same kind, servers, and perhaps a coordinator."""

    target = ROLE_TARGET

    def with_environment(
        self, arguments: Arguments, environment: Mapping[str, str]
    ) -> tuple[Arguments, tuple[str, ...]]:
        return with_environment(arguments, environment)

    def plan(self, arguments: Arguments, around: Surroundings) -> tuple[Plan[Job], str]:
        config = load(arguments.config_yaml, _overrides(arguments), schemas())
        plan = make_plan(prepare.trainer_script(arguments), config, around)
        if arguments.resume is None:
            resume.expect_no_earlier_run(plan.job)
            return plan, ""
        start = resume.find(arguments.resume, Path(plan.job.run_dir).parent, plan.local, plan.job)
        job = msgspec.structs.replace(plan.job, resume_from=str(start.folder), checkpoint=start.checkpoint)
        plan = dataclasses.replace(plan, job=job, notes=(*plan.notes, f"goes on from {start}"))
        if start.is_end(config.runner.epochs):
            raise_them = f"to go on, raise its epochs: -o runner.epochs={start.epoch + 1}"
            return plan, f"this run is done: {start}; {raise_them}"
        if not arguments.dry_run:
            resume.tidy(start)
        return plan, ""

    def completed(self, plan: Plan[Job], environment: Mapping[str, str]) -> Plan[Job]:
        config = prepare.with_embedded(plan.job.config, plan.job.workers, environment, say=print)
        config = prepare.with_embedded_pairs(config, environment, say=print)
        return dataclasses.replace(plan, job=msgspec.structs.replace(plan.job, config=config))

    def result(self, plan: Plan[Job], board: Board, wall_s: float) -> Table:
        config, run_dir = plan.job.config, Path(plan.job.run_dir)
        places = {"model": str(run_dir / config.runner.model_save_path), "logs": str(run_dir)}
        if plan.job.pairs:
            return split_result_table(board, wall_s=wall_s, places=places)
        unranked = why_unranked(config, board)
        return result_table(board, k=config.evaluation.k, wall_s=wall_s, places=places, unranked=unranked)


class Split:
    """A leader and followers with columns of the same rows."""

    target = PARTY_TARGET

    def with_environment(
        self, arguments: Arguments, environment: Mapping[str, str]
    ) -> tuple[Arguments, tuple[str, ...]]:
        unused = sorted(name for name in environment if name.startswith("PADDLE_") or name == "TRAINING_ROLE")
        note = f"{', '.join(unused)} of the environment are of federations and not used"
        return arguments, (*arguments.notes, *[note] * bool(unused))

    def plan(self, arguments: Arguments, around: Surroundings) -> tuple[Plan[SplitJob], str]:
        config = load_split(arguments.config_yaml, _overrides(arguments), arguments.settings, SPLIT)
        plan = make_split_plan(arguments, config, around)
        plan = prepare_parties.with_files(dataclasses.replace(plan, notes=(*plan.notes, *_inert(config, arguments))))
        said = "" if arguments.resume is None and config.hyper_parameters.get("resume") else arguments.resume
        if said is None or config.runner.task != "train":
            resume_parties.expect_no_earlier_run(plan.local, plan.job)
            return plan, ""
        folder = resume_parties.find(said, Path(plan.job.run_dir).parent, plan.local, plan.job)
        job = msgspec.structs.replace(plan.job, resume_from=str(folder))
        return dataclasses.replace(plan, job=job, notes=(*plan.notes, f"goes on from {folder}")), ""

    def completed(self, plan: Plan[SplitJob], environment: Mapping[str, str]) -> Plan[SplitJob]:
        return prepare_parties.with_embedded_rows(plan, environment, say=print)

    def result(self, plan: Plan[SplitJob], board: Board, wall_s: float) -> Table:
        run_dir = Path(plan.job.run_dir)
        runner = plan.job.config.runner
        made = {
            "train": {"models": str(run_dir / runner.model_save_path)},
            "predict": {"scores": str(run_dir / SCORES)},
        }
        places = {**made.get(runner.task, {}), "logs": str(run_dir)}
        return split_result_table(board, wall_s=wall_s, places=places)


KINDS: Mapping[str, Kind] = {"federation": Federation(), "split": Split()}


def kind_asked(arguments: Arguments) -> Kind:
    """The kind of the job that the command line names.

    Raises ConfigError when there is no such file, and for flags of another kind of job.
    """
    if not Path(arguments.config_yaml).is_file():
        raise ConfigError(f"-m {arguments.config_yaml}: there is no such file")
    kind = kind_of(arguments.config_yaml, arguments.overrides)
    if kind not in KINDS:  # a word that is no kind is refused with the rest of the file
        kind = "federation"
    expect_flags_of(kind, {field.name: getattr(arguments, field.name) for field in dataclasses.fields(arguments)})
    return KINDS[kind]


def why_unranked(config: Config, board: Board) -> str:
    """Why there is no HR and NDCG; empty when there is."""
    if board.evaluation.get("users"):
        return ""
    if not config.runner.test_data_dir:
        return "not measured: runner.test_data_dir is not given"
    return "not measured: the files of runner.test_data_dir hold no test users" if board.evaluation else ""


def _overrides(arguments: Arguments) -> list[str]:
    overrides = list(arguments.overrides)
    if arguments.seed is not None:
        overrides.append(f"seed={arguments.seed}")
    if arguments.pure_bf16:
        overrides.append("runner.pure_bf16=true")
    for task in ("evaluate", "predict"):
        folder = getattr(arguments, task)
        if folder is not None:
            overrides += [f"runner.task={task}", f"runner.trained_models={folder}"]
    return overrides


def _inert(config: SplitConfig, arguments: Arguments) -> list[str]:
    """Notes about keys of the original that were set and change nothing here."""
    if config.model not in SPLIT:
        return []
    from flps.models.wide_deep.options import FULL, network_config

    values = network_config(config.hyper_parameters)
    notes = []
    if inert := values.without_effect():
        notes.append(f"hyper_parameters: {', '.join(inert)}: without effect, of the original's machinery")
    if values.ckpt_path != FULL.ckpt_path:
        notes.append("hyper_parameters: ckpt_path has no effect in a job: checkpoints go to runner.checkpoint_path")
    if arguments.role is None and any(said.startswith("remote_server_address=") for said in arguments.settings):
        notes.append("--remote_server_address has no effect: it is for a party that starts alone, by --role")
    return notes
