"""Rows in fewer bytes: how far they may be from what they were, and that dividing them changes nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from flps.packing import BLOCK, Packed, RowType, pack, scales_of, unpack

ROWS = hnp.arrays(
    np.float32,
    st.tuples(st.integers(0, 9), st.integers(1, 40)) | st.tuples(st.integers(0, 3 * BLOCK)),
    elements=st.floats(-(2.0**100), 2.0**100, width=32) | st.floats(-1, 1, width=32),
)


@given(ROWS)
def test_float32_stays_as_it_is(rows: Any) -> None:
    assert pack(rows, "float32") is rows
    assert unpack(rows) is rows


@given(ROWS, st.sampled_from(["float32", "float64"]))
def test_half_numbers_are_within_their_bound(rows: Any, dtype: str) -> None:
    rows = rows.astype(dtype)
    packed = packed_by("float16", rows)
    assert (packed.values.dtype, packed.values.shape, packed.scales) == (np.float16, rows.shape, None)
    meant = np.clip(rows, -65504, 65504)
    assert (np.abs(unpack(packed) - meant) <= 2**-11 * np.abs(meant) + 2**-25).all()
    assert unpack(packed).dtype == dtype


@example(np.full(1, 9.9e-37, np.float32), "float32")
@given(ROWS, st.sampled_from(["float32", "float64"]))
def test_bytes_are_within_their_bound(rows: Any, dtype: str) -> None:
    rows = rows.astype(dtype)
    packed = packed_by("int8", rows)
    assert packed.values.shape == rows.shape
    assert packed.values.dtype == np.int8
    assert packed.scales is not None
    assert packed.scales.shape == (scales_of(rows.shape),)
    unpacked = unpack(packed)
    assert unpacked.dtype == dtype
    assert np.isfinite(unpacked).all()
    for start in range(0, len(rows), 1 if rows.ndim == 2 else BLOCK):
        part = slice(start, start + (1 if rows.ndim == 2 else BLOCK))
        largest = np.abs(rows[part]).max(initial=0.0)
        assert (np.abs(unpacked[part] - rows[part]) <= largest / 254 * (1 + 1e-5) + 1e-37).all()


@pytest.mark.parametrize("kind", ["float16", "int8"])
@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_does_not_become_one(kind: RowType, wrong: float) -> None:
    rows = np.ones((3, 4), np.float32)
    rows[1, 2] = wrong
    unpacked = unpack(pack(rows, kind))
    assert not np.isfinite(unpacked[1]).all()
    assert np.isfinite(unpacked[[0, 2]]).all()


def packed_by(kind: RowType, rows: Any) -> Packed:
    packed = pack(rows, kind)
    assert isinstance(packed, Packed)
    return packed


@given(hnp.arrays(np.float32, (12, 5), elements=st.floats(-10, 10, width=32)), st.sampled_from(["float16", "int8"]))
def test_a_row_is_packed_by_itself(rows: Any, kind: RowType) -> None:
    whole = packed_by(kind, rows)
    for part in (slice(0, 5), slice(5, 12), slice(1, 12, 3)):
        packed = packed_by(kind, rows[part])
        np.testing.assert_array_equal(packed.values, whole.values[part])
        if whole.scales is not None and packed.scales is not None:
            np.testing.assert_array_equal(packed.scales, whole.scales[part])


@pytest.mark.parametrize("kind", ["float16", "int8"])
def test_what_is_kept_back_and_sent_later_arrives(kind: RowType) -> None:
    """Error feedback: what the packed form left out is added to the next push, so the sum that arrives stays near."""
    rng = np.random.default_rng(0)
    sent, arrived, kept = np.zeros((4, 8)), np.zeros((4, 8)), np.zeros((4, 8), np.float32)
    for _ in range(200):
        gradient = rng.standard_normal((4, 8)).astype(np.float32) * 1e-3 + np.float32(1e-5)
        rows = unpack(pack(gradient + kept, kind))
        kept = gradient + kept - rows
        sent, arrived = sent + gradient, arrived + rows
    assert np.abs(sent - arrived).max() <= np.abs(kept).max() + 1e-6
    assert np.abs(kept).max() < 3e-5
