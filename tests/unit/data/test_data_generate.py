"""The whole way from ratings to shards, and back through the workers' own readers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from flps.cli.gen_heter_data import main
from flps.data.evaluation import open_test
from flps.data.generate import Division, generate
from flps.data.interactions import Interactions
from flps.data.ratings import read_split
from flps.data.train import Sampling, open_train
from flps.errors import ConfigError

ML_1M_SAMPLES = [518095, 520165, 373605, 315550, 483780, 495635, 402810, 354590, 262710, 1243905]
ML_1M_USERS = [662, 662, 441, 386, 607, 659, 430, 419, 306, 1468]


@pytest.fixture
def ratings(tmp_path: Path) -> Path:
    """60 users with 10 ratings each, zip codes of all digits."""
    folder = tmp_path / "ratings"
    folder.mkdir()
    rng = np.random.default_rng(8)
    lines = [
        f"{user + 1}::{m + 1}::3::{100 + n}\n"
        for user in range(60)
        for n, m in enumerate(rng.permutation(150)[:10].tolist())
    ]
    (folder / "ratings.dat").write_text("".join(lines))
    (folder / "users.dat").write_text("".join(f"{user + 1}::F::1::1::{user % 10}0000\n" for user in range(60)))
    return folder


def lines_of(path: Path) -> list[tuple[int, ...]]:
    return [tuple(map(int, line.split(","))) for line in path.read_text().split()]


def test_positives_only_when_fresh(ratings: Path, tmp_path: Path) -> None:
    card, lines = generate(Division(ratings, out=tmp_path / "out", picture=False))
    train = tmp_path / "out" / "fl_train_data"
    assert sorted(path.name for path in train.iterdir()) == sorted(
        [f"{n}.{e}" for n in range(10) for e in ("csv", "flps")]
    )
    assert lines[0] == "client 0 samples 270 users 6"
    assert lines[10] == "total samples 2700 users 60"
    split = read_split(ratings)
    written = [line for n in range(10) for line in lines_of(train / f"{n}.csv")]
    assert sorted(written) == sorted(
        zip(split.train.users.tolist(), split.train.items.tolist(), [1] * 540, strict=True)
    )
    assert [c["samples"] for c in card["clients"]] == [270] * 10
    assert (tmp_path / "out" / "item_map.tsv").is_file()


@pytest.mark.parametrize("negatives", ["fresh", "fixed"])
def test_the_printed_samples_are_what_is_trained(ratings: Path, tmp_path: Path, negatives: str) -> None:
    card, _ = generate(Division(ratings, out=tmp_path, negatives=negatives, by="quantity", num_neg=3, picture=False))  # type: ignore[arg-type]
    sampling = Sampling(negatives=negatives, num_neg=3)  # type: ignore[arg-type]
    for client, told in enumerate(card["clients"]):
        train = open_train(tmp_path / "fl_train_data", client, 10, sampling=sampling)
        assert train.samples == told["samples"] == sum(len(batch.label) for batch in train.epoch(0))
        assert len(train.users) == told["users"]
        assert len(open_test(tmp_path / "fl_test_data", client, 10).users) == told["test_users"]
        assert train.num_items == card["num_items"]


def test_fixed_negatives_follow_their_positive_and_are_none(ratings: Path, tmp_path: Path) -> None:
    generate(Division(ratings, out=tmp_path, negatives="fixed", picture=False))
    split = read_split(ratings)
    seen = Interactions.build(split.train.users, split.train.items, split.num_items)
    rows = np.array([line for n in range(10) for line in lines_of(tmp_path / "fl_train_data" / f"{n}.csv")])
    assert rows.reshape(-1, 5, 3)[:, :, 2].tolist() == [[1, 0, 0, 0, 0]] * 540
    assert (rows.reshape(-1, 5, 3)[:, :, 0] == rows[::5, None, 0]).all()
    negative = rows[rows[:, 2] == 0]
    assert not any(item in seen.of(user) for user, item in negative[:, :2].tolist())


@pytest.mark.parametrize("negatives", ["fresh", "fixed"])
def test_csv_and_columns_say_the_same(ratings: Path, tmp_path: Path, negatives: str) -> None:
    generate(Division(ratings, out=tmp_path, negatives=negatives, picture=False))  # type: ignore[arg-type]
    sampling = Sampling(negatives=negatives, num_items=150)  # type: ignore[arg-type]
    mapped = [open_train(tmp_path / "fl_train_data", n, 10, sampling=sampling) for n in range(10)]
    batches = [list(train.epoch(1)) for train in mapped]
    tests = [open_test(tmp_path / "fl_test_data", n, 10) for n in range(10)]
    for path in tmp_path.rglob("*.flps"):
        path.unlink()
    for n in range(10):
        parsed = open_train(tmp_path / "fl_train_data", n, 10, sampling=sampling)
        for mine, theirs in zip(parsed.epoch(1), batches[n], strict=True):
            for a, b in zip(mine, theirs, strict=True):
                np.testing.assert_array_equal(a, b)
        test = open_test(tmp_path / "fl_test_data", n, 10)
        np.testing.assert_array_equal(test.items, tests[n].items)
        np.testing.assert_array_equal(test.valid, tests[n].valid)


def test_the_same_seed_writes_the_same_bytes(ratings: Path, tmp_path: Path) -> None:
    def bytes_of(out: str, seed: int) -> list[bytes]:
        generate(Division(ratings, out=tmp_path / out, by="dirichlet", negatives="fixed", seed=seed, picture=False))
        return [path.read_bytes() for path in sorted((tmp_path / out).rglob("*.*")) if path.suffix in (".csv", ".flps")]

    assert bytes_of("a", 1) == bytes_of("b", 1)
    assert bytes_of("a", 1) != bytes_of("c", 2)


def test_a_smaller_division_leaves_no_old_shard(ratings: Path, tmp_path: Path) -> None:
    generate(Division(ratings, out=tmp_path, picture=False))
    generate(Division(ratings, out=tmp_path / "fl_train_data", file_nums=4, picture=False))
    for name in ("fl_train_data", "fl_test_data"):
        assert sorted(path.stem for path in (tmp_path / name).glob("*.csv")) == ["0", "1", "2", "3"]


def test_the_originals_csv_keeps_its_negatives_when_fixed(tmp_path: Path) -> None:
    text = "0,1,2\n0,1,1\n0,2,0\n1,2,1\n1,3,0\n"
    (tmp_path / "train_data.csv").write_text(text)
    (tmp_path / "test_data.csv").write_text("0,3,1\n0,2,0\n1,1,1\n1,3,0\n")
    fixed = Division(
        tmp_path / "train_data.csv", out=tmp_path, file_nums=2, by="equal", negatives="fixed", picture=False
    )
    _, lines = generate(fixed)
    assert "client 0 samples 2 users 1" in lines
    assert (tmp_path / "fl_train_data" / "0.csv").read_text() == "0,1,1\n0,2,0\n"
    assert any("brings its own negatives" in line for line in lines)
    _, lines = generate(Division(tmp_path / "train_data.csv", out=tmp_path, file_nums=2, by="equal", picture=False))
    assert any("2 negatives of the file are left out" in line for line in lines)
    assert (tmp_path / "fl_train_data" / "0.csv").read_text() == "0,1,1\n"
    assert (tmp_path / "fl_test_data" / "1.csv").read_text() == "1,1,1\n1,3,0\n"


def test_no_test_items_are_said(tmp_path: Path) -> None:
    (tmp_path / "own.csv").write_text("0,1,1\n1,2,1\n")
    _, lines = generate(Division(train=tmp_path / "own.csv", out=tmp_path / "out", file_nums=2, by="user"))
    said = [line for line in lines if "no test items were found" in line]
    assert len(said) == 1
    assert "--full_test_data_path" in said[0]


def test_empty_shards_are_written_and_said(ratings: Path, tmp_path: Path) -> None:
    (ratings / "users.dat").write_text("".join(f"{user + 1}::F::1::1::70000\n" for user in range(60)))
    _, lines = generate(Division(ratings, out=tmp_path, picture=False))
    assert any("empty shards: clients 0, 1, 2, 3, 4, 5, 6, 8, 9" in line for line in lines)
    assert open_train(tmp_path / "fl_train_data", 0, 10).samples == 0
    assert len(open_test(tmp_path / "fl_test_data", 0, 10).users) == 0


def test_the_command(ratings: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = [
        "--full_train_data_path",
        str(ratings),
        "--splitted_data_path",
        str(tmp_path),
        "--file_nums",
        "3",
        "--by",
        "user",
    ]
    assert main(flags) == 0
    assert capsys.readouterr().out.startswith("client 0 samples 900 users 20\nclient 1 samples 900 users 20\n")
    assert main([*flags, "--num_neg", "-1"]) == ConfigError.exit_code
    assert "--num_neg -1" in capsys.readouterr().err


def test_ml_1m_by_zip_code_gives_the_known_counts(ml_1m: Path, tmp_path: Path) -> None:
    card, lines = generate(Division(ml_1m, out=tmp_path, by="zipcode", negatives="fresh", picture=False))
    assert [c["samples"] for c in card["clients"]] == ML_1M_SAMPLES
    assert [c["users"] for c in card["clients"]] == [c["test_users"] for c in card["clients"]] == ML_1M_USERS
    assert lines[4] == "client 4 samples 483780 users 607"
    assert lines[10] == "total samples 4970845 users 6040"
    tests = [open_test(tmp_path / "fl_test_data", n, 10) for n in range(10)]
    assert sum(int((~test.valid).sum()) for test in tests) == 156
    assert all(test.items.shape[1] == 100 for test in tests)
    assert open_train(tmp_path / "fl_train_data", 9, 10).num_items == 3706
