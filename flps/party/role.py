"""A process becomes a party of a split job and plays it to the end."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from flps.config.split import Follower, Leader, column_numbers
from flps.config.split_job import SplitJob
from flps.data.criteo_parties import Party as Columns
from flps.metrics import EventLog
from flps.models.wide_deep.parties import PartyOfWideDeep
from flps.party.loop import Party, Progress, Settings
from flps.split.communicator import VerticalFederatedCommunicator
from flps.split.parties import ServerConfig

log = logging.getLogger(__name__)


def run_party(job: SplitJob, role: str, rank: int, incarnation: int = 1) -> None:
    """Train one party's nets until the job is over. Raises FlpsError when it does not end in good order.

    incarnation: 1 for the first life of that party; in a later one all parties go back to their newest checkpoint.
    """
    torch.set_num_threads(job.config.runner.thread_num)
    events = EventLog(str(Path(job.run_dir) / "metrics.jsonl"), role, rank)
    try:
        Story(job, role, rank, events).tell_ready()
        play(job, role, rank, incarnation, events)
        events.write("end", result="done")
    finally:
        events.close()


def play(job: SplitJob, role: str, rank: int, incarnation: int, events: EventLog) -> None:
    """Open rows and links, and run the loop."""
    config, said = job.config, job.party(role, rank)
    number = 0 if role == "leader" else 1 + rank
    brings = PartyOfWideDeep(config.hyper_parameters, number, len(job.names), division(job), config.chance)
    train, evaluation = brings.rows(said.data or config.data or brings.config.data_path)
    models = brings.nets(said.nets)
    story = Story(job, role, rank, events)
    settings = Settings(
        epochs=brings.config.epochs,
        print_interval=config.runner.print_interval,
        save_checkpoint_interval=config.runner.save_checkpoint_interval,
        keep_checkpoint_max=config.runner.keep_checkpoint_max,
        checkpoint_path=job.checkpoints(role, rank) if config.runner.save_checkpoint_interval else None,
    )
    own, *others = [ServerConfig(name, job.leader) for name in seated(job, role, rank)]
    with VerticalFederatedCommunicator(
        own,
        others if role == "leader" else others[:1],
        role="leader" if role == "leader" else "follower",
        rank=None if role == "leader" else rank,
        network=config.network,
        terms=job.terms,
        incarnation=incarnation,
    ) as links:
        Party(own.server_name, models, links, train, evaluation, settings, story.progress, story.measured).run()


def seated(job: SplitJob, role: str, rank: int) -> list[str]:
    """This party's name, then the others': the leader's first."""
    own = job.config.name(role, rank)
    return [own, *(name for name in job.names if name != own)]


def division(job: SplitJob) -> list[Columns]:
    """The parties' columns, where the configuration says them."""
    parties: list[Leader | Follower] = [job.config.parties.leader, *job.config.parties.followers]
    if not all(party.columns for party in parties):
        return []
    return [Columns(name, column_numbers(party.columns)) for name, party in zip(job.names, parties, strict=True)]


class Story:
    """What a party says of itself: log lines for people, events for the launcher."""

    def __init__(self, job: SplitJob, role: str, rank: int, events: EventLog) -> None:
        self._events = events
        self._epochs = job.config.epochs
        self._began = time.monotonic()

    def tell_ready(self) -> None:
        """This party is up; it may wait for the others."""
        self._events.write("ready")

    def progress(self, progress: Progress) -> None:
        """A line as the original has it, with what it leaves out: speed, and bytes a step each way."""
        scalars = {name: held.item() for name, held in progress.outputs.items() if held.numel() == 1}
        loss = scalars.get("loss")
        came, went = progress.bytes_per_step
        log.info(
            "epoch %d step %d/%d %s, %.0f samples/s, bytes a step: %.0f in, %.0f out",
            progress.epoch, progress.step, progress.steps, _losses(scalars), progress.samples_per_s, came, went,
        )  # fmt: skip
        fields: dict[str, Any] = {"loss": loss} if loss is not None else {}
        self._events.write(
            "progress", state="training", epoch=progress.epoch, step=progress.step, steps=progress.steps,
            samples_per_s=progress.samples_per_s, bytes_in_a_step=came, bytes_out_a_step=went, **fields,
        )  # fmt: skip

    def measured(self, epoch: int, metrics: Any) -> None:
        """The evaluation of an epoch."""
        auc, log_loss = metrics.eval(), metrics.log_loss()
        log.info("----evaluation---- epoch %d auc %f log_loss %f", epoch, auc, log_loss)
        self._events.write("eval", epoch=epoch, auc=auc, log_loss=log_loss)


def _losses(scalars: Mapping[str, float]) -> str:
    """At the leader `wide_loss: ... deep_loss: ...`: cross entropy without and with the l2 term, as the original."""
    if "loss" not in scalars:
        return " ".join(f"{name}: {value:.6f}" for name, value in scalars.items())
    regular = sum(value for name, value in scalars.items() if name.endswith("l2_regu"))
    return f"wide_loss: {scalars['loss']:.6f} deep_loss: {scalars['loss'] + regular:.6f}"
