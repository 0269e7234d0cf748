"""Who runs where: the roles of a job, which of them start here, and what each of them is told.

federation.py and parties.py lay out the two kinds of jobs; what a plan is, and how it is shown, stands here.

Law: nothing here opens a file, a socket or a clock; what must be looked up comes in `Surroundings`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeAlias, TypeVar

from flps.config.job import Job
from flps.config.split_job import SplitJob
from flps.launch.hosts import Endpoint, parse_endpoint

AnyJob: TypeAlias = Job | SplitJob
WORKERS = ("worker", "heter_worker")
OneJob = TypeVar("OneJob", bound=AnyJob, covariant=True)


@dataclass(frozen=True)
class Surroundings:
    """What a plan must know of the world around it."""

    config_path: Path  # absolute
    run_dir: Path  # absolute; where the run's folder is to be made
    private_dir: Path  # absolute; where sockets, and keys of this run only, are to be put
    key_dir: Path  # absolute; keys made by `flps keys make`
    token: str  # random hex
    is_mine: Callable[[str], bool]  # whether a host of the lists is this machine


@dataclass(frozen=True)
class Role:
    """One role of the job: what it is, where it runs, where it is reached ("" where it binds nothing)."""

    role: str
    rank: int
    host: str
    endpoint: str = ""

    @property
    def name(self) -> str:
        """`worker.3`, as it stands in logs and tables."""
        return f"{self.role}.{self.rank}"

    @property
    def is_worker(self) -> bool:
        """Whether it trains for a federation."""
        return self.role in WORKERS


@dataclass(frozen=True)
class Plan(Generic[OneJob]):
    """What is going to be started."""

    job: OneJob
    roles: tuple[Role, ...]
    local: tuple[Role, ...]  # those that this launcher starts
    binds: tuple[Endpoint, ...] = ()  # TCP endpoints that local roles bind
    private_dir: Path | None = None  # for sockets and keys of this run; None when neither is needed
    makes_keys: bool = False  # keys are made for this run only
    notes: tuple[str, ...] = ()

    @property
    def whole_job(self) -> bool:
        """Whether every role starts here."""
        return len(self.local) == len(self.roles)


def tcp_endpoints(local: tuple[Role, ...]) -> tuple[Endpoint, ...]:
    """TCP endpoints that must be free here."""
    parts = [(role, *role.endpoint.partition("://")[::2]) for role in local]
    return tuple(
        parse_endpoint(address, flag=role.role, port_needed=True)
        for role, scheme, address in parts
        if scheme in ("tcp", "tls")
    )


def describe(plan: Plan[AnyJob]) -> str:
    """The plan as text, for --dry_run."""
    job = plan.job
    lines = [
        f"job       {_kind(job)}",
        f"run id    {job.run_id}",
        f"run dir   {job.run_dir}",
        f"data      {job.config.data if isinstance(job, SplitJob) else job.config.runner.train_data_dir}",
        f"security  {job.security}" + (f", keys in {job.key_dir}" if job.key_dir else ""),
    ]
    if job.resume_from:
        lines.append(f"goes on   from {job.resume_from}")
    if isinstance(job, Job) and job.trainer:
        lines.append(f"trainer   {job.trainer}")
    if job.faults:
        lines.append(f"faults    {job.faults}")
    lines.append(f"roles     {len(plan.roles)}, of which {len(plan.local)} start here")
    for role in plan.roles:
        starts = "starts here" if role in plan.local else "elsewhere"
        lines.append(f"  {role.name:<14} {role.host:<15} {starts:<12} {role.endpoint or 'binds nothing'}")
    if isinstance(job, SplitJob):
        lines += [line for role in plan.local for line in _share(job, role)]
    return "\n".join(lines + [f"note      {note}" for note in plan.notes])


def _kind(job: AnyJob) -> str:
    """The first line about a job."""
    config = job.config
    if isinstance(job, SplitJob):
        return f"split, model {config.model}, parties {', '.join(job.names)}"
    return f"{config.job}, model {config.model}, mode {job.config.runner.sync_mode}"


def _share(job: SplitJob, role: Role) -> list[str]:
    """What a party of a split job has."""
    party = job.party(role.role, role.rank)
    name = job.config.name(role.role, role.rank)
    lines = [f"net       {net} of {name}" for net in party.nets]
    return lines + [f"rows      {party.data} of {name}"] * bool(party.data)
