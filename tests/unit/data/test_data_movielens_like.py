"""Generated ratings: the stated shape, the same bytes, one cache for two callers."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from flps.data.divide import read_zip_codes
from flps.data.evaluation import open_test
from flps.data.movielens_like import ZIP_SHARES, Shape, ensure, ratings_per_user, write_all, zip_codes
from flps.data.ratings import read_split
from flps.data.train import open_train
from flps.errors import ConfigError

SMALL = Shape(users=200, items=300, ratings=8000)


def test_all_files_and_one_split(tmp_path: Path) -> None:
    split = write_all(tmp_path, SMALL)
    first = (tmp_path / "ratings.dat").read_text().splitlines()
    assert first[0].startswith("1::")
    assert len(first) == len(split.train.users) + 200
    counts = np.bincount(split.train.users) + 1
    assert counts.min() >= 20
    assert abs(counts.sum() - 8000) <= 200
    assert {line.split("::")[2] for line in first} == set("12345")
    assert len(read_zip_codes(tmp_path / "users.dat")) == 200
    assert len((tmp_path / "movies.dat").read_text().splitlines()) == 300
    ncf = read_split(tmp_path / "ml-1m.train.rating")
    np.testing.assert_array_equal(ncf.train.items, split.train.items)
    np.testing.assert_array_equal(ncf.test_items, split.test_items)
    assert read_split(tmp_path, seed=SMALL.seed, num_items=300).num_items == 300


def test_the_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        write_all(tmp_path / name, Shape(50, 60, 1200, seed))
    names = [path.name for path in (tmp_path / "a").iterdir()]
    assert len(names) == 7
    assert all((tmp_path / "a" / n).read_bytes() == (tmp_path / "b" / n).read_bytes() for n in names)
    assert (tmp_path / "a" / "ratings.dat").read_bytes() != (tmp_path / "c" / "ratings.dat").read_bytes()


def test_popularity_has_a_long_tail_and_taste_is_learnable(tmp_path: Path) -> None:
    split = write_all(tmp_path, SMALL)
    counts = np.sort(np.bincount(split.train.items, minlength=300))[::-1]
    assert counts[:30].sum() > 2 * counts[150:180].sum()
    matrix = np.zeros((200, 300))
    matrix[split.train.users, split.train.items] = 1
    noise = matrix.copy()
    rng = np.random.default_rng(0)
    for item in range(300):
        rng.shuffle(noise[:, item])
    real, shuffled = (np.linalg.svd(m - m.mean(0), compute_uv=False)[0] for m in (matrix, noise))
    assert real > 1.2 * shuffled


def test_zip_codes_have_the_real_shares() -> None:
    codes = zip_codes(Shape())
    assert tuple(np.bincount([int(code[0]) for code in codes])) == ZIP_SHARES
    assert all(len(code) == 5 for code in codes)
    assert len(zip_codes(SMALL)) == 200


def test_the_default_has_about_a_million_ratings() -> None:
    counts = ratings_per_user(Shape(), np.random.default_rng(0))
    assert abs(int(counts.sum()) - 1_000_000) < 6040
    assert counts.min() >= 20


@pytest.mark.parametrize("shape", [(0, 100, 20), (10, 30, 300), (10, 100, 199), (10, 100, 501)])
def test_shapes_that_cannot_be(shape: tuple[int, int, int]) -> None:
    with pytest.raises(ConfigError, match="--"):
        Shape(*shape)


def test_ensure_makes_once_and_returns_shards(tmp_path: Path) -> None:
    folder = ensure(tmp_path / "cache", 4, SMALL)
    made = (folder / "made_from.json").stat().st_mtime_ns
    assert ensure(tmp_path / "cache", 4, SMALL) == folder
    assert (folder / "made_from.json").stat().st_mtime_ns == made
    assert json.loads((folder / "made_from.json").read_text())["clients"] == 4
    assert ensure(tmp_path / "cache", 4, SMALL, by="user") != folder
    train = [open_train(folder / "fl_train_data", n, 4) for n in range(4)]
    assert sum(len(t.users) for t in train) == 200
    assert all(t.num_items == 300 for t in train)
    assert sum(len(open_test(folder / "fl_test_data", n, 4).users) for n in range(4)) == 200


def test_two_callers_at_once_get_one_whole_folder(tmp_path: Path) -> None:
    with ThreadPoolExecutor(3) as pool:
        folders = set(pool.map(lambda _: ensure(tmp_path, 2, SMALL), range(3)))
    assert list(tmp_path.iterdir()) == list(folders)


def test_a_failure_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--by"):
        ensure(tmp_path, 2, SMALL, by="age")
    assert list(tmp_path.iterdir()) == []
