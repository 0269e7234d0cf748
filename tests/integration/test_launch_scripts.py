"""What lies in launch/: the two shell scripts of the quick start and the example trainer, run with the real roles."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from flps.data.movielens_like import Shape, ensure

ROOT = Path(__file__).resolve().parents[2]
DEADLINE_S = 110.0
LISTED_PORTS = (10000, 10001)


@pytest.fixture(scope="module")
def small_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten clients of a few users each."""
    return ensure(tmp_path_factory.mktemp("small"), clients=10, shape=Shape(users=300, items=200, ratings=8000))


def overrides(folder: Path) -> list[str]:
    keys = {
        "runner.train_data_dir": folder / "fl_train_data",
        "runner.test_data_dir": folder / "fl_test_data",
        "runner.epochs": 1,
        "hyper_parameters.num_users": 300,
        "hyper_parameters.num_items": 200,
    }
    return [word for key, value in keys.items() for word in ("-o", f"{key}={value}")]


def run(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    return subprocess.run(
        command, cwd=folder, env={**os.environ, "PATH": path}, capture_output=True, text=True, timeout=DEADLINE_S
    )


def skip_when_taken() -> None:
    for port in LISTED_PORTS:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                pytest.skip(f"another program of this machine holds port {port}, which the seed's command names")


@pytest.mark.parametrize(
    ("script", "roles"), [("fl_ps_coordinator.sh", 12), pytest.param("fl_ps_sparse.sh", 11, marks=pytest.mark.slow)]
)
def test_the_quick_starts_commands(script: str, roles: int, small_data: Path, tmp_path: Path) -> None:
    skip_when_taken()
    done = run([str(ROOT / "launch" / script), *overrides(small_data)], tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "HR@10" in done.stdout
    assert "workers bind nothing" in done.stdout
    listed = json.loads((tmp_path / "log" / "workerlog.0").resolve().with_name("roles.json").read_text())
    assert len(listed) == roles
    text = (tmp_path / "log" / "workerlog.9").read_text()
    assert ("(private, " in text) is (script == "fl_ps_sparse.sh"), text


@pytest.mark.parametrize(
    ("script", "says"),
    [
        ("fl_ps_coordinator.sh", ["roles     12, of which 12 start here", "tcp://127.0.0.1:10001"]),
        ("fl_ps_sparse.sh", ["roles     11, of which 11 start here"]),
    ],
)
def test_the_scripts_hand_flags_on(script: str, says: list[str], tmp_path: Path) -> None:
    done = run([str(ROOT / "launch" / script), "--dry-run"], tmp_path)
    assert done.returncode == 0, done.stderr
    for text in [*says, "tcp://127.0.0.1:10000", "security  curve", "worker.9"]:
        assert text in done.stdout
    assert run([str(ROOT / "launch" / script), "--dry_rum"], tmp_path).returncode == 2
    assert not list(tmp_path.iterdir())


@pytest.mark.slow  # of the hooks of a trainer script test_trainer_script.py tells every day
def test_the_example_trainer(small_data: Path, tmp_path: Path) -> None:
    command = [str(Path(sys.executable).with_name("flrun")), str(ROOT / "launch" / "fl_trainer.py"), "-m",
               str(ROOT / "configs" / "ncf.yaml"), "--worker_num=2", *overrides(small_data)]  # fmt: skip
    done = run(command, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    for rank in range(2):
        text = (tmp_path / "log" / f"workerlog.{rank}").read_text()
        for words in ("I train on", "I test on", "I have", "I run 1 epochs", "my epoch 0:", "my best epoch was 0"):
            assert words in text, (words, text)


def test_the_command_that_runs_in_one_process(small_data: Path, tmp_path: Path) -> None:
    command = [str(Path(sys.executable).with_name("flrun")), "-m", str(ROOT / "configs" / "ncf.yaml"),
               "--worker_num=2", "--in_process", *overrides(small_data)]  # fmt: skip
    done = run(command, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "HR@10" in done.stdout
