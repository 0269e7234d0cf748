"""Adam's corrections from a table are those of the formula."""

from __future__ import annotations

import numpy as np
import pytest

from flps.table import Adam
from flps.table.rules.adam import (
    _TABLED_DECAY,
    _TABLED_STEPS,
    _computed_corrections,
    _corrections,
    _tabled_corrections,
)

STEPS = np.array([1, 2, 3, 10, 999, 38_000, _TABLED_STEPS - 1], np.float64)[:, None]


@pytest.mark.parametrize("beta2", [0.0, 0.9, 0.999, 0.9994, 0.9999])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_bit_equal(beta2: float, dtype: type) -> None:
    rule = Adam(beta2=beta2, learning_rate=0.003)
    steps = STEPS.astype(dtype)
    for got, wanted in zip(_corrections(rule, steps), _computed_corrections(rule, steps), strict=True):
        assert got.dtype == dtype
        np.testing.assert_array_equal(got, wanted)


def test_after_the_tables_end_nothing_changes() -> None:
    rule = Adam(beta2=_TABLED_DECAY)
    late = np.array([[_TABLED_STEPS], [10 * _TABLED_STEPS], [2**24]], np.float64)
    for got, wanted in zip(_corrections(rule, late), _computed_corrections(rule, late), strict=True):
        np.testing.assert_array_equal(got, wanted)
    assert all(array.size == _TABLED_STEPS for array in _tabled_corrections(rule, late.dtype))
