"""From a raw file to the folder: split, division, card; what is wrong leaves nothing behind."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from flps.data.criteo import ORIGINALS_SEED, Recipe, prepare, test_mask
from flps.data.criteo_like import Shape, write_raw
from flps.data.criteo_parties import LEADER_AND_FOLLOWER, PartyRows, read_card
from flps.data.criteo_text import Layout
from flps.errors import ConfigError, DataError

lines_for_testing = test_mask  # under its own name pytest would take it for a test
del test_mask


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("raw") / "train.tsv"
    with path.open("wb") as file:
        write_raw(file, Shape(rows=700, seed=3))
    return path


@pytest.fixture(scope="module")
def made(raw: Path) -> Path:
    out = raw.parent / "columns"
    prepare(raw, out, Recipe(threshold=5), LEADER_AND_FOLLOWER)
    return out


def test_the_first_part_in_time_trains(made: Path) -> None:
    card = read_card(made)
    assert card["rows"] == {"train": 600, "test": 100}
    assert np.load(made / "train" / "row_ids.npy").tolist() == list(range(600))
    assert np.load(made / "test" / "row_ids.npy").tolist() == list(range(600, 700))
    assert sum(card["labels"]["train"].values()) == 600
    ids, values = np.load(made / "train" / "feat_ids.npy"), np.load(made / "train" / "feat_vals.npy")
    assert ids.dtype == np.int32
    assert values.dtype == np.float32
    assert ids.shape == values.shape == (600, 39)
    assert ids.max() < card["ids"]
    assert values[:, :13].max(axis=0).tolist() == [1.0] * 13
    assert (values[:, 13:] == 1).all()


def test_a_partys_folder_is_its_columns_and_the_label_is_the_leaders(made: Path) -> None:
    whole = np.load(made / "train" / "feat_ids.npy")
    for party in LEADER_AND_FOLLOWER:
        own = made / party.name / "train"
        np.testing.assert_array_equal(np.load(own / "feat_ids.npy"), whole[:, list(party.columns)])
        assert (own / "label.npy").exists() == (party.name == "leader")
        card = json.loads((made / party.name / "criteo.json").read_text())
        assert card["row_digest"] == read_card(made)["row_digest"]
        assert not {"maxima", "labels", "parties"} & card.keys()
    leader = np.load(made / "leader" / "test" / "label.npy")
    np.testing.assert_array_equal(leader, np.load(made / "test" / "label.npy"))


@pytest.mark.parametrize("number", [0, 1])
def test_a_partys_own_file_gives_its_rows_with_ids_of_its_own(
    raw: Path, tmp_path: Path, made: Path, number: int
) -> None:
    columns = LEADER_AND_FOLLOWER[number].columns
    dense = sum(column < 13 for column in columns)
    lines = [line.split("\t") for line in raw.read_text().splitlines()]
    own = [[f"id{n}", *([] if number else [line[0]]), *(line[1 + c] for c in columns)] for n, line in enumerate(lines)]
    path = tmp_path / "own.csv"
    path.write_text("\n".join(map(",".join, [["name"] * len(own[0]), *own])) + "\n")
    layout = Layout(dense, len(columns) - dense, has_label=not number, has_id=True, header=True)
    card = prepare(path, tmp_path / "out", Recipe(layout, threshold=5, own=number))
    alone, divided = PartyRows.open(tmp_path / "out"), PartyRows.open(made / LEADER_AND_FOLLOWER[number].name)
    assert alone.digest() == divided.digest()
    assert card["ids"] < divided.ids
    mine, theirs = next(alone.batches(600)), next(divided.batches(600))
    assert list(mine) == list(theirs)
    for name in mine:
        if not name.startswith("id_"):
            np.testing.assert_array_equal(mine[name], theirs[name])
        else:  # another numbering of the same ids
            pairs = set(zip(mine[name].ravel().tolist(), theirs[name].ravel().tolist(), strict=True))
            assert len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs})
    with path.open("a") as file:
        file.write("id,1\n")
    with pytest.raises(DataError, match=r"own\.csv:702: expected .* \(id, "):
        prepare(path, tmp_path / "other", Recipe(layout, own=number))


def test_who_has_no_label_says_which_follower_it_is(raw: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--no_label: only a follower's"):
        Recipe(Layout(has_label=False), own=0)
    with pytest.raises(ConfigError, match="--own -1"):
        Recipe(own=-1)
    with pytest.raises(ConfigError, match="is not divided again"):
        prepare(raw, tmp_path / "out", Recipe(own=0), LEADER_AND_FOLLOWER)


def test_test_rows_leave_no_trace_in_the_training_rows(raw: Path, tmp_path: Path, made: Path) -> None:
    lines = raw.read_text().splitlines()
    strange = ["\t".join(["1", *["999999"] * 13, *["zz"] * 26])] * 100
    (tmp_path / "train.tsv").write_text("\n".join(lines[:600] + strange) + "\n")
    prepare(tmp_path / "train.tsv", tmp_path / "out", Recipe(threshold=5))
    for name in ("feat_ids", "feat_vals", "label"):
        ours, theirs = (np.load(folder / "train" / f"{name}.npy") for folder in (tmp_path / "out", made))
        np.testing.assert_array_equal(ours, theirs)
    assert np.load(tmp_path / "out" / "test" / "feat_ids.npy")[0].tolist() == list(range(39))


def test_the_originals_random_tenth() -> None:
    recipe = Recipe(split="random", block_lines=10)
    indices = list(range(1003))
    np.random.RandomState(ORIGINALS_SEED).shuffle(indices)
    chosen = set(indices[:100])
    expected = [i < 1000 and i // 10 * 10 + 9 in chosen for i in range(1003)]
    assert lines_for_testing(recipe, 1003).tolist() == expected
    assert 0 < sum(expected) < 300
    assert lines_for_testing(Recipe(split="random", block_lines=1), 1003).sum() == 100


def test_a_told_number_of_lines_saves_a_pass_and_must_be_right(raw: Path, tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    prepare(raw, tmp_path / "a", line_count=700, told=lambda *what: told.append(what))
    assert told == [(phase, done, 700) for phase in ("learn ids", "write rows") for done in (0, 700)]
    with pytest.raises(DataError, match="700 lines, not the 800 of --train_line_count"):
        prepare(raw, tmp_path / "b", line_count=800)
    with pytest.raises(DataError, match="more than the 600 of --train_line_count"):
        prepare(raw, tmp_path / "b", line_count=600)
    assert sorted(os.listdir(tmp_path)) == ["a"]


def test_wrong_input_leaves_nothing_behind(raw: Path, tmp_path: Path, made: Path) -> None:
    with pytest.raises(ConfigError, match="exists already"):
        prepare(raw, made)
    with pytest.raises(DataError, match=r"train\.tsv:1: expected 31 columns"):
        prepare(raw, tmp_path / "out", Recipe(Layout(10, 20)))
    (tmp_path / "empty.txt").touch()
    with pytest.raises(DataError, match="0 lines leave none to train on"):
        prepare(tmp_path / "empty.txt", tmp_path / "out")
    assert sorted(os.listdir(tmp_path)) == ["empty.txt"]


@pytest.mark.parametrize("wrong", [{"threshold": -1}, {"train_share": 0.0}, {"train_share": 1.5}, {"block_lines": 0}])
def test_recipes_that_cannot_be(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=f"--{next(iter(wrong))}"):
        Recipe(**wrong)  # type: ignore[arg-type]


def test_all_lines_may_train(raw: Path, tmp_path: Path) -> None:
    card = prepare(raw, tmp_path / "out", Recipe(train_share=1.0), LEADER_AND_FOLLOWER)
    assert card["rows"] == {"train": 700, "test": 0}
    assert len(PartyRows.open(tmp_path / "out", "test")) == 0
    assert list(PartyRows.open(tmp_path / "out" / "follower", "test").batches(10)) == []


@pytest.mark.slow
def test_the_real_sample(criteo_sample: Path, tmp_path: Path) -> None:
    card = prepare(criteo_sample, tmp_path / "out", Recipe(threshold=10), LEADER_AND_FOLLOWER)
    assert card["rows"] == {"train": 117_548, "test": 19_591}
    clicks = card["labels"]["train"][1] + card["labels"]["test"][1]
    assert clicks == 35_213
    assert round(clicks / 137_139, 4) == 0.2568
    assert card["ids"] == 16_353
