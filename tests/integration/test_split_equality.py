"""Leader and follower as processes of their own, and as threads of one: the same losses, measures and weights, bit for
bit."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from flps.data.criteo_like import Shape, ensure
from flps.metrics import EventReader

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "wide_deep"
JOBS = {"job.yaml": 3, "two_followers/job.yaml": 4}  # -> nets of all parties
FLAGS = ("-opreset=small", "--epochs=2", "-orunner.print_interval=1")
STEPS = 2 * 10
DEADLINE_S = 120.0
TOLD = ("role", "rank", "event", "epoch", "step", "loss", "auc", "log_loss")


class Run:
    """What a run of the small preset left behind."""

    def __init__(self, job: str, folder: Path, runtime: Path, rows: Path, *flags: str) -> None:
        environment = os.environ | {"XDG_RUNTIME_DIR": str(runtime), "OMP_NUM_THREADS": "1"}
        command = [
            sys.executable,
            "-m",
            "flps.cli.flrun",
            "-m",
            str(CONFIGS / job),
            f"--data_path={rows}",
            *FLAGS,
            *flags,
        ]
        ran = subprocess.run(
            [*command, f"--log_dir={folder}"],
            cwd=folder.parent,
            env=environment,
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
        )
        assert ran.returncode == 0, ran.stdout + ran.stderr
        (self.folder,) = folder.glob("run-*")

    @property
    def told(self) -> list[dict[str, Any]]:
        """Losses of every step, measures of every epoch."""
        events = EventReader(str(self.folder / "metrics.jsonl")).poll()
        kept = [{key: event.get(key) for key in TOLD} for event in events if event["event"] in ("progress", "eval")]
        return sorted(kept, key=lambda event: (event["role"], event["rank"], event["event"], event["epoch"]))

    @property
    def weights(self) -> dict[str, dict[str, torch.Tensor]]:
        """Of every net of every party, by its file."""
        files = sorted(self.folder.rglob("*.safetensors"))
        return {str(file.relative_to(self.folder)): load_file(file) for file in files}


@pytest.mark.slow
@pytest.mark.parametrize(("job", "micro_batches"), [("job.yaml", 1), ("job.yaml", 3), ("two_followers/job.yaml", 2)])
def test_processes_of_their_own_and_one_give_the_same_bits(
    tmp_path: Path, runtime: Path, job: str, micro_batches: int
) -> None:
    rows = ensure(tmp_path / "rows", Shape(rows=12_000))
    parts = f"-orunner.micro_batches={micro_batches}"
    two = Run(job, tmp_path / "two", runtime, rows, parts)
    one = Run(job, tmp_path / "one", runtime, rows, parts, "--in_process")
    assert two.told == one.told
    assert sum(event["loss"] is not None for event in two.told) == STEPS
    assert two.weights.keys() == one.weights.keys()
    assert len(two.weights) == JOBS[job]
    for file, tensors in two.weights.items():
        assert tensors.keys() == one.weights[file].keys()
        for name, tensor in tensors.items():
            assert torch.equal(tensor, one.weights[file][name]), f"{name} of {file}"
