"""Wide & Deep, cut between parties that hold different columns of the same rows.

options.py  the keys of network_config, the presets
model.py    the nets of the parties, for one device
metric.py   AUC and log loss
cut.py      the same nets joined in one process, as split training sees them when nothing is split
dataset.py  batches as tensors: construct_local_dataset

The nets, AUCMetric and construct_local_dataset are here, too, looked up when they are asked for: the launcher reads
`options` without torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flps.models.wide_deep.dataset import construct_local_dataset
    from flps.models.wide_deep.metric import AUCMetric
    from flps.models.wide_deep.model import (
        BottomLossNet,
        LeaderTeeLossNet,
        LeaderTeeNet,
        LeaderTopAfterTeeEvalNet,
        LeaderTopAfterTeeLossNet,
        LeaderTopAfterTeeNet,
        LeaderTopEvalNet,
        LeaderTopLossNet,
        LeaderTopNet,
        WideDeepModel,
    )

__all__ = [
    "AUCMetric",
    "BottomLossNet",
    "LeaderTeeLossNet",
    "LeaderTeeNet",
    "LeaderTopAfterTeeEvalNet",
    "LeaderTopAfterTeeLossNet",
    "LeaderTopAfterTeeNet",
    "LeaderTopEvalNet",
    "LeaderTopLossNet",
    "LeaderTopNet",
    "WideDeepModel",
    "construct_local_dataset",
]
_HOMES = {"AUCMetric": "metric", "construct_local_dataset": "dataset"}  # all others: model


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES.get(name, 'model')}"), name)
