"""A run that goes on from a checkpoint ends as the run that was never interrupted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

OFTEN = {"save_checkpoint_interval": 4, "keep_checkpoint_max": 100, "epochs": 2}


def assert_same(one: Any, other: Any) -> None:
    """The same model, rule state and private tables included, and the same figures of every epoch that both trained."""
    mine, its = one.parameters(), other.parameters()
    assert mine.keys() == its.keys()
    assert [name for name in mine if not np.array_equal(mine[name], its[name])] == []
    for kind, fields in (
        ("epoch", ("epoch", "samples", "loss", "auc", "client_auc")),
        ("eval", ("epoch", "hr", "auc")),
    ):
        told, again = ([{f: event[f] for f in fields} for event in run.events(kind)] for run in (one, other))
        assert again
        assert told[-len(again) :] == again


@pytest.mark.parametrize(
    ("mode", "workers", "settings"),
    [
        ("sync", 3, {}),
        ("sync", 3, {"local_sparse": ["user_embedding"], "private": ["prediction.*"], "negatives": "fresh"}),
        ("async", 1, {"local_sparse": ["user_embedding"]}),
        ("geo", 1, {"local_sparse": ["user_embedding"]}),
        ("geo", 1, {"geo_step": 7}),
    ],
)
def test_a_resumed_run_ends_like_the_one_that_was_never_interrupted(
    shards: Callable[..., Path], federate: Callable[..., Any], mode: str, workers: int, settings: dict[str, Any]
) -> None:
    folder = shards(workers)
    runner = {"runner": {"sync_mode": mode, "test_data_dir": str(folder / "fl_test_data"), **OFTEN, **settings}}
    whole = federate(folder, runner, workers=workers)
    made = whole.checkpoints()
    assert {"1-0", "2-0"} < set(made)
    for name in [*made][:: max(1, len(made) // 3)]:
        if name != "2-0":
            assert_same(whole, federate(folder, runner, workers=workers, resume_from=made[name]))
