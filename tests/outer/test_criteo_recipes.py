"""The Criteo recipes run by path, with the seed's flags; the baseline script counts and learns."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from flps.data.criteo_parties import read_card

ROOT = Path(__file__).resolve().parents[2]


def run(script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / script), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=90, check=False)


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("criteo")
    ran = run("datasets/criteo_like.py", folder / "origin_data", "--rows", 2100)
    assert ran.returncode == 0, ran.stderr
    assert "2100 rows" in ran.stdout
    return folder


def test_the_seeds_command_line(raw: Path) -> None:
    seed = ["--dense_dim=13", "--slot_dim=26", "--threshold=5", "--train_line_count=2100", "--skip_id_convert=0"]
    ran = run("datasets/criteo.py", f"--data_path={raw}/", *seed)
    assert ran.returncode == 0, ran.stderr
    assert "1800 rows to train (" in ran.stdout
    assert "parties: leader 20 columns, follower 19 columns" in ran.stdout
    folder = raw / "origin_data" / "columns"
    assert np.load(folder / "follower" / "train" / "feat_ids.npy").shape == (1800, 19)
    assert not (folder / "follower" / "train" / "label.npy").exists()
    assert "exists already" in run("datasets/criteo.py", "--data_path", raw).stderr


def test_any_division_and_the_random_tenth(raw: Path, tmp_path: Path) -> None:
    parties = ["--parties", "bank:0-9", "shop:10-19,30", "post:20-29"]
    ran = run("datasets/criteo.py", "--data_path", raw, "--output", tmp_path / "c", "--split", "random", *parties)
    assert ran.returncode == 0, ran.stderr
    card = read_card(tmp_path / "c")
    assert [party["name"] for party in card["parties"]] == ["bank", "shop", "post"]
    assert card["rows"]["train"] + card["rows"]["test"] == 2100
    assert np.load(tmp_path / "c" / "shop" / "train" / "feat_ids.npy").shape[1] == 11


@pytest.mark.parametrize(
    ("flags", "what"),
    [
        (["--data_path", "nowhere"], "nowhere: expected a file"),
        (["--parties", "a:0-50"], "column 39; expected 0 to 38"),
        (["--dense_dim", "12"], "expected 39 columns"),
        (["--train_line_count", "7"], "more than the 7"),
        (["--train_share", "0"], "--train_share"),
    ],
)
def test_wrong_use_is_told_with_the_exit_code_of_usage(raw: Path, tmp_path: Path, flags: list[str], what: str) -> None:
    ran = run("datasets/criteo.py", "--data_path", raw, "--output", tmp_path / "c", *flags)
    assert ran.returncode == 2
    assert what in ran.stderr
    assert "Traceback" not in ran.stderr
    assert not (tmp_path / "c").exists()
    assert run("datasets/criteo_like.py", tmp_path, "--rows", 0).returncode == 2


MEASURED = """
import resource, runpy, sys
sys.argv = sys.argv[1:]
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
except SystemExit as ended:
    assert not ended.code
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    peaks = []
    for rows in (150_000, 450_000):
        folder = tmp_path / str(rows)
        assert run("datasets/criteo_like.py", folder, "--rows", rows).returncode == 0
        command = [sys.executable, "-c", MEASURED, str(ROOT / "datasets/criteo.py"), "--data_path", str(folder)]
        ran = subprocess.run(command, capture_output=True, text=True, timeout=90, check=True)
        peaks.append(int(ran.stdout.split()[-1]))
    assert peaks[1] < peaks[0] + 60  # MiB; the rows alone would be 120 more


@pytest.mark.slow
def test_the_baseline_learns_more_from_all_columns(criteo_sample: Path, tmp_path: Path) -> None:
    flags = ["--data_path", criteo_sample, "--threshold", 10, "--output", tmp_path / "c"]
    assert run("datasets/criteo.py", *flags).returncode == 0
    auc = {}
    for parties in ([0], [0, 1]):
        ran = run("benchmarks/wide_deep.py", "--data", tmp_path / "c", "--epochs", 5, "--parties", *parties)
        assert ran.returncode == 0, ran.stderr
        fields = ran.stdout.splitlines()[-1].split()
        auc[len(parties)] = float(fields[fields.index("auc") + 1])
    assert auc[1] > 0.67
    assert auc[2] > auc[1] + 0.02
