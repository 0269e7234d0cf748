"""Epochs: every positive once, new negatives, a new order, and resumed == uninterrupted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flps.data.batch import Batch
from flps.data.columns import write_columns
from flps.data.train import Sampling, TrainSet, open_train
from flps.errors import DataError


def whole(train: TrainSet, epoch: int, start_step: int = 0) -> Batch:
    columns = zip(*train.epoch(epoch, start_step), strict=True)
    return Batch(*(np.concatenate(column) for column in columns))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(1)
    pairs = np.unique(rng.integers(0, [12, 40], (200, 2)), axis=0)
    (tmp_path / "0.csv").write_text("".join(f"{u},{i},1\n" for u, i in pairs.tolist()))
    return tmp_path


def test_an_epoch_holds_each_positive_once_and_its_negatives(folder: Path) -> None:
    train = open_train(folder, 0, 1, sampling=Sampling(batch_size=64, num_items=40))
    epoch = whole(train, 0)
    lines = [tuple(map(int, line.split(","))) for line in (folder / "0.csv").read_text().split()]
    taken = epoch.label == 1
    got = sorted(zip(epoch.user_input[taken].tolist(), epoch.item_input[taken].tolist(), strict=True))
    assert got == [line[:2] for line in lines]
    assert train.samples == len(epoch.label) == 5 * len(lines)
    assert train.steps() == -(-train.samples // 64)
    assert train.steps(100) == -(-train.samples // 100)
    drawn = zip(epoch.user_input[~taken].tolist(), epoch.item_input[~taken].tolist(), strict=True)
    assert set(drawn).isdisjoint(got)
    per_user = np.bincount(epoch.user_input[~taken])
    assert per_user.tolist() == (4 * np.bincount(epoch.user_input[taken])).tolist()
    assert (epoch.user_input.dtype, epoch.label.dtype) == (np.int64, np.float32)
    assert set(np.unique(epoch.item_input[~taken])) == set(range(40))


def test_seed_client_and_epoch_make_the_numbers(folder: Path) -> None:
    (folder / "1.csv").write_bytes((folder / "0.csv").read_bytes())

    def items(epoch: int, seed: int = 0, client: int = 0) -> list[int]:
        return whole(open_train(folder, client, 2, sampling=Sampling(seed=seed)), epoch).item_input.tolist()

    assert items(3) == items(3)
    different = [items(0), items(1), items(0, seed=1), items(0, client=1)]
    assert len({tuple(one) for one in different}) == 4


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(step=st.integers(0, 40), size=st.integers(20, 70))
def test_resumed_is_uninterrupted(folder: Path, step: int, size: int) -> None:
    train = open_train(folder, 0, 1, sampling=Sampling(batch_size=size))
    step = min(step, train.steps())
    batches = list(train.epoch(2))
    rest = list(train.epoch(2, step))
    assert len(rest) == len(batches) - step
    for got, expected in zip(rest, batches[step:], strict=True):
        for a, b in zip(got, expected, strict=True):
            np.testing.assert_array_equal(a, b)


def test_fixed_negatives_are_those_of_the_file(tmp_path: Path) -> None:
    lines = ["3,1,1", "3,2,0", "3,9,0", "5,2,1", "5,2,0"]
    (tmp_path / "0.csv").write_text("\n".join(lines))
    train = open_train(tmp_path, 0, 1, sampling=Sampling(negatives="fixed"))
    epoch = whole(train, 0)
    got = [f"{u},{i},{int(label)}" for u, i, label in zip(*(c.tolist() for c in epoch), strict=True)]
    assert sorted(got) == sorted(lines)
    assert train.samples == 5
    assert train.num_items == 10
    assert train.interactions.of(3).tolist() == [1]
    assert train.interactions.of(4).tolist() == []


def test_fresh_passes_over_the_negatives_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "0.csv").write_text("3,1,1\n3,2,0\n3,2,0\n5,2,1\n9,2,0\n")
    train = open_train(tmp_path, 0, 1, sampling=Sampling(num_items=50))
    assert train.samples == 10
    assert train.users.tolist() == [3, 5]
    assert (whole(train, 0).label == 1).sum() == 2


def test_without_shuffling_the_order_is_that_of_the_file(folder: Path) -> None:
    train = open_train(folder, 0, 1, sampling=Sampling(num_neg=0, shuffle=False))
    users = [int(line.split(",")[0]) for line in (folder / "0.csv").read_text().split()]
    assert whole(train, 0).user_input.tolist() == users


def test_a_user_with_every_item_gets_no_negatives(tmp_path: Path) -> None:
    (tmp_path / "0.csv").write_text("0,0,1\n0,1,1\n0,2,1\n1,0,1\n")
    train = open_train(tmp_path, 0, 1, sampling=Sampling(batch_size=3))
    epoch = whole(train, 0)
    assert train.samples == len(epoch.label) == 3 + 5
    assert epoch.user_input[epoch.label == 0].tolist() == [1] * 4


def test_a_repeated_pair_is_trained_twice_and_known_once(tmp_path: Path) -> None:
    (tmp_path / "0.csv").write_text("0,1,1\n0,1,1\n")
    train = open_train(tmp_path, 0, 1, sampling=Sampling(num_items=9))
    assert train.samples == 10
    assert train.interactions.of(0).tolist() == [1]


@pytest.mark.parametrize("negatives", ["fresh", "fixed"])
def test_an_empty_shard_has_no_steps(tmp_path: Path, negatives: str) -> None:
    (tmp_path / "0.csv").write_text("")
    train = open_train(tmp_path, 0, 1, sampling=Sampling(negatives=negatives))  # type: ignore[arg-type]
    assert (train.samples, train.steps(), len(train.users)) == (0, 0, 0)
    assert list(train.epoch(0)) == []


def test_csv_and_columns_give_the_same_epoch(folder: Path) -> None:
    rows = np.array([line.split(",") for line in (folder / "0.csv").read_text().split()], np.int64)
    text = whole(open_train(folder, 0, 1), 1)
    write_columns(folder / "0.flps", {"user": rows[:, 0].astype(np.int32), "item": rows[:, 1]}, {"num_items": 40})
    mapped = open_train(folder, 0, 1)
    for a, b in zip(text, whole(mapped, 1), strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_columnar_shard_brings_the_number_of_items(tmp_path: Path) -> None:
    arrays = {"user": np.zeros(3, np.int32), "item": np.arange(3, dtype=np.int32)}
    write_columns(tmp_path / "0.flps", arrays, {"num_items": 1000})
    assert open_train(tmp_path, 0, 1).num_items == 1000
    assert open_train(tmp_path, 0, 1, sampling=Sampling(num_items=50)).num_items == 50


@pytest.mark.parametrize(("what", "sizes"), [("user 11", {"num_users": 11}), ("item 39", {"num_items": 39})])
def test_ids_that_the_config_does_not_know(folder: Path, what: str, sizes: dict[str, int]) -> None:
    with pytest.raises(DataError, match=f"{what} is not below"):
        open_train(folder, 0, 1, sampling=Sampling(**sizes))  # type: ignore[arg-type]


def test_positives_only_with_fixed_is_worth_a_warning(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    open_train(folder, 0, 1, sampling=Sampling(negatives="fixed"))
    assert "no sample of label 0" in caplog.text
