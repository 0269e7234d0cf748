"""Noting who came gives what sorting gives."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flps.table import distinct
from flps.table.distinct import distinct_each, union

BOUNDS = st.sampled_from([None, 1, 7, 100, 6400, 2**40])
KEYS = st.lists(st.integers(0, 120) | st.integers(2**63 - 2, 2**64 - 1), max_size=80)


@given(KEYS, BOUNDS)
def test_distinct_names_what_numpys_unique_names(keys: list[int], bound: int | None) -> None:
    array = np.array(keys, np.uint64)
    once, places = distinct(array, bound)
    np.testing.assert_array_equal(np.sort(once), np.unique(array))
    np.testing.assert_array_equal(once[places], array)
    assert (once.dtype, places.dtype) == (np.uint64, np.int64)


@given(st.lists(KEYS, min_size=1, max_size=6), BOUNDS)
def test_many_at_once_are_as_one_by_one(parts: list[list[int]], bound: int | None) -> None:
    arrays = [np.array(keys, np.uint64) for keys in parts]
    found = distinct_each(arrays, bound)
    assert len(found) == len(parts)
    for array, (once, places) in zip(arrays, found, strict=True):
        np.testing.assert_array_equal(np.sort(once), np.unique(array))
        np.testing.assert_array_equal(once[places], array)


@pytest.mark.parametrize("bound", [5, 6])
def test_a_key_that_is_not_below_the_bound_is_found(bound: int) -> None:
    once, places = distinct(np.array([5, 2, 5], np.uint64), bound)
    assert sorted(once.tolist()) == [2, 5]
    assert once[places].tolist() == [5, 2, 5]


@given(st.lists(st.lists(st.integers(0, 50) | st.integers(0, 10**6), max_size=20), max_size=5))
def test_union_is_numpys(parts: list[list[int]]) -> None:
    arrays = [np.array(part, np.int64) for part in parts]
    slots = union(arrays)
    assert slots.tolist() == sorted({slot for part in parts for slot in part})
    assert slots.dtype == np.int64
