"""The recipes run by path, as a user starts them, and the example readers do what their texts say."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SMALL = ["--users", "60", "--items", "80", "--ratings", "1500"]


def run(script: str, *arguments: object, stdin: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / script), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, input=stdin, check=False)


@pytest.fixture(scope="module")
def ratings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("like")
    ran = run("datasets/movielens_like.py", folder, *SMALL)
    assert ran.returncode == 0, ran.stderr
    assert "of 60 users, 60 held out" in ran.stdout
    return folder


def test_generated_ratings_are_divided_by_path(ratings: Path, tmp_path: Path) -> None:
    ran = run(
        "datasets/gen_heter_data.py",
        "--full_train_data_path",
        ratings,
        "--splitted_data_path",
        tmp_path / "made",
        "--no_png",
    )
    assert ran.returncode == 0, ran.stderr
    lines = ran.stdout.splitlines()
    assert [line.split()[:2] for line in lines[:10]] == [["client", str(n)] for n in range(10)]
    assert sum(int(line.split()[5]) for line in lines[:10]) == 60
    assert len(list((tmp_path / "made" / "fl_train_data").glob("*.csv"))) == 10
    assert len(list((tmp_path / "made" / "fl_test_data").glob("*.flps"))) == 10


def test_the_movielens_recipe(ratings: Path, tmp_path: Path) -> None:
    ran = run("datasets/movielens.py", ratings, tmp_path, "--file_nums", 2, "--no_png")
    assert ran.returncode == 0, ran.stderr
    assert (tmp_path / "fl_test_data" / "1.csv").is_file()
    assert "grouplens" in run("datasets/movielens.py").stderr


@pytest.mark.parametrize("script", ["datasets/gen_heter_data.py", "datasets/movielens_like.py"])
def test_wrong_use_is_told_with_the_exit_code_of_usage(script: str, tmp_path: Path) -> None:
    flags = ["--full_train_data_path", tmp_path / "nothing.csv"] if "gen" in script else [tmp_path, "--ratings", 1]
    ran = run(script, *flags)
    assert ran.returncode == 2
    assert "Traceback" not in ran.stderr
    assert ran.stderr.strip()


def test_the_pipe_command_writes_multislot_text() -> None:
    ran = run("configs/queuedataset_reader.py", "some.yaml", stdin="0,32,1\n\n5,7,0\n")
    assert ran.stdout == "1 0 1 32 1 1\n1 5 1 7 1 0\n"
    assert run("configs/queuedataset_reader.py", "some.yaml", stdin="0,32\n").returncode != 0
