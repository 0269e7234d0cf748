"""Test sets: one positive a user, first; what may not be ranked is marked."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from flps.data.columns import write_columns
from flps.data.evaluation import open_test
from flps.data.sources import Reader
from flps.errors import DataError

CONFIGS = Path(__file__).resolve().parents[3] / "configs"


def test_groups_positive_first_with_validity(tmp_path: Path) -> None:
    (tmp_path / "0.csv").write_text("7,3,1\n7,1,0\n7,3,0\n2,5,1\n2,6,0\n2,8,0\n2,6,0\n")
    test = open_test(tmp_path, 0, 1)
    assert test.users.tolist() == [7, 2]
    assert test.items.tolist() == [[3, 1, 3, 3], [5, 6, 8, 6]]
    assert test.valid.tolist() == [[True, True, False, False], [True, True, True, True]]


def test_rows_in_any_order_are_grouped(tmp_path: Path) -> None:
    (tmp_path / "0.csv").write_text("7,1,0\n2,6,0\n7,3,1\n2,5,1\n7,4,0\n2,8,0\n")
    test = open_test(tmp_path, 0, 1)
    assert test.users.tolist() == [7, 2]
    assert test.items.tolist() == [[3, 1, 4], [5, 6, 8]]


@pytest.mark.parametrize("kind", ["QueueDataset", "DataLoader", "RecDataset"])
def test_every_reader_gives_the_same(tmp_path: Path, kind: str) -> None:
    (tmp_path / "0.csv").write_text("7,3,1\n7,1,0\n2,5,1\n2,6,0\n")
    (tmp_path / "1.csv").write_text("1,3,1\n1,1,0\n1,0,0\n")
    reader = Reader(
        kind,  # type: ignore[arg-type]
        pipe_command="python queuedataset_reader.py",
        reader_path="movielens_reader",
        config_path=str(CONFIGS / "config_fl.yaml"),
    )
    ours, theirs = open_test(tmp_path, 0, 1), open_test(tmp_path, 0, 1, reader=reader)
    for a, b in zip((ours.users, ours.items, ours.valid), (theirs.users, theirs.items, theirs.valid), strict=True):
        np.testing.assert_array_equal(a, b)
    assert ours.items.shape == (3, 3)


def test_columns_equal_csv(tmp_path: Path) -> None:
    (tmp_path / "0.csv").write_text("7,3,1\n7,1,0\n2,5,1\n2,6,0\n2,7,0\n")
    text = open_test(tmp_path, 0, 1)
    write_columns(tmp_path / "0.flps", {"users": np.array([7, 2]), "items": np.array([[3, 1, -1], [5, 6, 7]])}, {})
    mapped = open_test(tmp_path, 0, 1)
    np.testing.assert_array_equal(mapped.items, text.items)
    np.testing.assert_array_equal(mapped.valid, text.valid)


def test_batches_for_auc(tmp_path: Path) -> None:
    (tmp_path / "0.csv").write_text("7,3,1\n7,1,0\n7,3,0\n2,5,1\n2,6,0\n")
    batches = list(open_test(tmp_path, 0, 1).batches(3))
    assert [len(b.label) for b in batches] == [3, 1]
    assert np.concatenate([b.label for b in batches]).tolist() == [1, 0, 1, 0]
    assert np.concatenate([b.user_input for b in batches]).tolist() == [7, 7, 2, 2]


def test_an_empty_shard(tmp_path: Path) -> None:
    (tmp_path / "0.csv").write_text("")
    test = open_test(tmp_path, 0, 1)
    assert len(test.users) == 0
    assert list(test.batches(4)) == []


@pytest.mark.parametrize(("text", "count"), [("7,3,1\n7,1,1\n", 2), ("7,3,0\n7,1,0\n", 0)])
def test_a_user_needs_exactly_one_positive(tmp_path: Path, text: str, count: int) -> None:
    (tmp_path / "0.csv").write_text(text)
    with pytest.raises(DataError, match=f"user 7 has {count} positives"):
        open_test(tmp_path, 0, 1)


@pytest.mark.parametrize("sizes", [{"num_users": 7}, {"num_items": 3}])
def test_ids_that_the_config_does_not_know(tmp_path: Path, sizes: dict[str, int]) -> None:
    (tmp_path / "0.csv").write_text("7,3,1\n7,1,0\n")
    with pytest.raises(DataError, match="is not below"):
        open_test(tmp_path, 0, 1, **sizes)  # type: ignore[arg-type]
