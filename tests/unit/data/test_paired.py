"""Rows that two parties have between them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from flps.data.criteo_like import Shape, ensure
from flps.data.criteo_parties import Party
from flps.data.paired import ids_of, open_paired
from flps.errors import DataError

PARTIES = (Party("b", (0, 1, 2)), Party("a", (3, 4)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    shape = Shape(rows=120, dense_dim=3, slot_dim=2)
    return ensure(tmp_path_factory.mktemp("rows"), shape, threshold=1, parties=PARTIES)


def test_pairs_divide_the_rows_and_partners_have_the_same(folder: Path) -> None:
    seen: list[int] = []
    for pair in range(3):
        a, b = (open_paired(folder, part, pair, 3, 10, 4) for part in ("a", "b"))  # type: ignore[arg-type]
        assert (a.digest, a.steps(), a.samples) == (b.digest, b.steps(), b.samples)
        for slots, own in zip(a.epoch(1), b.epoch(1), strict=True):
            assert set(slots) == {"slots"}
            assert slots["slots"].shape == (len(own["label"]), 2)
            assert slots["slots"].dtype == np.int64
            assert own["dense"].shape == (len(own["label"]), 3)
            assert slots["slots"].max() < ids_of(folder)
        seen += a._rows.row_ids.tolist()
    train = np.load(folder / "train" / "row_ids.npy")
    assert sorted(seen) == sorted(train.tolist())


def test_the_order_is_of_seed_and_epoch(folder: Path) -> None:
    rows = open_paired(folder, "b", 0, 2, 100, 4)
    (first,), (again,), (later,) = (list(rows.epoch(epoch)) for epoch in (0, 0, 1))
    assert np.array_equal(first["dense"], again["dense"])
    assert not np.array_equal(first["dense"], later["dense"])
    small = open_paired(folder, "b", 0, 2, 10, 4)
    assert np.array_equal(np.concatenate([batch["dense"] for batch in small.epoch(0, 2)]), first["dense"][20:])


def test_a_partys_own_folder_is_its_part_of_the_whole(folder: Path) -> None:
    for part in ("a", "b"):
        whole, own = (open_paired(place, part, 1, 2, 16, 4) for place in (folder, folder / part))  # type: ignore[arg-type]
        for one, other in zip(whole.epoch(), own.epoch(), strict=True):
            assert all(np.array_equal(one[name], other[name]) for name in one)


def test_who_has_no_label_is_not_party_b(folder: Path) -> None:
    with pytest.raises(DataError, match="has no label"):
        open_paired(folder / "a", "b", 0, 1, 10, None)
    with pytest.raises(DataError, match="fewer than the 200 pairs"):
        open_paired(folder, "a", 150, 200, 10, None)
