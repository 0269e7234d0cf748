"""A trainer script of your own: what each worker does, step by step, as Paddle's FL-PS lets it be changed.

    flrun launch/fl_trainer.py -m configs/ncf.yaml --worker_num=10 --coordinator_num=1

flrun looks for the one class here that derives from FLClient. Every method below may be left out; then FLClient's own
is used. The lines that a worker logs stand in log/workerlog.<rank>.
"""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Any

from flps.config import Config
from flps.data.evaluation import TestSet
from flps.data.train import TrainSet
from flps.worker import FLClient
from flps.worker.evaluate import Evaluation
from flps.worker.session import Session
from flps.worker.train import Totals

log = logging.getLogger("fl_trainer")


class MyFLClient(FLClient):
    """Trains as FLClient does, tells what it does, and remembers its best epoch."""

    def set_basic_config(self, session: Session, config: Config, metrics: dict[str, Any]) -> None:
        """The first hook: this worker's part of the job, and the config. Handlers are registered here."""
        super().set_basic_config(session, config, metrics)
        self.best_hr, self.best_epoch = -1.0, -1
        # A handler may be any function, not only a method of this class.
        self.register_handlers("infer", self.infer_and_remember)

    def set_train_dataset_info(self, train_dataset: TrainSet, file_list: list[Path]) -> None:
        """This client's own samples; nobody else sees them."""
        super().set_train_dataset_info(train_dataset, file_list)
        log.info("I train on %s", ", ".join(path.name for path in file_list))

    def set_test_dataset_info(self, test_dataset: TestSet | None, file_list: list[Path]) -> None:
        """This client's own held-out items."""
        super().set_test_dataset_info(test_dataset, file_list)
        log.info("I test on %s", ", ".join(path.name for path in file_list) or "nothing")

    def set_train_example_num(self, count: int) -> None:
        """The size of this client; it is the weight of its deltas when `geo_weights` is `samples`."""
        super().set_train_example_num(count)
        log.info("I have %d examples", count)

    def run(self) -> None:
        """All epochs. Override it for another order of steps; the barriers between them are FLClient's."""
        log.info("I run %d epochs", self.config.runner.epochs)
        super().run()

    def train(self, epoch: int) -> Totals:
        """One epoch of training; what it returns is reported to the coordinator."""
        began = time.perf_counter()
        totals = super().train(epoch)
        log.info("my epoch %d: %d samples in %.2f s", epoch, totals.samples, time.perf_counter() - began)
        return totals

    def infer_and_remember(self, epoch: int, is_last: bool) -> Evaluation | None:
        """Measure this client's own users; it never changes weights."""
        evaluation = super().infer(epoch, is_last)
        hr = evaluation.fields()["hr"] if evaluation is not None else None
        if hr is not None and hr > self.best_hr:
            self.best_hr, self.best_epoch = hr, epoch
        return evaluation

    def save_model(self, epoch: int, workers: list[int]) -> None:
        """Save after an epoch; private rows stay in files of this client."""
        super().save_model(epoch, workers)
        log.info("my model of epoch %d is saved", epoch)

    def finish(self) -> None:
        """The last step: say good-bye to the others."""
        if self.best_epoch >= 0:
            log.info("my best epoch was %d with HR %.4f", self.best_epoch, self.best_hr)
        super().finish()
