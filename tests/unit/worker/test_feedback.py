"""What packing takes from gradients gets to the servers all the same, a little later."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from flps.message import Push
from flps.packing import RowType, pack, unpack
from flps.table import Adam, TableSpec
from flps.table.files import TensorFile
from flps.table.snapshot import Snapshot
from flps.worker.feedback import Feedback

SPARSE = TableSpec(name="items", kind="sparse", dim=4, rule=Adam())
DENSE = TableSpec(name="dense", kind="dense", dim=70, rule=Adam())


def pushes(step: int) -> list[Push]:
    rng = np.random.default_rng(step)
    keys = np.sort(rng.choice(9, 5, replace=False)).astype(np.uint64)
    rows = rng.standard_normal((5, 4)).astype(np.float32)
    rows[:, 1:] *= np.float32(1e-4)  # beside the first number they are too small for a byte
    return [Push(0, keys, rows), Push(1, None, rng.standard_normal(70).astype(np.float32))]


def travel(feedback: Feedback, step: int, kind: RowType) -> list[tuple[Push, np.ndarray]]:
    """Each push as it was meant, and what arrives."""
    arrived = []
    for meant in pushes(step):
        push = feedback.added_to(meant)
        arriving = unpack(pack(push.values, kind))
        feedback.keep(push, arriving)
        arrived.append((meant, arriving))
    return arrived


@pytest.mark.parametrize("kind", ["float16", "int8"])
def test_what_arrives_in_the_end_is_what_was_meant(kind: RowType) -> None:
    feedback = Feedback({0: SPARSE, 1: DENSE})
    rows, dense = np.zeros((2, 9, 4)), np.zeros((2, 70))
    for step in range(300):
        (sparse, got), (flat, got_flat) = travel(feedback, step, kind)
        assert sparse.keys is not None
        np.add.at(rows[0], sparse.keys.astype(int), sparse.values)
        np.add.at(rows[1], sparse.keys.astype(int), got)
        dense += [flat.values, got_flat]
    assert np.abs(rows[0] - rows[1]).max() < 0.02  # what is kept back at the end: half a step of the scale
    assert np.abs(dense[0] - dense[1]).max() < 0.02
    small = np.abs(rows[0][:, 1:] - rows[1][:, 1:]).max()
    assert small < 0.02


def test_a_push_that_is_no_number_is_not_kept_back() -> None:
    feedback = Feedback({0: SPARSE})
    push = Push(0, np.array([3], np.uint64), np.array([[1, np.nan, 2, 3]], np.float32))
    feedback.keep(push, np.full((1, 4), np.nan, np.float32))
    zero = Push(0, np.array([3], np.uint64), np.zeros((1, 4), np.float32))
    assert not feedback.added_to(zero).values.any()


def test_pushes_of_other_tables_stay_as_they_are() -> None:
    first, other = pushes(0)
    feedback = Feedback({0: SPARSE})
    assert feedback.added_to(other) is other
    assert np.array_equal(feedback.added_to(first).values, first.values)


def test_it_goes_on_from_a_checkpoint(tmp_path: Path) -> None:
    feedback, later = Feedback({0: SPARSE, 1: DENSE}), Feedback({0: SPARSE, 1: DENSE})
    for step in range(5):
        travel(feedback, step, "int8")
    snapshot = Snapshot(tmp_path / "kept.safetensors", feedback.content(), lambda outcome: None)
    snapshot.finish()
    snapshot.wait(20)
    later.take_up(TensorFile(tmp_path / "kept.safetensors"))
    for one, two in zip(travel(feedback, 6, "int8"), travel(later, 6, "int8"), strict=True):
        np.testing.assert_array_equal(one[1], two[1])
