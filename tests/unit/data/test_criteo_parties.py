"""A party's rows: the same order at all parties, a position to go on from, alignment by row ids."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from flps.data.criteo import Recipe, prepare
from flps.data.criteo_like import Shape, write_raw
from flps.data.criteo_parties import (
    LEADER_AND_FOLLOWER,
    Party,
    PartyRows,
    check_division,
    even_division,
    parse_party,
    read_card,
)
from flps.errors import ConfigError, DataError


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("parties")
    with (folder / "train.tsv").open("wb") as file:
        write_raw(file, Shape(rows=350, seed=1))
    prepare(folder / "train.tsv", folder / "columns", Recipe(threshold=3), LEADER_AND_FOLLOWER)
    return folder / "columns"


def same(first: Mapping[str, NDArray[Any]], second: Mapping[str, NDArray[Any]]) -> bool:
    return first.keys() == second.keys() and all(np.array_equal(first[name], second[name]) for name in first)


def test_names_shapes_and_types_of_a_batch(made: Path) -> None:
    leader = next(PartyRows.open(made / "leader").batches(16))
    follower = next(PartyRows.open(made / "follower").batches(16))
    shapes = {name: (array.shape, array.dtype.str) for name, array in {**leader, **follower}.items()}
    assert shapes == {
        "id_hldr": ((16, 20), "<i4"),
        "wt_hldr": ((16, 20), "<f4"),
        "label": ((16, 1), "<f4"),
        "id_hldr0": ((16, 19), "<i4"),
        "wt_hldr0": ((16, 19), "<f4"),
        "row_ids": ((16,), "<i8"),
    }


@pytest.mark.parametrize("party", [0, 1])
def test_a_partys_folder_and_its_columns_of_the_whole_are_the_same(made: Path, party: int) -> None:
    own = PartyRows.open(made / LEADER_AND_FOLLOWER[party].name)
    slice_of_whole = PartyRows.open(made, party=party)
    assert own.field_size == slice_of_whole.field_size == (20, 19)[party]
    batches = zip(own.batches(50, seed=2), slice_of_whole.batches(50, seed=2), strict=True)
    assert all(same(first, second) for first, second in batches)


def test_both_parties_see_the_same_rows_in_the_same_order(made: Path) -> None:
    whole = np.load(made / "train" / "feat_ids.npy")
    leader, follower = PartyRows.open(made / "leader"), PartyRows.open(made / "follower")
    assert leader.digest() == follower.digest() == read_card(made)["row_digest"]["train"]
    orders = []
    for epoch in range(2):
        rows = leader.order(epoch, 5)
        orders.append(rows.tolist())
        pairs = zip(leader.batches(32, epoch, seed=5), follower.batches(32, epoch, seed=5), strict=True)
        for step, (first, second) in enumerate(pairs):
            wanted = whole[rows[step * 32 : step * 32 + 32]]
            np.testing.assert_array_equal(first["id_hldr"], wanted[:, list(LEADER_AND_FOLLOWER[0].columns)])
            np.testing.assert_array_equal(second["id_hldr0"], wanted[:, list(LEADER_AND_FOLLOWER[1].columns)])
    assert sorted(orders[0]) == sorted(orders[1]) == list(range(300))
    assert orders[0] != orders[1]


@given(batch=st.integers(1, 40), first=st.integers(0, 9), epoch=st.integers(0, 3), drop=st.booleans())
def test_going_on_from_a_position(made: Path, batch: int, first: int, epoch: int, drop: bool) -> None:
    rows = PartyRows.open(made / "follower", "test")
    whole = list(rows.batches(batch, epoch, seed=7, drop_remainder=drop))
    rest = list(rows.batches(batch, epoch, first, seed=7, drop_remainder=drop))
    assert len(whole) == rows.steps(batch, drop)
    assert sum(len(part["id_hldr0"]) for part in whole) == (50 // batch * batch if drop else 50)
    assert len(rest) == max(len(whole) - first, 0)
    assert all(same(one, other) for one, other in zip(rest, whole[first:], strict=True))


def test_alignment_by_row_ids(made: Path) -> None:
    leader = PartyRows.open(made / "leader")
    wanted = np.random.default_rng(0).permutation(leader.row_ids)[:100]
    aligned = leader.aligned(wanted)
    assert len(aligned) == 100
    np.testing.assert_array_equal(aligned.row_ids, wanted)
    batch = next(aligned.batches(100))
    np.testing.assert_array_equal(batch["id_hldr"], leader.arrays["feat_ids"][wanted])
    np.testing.assert_array_equal(batch["label"][:, 0], leader.arrays["label"][wanted])
    assert aligned.digest() == PartyRows.open(made / "follower").aligned(wanted).digest() != leader.digest()
    with pytest.raises(DataError, match="1 of 2 row ids are not among ours, the first is 9999"):
        leader.aligned(np.array([3, 9999]))


def test_any_number_of_parties(tmp_path: Path, made: Path) -> None:
    division = even_division(39, 3)
    assert [party.name for party in division] == ["leader", "follower1", "follower2"]
    assert [len(party.columns) for party in division] == [13, 13, 13]
    batches = [next(PartyRows.open(made, party=n, parties=division).batches(4)) for n in range(3)]
    assert [list(batch) for batch in batches] == [
        ["id_hldr", "wt_hldr", "label", "row_ids"],
        ["id_hldr0", "wt_hldr0", "row_ids"],
        ["id_hldr1", "wt_hldr1", "row_ids"],
    ]
    whole = np.concatenate([next(iter(batch.values())) for batch in batches], axis=1)
    np.testing.assert_array_equal(whole, np.load(made / "train" / "feat_ids.npy")[:4])
    assert [party.name for party in even_division(39, 2)] == ["leader", "follower"]


def test_a_division_as_it_is_written() -> None:
    assert parse_party("leader:0-6,13-25") == LEADER_AND_FOLLOWER[0]
    assert parse_party("bank: 3 , 5-6") == Party("bank", (3, 5, 6))
    for wrong in ("leader", "leader:", "leader:1-", "leader:a", "train:1", "a/b:1", "6:1"):
        with pytest.raises(ConfigError, match="expected a name and its columns"):
            parse_party(wrong)


@pytest.mark.parametrize(
    ("written", "why"),
    [
        (["a:0-3", "a:4"], "a name of its own"),
        (["a:0-3", "b:3-4"], "column 3 belongs to a and to b"),
        (["a:0-39"], "a has column 39; expected 0 to 38"),
        (["a:3-1"], "a has no column"),
    ],
)
def test_divisions_that_cannot_be(written: list[str], why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        check_division([parse_party(text) for text in written], 39)


def test_damaged_folders_are_told(made: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no criteo\.json in it"):
        PartyRows.open(tmp_path)
    (tmp_path / "criteo.json").write_text("{")
    with pytest.raises(DataError, match="no json"):
        PartyRows.open(tmp_path)
    (tmp_path / "criteo.json").write_text("{}")
    with pytest.raises(DataError, match="expected a card"):
        PartyRows.open(tmp_path)
    (tmp_path / "criteo.json").write_text((made / "criteo.json").read_text())
    with pytest.raises(DataError, match="cannot be mapped"):
        PartyRows.open(tmp_path)
    (tmp_path / "train").mkdir()
    np.save(tmp_path / "train" / "feat_ids.npy", np.zeros((3, 39), np.int64))
    with pytest.raises(DataError, match=r"expected <i4 \(300, 39\), found <i8 \(3, 39\)"):
        PartyRows.open(tmp_path)
    with pytest.raises(DataError, match="no part 'eval'"):
        PartyRows.open(made, "eval")
    with pytest.raises(DataError, match="no party 2; there are 2"):
        PartyRows.open(made, party=2)
