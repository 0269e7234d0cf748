"""Starts flrun for a benchmark, and reads what its roles said."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from flps.metrics import EventReader

DEADLINE_S = 900.0


def start(folder: Path, config: Mapping[str, Any], *flags: str) -> subprocess.Popen[str]:
    """flrun with that configuration, in a folder of its own that is made; its output goes to `out.txt` there."""
    folder.mkdir(parents=True)
    (folder / "job.yaml").write_text(yaml.safe_dump(dict(config)))
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PADDLE", "POD_IP"))}
    with (folder / "out.txt").open("w") as out:
        return subprocess.Popen(
            [sys.executable, "-m", "flps.cli.flrun", "-m", "job.yaml", *flags],
            cwd=folder, env=clean | {"OMP_NUM_THREADS": "1"}, stdout=out, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip


def run(folder: Path, config: Mapping[str, Any], *flags: str) -> list[dict[str, Any]]:
    """The events of one whole run. Ends the benchmark when it fails."""
    process = start(folder, config, *flags)
    try:
        code = process.wait(DEADLINE_S)
    finally:
        stop(process)
    if code != 0:
        raise SystemExit(f"flrun ended with {code}:\n{(folder / 'out.txt').read_text()}")
    return events(folder)


def stop(process: subprocess.Popen[str]) -> None:
    """End a run that has not ended yet, in good order if it lets itself."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def events(folder: Path) -> list[dict[str, Any]]:
    """Everything that the roles of the run in this folder have said so far."""
    files = list(folder.glob("log/run-*/metrics.jsonl"))
    return EventReader(str(files[0])).poll() if files else []
