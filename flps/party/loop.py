"""A party's run: epochs over its rows, step by step with the others; what it says, measures and keeps. And what trained
nets are good for: to be measured, and to predict.

Law 1: leader and followers run the same loop; who has labels measures.
Law 2: all go on from the newest step that all of them have a checkpoint of.
Law 3: when a party is started again, every other one goes back with it, and what was under way is dropped. So nobody
leaves before all have what they need of each other.
"""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Callable, Container, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flps.errors import ConfigError, PartyRestarted
from flps.party.agreed import ALIGNMENT, TOLD, Kind, Told, Unaligned, courses_of, fits, skips_together, unaligned
from flps.party.checkpoints import Checkpoints
from flps.party.kept import KeptBack, scale_of
from flps.party.schedule import room
from flps.party.step import PartyLook, PartyStep
from flps.split.communicator import VerticalFederatedCommunicator
from flps.split.course import Course, Receive, Send
from flps.split.model import FLModel
from flps.split.terms import terms

log = logging.getLogger(__name__)
Batch = dict[str, Tensor]


class Rows(Protocol):
    """A party's rows: the same number, in the same order, as the others'."""

    def get_dataset_size(self) -> int:
        """Batches of an epoch."""

    def batches(self, epoch: int = 0, first_step: int = 0) -> Iterator[Batch]:
        """The batches of an epoch, from a step on; what is in one follows from epoch and step alone."""

    def told(self) -> Mapping[str, Any]:
        """What must be the same at all parties: how many rows there are, and which."""

    @property
    def row_ids(self) -> NDArray[np.int64]:
        """(R,) by which the parties tell their rows, in the order before any shuffle."""


class Settings(NamedTuple):
    """How long and how often."""

    epochs: int
    print_interval: int = 100
    save_checkpoint_interval: int = 0  # steps; 0: at the end of each epoch only
    keep_checkpoint_max: int = 5
    checkpoint_path: Path | None = None  # None: none are written
    trained_step: int = 0  # of the nets that are only looked at
    eval_interval: int = 1  # epochs; 0: after the last one only
    micro_batches: int = 1  # parts of a batch that are under way between the parties at once
    earlier_checkpoints: Path | None = None  # of the run that this one goes on from
    patience_s: float | None = None  # longest wait for the others to agree; None: as long as they may take to start


