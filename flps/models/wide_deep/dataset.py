"""Prepared rows as batches of tensors, in the form in which the original's loops take them.

    ds_train, ds_eval = construct_local_dataset(config)
    train_iter = ds_train.create_dict_iterator()
    for epoch in range(config.epochs):
        for item in train_iter:        # each `for` is an epoch, with an order of its own

Law: the order follows from (seed, epoch), so every party that reads the same rows with the same seed sees the same
batches, and an iterator that is put back to (epoch, step) goes on as if never interrupted.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flps.data.criteo_like import Shape, ensure
from flps.data.criteo_parties import PartyRows
from flps.errors import ConfigError
from flps.models.wide_deep.options import FULL, NetworkConfig

EMBEDDED = "embedded:criteo_like"


class Position(NamedTuple):
    """Where the next batch is."""

    epoch: int = 0
    step: int = 0


class DictIterator:
    """Batches {name: tensor}; each `for` over it is an epoch."""

    def __init__(self, dataset: PartyDataset) -> None:
        self.dataset = dataset
        self.position = Position()

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        """The rest of the epoch that `position` stands in; at its end `position` is the next epoch's beginning.

        An epoch that was left half-way is taken up there by the next `for`; `position = Position()` begins anew.
        """
        position = self.position
        for step, batch in enumerate(self.dataset.batches(position.epoch, position.step), position.step + 1):
            self.position = Position(position.epoch, step)
            yield batch
        self.position = Position(position.epoch + 1)


class PartyDataset:
    """Batches of the rows of one party, or of several in one process."""

    def __init__(
        self, parties: Sequence[PartyRows], batch_size: int, seed: int | None = None, drop_remainder: bool = True
    ) -> None:
        """parties: rows of one or more parties, aligned. seed: of the shuffle; None keeps the order of the rows.

        Raises:
            ConfigError: no whole batch, or parties whose rows are not the same.
        """
        self.parties, self.batch_size, self.seed, self.drop_remainder = parties, batch_size, seed, drop_remainder
        first = parties[0]
        if any(len(rows) != len(first) or rows.digest() != first.digest() for rows in parties[1:]):
            counts = ", ".join(str(len(rows)) for rows in parties)
            raise ConfigError(f"the parties' rows are not aligned ({counts} rows): they need the same ids in one order")
        if not self.get_dataset_size():
            raise ConfigError(f"{len(first)} rows make no batch of {batch_size}; lower batch_size or give more rows")

    def get_dataset_size(self) -> int:
        """Batches of an epoch."""
        return self.parties[0].steps(self.batch_size, self.drop_remainder)

    def told(self) -> dict[str, Any]:
        """What must be the same at all parties: how many rows there are, which, and in which order they are taken."""
        return {
            "rows": len(self.parties[0]),
            "seed of their order": self.seed,
            "sha256 of their ids": self.parties[0].digest(),
        }

    @property
    def row_ids(self) -> NDArray[np.int64]:
        """(R,) by which the parties tell their rows, in the order before any shuffle."""
        return self.parties[0].row_ids

    def get_batch_size(self) -> int:
        """Rows of a batch."""
        return self.batch_size

    def create_dict_iterator(self) -> DictIterator:
        """Batches, epoch after epoch."""
        return DictIterator(self)

    def batches(self, epoch: int = 0, first_step: int = 0) -> Iterator[dict[str, Tensor]]:
        """Batches of an epoch from a step on: ids (B, F) int32, weights (B, F) float32, label (B, 1) float32,
        row_ids (B,) int64.
        """
        parts = [
            rows.batches(self.batch_size, epoch, first_step, self.seed, self.drop_remainder) for rows in self.parties
        ]
        for arrays in zip(*parts, strict=True):
            yield {name: torch.from_numpy(array) for part in arrays for name, array in part.items()}


def construct_local_dataset(
    config: NetworkConfig = FULL,
    parties: Sequence[int] = (0, 1),
    cache_dir: str | Path | None = None,
    shape: Shape | None = None,
) -> tuple[PartyDataset, PartyDataset]:
    """The training and the evaluation set of `config.data_path`; training is shuffled by `config.seed`.

    parties: whose columns a batch has: (0, 1) leader and follower, as the original's simulation gives them to both;
    (0,) the leader's alone. cache_dir, shape: where, and of which size, rows are generated that `data_path:
    embedded:criteo_like` asks for (default: $FLPS_CACHE_DIR, else ~/.cache/flps). As in the original a last batch that
    is not full is left out of the training; unlike there it is evaluated.

    Raises:
        ConfigError: ids that do not fit into `vocab_size`, or columns that are not as many as the nets take.
        DataError: no such folder, or it is damaged.
    """
    cache = cache_dir or os.environ.get("FLPS_CACHE_DIR") or Path.home() / ".cache" / "flps"
    folder = ensure(cache, shape) if config.data_path == EMBEDDED else Path(config.data_path)
    train, test = ([PartyRows.open(folder, part, party) for party in parties] for part in ("train", "test"))
    for rows in train:
        refuse_misfits(folder, rows, config)
    return (
        PartyDataset(train, config.batch_size, config.seed),
        PartyDataset(test, config.batch_size, drop_remainder=False),
    )


def refuse_misfits(folder: Path, rows: PartyRows, config: NetworkConfig) -> None:
    """Raise ConfigError when the nets of `config` cannot take the rows."""
    if rows.ids > config.vocab_size:
        raise ConfigError(
            f"{folder}: {rows.ids} ids, but vocab_size is {config.vocab_size}; raise it, or --threshold of "
            "datasets/criteo.py"
        )
    key = "follower_field_size" if rows.party else "leader_field_size"
    wanted = getattr(config, key)
    if rows.party <= 1 and rows.field_size != wanted:
        raise ConfigError(f"{folder}: party {rows.party} has {rows.field_size} columns, but {key} is {wanted}")
