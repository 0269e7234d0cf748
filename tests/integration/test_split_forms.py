"""Wide & Deep by one command in its other forms: both parties in one process, and in three stages."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from flps.data.criteo_like import Shape, ensure
from flps.metrics import EventReader

ROOT = Path(__file__).resolve().parents[2]
SIZES = ("-opreset=small", "--batch_size=64", "-orunner.print_interval=10", "-onetwork.start_timeout_s=60")
LINE = re.compile(r"INFO:root:epoch (\d+) step (\d+)/(\d+) wide_loss: (\d\.\d{6}) deep_loss: (\d\.\d{6}) .*")
DEADLINE_S = 120.0


def run(folder: Path, runtime: Path, *command: object) -> subprocess.CompletedProcess[str]:
    """A command in a folder of its own, in which `flrun` is this checkout's."""
    bin_dir = folder / "bin"
    bin_dir.mkdir()
    (bin_dir / "flrun").write_text(f'#!/bin/sh\nexec {sys.executable} -m flps.cli.flrun "$@"\n')
    (bin_dir / "flrun").chmod(0o755)
    own = {
        "PATH": f"{bin_dir}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        "XDG_RUNTIME_DIR": str(runtime),
        "OMP_NUM_THREADS": "1",
    }
    return subprocess.run(
        list(map(str, command)), cwd=folder, env=os.environ | own, capture_output=True, text=True, timeout=DEADLINE_S
    )


@pytest.mark.slow
def test_the_single_process_run_logs_as_the_originals(tmp_path: Path, runtime: Path) -> None:
    rows = ensure(tmp_path / "rows", Shape(rows=3000))
    script = ROOT / "launch" / "run_vfl_train_local.sh"
    done = run(tmp_path, runtime, script, rows, *SIZES, "--epochs=2", "--l2_coef=8000")
    assert done.returncode == 0, done.stderr
    log = (tmp_path / "log_local_gpu.txt").read_text()
    told = [match.groups() for match in map(LINE.fullmatch, log.splitlines()) if match]
    assert [(epoch, step, steps) for epoch, step, steps, *_ in told] == [
        (epoch, step, "40") for epoch in "01" for step in ("10", "20", "30", "40")
    ]
    for *_, wide_loss, deep_loss in told:  # cross entropy without and with the l2 term
        assert 0.1 < float(wide_loss) < 1.0
        assert float(deep_loss) > float(wide_loss) + 1e-3
    assert len(re.findall(r"INFO:root:----evaluation---- epoch \d auc 0\.\d{6}", log)) == 2
    assert "epoch 1 step 40/40 wide_loss:" in (tmp_path / "log" / "leaderlog.0").read_text()
    assert "epoch 1 step 40/40 follower_l2_regu:" in (tmp_path / "log" / "followerlog.0").read_text()


@pytest.mark.slow
def test_the_three_stage_form_is_one_flag_and_a_simulation(tmp_path: Path, runtime: Path) -> None:
    rows = ensure(tmp_path / "rows", Shape(rows=12_000))
    job = ROOT / "configs" / "wide_deep" / "job.yaml"
    done = run(tmp_path, runtime, "flrun", "-m", job, *SIZES, f"--data_path={rows}", "--simu_tee=True", "--epochs=5")
    assert done.returncode == 0, done.stderr
    log = (tmp_path / "log" / "leaderlog.0").read_text()
    assert "leader_tee_loss_net: a SIMULATION of an enclave: it runs in this party's process, in the open" in log
    assert "SIMULATION" not in (tmp_path / "log" / "followerlog.0").read_text()
    losses = [float(loss) for loss in re.findall(r"wide_loss: (\d\.\d+)", log)]
    assert losses[-1] < losses[0] - 0.05
    measured = [
        event for event in EventReader(str(tmp_path / "log" / "metrics.jsonl")).poll() if event["event"] == "eval"
    ]
    assert [event["epoch"] for event in measured] == list(range(5))
    assert measured[-1]["auc"] > 0.6
