"""What a reader hands to the training loop: arrays of one length, one element a sample."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]
Labels = NDArray[np.float32]


class Batch(NamedTuple):
    """B samples; `batch._asdict()` gives them as a mapping feature name -> array."""

    user_input: Ids  # (B,) int64
    item_input: Ids  # (B,) int64
    label: Labels  # (B,) float32


class Rows(NamedTuple):
    """N samples as they stand in a file, before shuffling and before negatives are drawn."""

    users: NDArray[Any]  # (N,) int32 or int64
    items: NDArray[Any]  # (N,) int32 or int64
    labels: NDArray[Any]  # (N,) in [0, 1]

    def take(self, which: slice | NDArray[Any]) -> Rows:
        """Some of the samples: a slice, positions or a mask."""
        return Rows(self.users[which], self.items[which], self.labels[which])


def no_rows() -> Rows:
    """Zero samples: what an empty shard holds."""
    return Rows(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32))


def join(parts: list[Rows]) -> Rows:
    """One after the other; a single part is returned without a copy."""
    if len(parts) == 1:
        return parts[0]
    if not parts:
        return no_rows()
    users, items, labels = zip(*parts, strict=True)
    return Rows(np.concatenate(users), np.concatenate(items), np.concatenate(labels))
