"""Raw Criteo lines: whatever the form of the file, the same values; whatever is wrong, file and line."""

from __future__ import annotations

import gzip
import lzma
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flps.data.criteo_text import Layout, blocks, count_lines, find_raw, read_lines, separator_of
from flps.errors import DataError

SMALL = Layout(2, 2)
GOOD = "1\t3\t\tab\t\n0\t-2.5\t7\t\tcd\n1\t\t\tab\tcd\n"


def texts(path: Path, layout: Layout = SMALL, **options: int) -> list[list[object]]:
    """Every row as label, numbers (None where missing) and categories."""
    rows: list[list[object]] = []
    for lines in read_lines(path, layout, **options):
        for r, label in enumerate(lines.labels.tolist()):
            numbers = [None if np.isnan(n) else n for n in lines.numbers[r].tolist()]
            rows.append([label, *numbers, *(column.texts[column.codes[r]] for column in lines.categories)])
    return rows


EXPECTED = [[1.0, 3.0, None, "ab", ""], [0.0, -2.5, 7.0, "", "cd"], [1.0, None, None, "ab", "cd"]]


@pytest.mark.parametrize("name", ["train.txt", "train.tsv.gz", "train.tsv.xz"])
@pytest.mark.parametrize("separator", ["\t", ","])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("last", [True, False])
def test_every_form_gives_the_same_rows(tmp_path: Path, name: str, separator: str, end: str, last: bool) -> None:
    text = GOOD.replace("\t", separator).replace("\n", end)
    content = (text if last else text.removesuffix(end)).encode()
    packed = gzip.compress(content) if name.endswith(".gz") else content
    packed = lzma.compress(content) if name.endswith(".xz") else packed
    path = tmp_path / name
    path.write_bytes(packed)
    assert separator_of(path) == separator
    assert texts(path) == EXPECTED
    assert count_lines(path) == 3


@given(st.integers(1, 60))
def test_the_size_of_a_block_changes_nothing(tmp_path_factory: pytest.TempPathFactory, block_bytes: int) -> None:
    path = tmp_path_factory.mktemp("blocks") / "train.txt"
    path.write_text(GOOD)
    assert b"".join(blocks(path, block_bytes=max(block_bytes, 6))) == GOOD.encode()
    assert texts(path, block_bytes=max(block_bytes, 6)) == EXPECTED


def test_numbers_of_lines_go_on_from_block_to_block_and_stop_at_the_limit(tmp_path: Path) -> None:
    path = tmp_path / "train.txt"
    path.write_text(GOOD * 4)
    assert [lines.first for lines in read_lines(path, SMALL, block_bytes=len(GOOD))] == [0, 3, 6, 9]
    assert texts(path, limit=5, block_bytes=len(GOOD)) == (EXPECTED * 2)[:5]


def test_digits_are_text(tmp_path: Path) -> None:
    path = tmp_path / "train.txt"
    path.write_text("1\t1\t2\t007\tTrue\n0\t1\t2\t7\t\n1\t1\t2\t1e3\tFalse\n")
    assert [row[3:] for row in texts(path)] == [["007", "True"], ["7", ""], ["1e3", "False"]]


def test_words_that_pandas_would_take_for_missing_are_categories(tmp_path: Path) -> None:
    path = tmp_path / "train.txt"
    path.write_bytes(b"1\t1\t2\tNA\tnull\n0\t1\t2\t7\t\xff\n")
    assert [row[3:] for row in texts(path)] == [["NA", "null"], ["7", "\u00ff"]]


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("1\t3\t4\tab", "expected 5 columns (label, 2 numbers, 2 categories), found 4"),
        ("1\t3\t4\tab\tcd\tef", "found 6"),
        ("", "found 1"),
        ("2\t3\t4\tab\tcd", "expected the label 0 or 1, found '2'"),
        ("\t3\t4\tab\tcd", "expected the label 0 or 1, found ''"),
        ("click\t3\t4\tab\tcd", "expected the label 0 or 1, found 'click'"),
        ("0.5\t3\t4\tab\tcd", "expected the label 0 or 1, found '0.5'"),
        ("1\t3\tx4\tab\tcd", "column I2: expected a number or nothing, found 'x4'"),
        ("1\tinf\t4\tab\tcd", "column I1: expected a number or nothing, found 'inf'"),
        ("1\tnan\t4\tab\tcd", "column I1: expected a number or nothing, found 'nan'"),
    ],
)
@pytest.mark.parametrize("block_bytes", [20, 1 << 20])
def test_a_wrong_line_is_named(tmp_path: Path, line: str, what: str, block_bytes: int) -> None:
    path = tmp_path / "train.txt"
    path.write_text(GOOD + GOOD + line + "\n" + GOOD)
    with pytest.raises(DataError) as caught:
        texts(path, block_bytes=block_bytes)
    assert f"{path}:7: " in str(caught.value)
    assert what in str(caught.value)


def test_damaged_and_missing_files(tmp_path: Path) -> None:
    path = tmp_path / "train.tsv.gz"
    path.write_bytes(gzip.compress(GOOD.encode() * 500)[:-9])
    with pytest.raises(DataError, match="cut short or damaged"):
        count_lines(path)
    with pytest.raises(DataError, match="no such file"):
        count_lines(tmp_path / "absent.txt")
    (tmp_path / "endless.txt").write_bytes(bytes(1000))
    with pytest.raises(DataError, match="no line end in"):
        list(blocks(tmp_path / "endless.txt", block_bytes=50))


def test_the_raw_file_is_found(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"train\.txt"):
        find_raw(tmp_path)
    inner = tmp_path / "origin_data"
    inner.mkdir()
    (inner / "train.txt").touch()
    assert find_raw(tmp_path) == inner / "train.txt"
    (tmp_path / "train.tsv.xz").touch()
    assert find_raw(tmp_path) == tmp_path / "train.tsv.xz"
    assert find_raw(inner / "train.txt") == inner / "train.txt"


def test_a_line_has_columns() -> None:
    with pytest.raises(DataError, match="at least one column"):
        Layout(0, 0)
