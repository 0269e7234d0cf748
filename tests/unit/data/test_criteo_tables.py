"""A party's table: what is refused, by its place and without its values, and the rows that become of it."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from flps.data.criteo import Recipe, prepare
from flps.data.criteo_like import Shape, write_raw, write_tables
from flps.data.criteo_parties import LEADER_AND_FOLLOWER, PartyRows
from flps.data.criteo_tables import TableColumns, checked_ids, columns_of, prepare_table
from flps.data.criteo_text import Layout
from flps.errors import ConfigError, DataError
from flps.psi.sources import open_source

COLUMNS = TableColumns(("I1", "I2"), ("C1",), "label")
RIGHT = {
    "id": ["a", "b", "c"],
    "label": ["0", "1", "1"],
    "I1": ["1", "", "-2.5"],
    "I2": [" ", "3", "0"],
    "C1": ["x", "", "y z"],
}


def checked(**columns: list[object]) -> list[object]:
    frame = pd.DataFrame({**RIGHT, **columns})
    pieces = [frame[:2], frame[2:]]
    return [name for ids in checked_ids(pieces, "id", COLUMNS, "a.csv", lambda row: f"a.csv:{row + 2}") for name in ids]


def test_columns_by_their_numbers() -> None:
    assert columns_of((13, 0, 12, 38), "") == (("I1", "I13"), ("C1", "C26"), "")
    assert columns_of((0,), "y").layout == Layout(1, 0, has_label=True, has_id=True)
    with pytest.raises(DataError, match="there is no column 39; there are 39, from 0"):
        columns_of((39,), "")


def test_a_right_table_gives_its_ids() -> None:
    assert checked() == ["a", "b", "c"]
    assert checked(label=[0, 1, 1], I1=[1, None, -2.5], C1=[3, 4, 5]) == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        ({"label": ["0", "1", "2"]}, "a.csv:4: column label: expected the label 0 or 1"),
        ({"label": ["0", "", "secret"]}, r"a.csv:3: column label: expected the label 0 or 1$"),
        (
            {"label": [True, False, True]},
            r"a.csv:2: column label: expected the label 0 or 1 \(and in 1 rows after it\)",
        ),
        ({"I2": ["1", "secret", "3"]}, "a.csv:3: column I2: expected a number or nothing"),
        ({"I1": ["1", "2", "inf"]}, "a.csv:4: column I1: expected a number or nothing"),
    ],
)
def test_what_cannot_be_trained_on(columns: dict[str, list[object]], says: str) -> None:
    with pytest.raises(DataError, match=says) as caught:
        checked(**columns)
    assert "secret" not in str(caught.value)


def test_columns_that_are_missing_are_named_with_those_that_are_there() -> None:
    wanted = TableColumns(("I1", "I9"), ("C1",), "click")
    with pytest.raises(DataError, match=r"a\.csv: there is no column row, click, I9; there are id, label, I1, I2, C1"):
        list(checked_ids([pd.DataFrame(RIGHT)], "row", wanted, "a.csv", str))


def test_rows_are_those_of_the_raw_file(tmp_path: Path) -> None:
    """Each party's table, with an id in front and columns by name, gives what its raw lines give."""
    raw = tmp_path / "train.tsv"
    with raw.open("wb") as file:
        write_raw(file, Shape(400))
    lines = pd.read_csv(raw, sep="\t", header=None, dtype=str, keep_default_na=False)
    names = ["label", *(f"I{n}" for n in range(1, 14)), *(f"C{n}" for n in range(1, 27))]
    lines.columns = pd.Index(names)
    for number, (name, columns) in enumerate(LEADER_AND_FOLLOWER):
        of = columns_of(columns, "" if number else "label")
        table, alone = tmp_path / f"{name}.csv", tmp_path / f"{name}.tsv"
        lines[["C5", *of.names]].to_csv(table, index=False)
        prepare_table(table, tmp_path / name, of, number, 3, 0.75)
        lines[of.names].to_csv(alone, sep="\t", header=False, index=False)
        layout = Layout(len(of.numbers), len(of.categories), has_label=not number)
        prepare(alone, tmp_path / f"{name}-alone", Recipe(layout, 3, train_share=0.75, own=number))
        for part, rows in (("train", 300), ("test", 100)):
            one, other = (PartyRows.open(tmp_path / folder, part, number) for folder in (name, f"{name}-alone"))
            assert len(one) == rows
            assert one.arrays.keys() == other.arrays.keys()
            for key, array in one.arrays.items():
                np.testing.assert_array_equal(array, other.arrays[key])
    assert not list(tmp_path.glob("*/*.tsv"))


def test_white_space_in_a_category_does_not_end_it(tmp_path: Path) -> None:
    texts = ["a\tb", "a\nb", 'a"b', "a,b", "a b", " a b"]
    frame = pd.DataFrame({"C1": texts * 2, "I1": range(12)})
    frame.to_csv(tmp_path / "t.csv", index=False)
    prepare_table(tmp_path / "t.csv", tmp_path / "rows", TableColumns(("I1",), ("C1",), ""), 1, 0, 0.5)
    ids = PartyRows.open(tmp_path / "rows").arrays["feat_ids"][:, 1]
    assert ids[0] == ids[1] == ids[4]
    assert len(set(ids.tolist())) == 4


@pytest.mark.parametrize("share", [0.1, 0.9])
def test_rows_that_cannot_be_divided(share: float, tmp_path: Path) -> None:
    pd.DataFrame({"I1": [1, 2]}).to_csv(tmp_path / "t.csv", index=False)
    with pytest.raises(DataError, match="2 aligned rows leave none to train on, or none to hold out"):
        prepare_table(tmp_path / "t.csv", tmp_path / "rows", TableColumns(("I1",), (), ""), 1, 0, share)
    assert [path.name for path in tmp_path.iterdir()] == ["t.csv"]


def test_generated_tables_share_a_part_of_their_ids(tmp_path: Path) -> None:
    tables = [pd.read_csv(path, dtype=str, keep_default_na=False) for path in write_tables(tmp_path, Shape(500), 0.6)]
    leader, follower = (set(table["id"]) for table in tables)
    assert len(leader | follower) == 500
    assert 0.5 < len(leader & follower) / 500 < 0.7
    assert [len(table.columns) for table in tables] == [22, 20]
    both = tables[0].merge(tables[1], on="id")
    with (tmp_path / "raw").open("wb") as file:
        write_raw(file, Shape(500))
    raw = {tuple(line.split("\t")) for line in (tmp_path / "raw").read_text().splitlines()}
    names = ["label", *(f"I{n}" for n in range(1, 14)), *(f"C{n}" for n in range(1, 27))]
    assert {tuple(row) for row in both[names].itertuples(index=False)} <= raw
    with pytest.raises(ConfigError, match="--both_share 2: expected from 0 to 1"):
        write_tables(tmp_path, Shape(500), 2)


def test_a_tables_numbers_may_come_from_a_database(tmp_path: Path) -> None:
    pytest.importorskip("sqlalchemy")
    with sqlite3.connect(tmp_path / "rows.db") as base:
        pd.DataFrame({"id": [1, 2], "label": [0, 1], "I1": [1.5, None], "I2": [1, 2], "C1": ["x", None]}).to_sql(
            "visits", base, index=False
        )
    base.close()
    source = open_source(f"sqlite:///{tmp_path}/rows.db", "id", "visits")
    assert list(checked_ids(source.rows(), "id", COLUMNS, source.name, str)) == [[1, 2]]
