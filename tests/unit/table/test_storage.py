"""Rows by slot against plain arrays; growth; the hook of a snapshot."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flps.table import storage
from flps.table.storage import Column, GrowingArray, MemoryStorage

COLUMNS = (Column("values", 3, "float32"), Column("state.0", 1, "float32"), Column("empty", 0, "float32"))


def rows_of(column: Column, slots: Any, offset: int) -> Any:
    return (np.asarray(slots)[:, None] * 10 + np.arange(column.width) + offset).astype(column.dtype)


@given(st.lists(st.lists(st.integers(0, 60), min_size=1, max_size=9), max_size=8))
@settings(max_examples=50, deadline=None)
def test_rows_are_those_that_were_written(steps: list[list[int]]) -> None:
    held, plain = MemoryStorage(COLUMNS), [np.zeros((61, c.width), c.dtype) for c in COLUMNS]
    held.reserve(61)
    for n in range(len(COLUMNS)):
        held.write(n, np.arange(61), plain[n])
    for offset, slots in enumerate(steps):
        for n, column in enumerate(COLUMNS):
            plain[n][slots] = rows_of(column, slots, offset)
            held.write(n, np.array(slots), rows_of(column, slots, offset))
            assert np.array_equal(held.read(n, np.array(slots)), plain[n][slots])
    assert all(np.array_equal(held.slice(n, 7, 50), plain[n][7:50]) for n in range(len(COLUMNS)))


@pytest.mark.parametrize("width", [None, 1, 5])
def test_an_array_keeps_its_lines_while_it_grows(width: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "_SMALL_BYTES", 10_000)
    array, size = GrowingArray(width, "int64"), 0
    for rows in (1, 2, 90, 2_000, 2_001, 17_000, 3):
        array.reserve(rows)
        assert len(array.lines) >= rows
        line = np.arange(size, rows)
        array.lines[size:rows] = line if width is None else line[:, None]
        size = max(size, rows)
        assert np.array_equal(array.lines[:size].reshape(size, -1)[:, 0], np.arange(size))
        assert array.nbytes == size * 8 * (width or 1)


def test_without_address_space_an_array_takes_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_room(array: GrowingArray, rows: int) -> Any:
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr(GrowingArray, "_mapped", no_room)
    array = GrowingArray(1, "int64")
    array.reserve(1_000_000)
    assert 1_000_000 <= len(array.lines) < 1_300_000


def test_the_hook_of_a_snapshot_sees_slots_before_their_rows_change() -> None:
    held, seen = MemoryStorage(COLUMNS), []
    held.reserve(4)
    held.write(0, np.arange(4), np.zeros((4, 3), np.float32))
    held.before_write = lambda slots: seen.append((slots.tolist(), held.read(0, slots)[:, 0].tolist()))
    held.write(0, np.array([2, 1]), np.ones((2, 3), np.float32))
    held.before_write = None
    held.write(0, np.array([3]), np.ones((1, 3), np.float32))
    assert seen == [([2, 1], [0.0, 0.0])]


def test_what_a_storage_hands_out_is_a_copy() -> None:
    held = MemoryStorage(COLUMNS)
    held.reserve(3)
    held.write(0, np.arange(3), np.zeros((3, 3), np.float32))
    for handed_out in (held.read(0, np.arange(3)), held.slice(0, 0, 3)):
        handed_out[:] = 1
    assert not held.slice(0, 0, 3).any()
