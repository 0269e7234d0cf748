"""Generated lines: the same from the same seed, a signal on both sides, made once."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score  # type: ignore[import-untyped]

from flps.data.criteo_like import CHUNK_ROWS, Shape, decimal, ensure, write_raw
from flps.data.criteo_parties import LEADER_AND_FOLLOWER, read_card
from flps.errors import ConfigError


def text(shape: Shape) -> bytes:
    file = io.BytesIO()
    write_raw(file, shape)
    return file.getvalue()


def test_the_same_arguments_give_the_same_bytes_and_short_is_the_beginning_of_long() -> None:
    long = text(Shape(CHUNK_ROWS + 50))
    assert long == text(Shape(CHUNK_ROWS + 50))
    assert long.startswith(text(Shape(CHUNK_ROWS + 7)))
    assert long.startswith(text(Shape(30)))
    assert text(Shape(30, seed=1)) != text(Shape(30))
    lines = long.splitlines()
    assert len(lines) == CHUNK_ROWS + 50
    assert {line.count(b"\t") for line in lines} == {39}
    assert {line[:2] for line in lines} == {b"0\t", b"1\t"}
    assert any(b"\t\t" in line for line in lines)


def test_decimal_digits() -> None:
    numbers = np.array([0, 7, 10, 305, 99999])
    made = [row[row != 0].tobytes() for row in decimal(numbers)]
    assert made == [b"0", b"7", b"10", b"305", b"99999"]


def log_odds_auc(folder: Path, columns: tuple[int, ...]) -> float:
    """AUC on the test rows of a naive sum over the columns of each id's log odds in the training rows."""

    def rows(part: str, name: str) -> NDArray[np.float64]:
        return np.asarray(np.load(folder / part / f"{name}.npy"))

    labels = rows("train", "label")
    size = read_card(folder)["ids"]
    score = np.zeros(len(rows("test", "label")))
    for column in (c for c in columns if c >= 13):
        ids = rows("train", "feat_ids")[:, column]
        clicks, shown = (np.bincount(ids, weights, size) for weights in (labels, None))
        odds = np.log((clicks + 1) / (shown - clicks + 3))
        score += odds[rows("test", "feat_ids")[:, column]]
    return float(roc_auc_score(rows("test", "label"), score))


def test_signal_on_both_sides_and_more_in_all(tmp_path: Path) -> None:
    folder = ensure(tmp_path, Shape(rows=30_000))
    leader, follower = (party.columns for party in LEADER_AND_FOLLOWER)
    alone, other, joined = (log_odds_auc(folder, columns) for columns in (leader, follower, leader + follower))
    assert min(alone, other) > 0.6
    assert joined > max(alone, other) + 0.03
    labels = read_card(folder)["labels"]["train"]
    assert 0.2 < labels["1"] / (labels["0"] + labels["1"]) < 0.35
    made = (folder / "criteo.json").stat().st_mtime_ns
    assert ensure(tmp_path, Shape(rows=30_000)) == folder
    assert (folder / "criteo.json").stat().st_mtime_ns == made
    assert os.listdir(tmp_path) == [folder.name]


def test_other_arguments_are_another_folder(tmp_path: Path) -> None:
    small = Shape(rows=100, dense_dim=3, slot_dim=4)
    folder = ensure(tmp_path, small)
    assert read_card(folder)["parties"] == []
    assert ensure(tmp_path, small, threshold=1) != folder


@pytest.mark.parametrize("wrong", [{"rows": 1}, {"dense_dim": -1}, {"dense_dim": 0, "slot_dim": 0}])
def test_shapes_that_cannot_be(wrong: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match="expected at least"):
        Shape(**wrong)
