"""The samples of the clients of a job, as its configuration describes them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from flps.config.job import Job
from flps.config.types import Config
from flps.data.evaluation import TestSet, open_test
from flps.data.sources import Reader
from flps.data.train import Sampling, TrainSet, open_train


@dataclass(frozen=True)
class Samples:
    """Opens what a client trains on and what it is measured with."""

    config: Config
    config_dir: Path  # relative folders start here
    config_path: Path  # the yaml, for a user's reader that wants to see it
    clients: int

    @classmethod
    def of(cls, job: Job) -> Samples:
        """The samples of a job that runs."""
        return cls(job.config, Path(job.config_dir), Path(job.run_dir) / "config.yaml", job.workers)

    def train(self, client: int) -> TrainSet:
        """What this client trains on. Raises DataError, ConfigError."""
        runner = self.config.runner
        sampling = Sampling(
            batch_size=runner.train_batch_size,
            seed=self.config.seed,
            negatives="fresh" if runner.fresh_negatives else "fixed",
            num_neg=runner.num_neg,
            num_users=self._size("num_users"),
            num_items=self._size("num_items"),
            shuffle=runner.shuffle,
            debug=runner.dataset_debug,
        )
        return open_train(
            self.config_dir / runner.train_data_dir,
            client,
            self.clients,
            reader=self._reader(runner.reader_type, runner.train_reader_path, runner.train_batch_size),
            sampling=sampling,
            split_file_list=runner.split_file_list,
        )

    def test(self, client: int) -> TestSet | None:
        """This client's held-out items; None when the configuration names none. Raises DataError, ConfigError."""
        runner = self.config.runner
        if not runner.test_data_dir:
            return None
        return open_test(
            self.config_dir / runner.test_data_dir,
            client,
            self.clients,
            reader=self._reader(
                runner.infer_reader_type or runner.reader_type,
                runner.infer_reader_path or runner.train_reader_path,
                runner.infer_batch_size,
            ),
            split_file_list=runner.split_file_list,
            num_users=self._size("num_users"),
            num_items=self._size("num_items"),
        )

    def _reader(self, kind: Any, path: str, batch_size: int) -> Reader:
        return Reader(
            kind=kind,
            pipe_command=self.config.runner.pipe_command,
            reader_path=path,
            config_path=str(self.config_path),
            config_dir=str(self.config_dir),
            config=msgspec.to_builtins(self.config),
            batch_size=batch_size,
        )

    def _size(self, name: str) -> int:
        return int(self.config.hyper_parameters.get(name, 0))
