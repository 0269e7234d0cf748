"""Rows that travel in fewer bytes: the run ends near the one that rounds nothing, and half the bytes pass."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest


def traffic(saved: Any) -> int:
    """Bytes in and out of all workers."""
    told = {event["rank"]: event for event in saved.events("progress") if event["role"] == "worker"}
    return sum(event["bytes_in"] + event["bytes_out"] for event in told.values())


def run(federate: Callable[..., Any], folder: Path, mode: str, row_type: str, servers: int = 1) -> Any:
    settings = {
        "runner": {"sync_mode": mode, "geo_step": 7, "row_type": row_type, "epochs": 3},
        "hyper_parameters": {"optimizer": {"class": "adam", "learning_rate": 0.01}},
    }
    return federate(folder, settings, workers=2, servers=servers)


@pytest.mark.parametrize("mode", ["sync", "geo"])
def test_a_run_with_packed_rows_ends_near_the_whole_one(
    mode: str, shards: Callable[..., Path], federate: Callable[..., Any]
) -> None:
    folder = shards(2)
    whole = run(federate, folder, mode, "float32")
    losses = [event["loss"] for event in whole.events("epoch")]
    assert losses[-1] < losses[0]
    for row_type, apart in (("float16", 0.01), ("int8", 0.05)):
        packed = run(federate, folder, mode, row_type)
        assert [event["loss"] for event in packed.events("epoch")] == pytest.approx(losses, abs=apart)
        if mode == "sync":
            assert traffic(packed) < traffic(whole)


def test_packed_rows_are_the_same_on_any_number_of_servers(
    shards: Callable[..., Path], federate: Callable[..., Any]
) -> None:
    """In half precision every number is rounded by itself. (A byte's scale depends on which numbers of a dense tensor
    lie on one server.)"""
    folder = shards(2)
    one, three = (run(federate, folder, "sync", "float16", servers).parameters() for servers in (1, 3))
    assert set(one) == set(three)
    for table in ("user_embedding", "item_embedding"):
        orders = [np.argsort(saved[f"{table}.keys"]) for saved in (one, three)]
        for part in ("keys", "values"):
            first, second = (saved[f"{table}.{part}"][order] for saved, order in zip((one, three), orders, strict=True))
            np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(one["dense.values"], three["dense.values"])
