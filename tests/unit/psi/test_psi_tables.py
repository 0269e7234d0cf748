"""Tables in, aligned tables out: csv, and parquet and databases where their packages are installed."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from flps.errors import ConfigError, DataError, ProtocolError
from flps.psi import sources
from flps.psi.aligned import Card, card_of, check_output, check_same, read_card, write_aligned
from flps.psi.ids import Ids, read_ids
from flps.psi.message import Reveal, Role
from flps.psi.protocol import Alignment
from flps.psi.sources import Csv, Source, Table, open_source


@pytest.fixture(autouse=True)
def _small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "CHUNK_ROWS", 3)


TEXT = 'id,name,amount\n7,"Smith, Ann",1.50\n3,"two\nlines",\n5,NA,007\n9,"a ""b""",x\n1,\u00e9,0\n'


def csv_file(folder: Path, text: str = TEXT, name: str = "rows.csv") -> Csv:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    source = open_source(str(path), "id")
    assert isinstance(source, Csv)
    return source


def ids_of(source: Source) -> Ids:
    return read_ids(source.ids(), source.name, "first", "drop")


def alignment(rows: list[int]) -> Alignment:
    return Alignment(np.array(rows, np.int64), "ab" * 32, sum(row >= 0 for row in rows))


def aligned(
    source: Source, rows: list[int], output: Path, reveal: Reveal = "both", role: Role = "leader", bucket: int = 2
) -> Card:
    return write_aligned(output, source, ids_of(source), alignment(rows), role, reveal, bucket)


@pytest.mark.parametrize("bucket", [1, 2, 100])
def test_csv_rows_come_in_the_agreed_order_as_they_were(tmp_path: Path, bucket: int) -> None:
    output = tmp_path / "new" / "out.csv"
    card = aligned(csv_file(tmp_path), [3, 0, 4, 1], output, bucket=bucket)
    assert output.read_text(encoding="utf-8").splitlines() == [
        "id,name,amount",
        '9,"a ""b""",x',
        '7,"Smith, Ann",1.50',
        "1,\u00e9,0",
        '3,"two',
        'lines",',
    ]
    assert read_card(output) == card == Card("leader", "both", "id", 4, 4, "ab" * 32, 0, 0)
    assert sorted(path.name for path in output.parent.iterdir()) == ["out.csv", "out.csv.psi.json"]


@pytest.mark.parametrize("bucket", [1, 2, 100])
def test_rows_that_cover_the_leaders_have_no_values(tmp_path: Path, bucket: int) -> None:
    output = tmp_path / "out.csv"
    card = aligned(csv_file(tmp_path), [-1, -1, 2, -1, 0], output, "leader", bucket=bucket)
    read = pd.read_csv(output, dtype=str, keep_default_na=False)
    assert read["psi_matched"].tolist() == ["0", "0", "1", "0", "1"]
    assert read["id"].tolist() == ["", "", "5", "", "7"]
    assert read["name"].tolist() == ["", "", "NA", "", "Smith, Ann"]
    assert (card.rows, card.matched) == (5, 2)


def test_nothing_in_common_gives_a_header(tmp_path: Path) -> None:
    output = tmp_path / "out.csv"
    aligned(csv_file(tmp_path), [], output)
    assert output.read_text() == "id,name,amount\n"
    aligned(csv_file(tmp_path, "id,x\n", "none.csv"), [], output)
    assert output.read_text() == "id,x\n"


def test_rows_that_were_dropped_do_not_shift_the_others(tmp_path: Path) -> None:
    source = csv_file(tmp_path, "id,x\na,0\n,1\nb,2\na,3\nc,4\n")
    ids = ids_of(source)
    assert (ids.rows.tolist(), ids.empty, ids.repeated) == ([0, 2, 4], 1, 1)
    card = write_aligned(tmp_path / "o.csv", source, ids, alignment([2, 1]), "follower", "both")
    assert (tmp_path / "o.csv").read_text() == "id,x\nc,4\nb,2\n"
    assert (card.dropped_empty, card.dropped_repeated) == (1, 1)


