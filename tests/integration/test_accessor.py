"""Tables that count: shows and clicks of a federation, keys let in, days, saves by mode, one server or three."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import torch
from numpy.typing import NDArray

from flps.checkpoint import read_manifest
from flps.models.saved import load_model

ITEMS = 40
SHOW, CLICK, DELTA_SCORE, UNSEEN_DAYS, SLOT, SIGHTINGS, ADMITTED = range(7)


def counted(accessor: dict[str, Any], rule: str = "adam", **runner: Any) -> dict[str, Any]:
    """Settings of a job whose items are counted."""
    return {
        "runner": {"epochs": 1, "save_interval": 1, **runner},
        "table_parameters": {"item_embedding": {"accessor": accessor, "rule": rule}},
        "evaluation": {"full": False},
    }


def samples(folder: Path) -> NDArray[np.int64]:
    """user, item, label of all clients."""
    files = sorted((folder / "fl_train_data").glob("*.csv"))
    return np.concatenate([np.loadtxt(path, np.int64, delimiter=",") for path in files])


def by_key(keys: NDArray[np.int64], labels: NDArray[np.int64]) -> tuple[NDArray[Any], NDArray[Any]]:
    return np.bincount(keys), np.bincount(keys, weights=labels)


def items(parameters: dict[str, Any]) -> tuple[list[int], NDArray[Any]]:
    return parameters["item_embedding.keys"].tolist(), parameters["item_embedding.counters"]


@pytest.mark.parametrize("mode", ["sync", "async", "geo"])
def test_shows_and_clicks_are_those_of_the_samples(
    shards: Callable[..., Path], federate: Callable[..., Any], mode: str
) -> None:
    """Of shared items at the servers, and of private users at their owner."""
    folder = shards(2)
    settings = counted({}, sync_mode=mode, local_sparse=["user_embedding"])
    settings["table_parameters"]["user_embedding"] = {"accessor": {}}
    held = federate(folder, settings, servers=2).parameters()
    users, liked, labels = samples(folder).T
    for table, keys in (("item_embedding", liked), ("user_embedding", users)):
        show, click = by_key(keys, labels)
        there = held[f"{table}.keys"].astype(np.int64)
        assert there.tolist() == np.unique(keys).tolist()
        counters = held[f"{table}.counters"]
        assert np.array_equal(counters[:, SHOW], show[there])
        assert np.array_equal(counters[:, CLICK], click[there])
        assert counters[:, DELTA_SCORE] == pytest.approx((show - click)[there] * 0.1 + click[there], rel=1e-5)
        assert not counters[:, [UNSEEN_DAYS, SLOT]].any()
        assert counters[:, ADMITTED].all()


@pytest.mark.parametrize("mode", ["sync", "geo"])
def test_who_is_not_let_in_is_not_trained(shards: Callable[..., Path], federate: Callable[..., Any], mode: str) -> None:
    settings = counted({"entry": {"kind": "count", "count": 10_000}}, sync_mode=mode, epochs=2)
    run = federate(shards(2), settings)
    held = run.parameters()
    assert held["item_embedding.counters"][:, SIGHTINGS].min() >= 2
    assert not held["item_embedding.counters"][:, ADMITTED].any()
    spec = next(spec for spec in read_manifest(run.folder()).tables if spec.name == "item_embedding")
    first = spec.init.rows(held["item_embedding.keys"], spec.dim, spec.seed, spec.dtype)
    assert np.array_equal(held["item_embedding.values"], first)
    assert held["user_embedding.values"].std() > 1.02 * first.std()  # those are trained


@pytest.mark.parametrize("mode", ["sync", "geo"])
def test_days_pass_and_a_delta_holds_what_is_new(
    shards: Callable[..., Path], federate: Callable[..., Any], mode: str
) -> None:
    """Three days of the same samples: items of a low score are forgotten each day, the others gather."""
    folder = shards(2)
    show, click = by_key(*samples(folder).T[1:])
    score = (show - click) * 0.1 + click
    threshold = float(np.sort(score)[ITEMS // 2] / 2 - 0.01)
    rules = {
        "show_click_decay_rate": 0.5, "delete_threshold": threshold, "base_threshold": 0, "delta_threshold": 0.25,
        "entry": {"kind": "show_click", "threshold": 1.0},
    }  # fmt: skip
    settings = counted(rules, sync_mode=mode, epochs=3, save_mode="delta", shrink_interval=1)
    run = federate(folder, settings, servers=2)
    kept = np.flatnonzero(score / 2 >= threshold).tolist()
    assert 5 < len(kept) < 35
    share = 0.0
    for epoch in (1, 2, 3):
        share = (share + 1) / 2
        keys, counters = items(run.parameters(epoch))
        assert keys == kept
        assert np.allclose(counters[:, SHOW], show[kept] * share)
        assert np.allclose(counters[:, CLICK], click[kept] * share)
        assert counters[:, DELTA_SCORE] == pytest.approx(score[kept], rel=1e-4)  # of this day alone
        assert set(counters[:, UNSEEN_DAYS]) == {1}  # the day that has just ended
        assert counters[:, ADMITTED].all()
    exported = safetensors.numpy.load_file(run.folder() / "model.safetensors")
    assert exported["item_embedding.keys"].tolist() == kept
    assert exported["item_embedding.weight"].shape == (len(kept), 8)
    model = load_model(run.folder(), client=0)
    scores = model({"user_input": torch.zeros(ITEMS, dtype=torch.int64), "item_input": torch.arange(ITEMS)})
    assert torch.isfinite(scores).all()


def test_a_batch_ends_a_day_and_a_model_with_counters_goes_on(
    shards: Callable[..., Path], federate: Callable[..., Any]
) -> None:
    folder = shards(2)
    rules = {"entry": {"kind": "count", "count": 1}, "slots": ["item"]}
    settings = counted(rules, sync_mode="sync", epochs=2, save_mode=3, local_sparse=["user_embedding"])
    first = federate(folder, settings, servers=3)
    assert [set(items(first.parameters(epoch))[1][:, UNSEEN_DAYS]) for epoch in (1, 2)] == [{0}, {0}]  # aged afterwards
    more = counted(rules, sync_mode="sync", warmup_model_path=str(first.folder()), local_sparse=["user_embedding"])
    second = federate(folder, more, servers=2)
    show, click = by_key(*samples(folder).T[1:])
    keys, counters = items(second.parameters())
    assert np.array_equal(counters[:, SHOW], 3 * show[keys])
    assert np.array_equal(counters[:, CLICK], 3 * click[keys])


@pytest.mark.parametrize("entry", [{"kind": "count", "count": 4}, {"kind": "probability", "probability": 0.3}])
@pytest.mark.parametrize(("mode", "workers"), [("sync", 2), ("geo", 1)])
def test_one_server_is_three_servers(
    shards: Callable[..., Path], federate: Callable[..., Any], mode: str, workers: int, entry: dict[str, Any]
) -> None:
    rules = {"show_click_decay_rate": 0.4, "delete_threshold": 7.0, "base_threshold": 1.0, "entry": entry}
    settings = counted(rules, "sparse_adagrad", sync_mode=mode, epochs=2, save_mode="base", shrink_interval=1)
    settings["hyper_parameters"] = {"optimizer": {"class": "shared_adam"}}
    folder = shards(2)
    one, three = (federate(folder, settings, workers=workers, servers=n).parameters() for n in (1, 3))
    assert one.keys() == three.keys()
    assert [name for name in one if not np.array_equal(one[name], three[name])] == []
    assert 5 < len(one["item_embedding.keys"]) < ITEMS


def test_deltas_one_after_the_other_are_the_whole(shards: Callable[..., Path], federate: Callable[..., Any]) -> None:
    """Without thresholds: rows, rule state and counters of both epochs, at another number of servers."""
    folder = shards(2)
    rules = {"base_threshold": 0, "delta_threshold": 0}
    settings = counted(rules, sync_mode="sync", epochs=2, local_sparse=["user_embedding"])
    settings["table_parameters"]["user_embedding"] = {"accessor": rules}
    whole = federate(folder, settings, servers=2)
    settings["runner"]["save_mode"] = "delta"
    deltas = federate(folder, settings, servers=3)
    settings["runner"] |= {
        "epochs": 1, "warmup_model_path": [str(deltas.folder(1)), str(deltas.folder(2))],
    }  # fmt: skip
    settings["hyper_parameters"] = {"optimizer": {"class": "adam", "learning_rate": 1e-30}}
    settings["table_parameters"]["item_embedding"]["learning_rate"] = 1e-30  # nothing moves any more
    again = federate(folder, settings, servers=1).parameters()
    before = whole.parameters()
    for name in ("item_embedding.keys", "item_embedding.values", "user_embedding.values", "dense.values"):
        assert np.array_equal(again[name], before[name]), name
    show, _ = by_key(*samples(folder).T[1:])
    assert np.array_equal(again["item_embedding.counters"][:, SHOW], 3 * show)


@pytest.mark.parametrize(("mode", "workers"), [pytest.param("sync", 2, marks=pytest.mark.slow), ("geo", 1)])
def test_a_resumed_run_counts_on(
    shards: Callable[..., Path], federate: Callable[..., Any], mode: str, workers: int
) -> None:
    """From the middle of a window, of an epoch, between two: rows, counters and what a delta holds are the same."""
    rules = {"show_click_decay_rate": 0.5, "delete_threshold": 8.5, "entry": {"kind": "count", "count": 5}}
    settings = counted(
        rules, sync_mode=mode, epochs=2, save_mode="delta", shrink_interval=1, save_checkpoint_interval=5,
        keep_checkpoint_max=100, local_sparse=["user_embedding"],
    )  # fmt: skip
    settings["table_parameters"]["user_embedding"] = {"accessor": {"entry": {"kind": "show_click", "threshold": 1.0}}}
    folder = shards(workers)
    whole = federate(folder, settings, workers=workers, servers=2)
    made = whole.checkpoints()
    # A checkpoint is left out while the one before it is still being written, so which there are depends on the disk.
    middle = [name for name in made if not name.endswith("-0")]
    for name in ("1-0", *middle[:1], *middle[-1:]):
        again = federate(folder, settings, workers=workers, servers=2, resume_from=made[name])
        mine, its = whole.parameters(), again.parameters()
        assert mine.keys() == its.keys()
        assert [part for part in mine if not np.array_equal(mine[part], its[part])] == [], name
    assert 0 < len(whole.parameters()["item_embedding.keys"]) < ITEMS
