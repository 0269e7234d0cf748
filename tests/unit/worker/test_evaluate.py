"""Held-out items are ranked as decision 9 says, and measuring leaves no trace."""

from __future__ import annotations

import lzma
import os
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from flps.coordinator.summary import evaluated
from flps.data.batch import Ids
from flps.data.evaluation import TestSet, rankable
from flps.data.interactions import Interactions
from flps.errors import DataError, FlpsError
from flps.message import Report
from flps.models.ncf.build import build
from flps.models.ncf.hyper import NcfHyperParameters
from flps.worker.evaluate import Evaluation, Scores, evaluate, model_score, popularity

ML_1M = Path(os.environ.get("FLPS_DATA_DIR", Path(__file__).parents[4] / "shared" / "data")) / "ml-1m"


def chosen(test: TestSet, rows: np.ndarray) -> TestSet:
    return TestSet(test.users[rows], test.items[rows], test.valid[rows])


class Task(NamedTuple):
    """A random test set, training pairs, and a table of whole-number scores, so that ties abound."""

    test: TestSet
    train: Interactions
    table: np.ndarray  # (users, items)

    def score(self, users: Ids, items: Ids) -> Scores:
        return self.table[users, items].astype(np.float32)


def random_task(seed: int, users: int = 13, items: int = 17, negatives: int = 5) -> Task:
    draw = np.random.default_rng(seed)
    test = rankable(draw.permutation(users), draw.integers(items, size=(users, 1 + negatives)))
    train = Interactions.build(draw.integers(users, size=60), draw.integers(items, size=60), items)
    return Task(test, train, draw.integers(-3, 4, size=(users, items)))


def rank_by_hand(task: Task, row: int, candidates: list[int]) -> int:
    """A candidate that comes twice counts twice."""
    user, item = task.test.users[row], task.test.items[row, 0]
    return sum(task.table[user, other] >= task.table[user, item] for other in candidates if other != item)


@given(st.integers(0, 10**6), st.sampled_from([1, 7, 40, 10_000]))
def test_ranks_are_those_counted_by_hand(seed: int, pairs: int) -> None:
    task = random_task(seed)
    result = evaluate(task.score, task.test, task.train, 17, k=3, pairs=pairs)
    test = task.test
    full = [rank_by_hand(task, row, [*{*range(17)} - {*task.train.of(user)}]) for row, user in enumerate(test.users)]
    assert result.full is not None
    assert result.full.ranks == tuple(full.count(rank) for rank in range(3))
    sampled = [rank_by_hand(task, row, items[1:].tolist()) for row, items in enumerate(test.items)]
    assert result.sampled.ranks == tuple(sampled.count(rank) for rank in range(3))
    assert (result.users, result.warm) == (13, 13)


@given(st.integers(0, 10**6))
def test_auc_is_that_of_all_valid_pairs(seed: int) -> None:
    task = random_task(seed)
    users = np.broadcast_to(task.test.users[:, None], task.test.items.shape)
    labels = np.broadcast_to(np.arange(6) == 0, users.shape)
    scores, labels = task.table[users, task.test.items][task.test.valid], labels[task.test.valid]
    result = evaluate(task.score, task.test, task.train, 17, full=False)
    assert result.auc == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)  # equal scores alone share a bin
    assert result.full is None


@given(st.integers(0, 10**6), st.lists(st.integers(0, 3), min_size=13, max_size=13))
def test_clients_merged_in_any_order_are_the_whole(seed: int, client_of: list[int]) -> None:
    task = random_task(seed)
    warm = np.random.default_rng(seed).random(13) < 0.5
    whole = evaluate(task.score, task.test, task.train, 17, warm=warm)
    parts = []
    for client in np.random.default_rng(seed).permutation(4):
        mine = np.array(client_of) == client
        parts.append(evaluate(task.score, chosen(task.test, mine), task.train, 17, warm=warm[mine]))
    merged = parts[0].merge(parts[1]).merge(parts[2].merge(parts[3]))
    assert merged == whole
    assert merged.warm == warm.sum()


@given(st.integers(0, 10**6), st.booleans())
def test_counts_of_clients_add_up_to_the_event_of_all(seed: int, full: bool) -> None:
    task = random_task(seed)
    mine = np.arange(13) < 6
    parts = [evaluate(task.score, chosen(task.test, rows), task.train, 17, full=full) for rows in (mine, ~mine)]
    named = [part.counts() for part in parts]
    assert named[0].keys() == named[1].keys()
    assert ("full" in named[0]) is full
    total = Report({name: named[0][name] + named[1][name] for name in named[0]})
    merged = parts[0].merge(parts[1]).fields()
    assert {name: evaluated(total)[name] for name in merged} == merged


def test_evaluation_travels() -> None:
    task = random_task(1)
    result = evaluate(task.score, task.test, task.train, 17)
    copy = msgspec.msgpack.decode(msgspec.msgpack.encode(result), type=Evaluation)
    assert copy == result
    assert copy.fields() == result.fields()
    assert set(result.fields()) == {"hr", "ndcg", "hr_full", "ndcg_full", "auc", "warm", "users"}


