"""The columnar file: what is written comes back, and a damaged file is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from flps.data.columns import compact, read_columns, write_columns
from flps.errors import DataError

ARRAYS = st.sampled_from(["<i8", "<i4", "<i2", "<f4", "|u1"]).flatmap(
    lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=1, max_dims=2, min_side=0, max_side=9))
)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(arrays=st.dictionaries(st.text(min_size=1, max_size=8), ARRAYS, max_size=4))
def test_round_trip(tmp_path: Path, arrays: dict[str, NDArray[Any]]) -> None:
    path = tmp_path / "0.flps"
    write_columns(path, arrays, {"client": 3})
    back = read_columns(path)
    assert back.meta == {"client": 3}
    assert list(back.arrays) == list(arrays)
    for name, array in arrays.items():
        np.testing.assert_array_equal(back.arrays[name], array)
        assert back.arrays[name].dtype == array.dtype
    assert [p.name for p in tmp_path.iterdir()] == ["0.flps"]


def test_columns_are_mapped_read_only(tmp_path: Path) -> None:
    write_columns(tmp_path / "0.flps", {"user": np.arange(5)}, {})
    column = read_columns(tmp_path / "0.flps").arrays["user"]
    assert not column.flags.writeable
    assert not column.flags.owndata


@pytest.mark.parametrize("kept", range(0, 290, 7))
def test_a_cut_file_is_refused_or_whole(tmp_path: Path, kept: int) -> None:
    path = tmp_path / "0.flps"
    write_columns(path, {"user": np.arange(7), "item": np.arange(9, dtype=np.int32)}, {})
    whole = path.read_bytes()
    assert kept < len(whole)
    path.write_bytes(whole[:kept])
    with pytest.raises(DataError, match=r"0\.flps"):
        read_columns(path)


@pytest.mark.parametrize("place", range(0, 60, 5))
def test_a_changed_header_is_refused(tmp_path: Path, place: int) -> None:
    path = tmp_path / "0.flps"
    write_columns(path, {"user": np.arange(7)}, {})
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"0\.flps"):
        read_columns(path)


def test_another_version_is_named(tmp_path: Path) -> None:
    path = tmp_path / "0.flps"
    write_columns(path, {}, {})
    path.write_bytes(b"FLPSCOL2" + path.read_bytes()[8:])
    with pytest.raises(DataError, match="version '2'"):
        read_columns(path)


def test_an_unknown_type_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="complex"):
        write_columns(tmp_path / "0.flps", {"complex": np.zeros(2, np.complex64)}, {})


def test_compact_takes_four_bytes_where_they_do() -> None:
    assert compact(np.array([0, 2**31 - 1])).dtype == np.int32
    assert compact(np.array([0, 2**31])).dtype == np.int64
    assert compact(np.empty(0, np.int64)).dtype == np.int32