@pytest.mark.parametrize("text", [TEXT.replace("\n5,", "\n6,"), TEXT + "11,a,b\n", TEXT[: TEXT.rindex("1,")], "id,x\n"])
def test_a_table_that_changed_meanwhile_is_refused(tmp_path: Path, text: str) -> None:
    source = csv_file(tmp_path)
    ids = ids_of(source)
    csv_file(tmp_path, text)
    with pytest.raises(DataError, match=r"changed|has other ones now"):
        write_aligned(tmp_path / "out.csv", source, ids, alignment([2, 1]), "leader", "both")
    assert not (tmp_path / "out.csv").exists()
    assert not card_of(tmp_path / "out.csv").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["rows.csv"]


@pytest.mark.parametrize("ending", [".csv.gz", ".csv.xz"])
def test_packed_csv(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"rows{ending}"
    pd.DataFrame({"key": ["a", "b", "c", "d"]}).to_csv(path, index=False)
    assert [value for piece in open_source(str(path), "key").ids() for value in piece] == list("abcd")


def test_a_csv_with_a_byte_order_mark_and_another_delimiter(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("id;x\na;1\n", encoding="utf-8-sig")
    assert [list(piece) for piece in open_source(str(path), "id", delimiter=";").ids()] == [["a"]]


def test_what_is_no_table_is_said(tmp_path: Path) -> None:
    source = csv_file(tmp_path)
    with pytest.raises(DataError, match=r"rows.csv: there is no column 'key'; there are id, name, amount"):
        list(open_source(str(source.path), "key").ids())
    with pytest.raises(ConfigError, match="no such file"):
        open_source(str(tmp_path / "other.csv"), "id")
    with pytest.raises(ConfigError, match="--table is of a database"):
        open_source(str(source.path), "id", "rows")
    (tmp_path / "rows.txt").write_text("")
    with pytest.raises(ConfigError, match=r"expected a file \.csv"):
        open_source(str(tmp_path / "rows.txt"), "id")
    (tmp_path / "latin.csv").write_bytes("id\n\xe9\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"latin\.csv"):
        list(open_source(str(tmp_path / "latin.csv"), "id").ids())
    with pytest.raises(DataError, match=r"bad\.csv"):
        list(csv_file(tmp_path, 'id,x\n1,"2', "bad.csv").ids())
    with pytest.raises(DataError, match="psi_matched"):
        aligned(csv_file(tmp_path, "id,psi_matched\n1,2\n", "taken.csv"), [0], tmp_path / "o.csv")


def test_outputs(tmp_path: Path) -> None:
    check_output(tmp_path / "a.csv")
    for name in ("a.txt", "a.csv.gz", "a"):
        with pytest.raises(ConfigError, match="--output"):
            check_output(tmp_path / name)


def test_files_of_two_alignments_are_told_apart(tmp_path: Path) -> None:
    card = aligned(csv_file(tmp_path), [0, 1], tmp_path / "out.csv")
    check_same(card, card.rows, card.digest)
    with pytest.raises(ProtocolError, match="different alignments"):
        check_same(card, card.rows, "cd" * 32)
    card_of(tmp_path / "out.csv").write_text("{")
    with pytest.raises(DataError, match=r"out\.csv\.psi\.json"):
        read_card(tmp_path / "out.csv")


# --- optional packages -----------------------------------------------------------------------------------------------


def test_a_package_that_is_missing_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def gone(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr("flps.psi.sources.importlib.import_module", gone)
    (tmp_path / "a.parquet").write_bytes(b"")
    with pytest.raises(ConfigError, match=r"package pyarrow: pip install 'flps\[parquet\]'"):
        list(open_source(str(tmp_path / "a.parquet"), "id").ids())
    with pytest.raises(ConfigError, match=r"package sqlalchemy: pip install 'flps\[sql\]'"):
        list(open_source("sqlite:///x.db", "id", "t").ids())
    with pytest.raises(ConfigError, match="pyarrow"):
        check_output(tmp_path / "out.parquet")


FRAME = pd.DataFrame(
    {
        "id": pd.array([7, 3, None, 9, 1, 2], dtype="Int64"),
        "late": pd.array([None, None, None, None, None, "x"], dtype=object),
        "flag": pd.array([True, None, False, True, None, True], dtype="boolean"),
        "real": [0.5, 1.5, 2.5, float("nan"), 4.5, 5.5],
    }
)


@pytest.mark.parametrize("bucket", [1, 3, 100])
def test_parquet_to_parquet(tmp_path: Path, bucket: int) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    FRAME.to_parquet(tmp_path / "rows.parquet", index=False)
    source = open_source(str(tmp_path / "rows.parquet"), "id")
    assert [value for piece in source.ids() for value in piece] == [7, 3, None, 9, 1, 2]
    # Ids without the empty one: 7 3 9 1 2.
    aligned(source, [4, -1, 0, 2], tmp_path / "out.parquet", "leader", bucket=bucket)
    assert parquet.read_table(tmp_path / "out.parquet").to_pydict() == {
        "id": [2, None, 7, 9],
        "late": ["x", None, None, None],
        "flag": [True, None, True, True],
        "real": [5.5, None, 0.5, None],
        "psi_matched": [1, 0, 1, 1],
    }


def test_an_empty_parquet(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    FRAME[:0].to_parquet(tmp_path / "rows.parquet", index=False)
    aligned(open_source(str(tmp_path / "rows.parquet"), "id"), [], tmp_path / "out.parquet")
    assert parquet.read_table(tmp_path / "out.parquet").column_names == list(FRAME.columns)
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(DataError, match=r"bad\.parquet"):
        list(open_source(str(tmp_path / "bad.parquet"), "id").ids())


@pytest.fixture
def database(tmp_path: Path) -> str:
    pytest.importorskip("sqlalchemy")
    connection = sqlite3.connect(tmp_path / "rows.db")
    connection.execute("create table visits (id integer, name text, cost real)")
    rows = [(5, "e", 0.5), (1, "a", None), (4, None, 2), (2, "b", 3), (3, "c", 4)]
    connection.executemany("insert into visits values (?, ?, ?)", rows)
    connection.commit()
    connection.close()
    return f"sqlite:///{tmp_path}/rows.db"


def test_database_to_csv(tmp_path: Path, database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROWS_URL", database)
    source = open_source("env:ROWS_URL", "id", "visits")
    assert [value for piece in source.ids() for value in piece] == [1, 2, 3, 4, 5]
    aligned(source, [4, 0, 3], tmp_path / "out.csv")
    assert (tmp_path / "out.csv").read_text() == "id,name,cost\n5,e,0.5\n1,a,\n4,,2.0\n"


def test_databases_that_are_not_as_said(tmp_path: Path, database: str) -> None:
    with pytest.raises(ConfigError, match="wants --table"):
        open_source(database, "id")
    with pytest.raises(ConfigError, match="no table 'visit'; there are: visits"):
        list(open_source(database, "id", "visit").ids())
    with pytest.raises(DataError, match="no column 'key'; there are id, name, cost"):
        list(open_source(database, "key", "visits").ids())
    with pytest.raises(ConfigError, match="nosuchdb"):
        list(open_source("nosuchdb://h/x", "id", "t").ids())
    with pytest.raises(ConfigError, match="no NO_SUCH_NAME"):
        open_source("env:NO_SUCH_NAME", "id", "t")


def test_no_password_is_shown() -> None:
    source = open_source("postgresql://ann:secret@db.example.org/shop", "id", "visits")
    assert isinstance(source, Table)
    assert source.name == "table visits of postgresql://db.example.org/shop"
    assert "secret" not in repr(source)
