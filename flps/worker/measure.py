"""Saved models, measured: what `flps eval` does.

Law: every client's users are ranked with that client's private rows and the counts are merged, so the figures are
those that the run itself measured, bit for bit.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from flps.config.types import Config
from flps.data.evaluation import TestSet
from flps.data.interactions import Interactions
from flps.errors import ConfigError, DataError
from flps.models.saved import SavedModel
from flps.worker.evaluate import PAIRS, Evaluation, evaluate, model_score
from flps.worker.samples import Samples

log = logging.getLogger(__name__)
_NOTHING = Interactions.build(np.empty(0, np.int64), np.empty(0, np.int64), 0)


class Measurement:
    """Ranks the held-out items of all clients with one saved model after the other."""

    def __init__(self, samples: Samples, full: bool = False, allow_cold: bool = False, pairs: int = PAIRS) -> None:
        """full: also rank among all items. allow_cold: clients without private file are measured with first values.
        pairs: (user, item) pairs scored in one call, at least one user's.
        """
        self._samples = samples
        self._full = full
        self._allow_cold = allow_cold
        self._pairs = pairs
        self._tests: dict[int, TestSet] = {}
        self._trainings: dict[int, tuple[Interactions, int]] = {}
        runner = samples.config.runner
        if not runner.test_data_dir:
            raise ConfigError("the configuration has no test_data_dir: there is nothing to measure with")
        torch.set_num_threads(runner.thread_num)
        self._device = "cuda" if runner.use_gpu and torch.cuda.is_available() else "cpu"

    @property
    def k(self) -> int:
        """Length of the ranked list."""
        return self._samples.config.evaluation.k

    def of(self, folder: Path) -> Evaluation:
        """All clients' users, ranked by the model in this folder.

        Raises DataError when a file is missing or wrong, ConfigError when the model is not the configuration's.
        """
        saved = SavedModel(folder, self._samples.config_dir)
        self._check(saved)
        saved.model.to(self._device)
        evaluations = [self._client(saved, client) for client in self._clients(saved)]
        return functools.reduce(Evaluation.merge, evaluations)

    def _client(self, saved: SavedModel, client: int) -> Evaluation:
        config, test = self._samples.config, self._test(client)
        if not self._take_private(saved, client):
            log.warning("client %d: no private file in %s, its rows are cold", client, saved.folder)
        rows = saved.user_rows
        own_items, num_items = self._training(client) if self._full else (_NOTHING, 1 + int(test.items.max(initial=0)))
        return evaluate(
            model_score(saved.model, self._device, config.runner.pure_bf16),
            test,
            own_items,
            num_items,
            config.evaluation.k,
            self._full,
            None if rows is None else rows.warm(test.users.astype(np.uint64)),
            self._pairs,
        )

    def _take_private(self, saved: SavedModel, client: int) -> bool:
        """Whether the client's private part, if the model has one, is there."""
        if saved.has_private(client):
            saved.become(client)
            return True
        if not self._allow_cold:
            raise DataError(
                f"{saved.folder}: the private file of client {client} is missing; put it there (it is on the client's "
                "own disk), or measure without it by --allow-cold"
            )
        saved.become_nobody()
        return False

    def _test(self, client: int) -> TestSet:
        if client not in self._tests:
            test = self._samples.test(client)
            assert test is not None
            self._tests[client] = test
        return self._tests[client]

    def _training(self, client: int) -> tuple[Interactions, int]:
        """The client's training items and the number of items; only a full ranking asks for them."""
        if client not in self._trainings:
            train = self._samples.train(client)
            self._trainings[client] = train.interactions, train.num_items
        return self._trainings[client]

    def _clients(self, saved: SavedModel) -> Sequence[int]:
        return saved.manifest.clients or range(self._samples.clients)

    def _check(self, saved: SavedModel) -> None:
        manifest, config = saved.manifest, self._samples.config
        ours, theirs = _form(config.model, config.hyper_parameters), _form(manifest.model, manifest.hyper_parameters)
        differ = sorted(key for key in ours.keys() | theirs.keys() if ours.get(key) != theirs.get(key))
        if differ:
            told = ", ".join(f"{key} {theirs.get(key)!r} (configuration: {ours.get(key)!r})" for key in differ)
            raise ConfigError(f"{saved.folder} holds another model than the configuration describes: {told}")
        if manifest.workers not in (0, self._samples.clients):
            raise ConfigError(f"{saved.folder} is of {manifest.workers} clients, not {self._samples.clients}")


def pairs_of(config: Config) -> int:
    """How many pairs are scored in one call: `infer_batch_size`, or what is quick when that is 1."""
    size = config.runner.infer_batch_size
    return size if size > 1 else PAIRS


def _form(model: str, hyper_parameters: dict[str, object]) -> dict[str, object]:
    """What makes two models the same; how they were trained does not."""
    return {"model": model, **{key: value for key, value in hyper_parameters.items() if key != "optimizer"}}
