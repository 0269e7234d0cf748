"""Ratings in all their forms become one split; what is wrong is named."""

from __future__ import annotations

import gzip
import lzma
from pathlib import Path

import numpy as np
import pytest

from flps.data.interactions import Interactions
from flps.data.ratings import Split, by_appearance, read_split
from flps.errors import DataError

TRAIN = "0\t3\t5\t100\n0\t1\t4\t90\n1\t2\t3\t-1\n1\t3\t1\t5\n"
TEST = "(0,2)\t0\t4\t5\n(1,0)\t1\t4\t6\n"


def write_ncf(folder: Path, train: str = TRAIN, test: str = TEST) -> Path:
    (folder / "ml-1m.train.rating").write_text(train)
    (folder / "ml-1m.test.negative").write_text(test)
    return folder


def same(one: Split, other: Split) -> None:
    for a, b in zip(
        (*one.train, one.test_users, one.test_items), (*other.train, other.test_users, other.test_items), strict=True
    ):
        np.testing.assert_array_equal(a, b)
    assert (one.num_users, one.num_items) == (other.num_users, other.num_items)


def test_ncf_files(tmp_path: Path) -> None:
    split = read_split(write_ncf(tmp_path))
    assert split.train.users.tolist() == [0, 0, 1, 1]
    assert split.train.items.tolist() == [3, 1, 2, 3]
    assert split.test_items.tolist() == [[2, 0, 4, 5], [0, 1, 4, 6]]
    assert (split.num_users, split.num_items) == (2, 7)


def test_plain_gz_xz_folder_and_csv_are_one(tmp_path: Path) -> None:
    plain = read_split(write_ncf(tmp_path))
    for end, pack in ((".gz", gzip.compress), (".xz", lzma.compress)):
        folder = tmp_path / end[1:]
        folder.mkdir()
        (folder / f"ml-1m.train.rating{end}").write_bytes(pack(TRAIN.encode()))
        (folder / f"ml-1m.test.negative{end}").write_bytes(pack(TEST.encode()))
        same(plain, read_split(folder))
        same(plain, read_split(folder / f"ml-1m.train.rating{end}"))
        same(plain, read_split(folder / f"ml-1m.train.rating{end}", folder / f"ml-1m.test.negative{end}"))
    (tmp_path / "train_data.csv").write_text("0,1,2\n0,3,1\n0,1,1\n1,2,1\n1,3,1\n")
    (tmp_path / "test_data.csv").write_text("0,2,1\n0,0,0\n0,4,0\n0,5,0\n1,0,1\n1,1,0\n1,4,0\n1,6,0\n")
    same(plain, read_split(tmp_path / "train_data.csv"))


def test_repeated_pairs_and_ratings_of_zero(tmp_path: Path) -> None:
    split = read_split(write_ncf(tmp_path, TRAIN + "0\t3\t2\t7\n0\t5\t0\t7\n"))
    assert len(split.train.users) == 4
    assert split.notes == ["1 repeated (user, item) pairs count once"]


def test_a_test_user_without_training_is_noted(tmp_path: Path) -> None:
    split = read_split(write_ncf(tmp_path, test=TEST + "(9,1)\t2\t3\n"))
    assert split.notes == ["1 test users have no training sample, e.g. user 9"]
    assert split.num_users == 10
    assert split.test_items[2].tolist() == [1, 2, 3, -1]


@pytest.mark.parametrize(
    ("train", "test", "match"),
    [
        (TRAIN + "1\t2\t3\n", TEST, r"train\.rating:5: expected 4 columns"),
        (TRAIN + "1\tx\t3\t1\n", TEST, r"train\.rating:5: expected user and item"),
        (TRAIN + "1\t2\tgood\t1\n", TEST, r"train\.rating:5: expected user, item, rating"),
        (TRAIN + "-1\t2\t2\t1\n", TEST, r"train\.rating:5: expected user and item"),
        (TRAIN, TEST + "(2,x)\t1\n", r"test\.negative:3: expected \(user,item\)"),
        (TRAIN, TEST + "2,1,1,1\t1\n", r"test\.negative:3: expected \(user,item\)"),
        (TRAIN, TEST + "(1,4)\t1\n", "a user stands on more than one line"),
    ],
)
def test_wrong_lines_are_named(tmp_path: Path, train: str, test: str, match: str) -> None:
    with pytest.raises(DataError, match=match):
        read_split(write_ncf(tmp_path, train, test))


