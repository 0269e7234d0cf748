"""csv, both ways; and the line that is named when one is wrong."""

from __future__ import annotations

import gzip
import io
import lzma
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flps.data import text
from flps.data.batch import Rows, join
from flps.data.text import digits, read_bytes, read_samples, write_lines, write_samples
from flps.errors import DataError


def read(path: Path) -> list[tuple[int, int, float]]:
    rows = join(list(read_samples(path)))
    return list(zip(rows.users.tolist(), rows.items.tolist(), rows.labels.tolist(), strict=True))


@given(st.lists(st.integers(0, 2**63 - 1), max_size=30))
def test_digits_are_those_of_str(numbers: list[int]) -> None:
    got = [bytes(row[row != 0]).decode() for row in digits(np.array(numbers, np.int64))]
    assert got == [str(number) for number in numbers]


@settings(max_examples=40)
@given(
    st.lists(st.tuples(st.integers(0, 2**40), st.integers(0, 5000), st.integers(0, 1)), max_size=40), st.integers(1, 9)
)
def test_written_lines_are_plain_csv(samples: list[tuple[int, int, int]], block: int) -> None:
    file = io.BytesIO()
    columns = np.array(samples, np.int64).reshape(-1, 3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text, "WRITTEN_ROWS", block)
        write_samples(file, columns[:, 0], columns[:, 1], columns[:, 2].astype(np.float32))
    assert file.getvalue().decode() == "".join(f"{u},{i},{label}\n" for u, i, label in samples)


def test_lines_may_end_fields_with_more_than_one_byte() -> None:
    file = io.BytesIO()
    write_lines(file, [np.array([1, 22]), np.array([0, 5])], [b"::", b"\n"])
    assert file.getvalue() == b"1::0\n22::5\n"


@pytest.mark.parametrize(
    "content",
    [
        "0,32,1\n1,5,0\n",
        "0,32,1\n1,5,0",
        "0,32,1\r\n1,5,0\r\n",
        "user,item,label\n0,32,1\n1,5,0\n",
        "user_id,item_id,label\n0,32,1.0\n1,5,0.0\n",
        "0,1,2\n0,32,1\n1,5,0\n",
        "\n0,32,1\n\n1,5,0\n\n",
    ],
)
def test_csv_with_and_without_header(tmp_path: Path, content: str) -> None:
    path = tmp_path / "0.csv"
    path.write_bytes(content.encode())
    assert read(path) == [(0, 32, 1.0), (1, 5, 0.0)]


@pytest.mark.parametrize("content", ["", "\n", "user,item,label\n", "0,1,2\n"])
def test_empty_files_are_empty_shards(tmp_path: Path, content: str) -> None:
    (tmp_path / "0.csv").write_text(content)
    assert read(tmp_path / "0.csv") == []


@pytest.mark.parametrize(
    ("content", "line", "what"),
    [
        (b"0,1,1\n1,2\n", 2, "found 2"),
        (b"0,1\n", 1, "found 2"),
        (b"0,1,1\n0,1,1,1\n", 2, "found 4"),
        (b"0,1,1,1\n", 1, "found 4"),
        (b"u,i,l\n0,1,1\n0,x,1\n", 3, "integers"),
        (b"0,1,1\n0,,1\n", 2, "integers"),
        (b"0,1,1\n0,1.5,1\n", 2, "integers"),
        (b"0,1,1\n\n-4,1,1\n", 3, "integers"),
        (b"0,1,1\n0,1,2\n", 2, "label"),
        (b"0,1,1\n0,1,nan\n", 2, "label"),
        (b"0,1,1\n0,1,\n", 2, "label"),
        (b"0,1,1\n0,99999999999999999999,1\n", 2, "integers"),
        (b"0,1,1\n0,\xff\xfe,1\n", 2, "UTF-8"),
        (b'0,1,1\n"0,1,1\n', 2, "integers"),
    ],
)
def test_a_wrong_line_is_named(tmp_path: Path, content: bytes, line: int, what: str) -> None:
    path = tmp_path / "0.csv"
    path.write_bytes(content)
    with pytest.raises(DataError, match=what) as caught:
        read(path)
    assert f"{path}:{line}:" in str(caught.value)


def test_chunks_join_to_the_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "0.csv"
    path.write_text("".join(f"{n},{n + 1},{n % 2}\n" for n in range(25)))
    monkeypatch.setattr(text, "CHUNK_ROWS", 4)
    parts: list[Rows] = list(read_samples(path))
    assert len(parts) == 7
    np.testing.assert_array_equal(join(parts).users, np.arange(25))


@pytest.mark.parametrize(("end", "pack"), [(".gz", gzip.compress), (".xz", lzma.compress)])
def test_archives(tmp_path: Path, end: str, pack: object) -> None:
    path = tmp_path / f"0.csv{end}"
    packed = pack(b"0,1,1\n" * 2000)  # type: ignore[operator]
    path.write_bytes(packed)
    assert len(read(path)) == 2000
    path.write_bytes(packed[:-9])
    with pytest.raises(DataError, match="cut short"):
        read_bytes(path)
    with pytest.raises(DataError, match="cut short"):
        read(path)
    path.write_bytes(b"0,1,1\n")
    with pytest.raises(DataError, match="cut short or damaged"):
        read(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        read(tmp_path / "7.csv")