class Progress(NamedTuple):
    """What a party tells while it trains."""

    epoch: int
    epochs: int
    step: int  # within the epoch, from 1
    steps: int  # of an epoch
    since: int  # steps since it was told last
    outputs: Mapping[str, Tensor]  # of this party's nets, of the last step
    samples_per_s: float
    bytes_per_step: tuple[float, float]  # in and out
    privacy: Mapping[str, float]  # what the privacy schemes of this party have spent so far


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
        report: Callable[[Progress], None] = lambda progress: None,
        measured: Callable[[int, Any], None] = lambda epoch, metrics: None,
        alignment: str | None = None,
    ) -> None:
        """report: gets a Progress each `print_interval` steps. measured: gets a net's metrics after each
        evaluation, at the party that has them. alignment: digest of the alignment of these rows; None: there was none.
        """
        self.name = name
        self._models = models
        self._links = links
        self._kept_back = KeptBack(links.feedback)
        self._is_protected = False
        self._train, self._evaluation = train, evaluation
        self._settings = settings
        self._report, self._measured = report, measured
        self._kept = Checkpoints(
            models, settings.checkpoint_path, settings.earlier_checkpoints, settings.save_checkpoint_interval,
            settings.keep_checkpoint_max, links.mark, self._kept_back,
        )  # fmt: skip
        self._aligned = {} if alignment is None else {ALIGNMENT: alignment}

    def run(self, keep: Callable[[], None] = lambda: None) -> None:
        """Agree with the others, train to the end, and once more from a checkpoint when a party was started again.

        keep: called when all is learned, before the others are let go. Raises ConfigError when the parties do not fit
        together, with the same words at all of them.
        """

        def train(first: int) -> None:
            self._train_from(first)
            self._links.mark("ending")
            keep()

        self._play("train", train)

    def evaluate(self) -> None:
        """Measure the nets as they are, with the others. Raises as `run`."""
        epochs = self._settings.trained_step // self._train.get_dataset_size()  # that they were trained for
        self._play("evaluate", lambda first: self._evaluate(max(epochs - 1, 0)))

    def predict(self, take: Callable[[dict[str, Tensor]], None], anew: Callable[[], None] = lambda: None) -> None:
        """What the nets as they are give for the rows of the evaluation, in their order; without labels.

        take: gets what this party's nets give for each batch. anew: called before the first batch, again when a party
        was started again. Raises as `run`.
        """

        def look(first: int) -> None:
            anew()
            self._look(take)

        self._play("predict", look)

    def _play(self, task: str, act: Callable[[int], None]) -> None:
        while True:
            try:
                begins = self._kept.steps() if task == "train" else [0]
                first = self._links.agree(self._summary(task), begins, fits, self._settings.patience_s)
                if missing := unaligned(self._links.summaries):
                    raise Unaligned(f"{', '.join(missing)} has no aligned rows, so all parties align theirs again")
                if task == "train":
                    self._protect()
                    self._kept.go_back(first)
                act(first)
                self._meet_at_the_end()
                return
            except PartyRestarted as error:
                log.warning("%s", error)

    def _meet_at_the_end(self) -> None:
        """The leader hears from all that they are done, then all hear it from the leader."""
        self._links.mark("ending")
        done = {"done": torch.tensor([1])}
        if self._links.is_leader:
            for other in self._links.others:
                self._links.receive(other)
        for other in self._links.others:
            self._links.send_tensors(other, done)
        if not self._links.is_leader:
            for other in self._links.others:
                self._links.receive(other)

    def _summary(self, task: str) -> dict[str, Any]:
        first = next(self._train.batches(), {})
        settings = self._settings
        own = terms(self.name, [model.yaml_data for model in self._models.values()])
        return {
            "task": task,
            "rows to train on": dict(self._train.told()),
            "rows to evaluate": dict(self._evaluation.told()) if self._evaluation is not None else "none",
            "steps of an epoch": self._train.get_dataset_size(),
            "rows of a batch": rows_of(first),
            "steps of an evaluation": self._evaluation.get_dataset_size() if self._evaluation is not None else 0,
            "epochs": settings.epochs,
            "micro-batches": settings.micro_batches,
            "epochs between two evaluations": settings.eval_interval,
            "step of the trained nets": settings.trained_step,
            **self._aligned,
            TOLD.format(self.name): msgspec.to_builtins(Told(tuple(sorted(first)), tuple(self._models), own)),
        }

    def _train_from(self, first: int) -> None:
        steps = self._train.get_dataset_size()
        self._expect_room()
        peers = self._links.others if skips_together(self._links.summaries) else ()
        step = PartyStep(self._course("train"), self._models, self._links, peers, self._settings.micro_batches)
        if first >= steps * self._settings.epochs:
            log.info("nothing is left to train: %d epochs end with step %d", self._settings.epochs, first)
        if first and first % steps == 0:  # nobody remembers whether that epoch was measured
            self._evaluate_if_due(first // steps - 1)
        for epoch in range(first // steps, self._settings.epochs):
            self._links.mark("epoch", epoch)
            self._epoch(epoch, first % steps if epoch == first // steps else 0, step)
            self._evaluate_if_due(epoch)

    def _epoch(self, epoch: int, done: int, step: PartyStep) -> None:
        steps, every = self._train.get_dataset_size(), self._settings.print_interval
        began, seen, before, reported = time.monotonic(), 0, self._links.bytes, done
        batches = ReadAhead(self._train.batches(epoch, done))
        for number, batch in enumerate(batches, done + 1):
            self._links.mark("step")
            outputs = self._train_on(batch, step, batches.read)
            seen += rows_of(batch)
            if number % every == 0 or number == steps:
                took, now = max(time.monotonic() - began, 1e-9), self._links.bytes
                moved = [(b - a) / (number - reported) for a, b in zip(before, now, strict=True)]
                self._report(
                    Progress(
                        epoch, self._settings.epochs, number, steps, number - reported, outputs, seen / took,
                        (moved[0], moved[1]), self._spent(),
                    )
                )  # fmt: skip
                began, seen, before, reported = time.monotonic(), 0, now, number
            self._kept.keep_if_due(epoch, number, steps)
        for name, model in self._models.items():
            for statement in model.privacy_statements():
                log.info("epoch %d: what %s has spent of its rows' privacy: %s", epoch, name, statement)

    def _protect(self) -> None:
        """The nets' privacy schemes are about what really crosses, and count rows by epochs. Once: another time would
        be other noise on the same labels.
        """
        if self._is_protected:
            return
        forward, first = self._course("train").forward, next(self._train.batches(), {})
        sent = {name for action in forward if isinstance(action, Send) for name in action.names}
        received = {name for action in forward if isinstance(action, Receive) for name in action.names}
        rows = min(len(self._train.row_ids), self._train.get_dataset_size() * rows_of(first))
        for model in self._models.values():
            model.protect(rows_per_epoch=max(rows, 1), sent=sent, received=received)
        self._is_protected = True

    def _spent(self) -> dict[str, float]:
        """By scheme and figure; those of a second net with the same scheme begin with that net's name."""
        spent: dict[str, float] = {}
        for name, model in self._models.items():
            for figure, value in model.privacy_spent().items():
                spent[f"{name}_{figure}" if figure in spent else figure] = value
        return spent

    def _train_on(self, batch: Batch, step: PartyStep, meanwhile: Callable[[], None]) -> dict[str, Tensor]:
        models = list(self._models.values())
        owed, scale = self._kept_back.state(), scale_of([model.loss_scale for model in models])
        outputs = step.train(batch, meanwhile)
        moved = scale_of([model.loss_scale for model in models]) / scale
        self._kept_back.settle(owed, any(model.overflowed for model in models), moved)
        return outputs

    def _evaluate_if_due(self, epoch: int) -> None:
        every = self._settings.eval_interval
        is_due = epoch + 1 >= self._settings.epochs or (every and (epoch + 1) % every == 0)
        if self._evaluation is not None and is_due:
            self._evaluate(epoch)

    def _evaluate(self, epoch: int) -> None:
        self._links.mark("barrier")
        measuring = {name: model for name, model in self._models.items() if model.metrics is not None}
        for model in measuring.values():
            model.metrics.clear()
        self._look(lambda outputs: None, measuring)
        for model in measuring.values():
            self._measured(epoch, model.metrics)

    def _look(self, take: Callable[[dict[str, Tensor]], None], measuring: Container[str] = ()) -> None:
        """Each batch of the evaluation through the eval nets; `measuring`: which of them see labels, too."""
        if self._evaluation is None:
            raise ConfigError(f"{self.name} has no rows to look at: give held-out rows")
        nets = {name: Looking(model, name in measuring) for name, model in self._models.items()}
        step = PartyLook(self._course("eval"), nets, self._links)
        for batch in self._evaluation.batches():
            self._links.mark("evaluating")
            take(step.forward(batch))

    def _expect_room(self) -> None:
        parts = self._settings.micro_batches
        wanted = room(courses_of(self._links.summaries, "train").values(), parts)
        if parts > 1 and wanted > self._links.window:
            raise ConfigError(
                f"micro_batches {parts}: {wanted} messages of a step may be under way from one party to another, the "
                f"communicator of {self.name} takes {self._links.window}: give all of them window={wanted}"
            )

    def _course(self, kind: Kind) -> Course:
        return courses_of(self._links.summaries, kind)[self.name]


class ReadAhead:
    """The batches of an epoch; the next one may be read while there is time."""

    def __init__(self, batches: Iterator[Batch]) -> None:
        self._batches = batches
        self._read: list[Batch] = []  # one at most

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        return self._read.pop() if self._read else next(self._batches)

    def read(self) -> None:
        """Have the next batch ready."""
        if not self._read:
            self._read.extend(itertools.islice(self._batches, 1))


def rows_of(batch: Batch) -> int:
    """How many rows a batch has."""
    return len(next(iter(batch.values()), ()))


class Looking:
    """A net that is only looked at: its eval net, without dropout, without a graph."""

    def __init__(self, model: FLModel, is_measured: bool) -> None:
        self._model, self._is_measured = model, is_measured

    def forward_one_step(self, local_data_batch: Mapping[str, Tensor], remote_data_batch: Mapping[str, Tensor]) -> Any:
        look = self._model.eval_one_step if self._is_measured else self._model.predict_one_step
        return look(local_data_batch, remote_data_batch)
