"""A party's run: epochs over its rows, step by step with the others; what it says, measures and keeps.

Law 1: leader and followers run the same loop; who has labels measures.
Law 2: all go on from the newest step that all of them have a checkpoint of.
Law 3: when a party is started again, every other one goes back with it, and what was under way is dropped.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import msgspec
from torch import Tensor

from flps.errors import ConfigError, PartyRestarted
from flps.party.step import PartyStep
from flps.split.agreement import Summary, same_values
from flps.split.checkpoint import steps_in
from flps.split.communicator import VerticalFederatedCommunicator
from flps.split.course import Course, Net, courses
from flps.split.model import FLModel
from flps.split.terms import Terms, disagreements, terms

log = logging.getLogger(__name__)
Batch = dict[str, Tensor]
_TOLD = "told by {}"  # key of a summary; each party has its own, so that none is compared


class Rows(Protocol):
    """A party's rows: the same number, in the same order, as the others'."""

    def get_dataset_size(self) -> int:
        """Batches of an epoch."""

    def batches(self, epoch: int = 0, first_step: int = 0) -> Iterator[Batch]:
        """The batches of an epoch, from a step on."""


class Settings(NamedTuple):
    """How long and how often."""

    epochs: int
    print_interval: int = 100
    save_checkpoint_interval: int = 0  # steps; 0: at the end of each epoch only
    keep_checkpoint_max: int = 5
    checkpoint_path: Path | None = None  # None: none are written


class Progress(NamedTuple):
    """What a party tells while it trains."""

    epoch: int
    step: int  # within the epoch, from 1
    steps: int  # of an epoch
    outputs: Mapping[str, Tensor]  # of this party's nets, of the last step
    samples_per_s: float
    bytes_per_step: tuple[float, float]  # in and out


class Party:
    """One party: its nets by name, its rows, its links."""

    def __init__(
        self,
        name: str,
        models: Mapping[str, FLModel],
        links: VerticalFederatedCommunicator,
        train: Rows,
        evaluation: Rows | None,
        settings: Settings,
        report: Callable[[Progress], None],
        measured: Callable[[int, Any], None] = lambda epoch, metrics: None,
    ) -> None:
        """report: gets a Progress each `print_interval` steps. measured: gets a net's metrics after each
        evaluation, at the party that has them.
        """
        self.name = name
        self._models = models
        self._links = links
        self._train, self._evaluation = train, evaluation
        self._settings = settings
        self._report, self._measured = report, measured

    def run(self) -> None:
        """Agree with the others, train to the end, and once more from a checkpoint when a party was started again.

        Raises ConfigError when the parties do not fit together, with the same words at all of them.
        """
        while True:
            try:
                first = self._links.agree(self._summary(), self._steps_kept(), fits)
                self._go_back(first)
                forward = courses_of(self._links.summaries)
                self._run_from(first, forward["train"][self.name], forward["eval"][self.name])
                return
            except PartyRestarted as error:
                log.warning("%s", error)

    def _summary(self) -> dict[str, Any]:
        first = next(self._train.batches(), {})
        own = terms(self.name, [model.yaml_data for model in self._models.values()])
        return {
            "steps of an epoch": self._train.get_dataset_size(),
            "rows of a batch": len(next(iter(first.values()), ())),
            "steps of an evaluation": self._evaluation.get_dataset_size() if self._evaluation is not None else 0,
            "epochs": self._settings.epochs,
            _TOLD.format(self.name): msgspec.to_builtins(Told(tuple(sorted(first)), tuple(self._models), own)),
        }

    def _steps_kept(self) -> list[int]:
        folder = self._settings.checkpoint_path
        if folder is None or not folder.is_dir():
            return []
        return steps_in(folder, [model.ckpt_name for model in self._models.values()])

    def _go_back(self, step: int) -> None:
        if step:
            for model in self._models.values():
                model.load_ckpt("train", self._settings.checkpoint_path, step)
            log.info("goes on from step %d", step)
        elif any(model.global_step for model in self._models.values()):
            raise ConfigError(
                "a party was started again and the parties have no checkpoint of one step to go back to: start all of "
                "them again, and set save_checkpoint_interval"
            )

    def _run_from(self, first: int, train: Course, evaluation: Course) -> None:
        steps = self._train.get_dataset_size()
        step = PartyStep(train, self._models, self._links)
        for epoch in range(first // steps, self._settings.epochs):
            self._epoch(epoch, first % steps if epoch == first // steps else 0, step)
            if self._evaluation is not None:
                self._evaluate(epoch, evaluation)

    def _epoch(self, epoch: int, done: int, step: PartyStep) -> None:
        steps, every = self._train.get_dataset_size(), self._settings.print_interval
        began, seen, before, reported = time.monotonic(), 0, self._links.bytes, done
        for number, batch in enumerate(self._train.batches(epoch, done), done + 1):
            outputs = step.forward(batch)
            step.backward()
            seen += len(next(iter(batch.values())))
            if number % every == 0 or number == steps:
                took, now = max(time.monotonic() - began, 1e-9), self._links.bytes
                moved = [(b - a) / (number - reported) for a, b in zip(before, now, strict=True)]
                self._report(Progress(epoch, number, steps, outputs, seen / took, (moved[0], moved[1])))
                began, seen, before, reported = time.monotonic(), 0, now, number
            self._keep(epoch, number, steps)

    def _keep(self, epoch: int, number: int, steps: int) -> None:
        settings = self._settings
        every = settings.save_checkpoint_interval
        if settings.checkpoint_path is not None and (number == steps or (every and number % every == 0)):
            for model in self._models.values():
                model.position = {"epoch": epoch, "step": number}
                model.save_ckpt(settings.checkpoint_path, settings.keep_checkpoint_max)

    def _evaluate(self, epoch: int, course: Course) -> None:
        assert self._evaluation is not None
        measuring = {name: model for name, model in self._models.items() if model.metrics is not None}
        for model in measuring.values():
            model.metrics.clear()
        nets = {name: Looking(model, name in measuring) for name, model in self._models.items()}
        step = PartyStep(course, nets, self._links)
        for batch in self._evaluation.batches():
            step.forward(batch)
        for model in measuring.values():
            self._measured(epoch, model.metrics)


class Looking:
    """A net that is only looked at: its eval net, without dropout, without a graph."""

    def __init__(self, model: FLModel, is_measured: bool) -> None:
        self._model, self._is_measured = model, is_measured

    def forward_one_step(self, local_data_batch: Mapping[str, Tensor], remote_data_batch: Mapping[str, Tensor]) -> Any:
        look = self._model.eval_one_step if self._is_measured else self._model.predict_one_step
        return look(local_data_batch, remote_data_batch)

    def backward_one_step(self, *batches: Any, sens: Any = None) -> Any:
        raise AssertionError("an evaluation has no way back")


class Told(msgspec.Struct, frozen=True):
    """What a party tells the others of its part."""

    rows: tuple[str, ...]  # what a batch of its rows holds
    nets: tuple[str, ...]  # what it calls its nets, in the order of `terms`
    terms: Terms


def told_by(summaries: Mapping[str, Summary]) -> dict[str, Told]:
    """Party -> what it has told. Raises ConfigError when it is no description of a party."""
    try:
        told = {party: msgspec.convert(summary[_TOLD.format(party)], Told) for party, summary in summaries.items()}
    except (KeyError, msgspec.ValidationError) as error:
        raise ConfigError(f"a party tells what is no description of its nets: {error}") from None
    for party, one in told.items():
        if not len(one.nets) == len(one.terms.nets) == len(one.terms.eval_nets):
            raise ConfigError(f"{party} names {len(one.nets)} nets and describes {len(one.terms.nets)}")
    return told


def courses_of(summaries: Mapping[str, Summary]) -> dict[str, dict[str, Course]]:
    """`train` and `eval` -> party -> its course, from what all parties have told. Raises ConfigError."""
    told = told_by(summaries)
    nets: dict[str, list[Net]] = {"train": [], "eval": []}
    for party, one in told.items():
        for kind, described in (("train", one.terms.nets), ("eval", one.terms.eval_nets)):
            for name, net in zip(one.nets, described, strict=True):
                remote, gradients = frozenset(net.remote), frozenset(net.gradients)
                nets[kind].append(Net(party, name, net.inputs, net.outputs, remote, gradients))
    rows = {party: one.rows for party, one in told.items()}
    return {kind: courses(of_kind, rows) for kind, of_kind in nets.items()}


def fits(summaries: Mapping[str, Summary]) -> list[str]:
    """Complaints about parties that are not of one job."""
    complaints = same_values(summaries)
    try:
        complaints += disagreements([one.terms for one in told_by(summaries).values()])
        if not complaints:
            courses_of(summaries)
    except ConfigError as error:
        complaints.append(str(error))
    return complaints
