"""`flps psi`: two commands over a unix socket, and what each says when it cannot go on."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from flps.cli.flps import run

pytest.importorskip("cryptography")
ROOT = Path(__file__).resolve().parents[3]


def arguments(folder: Path, role: str, *more: str) -> list[str]:
    paths = ["--input", str(folder / f"{role}.csv"), "--output", str(folder / f"{role}.out.csv")]
    address = ["--address", f"ipc://{folder}/leader", "--cores", "1", "--start_timeout_s", "60"]
    return ["psi", "--role", role, "--id_column", "id", *paths, *address, *more]


def start(folder: Path, role: str, *more: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "flps.cli.flps", *arguments(folder, role, *more)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tmp_path.chmod(0o700)
    (tmp_path / "leader.csv").write_text("id,x\n" + "".join(f"p{n},{n}\n" for n in range(40)))
    (tmp_path / "follower.csv").write_text("y,id\n" + "".join(f"{-n},p{n}\n" for n in range(30, 50)))
    return tmp_path


def both(folder: Path, leader: list[str], follower: list[str]) -> list[tuple[int, str]]:
    parties = [start(folder, "follower", *follower), start(folder, "leader", *leader)]
    said = [party.communicate(timeout=60)[0] for party in parties]
    return [(party.returncode, text) for party, text in zip(parties, said, strict=True)][::-1]


def rows(path: Path) -> list[list[str]]:
    return [line.split(",") for line in path.read_text().splitlines()]


def test_two_commands_write_the_same_rows_in_the_same_order(folder: Path) -> None:
    with (folder / "follower.csv").open("a") as file:
        file.write("1,\n2,p49\n")
    for code, text in both(folder, [], ["--empty", "drop", "--duplicates", "first"]):
        assert code == 0, text
        assert "10 ids matched; 10 rows in" in text
    header, *mine = rows(folder / "leader.out.csv")
    other_header, *theirs = rows(folder / "follower.out.csv")
    assert (header, other_header) == (["id", "x"], ["y", "id"])
    assert [row[0] for row in mine] == [row[1] for row in theirs]
    assert sorted(int(row[1]) for row in mine) == list(range(30, 40))
    cards = [msgspec.json.decode((folder / f"{role}.out.csv.psi.json").read_bytes()) for role in ("leader", "follower")]
    assert cards[0]["digest"] == cards[1]["digest"]
    assert (cards[1]["dropped_empty"], cards[1]["dropped_repeated"]) == (1, 1)


def test_a_follower_that_is_not_to_know(folder: Path) -> None:
    for code, text in both(folder, ["--reveal", "leader", "--cover", "0.5"], ["--reveal", "leader"]):
        assert code == 0, text
    header, *mine = rows(folder / "leader.out.csv")
    _, *theirs = rows(folder / "follower.out.csv")
    assert header == ["id", "x", "psi_matched"]
    assert len(mine) == len(theirs) == 15
    for (own, _, matched), (_, other) in zip(mine, theirs, strict=True):
        assert own == (other if matched == "1" else "")
        assert (matched == "1") == (int(other[1:]) < 40)


def test_parties_that_differ_both_end_and_say_why(folder: Path) -> None:
    for code, text in both(folder, ["--reveal", "both"], ["--reveal", "leader"]):
        assert code in (1, 4)
        assert "reveal is" in text


def test_what_is_wrong_is_said_at_once(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def said(*more: str, role: str = "leader") -> str:
        assert run(arguments(folder, role, *more)) == 2
        return capsys.readouterr().err

    assert "no such file" in said("--input", str(folder / "none.csv"))
    assert "there is no column 'key'" in said("--id_column", "key")
    assert "expected a file .csv or .parquet" in said("--output", str(folder / "out.txt"))
    assert "cover is a share" in said("--cover", "2")
    assert "is no address" in said("--address", "nowhere")
    assert "cores must be at least 1" in said("--cores", "0")
    assert "more than 0 seconds" in said("--timeout_s", "0")
    (folder / "leader.csv").write_text("id\na\na\n,\n")
    assert "1 of 3 ids are empty" in said()
    assert "1 of 2 rows repeat" in said("--empty", "drop")
    assert not (folder / "leader.out.csv").exists()