def test_a_constant_model_has_learned_nothing_and_an_oracle_all() -> None:
    task = random_task(2, items=40, negatives=20)
    test = task.test
    nothing = evaluate(lambda users, items: np.zeros(len(users)), test, task.train, 40, k=1)
    assert (nothing.sampled.hr, nothing.auc) == (0.0, 0.5)
    truth = np.zeros((13, 40))
    truth[test.users, test.items[:, 0]] = 500.0
    everything = evaluate(lambda users, items: truth[users, items], test, task.train, 40, k=1)
    assert everything.full is not None
    assert (everything.sampled.ndcg, everything.full.ndcg, everything.auc) == (1.0, 1.0, 1.0)


def test_nobody_to_rank_is_no_error() -> None:
    task = random_task(3)
    empty = evaluate(task.score, chosen(task.test, np.zeros(13, bool)), task.train, 17)
    whole = evaluate(task.score, task.test, task.train, 17)
    assert empty.users == 0
    assert whole.merge(empty) == whole


def test_what_does_not_add_up_is_refused() -> None:
    task = random_task(4)
    full, sampled = (evaluate(task.score, task.test, task.train, 17, full=full) for full in (True, False))
    with pytest.raises(ValueError, match="do not add up"):
        full.merge(sampled)


def test_a_diverged_model_is_refused() -> None:
    task = random_task(5)
    with pytest.raises(FlpsError, match="NaN"):
        evaluate(lambda users, items: np.full(len(users), np.nan), task.test, task.train, 17)


@pytest.mark.parametrize(("column", "item"), [(0, 17), (3, -1)])
def test_an_item_that_is_none_is_refused(column: int, item: int) -> None:
    task = random_task(6)
    task.test.items[4, column] = item
    with pytest.raises(DataError, match=rf"item {item}, but items are 0\.\.16"):
        evaluate(task.score, task.test, task.train, 17)


def test_padding_is_not_ranked() -> None:
    ragged = rankable(np.array([0, 1]), np.array([[0, 1, 2, -1], [3, -1, -1, -1]]))
    result = evaluate(lambda users, items: np.zeros(len(users)), ragged, random_task(0).train, 17, k=3, full=False)
    assert result.sampled.ranks == (1, 0, 1)
    assert result.histogram.counts.sum() == 4


@pytest.mark.parametrize("training", [True, False])
def test_measuring_leaves_no_trace(training: bool) -> None:
    model = build(NcfHyperParameters(num_users=13, num_items=17), seed=1).train(training)
    task = random_task(7)
    model(pair := {"user_input": torch.arange(13), "item_input": torch.arange(13)})  # rows are made on first touch

    def everything() -> dict[str, bytes]:
        with torch.no_grad():
            rows = {
                "rows": torch.hstack(
                    [model.user_embedding(pair["user_input"]), model.item_embedding(pair["item_input"])]
                )
            }
        return {name: weight.detach().numpy().tobytes() for name, weight in {**model.state_dict(), **rows}.items()}

    before, chance, numbers = everything(), torch.get_rng_state(), np.random.get_state()[1].tobytes()  # type: ignore[index]
    first = evaluate(model_score(model), task.test, task.train, 17)
    assert everything() == before
    assert torch.equal(chance, torch.get_rng_state())
    assert np.random.get_state()[1].tobytes() == numbers  # type: ignore[index]
    assert model.training is training
    assert all(weight.grad is None for weight in model.parameters())
    assert evaluate(model_score(model), task.test, task.train, 17) == first


def test_model_score_is_the_models_logits() -> None:
    model = build(NcfHyperParameters(num_users=13, num_items=17), seed=1)
    users, items = np.arange(13), np.arange(13)
    expected = model({"user_input": torch.from_numpy(users), "item_input": torch.from_numpy(items)}).detach().numpy()
    np.testing.assert_array_equal(model_score(model)(users, items), expected)
    rough = model_score(model, bf16=True)(users, items)
    np.testing.assert_allclose(rough, expected, rtol=0.05, atol=5e-3)


@settings(max_examples=30)
@given(st.lists(st.integers(0, 1000), min_size=1, max_size=30))
def test_popularity_orders_items_as_their_counts(counts: list[int]) -> None:
    scores = popularity(np.array(counts))(np.zeros(len(counts), int), np.arange(len(counts)))
    assert np.isfinite(scores).all()
    assert np.array_equal(np.sign(np.subtract.outer(scores, scores)), np.sign(np.subtract.outer(counts, counts)))


@pytest.mark.skipif(not ML_1M.is_dir(), reason=f"MovieLens-1M is not at {ML_1M}; set FLPS_DATA_DIR")
def test_popularity_on_the_official_split_of_movielens_1m() -> None:
    with lzma.open(ML_1M / "ml-1m.train.rating.xz", "rt") as file:
        users, items = np.loadtxt(file, dtype=np.int64, usecols=(0, 1), unpack=True)
    test = np.loadtxt(ML_1M / "ml-1m.test.rating", dtype=np.int64, usecols=(0, 1))
    with lzma.open(ML_1M / "ml-1m.test.negative.xz", "rt") as file:
        negatives = np.array([line.split("\t")[1:] for line in file], dtype=np.int64)
    held_out = rankable(test[:, 0], np.column_stack((test[:, 1], negatives)))
    assert np.count_nonzero(~held_out.valid) == 156
    train = Interactions.build(users, items, 3706)
    result = evaluate(popularity(np.bincount(items, minlength=3706)), held_out, train, 3706)
    assert result.users == 6040
    assert result.sampled.hr == pytest.approx(0.4531, abs=5e-5)
    assert result.sampled.ndcg == pytest.approx(0.2541, abs=5e-5)
    assert result.full is not None
    assert result.full.hr < 0.1
