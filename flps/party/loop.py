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

import torch
from torch import Tensor

from flps.errors import ConfigError, PartyRestarted
from flps.party.step import PartyStep
from flps.split.agreement import same_values
from flps.split.checkpoint import steps_in
from flps.split.communicator import VerticalFederatedCommunicator
from flps.split.course import Course, Net, courses
from flps.split.model import FLModel

log = logging.getLogger(__name__)
Batch = dict[str, Tensor]


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
        return {
            "steps of an epoch": self._train.get_dataset_size(),
            "rows of a batch": len(next(iter(first.values()), ())),
            "steps of an evaluation": self._evaluation.get_dataset_size() if self._evaluation is not None else 0,
            "epochs": self._settings.epochs,
            f"rows of {self.name}": sorted(first),
            f"nets of {self.name}": [told(name, model) for name, model in self._models.items()],
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
        with torch.no_grad():
            return look(local_data_batch, remote_data_batch)

    def backward_one_step(self, *batches: Any, sens: Any = None) -> Any:
        raise AssertionError("an evaluation has no way back")


def told(name: str, model: FLModel) -> dict[str, Any]:
    """What other parties must know of a net, as it may stand in a json."""
    yaml = model.yaml_data
    scalers = yaml.grad_scalers or []
    gradients = sorted({one["name"] for scaler in scalers for one in scaler["inputs"]})
    train = {"inputs": yaml.train_net_in_names, "outputs": yaml.train_net_out_names,
             "remote": _remote(yaml.train_net_outs), "gradients": gradients}  # fmt: skip
    looked = {"inputs": yaml.eval_net_in_names, "outputs": yaml.eval_net_out_names,
              "remote": _remote(yaml.eval_net_outs), "gradients": []}  # fmt: skip
    return {"name": name, "train": train, "eval": looked}


def _remote(entries: list[dict[str, Any]]) -> list[str]:
    return [str(entry["name"]) for entry in entries if entry["destination"] == "remote"]


def courses_of(summaries: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Course]]:
    """`train` and `eval` -> party -> its course, from what all parties have told. Raises ConfigError."""
    rows = {party: summary[f"rows of {party}"] for party, summary in summaries.items()}
    return {
        kind: courses(
            [
                Net(party, net["name"], tuple(net[kind]["inputs"]), tuple(net[kind]["outputs"]),
                    frozenset(net[kind]["remote"]), frozenset(net[kind]["gradients"]))
                for party, summary in summaries.items()
                for net in summary[f"nets of {party}"]
            ],
            rows,
        )
        for kind in ("train", "eval")
    }  # fmt: skip


def fits(summaries: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Complaints about parties that are not of one job."""
    complaints = same_values(summaries)
    try:
        courses_of(summaries)
    except ConfigError as error:
        complaints.append(str(error))
    return complaints
