"""Rows in fewer bytes: how far they may be from what they were, and that dividing them changes nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from flps.table.packing import BLOCK, RowType, pack, scales_of, unpack

ROWS = hnp.arrays(
    np.float32,
    st.tuples(st.integers(0, 9), st.integers(1, 40)) | st.tuples(st.integers(0, 3 * BLOCK)),
    elements=st.floats(-(2.0**100), 2.0**100, width=32) | st.floats(-1, 1, width=32),
)


@given(ROWS)
def test_float32_stays_as_it_is(rows: Any) -> None:
    np.testing.assert_array_equal(unpack(pack(rows, "float32"), "float32"), rows)


@given(ROWS)
def test_half_numbers_are_within_their_bound(rows: Any) -> None:
    packed = pack(rows, "float16")
    assert (packed.values.dtype, packed.values.shape, packed.scales) == (np.float16, rows.shape, None)
    meant = np.clip(rows.astype(np.float64), -65504, 65504)
    assert (np.abs(unpack(packed, "float64") - meant) <= 2**-11 * np.abs(meant) + 2**-25).all()


@given(ROWS)
def test_bytes_are_within_their_bound(rows: Any) -> None:
    packed = pack(rows, "int8")
    assert packed.values.shape == rows.shape
    assert packed.values.dtype == np.int8
    assert packed.scales is not None
    assert packed.scales.shape == (scales_of(rows.shape),)
    unpacked = unpack(packed, "float64")
    assert np.isfinite(unpacked).all()
    for start in range(0, len(rows), 1 if rows.ndim == 2 else BLOCK):
        part = slice(start, start + (1 if rows.ndim == 2 else BLOCK))
        largest = np.abs(rows[part]).max(initial=0.0)
        assert (np.abs(unpacked[part] - rows[part]) <= largest / 254 * (1 + 1e-5) + 1e-37).all()


@given(hnp.arrays(np.float32, (12, 5), elements=st.floats(-10, 10, width=32)), st.sampled_from(["float16", "int8"]))
def test_a_row_is_packed_by_itself(rows: Any, kind: RowType) -> None:
    whole, scales = pack(rows, kind)
    for part in (slice(0, 5), slice(5, 12), slice(1, 12, 3)):
        values, part_scales = pack(rows[part], kind)
        np.testing.assert_array_equal(values, whole[part])
        if scales is not None and part_scales is not None:
            np.testing.assert_array_equal(part_scales, scales[part])


@pytest.mark.parametrize("kind", ["float16", "int8"])
def test_what_is_kept_back_and_sent_later_arrives(kind: RowType) -> None:
    """Error feedback: what the packed form left out is added to the next push, so the sum that arrives stays near."""
    rng = np.random.default_rng(0)
    sent, arrived, kept = np.zeros((4, 8)), np.zeros((4, 8)), np.zeros((4, 8), np.float32)
    for _ in range(200):
        gradient = rng.standard_normal((4, 8)).astype(np.float32) * 1e-3 + np.float32(1e-5)
        rows = unpack(pack(gradient + kept, kind), "float32")
        kept = gradient + kept - rows
        sent, arrived = sent + gradient, arrived + rows
    assert np.abs(sent - arrived).max() <= np.abs(kept).max() + 1e-6
    assert np.abs(kept).max() < 3e-5