def test_not_utf8_is_named(tmp_path: Path) -> None:
    write_ncf(tmp_path)
    (tmp_path / "ml-1m.train.rating").write_bytes(TRAIN.encode() + b"0\t\xe9\t1\t1\n")
    with pytest.raises(DataError, match=r"train\.rating:5: not UTF-8"):
        read_split(tmp_path)


def test_a_cut_archive(tmp_path: Path) -> None:
    (tmp_path / "ml-1m.train.rating.xz").write_bytes(lzma.compress(TRAIN.encode() * 99)[:-20])
    with pytest.raises(DataError, match="archive cut short"):
        read_split(tmp_path)


def test_nothing_in_the_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none of ratings\.dat"):
        read_split(tmp_path)


def test_num_items_must_hold_every_item(tmp_path: Path) -> None:
    write_ncf(tmp_path)
    assert read_split(tmp_path, num_items=50).num_items == 50
    with pytest.raises(DataError, match="item 6 occurs"):
        read_split(tmp_path, num_items=6)


RATINGS = ["1::50::5::100", "1::20::3::300", "1::90::4::300", "2::20::1::9", "3::50::2::70", "3::10::2::20"]


def test_the_latest_rating_is_held_out_and_ids_are_mapped(tmp_path: Path) -> None:
    (tmp_path / "ratings.dat").write_text("\n".join(RATINGS) + "\n")
    split = read_split(tmp_path)
    assert split.item_names.tolist() == [50, 20, 90, 10]
    assert split.train.users.tolist() == [0, 0, 1, 2]
    assert split.train.items.tolist() == [0, 1, 1, 3]
    assert split.test_users.tolist() == [0, 2]
    assert split.test_items[:, 0].tolist() == [2, 0]
    assert sorted(split.test_items[0, 1:][split.test_items[0, 1:] >= 0].tolist()) == [3]
    assert any("single rating" in note for note in split.notes)


def test_held_out_negatives_are_unrated_distinct_and_seeded(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    pairs = np.unique(rng.integers(1, [30, 300], (2000, 2)), axis=0)
    (tmp_path / "ratings.dat").write_text("".join(f"{u}::{m}::4::{n}\n" for n, (u, m) in enumerate(pairs.tolist())))
    split = read_split(tmp_path, seed=1)
    again, other = read_split(tmp_path, seed=1), read_split(tmp_path, seed=2)
    same(split, again)
    assert (split.test_items[:, 1:] != other.test_items[:, 1:]).any()
    negatives = split.test_items[:, 1:]
    assert negatives.shape == (29, 99)
    assert all(len(set(line)) == 99 for line in negatives.tolist())
    seen = Interactions.build(
        np.append(split.train.users, split.test_users),
        np.append(split.train.items, split.test_items[:, 0]),
        split.num_items,
    )
    for user, items in zip(split.test_users.tolist(), negatives.reshape(-1, 99), strict=True):
        assert not np.isin(items, seen.of(user)).any()


@pytest.mark.parametrize(
    ("line", "match"),
    [("4::1::5", r"ratings\.dat:7: expected 4 columns"), ("x::1::5::6", r"ratings\.dat:7"), ("0::1::5::6", "UserID 0")],
)
def test_wrong_lines_of_ratings_dat(tmp_path: Path, line: str, match: str) -> None:
    (tmp_path / "ratings.dat").write_text("\n".join([*RATINGS, line]) + "\n")
    with pytest.raises(DataError, match=match):
        read_split(tmp_path)


def test_numbers_by_appearance() -> None:
    numbers, names = by_appearance(np.array([7, 3, 7, 9, 3]))
    assert numbers.tolist() == [0, 1, 0, 2, 1]
    assert names.tolist() == [7, 3, 9]
