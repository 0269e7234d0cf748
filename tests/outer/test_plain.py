"""The yardstick measures what it claims: the same function as flps's NCF, at a positive speed, and it learns."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from flps.data.evaluation import rankable
from flps.models.ncf.build import build
from flps.models.ncf.hyper import NcfHyperParameters


@pytest.fixture(scope="module")
def plain() -> ModuleType:
    path = Path(__file__).parents[2] / "benchmarks" / "plain.py"
    spec = importlib.util.spec_from_file_location("flps_benchmarks_plain", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def one_thread() -> object:
    threads = torch.get_num_threads()
    state = torch.get_rng_state()
    yield None
    torch.set_num_threads(threads)
    torch.set_rng_state(state)


@pytest.mark.parametrize("mode", ["NCF_NeuMF", "NCF_MLP", "NCF_GMF"])
def test_it_is_the_same_function_as_ours(plain: ModuleType, mode: str) -> None:
    ours = build(NcfHyperParameters(mode=mode, num_users=7, num_items=11), seed=1)
    yardstick = plain.Plain(mode, 7, 11)
    user, item = torch.arange(7), torch.arange(7) + 3
    with torch.no_grad():
        yardstick.users.weight.copy_(ours.user_embedding(torch.arange(7)))
        yardstick.items.weight.copy_(ours.item_embedding(torch.arange(11)))
        if mode != "NCF_GMF":
            yardstick.tower.load_state_dict(ours.tower.state_dict())
        yardstick.prediction.load_state_dict(ours.prediction.state_dict())
        expected = ours({"user_input": user, "item_input": item})
        torch.testing.assert_close(yardstick(user, item), expected, rtol=1e-6, atol=1e-7)


def test_speed_is_a_number_of_samples(plain: ModuleType, one_thread: object) -> None:
    assert plain.run(0.05, 64, users=50, items=40, warmup_steps=2) > 100


def test_epoch_samples_hold_every_positive_and_only_true_negatives(plain: ModuleType) -> None:
    train = (np.repeat(np.arange(5), 4), np.tile(np.arange(4), 5))
    seen = np.zeros((5, 9), dtype=bool)
    seen[train] = True
    users, items, labels = (column.numpy() for column in plain.epoch_samples(train, seen, 3, np.random.default_rng(0)))
    assert len(users) == len(items) == len(labels) == 80
    assert sorted(zip(users[labels == 1], items[labels == 1], strict=True)) == sorted(zip(*train, strict=True))
    assert not seen[users[labels == 0], items[labels == 0]].any()
    assert set(items[labels == 0]) == {4, 5, 6, 7, 8}


@pytest.mark.parametrize("optimizer", ["dense", "lazy"])
def test_centralised_training_learns_two_camps(plain: ModuleType, one_thread: object, optimizer: str) -> None:
    # Even users like even items, odd users odd ones; the held-out item is one of the own camp.
    pairs = np.array([(user, item) for user in range(20) for item in range(30) if (user - item) % 2 == 0])
    held = np.array([(user, user % 2 + 2 * (user % 15)) for user in range(20)])
    kept = ~(pairs[:, None] == held).all(2).any(1)
    negatives = np.array([[item for item in range(30) if (user - item) % 2] for user in range(20)])
    test = rankable(held[:, 0], np.column_stack((held[:, 1], negatives)))
    movielens = plain.MovieLens((pairs[kept, 0], pairs[kept, 1]), test, 20, 30)
    results = list(
        plain.train_centralised(movielens, "NCF_GMF", epochs=15, batch_size=32, learning_rate=0.02, optimizer=optimizer)
    )
    assert [epoch for epoch, _, _ in results] == list(range(1, 16))
    (_, first_loss, first), (_, last_loss, last) = results[0], results[-1]
    assert last_loss < first_loss
    assert first.full is None
    assert last.full is not None
    assert last.sampled.hr == 1.0
    assert last.auc > 0.99
