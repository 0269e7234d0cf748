"""A dense table: first values once, copies out, shapes refused."""

from __future__ import annotations

import numpy as np
import pytest

from flps.errors import Refused
from flps.table import Adam, DenseTable, Sgd, TableSpec
from flps.table.rules import SharedAdam


def table(rule: Sgd | Adam | SharedAdam = Sgd(1.0), dim: int = 3) -> DenseTable:  # noqa: B008  frozen
    return DenseTable(TableSpec(name="dense", kind="dense", dim=dim, rule=rule, dtype="float64"))


def test_only_the_first_start_counts() -> None:
    dense = table()
    assert not dense.initialized
    assert dense.start_with(np.array([1.0, 2.0, 3.0]))
    assert not dense.start_with(np.zeros(3))
    assert dense.pull().tolist() == [1, 2, 3]


def test_pull_is_a_copy_and_push_applies_the_rule() -> None:
    dense = table()
    dense.start_with(np.ones(3))
    dense.pull()[:] = 7
    dense.push(np.array([1.0, 0.0, -1.0]))
    assert dense.pull().tolist() == [0, 1, 2]


def test_dump_and_load() -> None:
    dense, again = table(Adam()), table(Adam())
    dense.start_with(np.ones(3))
    dense.push(np.arange(3.0))
    again.load(dense.dump())
    for one in (dense, again):
        one.push(np.arange(3.0))
    assert np.array_equal(dense.pull(), again.pull())
    assert not again.start_with(np.zeros(3))


@pytest.mark.parametrize("values", [np.zeros(2), np.zeros((3, 1)), np.zeros(())])
def test_other_shapes_are_refused(values: np.ndarray) -> None:  # type: ignore[type-arg]
    with pytest.raises(Refused, match="table dense holds 3 numbers, got shape"):
        table().push(values)
    with pytest.raises(Refused, match="table dense holds 3 numbers"):
        table().start_with(values)


def test_a_rule_of_whole_rows_sees_rows_of_one_number() -> None:
    """So that a tensor may be divided anywhere."""
    rng = np.random.default_rng(0)
    whole, left, right = table(SharedAdam(0.1), 5), table(SharedAdam(0.1), 2), table(SharedAdam(0.1), 3)
    first = rng.normal(size=5)
    for dense, part in ((whole, first), (left, first[:2]), (right, first[2:])):
        dense.start_with(part)
    for _ in range(4):
        pushed = rng.normal(size=5)
        for dense, part in ((whole, pushed), (left, pushed[:2]), (right, pushed[2:])):
            dense.push(part)
    assert np.array_equal(whole.pull(), np.concatenate([left.pull(), right.pull()]))
    assert not np.isclose(whole.pull(), first).any()
    assert {name: part.shape for name, part in whole.dump().items()} == dict.fromkeys(
        ("values", "state.0", "state.1", "state.2"), (5,)
    )


def test_an_empty_block_is_a_table_too() -> None:
    empty = table(Adam(), dim=0)
    empty.start_with(np.empty(0))
    empty.push(np.empty(0))
    assert empty.pull().shape == (0,)
