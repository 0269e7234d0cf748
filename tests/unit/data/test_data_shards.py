"""Which files a client reads."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flps.data.columns import write_columns
from flps.data.shards import columnar_of, count_examples, csv_of, deal, list_shards, shards_of
from flps.errors import DataError


def fill(folder: Path, names: list[str]) -> Path:
    for name in names:
        (folder / name).write_text("0,1,1\n")
    return folder


@given(st.integers(0, 40), st.integers(1, 12))
def test_dealing_is_contiguous_whole_and_even(count: int, clients: int) -> None:
    hands = [list(deal(count, clients, client)) for client in range(clients)]
    assert [place for hand in hands for place in hand] == list(range(count))
    sizes = [len(hand) for hand in hands]
    assert sizes == sorted(sizes, reverse=True)
    assert max(sizes) - min(sizes) <= 1


def test_ten_shards_ten_clients_in_natural_order(tmp_path: Path) -> None:
    fill(tmp_path, [f"{n}.csv" for n in range(12)])
    (tmp_path / "notes.txt").write_text("")
    assert [shards_of(tmp_path, n, 12, True)[0][0].name for n in range(12)] == [f"{n}.csv" for n in range(12)]
    assert [len(shards_of(tmp_path, n, 5, True)) for n in range(5)] == [3, 3, 2, 2, 2]


def test_without_split_file_list_the_folder_is_the_clients_own(tmp_path: Path) -> None:
    fill(tmp_path, ["part-2.csv", "part-10.csv"])
    assert [files[0].name for files in shards_of(tmp_path, 7, 10, False)] == ["part-2.csv", "part-10.csv"]


def test_more_clients_than_shards(tmp_path: Path) -> None:
    fill(tmp_path, ["0.csv", "1.csv"])
    with pytest.raises(DataError, match=r"3 clients but 2 shards.*--file_nums 3"):
        shards_of(tmp_path, 0, 3, True)


def test_no_folder_and_no_shard(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder"):
        list_shards(tmp_path / "x")
    with pytest.raises(DataError, match="no shard in it"):
        list_shards(tmp_path)


def test_the_columnar_twin_counts_when_it_is_not_older(tmp_path: Path) -> None:
    fill(tmp_path, ["0.csv"])
    write_columns(tmp_path / "0.flps", {"user": np.arange(3)}, {})
    files = list_shards(tmp_path)["0"]
    assert csv_of(files) == tmp_path / "0.csv"
    os.utime(tmp_path / "0.csv", (1000, 1000))
    os.utime(tmp_path / "0.flps", (1000, 1000))
    assert columnar_of(files) == tmp_path / "0.flps"
    os.utime(tmp_path / "0.csv", (1001, 1001))
    assert columnar_of(files) is None


def test_example_count(tmp_path: Path) -> None:
    (tmp_path / "0.csv").write_text("user,item,label\n1,2,1\n1,3,0\n")
    (tmp_path / "1.csv").write_text("1 2 1\n1 3 0")
    write_columns(tmp_path / "2.flps", {"user": np.arange(7)}, {})
    files = list(list_shards(tmp_path).values())
    assert count_examples(files[:1]) == 2
    assert count_examples(files[1:2], "word") == 6
    assert count_examples(files[2:]) == 7
    with pytest.raises(DataError, match="'lines'"):
        count_examples(files, "lines")
