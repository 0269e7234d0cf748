"""Ids of a column: how they are written, which rows stay, and what is said of the others."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flps.errors import DataError
from flps.psi.curve import normal, to_points
from flps.psi.ids import read_ids, text_of


def pieces(values: Sequence[Any], size: int = 2) -> list[Sequence[Any]]:
    return [values[at : at + size] for at in range(0, len(values), size)]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("  a b ", "a b"),
        ("cafe\u0301", "caf\u00e9"),
        ("0012", "0012"),
        (12, "12"),
        (np.int64(-3), "-3"),
        (2**70, str(2**70)),
        (None, ""),
        (float("nan"), ""),
        (pd.NA, ""),
        (pd.NaT, ""),
        ("", ""),
        ("\u3000", ""),
    ],
)
def test_how_an_id_is_written(value: Any, text: str) -> None:
    assert text_of(value) == text


@pytest.mark.parametrize("value", [1.0, True, b"a", datetime.date(2026, 1, 1), ["a"], np.float64(2)])
def test_an_id_that_may_be_written_in_two_ways_is_refused(value: Any) -> None:
    with pytest.raises(DataError, match=f"column id.*{type(value).__name__}.*into text"):
        read_ids([[value]], "column id")


@settings(max_examples=60)
@given(
    st.lists(st.one_of(st.text(max_size=2), st.integers(0, 9), st.none()), max_size=30),
    st.integers(1, 7),
)
def test_first_of_each_and_no_empty_one(values: list[Any], size: int) -> None:
    ids = read_ids(pieces(values, size), "x", "first", "drop")
    first: dict[str, int] = {}
    for row, value in enumerate(values):
        text = normal(value) if isinstance(value, str) else "" if value is None else str(value)
        if text:
            first.setdefault(text, row)
    assert ids.rows.tolist() == sorted(first.values())
    assert np.array_equal(ids.points, to_points(list(first)))
    assert ids.table_rows == len(values) == len(first) + ids.empty + ids.repeated


def test_duplicates_are_refused_with_count_and_examples() -> None:
    values = ["a", "b", "a ", "c", "b", "a", "a"]
    with pytest.raises(DataError) as error:
        read_ids(pieces(values), "rows.csv")
    said = str(error.value)
    assert said.startswith("rows.csv: 4 of 7 rows repeat")
    assert "rows 2 (as in row 0), 4 (as in row 1), 5 (as in row 0), from 0" in said
    assert "duplicates" in said


def test_empty_ids_are_refused_with_count_and_examples() -> None:
    with pytest.raises(DataError, match=r"rows.csv: 4 of 6 ids are empty, in rows 1, 2, 3 \(from 0\)"):
        read_ids(pieces(["a", "", None, " ", "b", ""]), "rows.csv")
    assert read_ids(pieces(["a", "", None, " ", "b", ""]), "rows.csv", empty="drop").rows.tolist() == [0, 4]


def test_no_rows_at_all() -> None:
    ids = read_ids([], "x")
    assert ids.points.shape == (0, 32)
    assert (ids.table_rows, ids.empty, ids.repeated) == (0, 0, 0)
