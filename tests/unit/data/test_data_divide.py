"""Who gets what: whole users, every sample once, the same for the same seed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from flps.data.batch import Rows
from flps.data.divide import WAYS, divide, read_zip_codes, zip_number
from flps.data.ratings import Split
from flps.errors import ConfigError, DataError


@pytest.fixture
def split() -> Split:
    rng = np.random.default_rng(2)
    users = np.sort(rng.integers(0, 120, 3000))
    items = (rng.integers(0, 30, 3000) + 30 * (users % 2)) % 60
    pairs = np.unique(np.stack([users, items], axis=1), axis=0)
    train = Rows(pairs[:, 0], pairs[:, 1], np.ones(len(pairs), np.float32))
    return Split(train, np.arange(120), np.zeros((120, 1), np.int64), 120, 60)


@pytest.fixture
def users_dat(tmp_path: Path) -> Path:
    path = tmp_path / "users.dat"
    path.write_text("".join(f"{n + 1}::F::1::1::{n % 10}{n:04d}\n" for n in range(120)))
    return path


@pytest.mark.parametrize("clients", [1, 3, 10, 37])
@pytest.mark.parametrize("by", WAYS)
def test_every_sample_and_test_user_has_one_client(split: Split, users_dat: Path, by: str, clients: int) -> None:
    rows, test = divide(split, by, clients, users_dat=users_dat, seed=3)
    assert rows.shape == split.train.users.shape
    assert test.shape == split.test_users.shape
    assert 0 <= rows.min() <= rows.max() < clients
    again = divide(split, by, clients, users_dat=users_dat, seed=3)
    np.testing.assert_array_equal(rows, again[0])
    if by != "equal":
        owners = {(int(u), int(c)) for u, c in zip(split.train.users, rows, strict=True)}
        assert len(owners) == len(np.unique(split.train.users))
        assert {(int(u), int(c)) for u, c in zip(split.test_users, test, strict=True)} >= owners


def test_zipcode_is_the_first_digit(split: Split, users_dat: Path) -> None:
    rows, test = divide(split, "zipcode", 10, users_dat=users_dat)
    np.testing.assert_array_equal(rows, split.train.users % 10)
    np.testing.assert_array_equal(test, np.arange(120) % 10)
    pairs, _ = divide(split, "zipcode", 5, users_dat=users_dat)
    np.testing.assert_array_equal(pairs, split.train.users % 10 // 2)


def test_equal_sizes(split: Split, users_dat: Path) -> None:
    rows, _ = divide(split, "equal", 7)
    sizes = np.bincount(rows)
    assert sizes.max() - sizes.min() <= 1
    assert (np.diff(rows) >= 0).all()
    users, _ = divide(split, "user", 7)
    per_client = [len(np.unique(split.train.users[users == client])) for client in range(7)]
    assert max(per_client) - min(per_client) <= 1


def test_equal_keeps_a_positive_and_its_negatives_together(split: Split) -> None:
    train = Rows(*(np.repeat(column, 5) for column in split.train))
    train = Rows(train.users, train.items, np.tile(np.array([1, 0, 0, 0, 0], np.float32), len(split.train.users)))
    rows, _ = divide(Split(train, split.test_users, split.test_items, 120, 60), "equal", 7)
    np.testing.assert_array_equal(rows[::5], divide(split, "equal", 7)[0])
    assert (rows.reshape(-1, 5) == rows[::5, None]).all()


def test_equal_tests_a_user_where_most_of_the_samples_are() -> None:
    train = Rows(np.array([0, 0, 0, 1, 1, 1]), np.array([0, 1, 2, 0, 1, 2]), np.ones(6, np.float32))
    split = Split(train, np.array([0, 1]), np.array([[3], [3]]), 2, 4)
    rows, test = divide(split, "equal", 3)
    assert rows.tolist() == [0, 0, 1, 1, 2, 2]
    assert test.tolist() == [0, 2]


def spread(owner: np.ndarray, clients: int) -> float:  # type: ignore[type-arg]
    sizes = np.bincount(owner, minlength=clients)
    return float(sizes.std() / sizes.mean())


def test_a_smaller_alpha_makes_sizes_more_unequal(split: Split) -> None:
    small, large = (
        np.mean([spread(divide(split, "quantity", 5, alpha=alpha, seed=seed)[0], 5) for seed in range(8)])
        for alpha in (0.2, 100)
    )
    assert small > 2 * large


def test_dirichlet_separates_tastes(split: Split) -> None:
    def purity(alpha: float) -> float:
        rows, _ = divide(split, "dirichlet", 4, alpha=alpha, seed=1)
        odd = [np.abs(np.mean(split.train.users[rows == c] % 2) - 0.5) for c in range(4) if (rows == c).any()]
        return float(np.mean(odd))

    assert purity(0.05) > 2 * purity(1000)


def test_letters_and_short_zip_codes() -> None:
    assert zip_number("48067") == 48067
    assert zip_number("98107-2117") == 98107
    assert zip_number("V5Z 2") == 15502
    assert zip_number("9") == 90000
    assert [zip_number(letter) // 10000 for letter in "aAkKzZ"] == [0, 0, 0, 0, 5, 5]


@pytest.mark.parametrize(
    ("line", "match"),
    [
        (b"5::F::1::1", "expected UserID"),
        (b"x::F::1::1::1", "expected UserID"),
        (b"0::F::1::1::1", "expected UserID"),
        (b"5::F::1::1::", "zip code"),
        (b"5::F::1::1::-1", "zip code"),
        (b"1::F::1::1::1", "second time"),
        (b"5::\xe9::1::1::1", "UTF-8"),
    ],
)
def test_wrong_lines_of_users_dat(tmp_path: Path, line: bytes, match: str) -> None:
    path = tmp_path / "users.dat"
    path.write_bytes(b"1::F::1::1::48067\n\n" + line + b"\n")
    with pytest.raises(DataError, match=match) as caught:
        read_zip_codes(path)
    assert f"{path}:3:" in str(caught.value)


def test_users_without_zip_code(split: Split, tmp_path: Path) -> None:
    path = tmp_path / "users.dat"
    path.write_text("".join(f"{n + 1}::F::1::1::0\n" for n in range(118)))
    with pytest.raises(DataError, match=r"UserID 119 \(2 users"):
        divide(split, "zipcode", 10, users_dat=path)


@pytest.mark.parametrize(
    ("by", "clients", "alpha", "match"),
    [
        ("zipcode", 10, 1.0, "--users_dat"),
        ("age", 10, 1.0, "--by age"),
        ("user", 0, 1.0, "--file_nums 0"),
        ("quantity", 2, 0.0, "--alpha"),
    ],
)
def test_wrong_arguments(split: Split, by: str, clients: int, alpha: float, match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        divide(split, by, clients, alpha=alpha)


def test_few_users_have_tastes_too() -> None:
    train = Rows(np.arange(4), np.arange(4), np.ones(4, np.float32))
    rows, _ = divide(Split(train, np.arange(4), np.zeros((4, 1), np.int64), 4, 4), "dirichlet", 2)
    assert rows.shape == (4,)
