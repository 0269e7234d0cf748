"""FLClient: what a worker does, in which order; a user's trainer script derives from it.

The hooks are those of Paddle's FL-PS. `set_*` are called before `run`; the steps of `run` are handlers that
`register_handlers` replaces one by one.

    class MyClient(FLClient):
        def train(self, epoch):
            print("my epoch", epoch)
            return super().train(epoch)
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from flps.config.types import Config
from flps.data.evaluation import TestSet
from flps.data.train import TrainSet
from flps.errors import ConfigError
from flps.message import Report
from flps.metrics import AucHistogram
from flps.worker.evaluate import Evaluation
from flps.worker.session import Session
from flps.worker.train import Totals

log = logging.getLogger(__name__)
Handler = Callable[..., Any]
HANDLERS = ("train", "infer", "save_model", "finish")


class FLClient:
    """Trains one client's part of a federation."""

    session: Session
    config: Config

    def set_basic_config(self, session: Session, config: Config, metrics: dict[str, Any]) -> None:
        """What every client needs. `session`: this worker's part of the job; `metrics`: filled with what it finds."""
        self.session = session
        self.config = config
        self.metrics = metrics
        self.handlers: dict[str, Handler] = {}
        self.register_default_handlers()

    def set_train_dataset_info(self, train_dataset: TrainSet, file_list: list[Path]) -> None:
        """This client's own training samples and the files that they come from."""
        self.train_dataset = train_dataset
        self.train_file_list = file_list

    def set_test_dataset_info(self, test_dataset: TestSet | None, file_list: list[Path]) -> None:
        """This client's own held-out items, if there are any."""
        self.test_dataset = test_dataset
        self.test_file_list = file_list

    def set_train_example_num(self, count: int) -> None:
        """How many examples (or words) the training files hold."""
        self.train_example_num = count
        log.info("%d training examples by count method %r", count, self.config.runner.example_count_method)

    def register_default_handlers(self) -> None:
        """Each step of `run` is this class's own method."""
        for name in HANDLERS:
            self.register_handlers(name, getattr(self, name))

    def register_handlers(self, name: str, handler: Handler) -> None:
        """Let `handler` do what the method of that name does. Raises ConfigError for an unknown name."""
        if name not in HANDLERS:
            raise ConfigError(f"there is no handler {name!r}; there are {', '.join(HANDLERS)}")
        self.handlers[name] = handler

    def run(self) -> None:
        """All epochs, then good-bye."""
        runner = self.config.runner
        for epoch in self._epochs():
            totals = self.handlers["train"](epoch)
            release = self.session.barrier(f"trained {epoch}", self.session.report_of(totals))
            if runner.shrink_interval and (epoch + 1) % runner.shrink_interval == 0:
                self.session.shrink(epoch + 1)
            self.session.refresh()
            self.metrics["loss"] = totals.loss / totals.samples if totals.samples else float("nan")
            self.metrics["auc"] = totals.auc.value()
            if runner.use_auc:
                everybody = AucHistogram.from_counts(release.report.counts["auc"])
                log.info("epoch %d: AUC over all clients %.6g", epoch, everybody.value())
            is_last = epoch == runner.epochs - 1
            if is_last or (runner.save_interval and (epoch + 1) % runner.save_interval == 0):
                self.handlers["save_model"](epoch, list(release.workers))
            interval = self.config.evaluation.interval
            if is_last or (interval and (epoch + 1) % interval == 0):
                self.handlers["infer"](epoch, is_last)
            self.session.checkpoint(epoch + 1)
        self.handlers["finish"]()

    def _epochs(self) -> Iterator[int]:
        """The epochs as they begin; in a later life from where the others are."""
        epoch: int | None = self.session.first_epoch
        while epoch is not None and epoch < self.config.runner.epochs:
            epoch = self.session.begin(epoch)
            if epoch is not None:
                yield epoch
                epoch += 1

    def train(self, epoch: int) -> Totals:
        """One epoch of training."""
        return self.session.train(epoch)

    def infer(self, epoch: int, is_last: bool) -> Evaluation | None:
        """Measure this client's users; the coordinator adds up what all clients measured."""
        evaluation = self.session.evaluate(epoch, full=is_last and self.config.evaluation.full)
        if evaluation is not None:
            log.info("own users after epoch %d: %s", epoch, evaluation.fields())
            self.session.barrier(f"evaluated {epoch}", Report(evaluation.counts()))
        return evaluation

    def save_model(self, epoch: int, workers: list[int]) -> None:
        """Save the model; folders are called 1, 2, ... after the number of epochs done.

        `workers`: those that have trained this epoch.
        """
        self.session.save(epoch + 1)

    def finish(self) -> None:
        """Leave in good order."""
        self.session.leave()
