"""A full disk, folders that may not be written, and a clock that jumps: said clearly, or not felt at all."""

from __future__ import annotations

import itertools
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

WIDE = {"mf_dim": 256, "fc_layers": [512, 6, 4]}  # files of some hundred kB


def wide(folder: Path, **runner: Any) -> dict[str, Any]:
    settings = {
        "sync_mode": "sync",
        "epochs": 2,
        "local_sparse": ["user_embedding"],
        "test_data_dir": str(folder / "fl_test_data"),
    }
    return {
        "runner": settings | runner,
        "hyper_parameters": WIDE,
        "network": {"heartbeat_s": 0.1, "lease_s": 5.0, "start_timeout_s": 40.0},
    }


CASES = [
    ("server:0 files", {}, "shared-0-of-1.safetensors: File too large"),
    ("worker:0 files", {}, "private-0-of-1.safetensors: File too large"),
    ("worker:0 files", {"need_dump": True, "dump_fields": ["user_input"], "epochs": 1}, "File too large"),
    ("server:0 files", {"durability": "log"}, "segment-00000001.log: File too large"),
    ("coordinator:0 metrics", {}, "metrics.jsonl: File too large"),
    ("server:0 metrics", {}, "metrics.jsonl: File too large"),
    ("worker:0 metrics", {}, "metrics.jsonl: File too large"),
    ("coordinator:0 log", {}, "its log could not be written: File too large"),
    ("worker:0 log", {}, "its log could not be written: File too large"),
]


@pytest.mark.slow  # every day: test_where_nothing_can_be_written_ends_with_6, and unit/test_disk.py
@pytest.mark.parametrize(("full", "runner", "says"), CASES)
def test_a_full_disk_ends_with_6(
    shards: Callable[..., Path], flrun: Any, full: str, runner: dict[str, Any], says: str
) -> None:
    folder = shards(1)
    flrun.write(wide(folder, **runner), folder)
    started = flrun.start("--worker_num=1", "--coordinator_num=1", target="limited", FLPS_TEST_FULL=full)
    code, out, err = flrun.finish(started)
    name = full.split()[0].replace(":", ".")
    assert code == 6, (out, err)
    assert f"{name} ended with exit code 6, so the job was stopped" in err
    assert says in out + flrun.logs()[name.replace(".", "log.")][-3000:]
    assert flrun.saved.epochs() == []
    assert flrun.is_clean()


@pytest.mark.slow
@pytest.mark.parametrize("full", ["server:0 files", "worker:0 files"])
def test_a_checkpoint_that_does_not_fit_is_told_and_training_goes_on(
    shards: Callable[..., Path], flrun: Any, full: str
) -> None:
    folder = shards(1)
    flrun.write(wide(folder, save_checkpoint_interval=10), folder)
    started = flrun.start("--worker_num=1", "--coordinator_num=1", target="limited", FLPS_TEST_FULL=full)
    code, out, err = flrun.finish(started)
    lines = flrun.logs()[full.split()[0].replace(":", "log.")]
    assert re.search(r"ERROR checkpoint \S+ is not written: .*File too large", lines), (lines, err)
    assert len(flrun.saved.events("epoch")) == 2
    assert list(flrun.saved.run_dir.glob("checkpoint/*/manifest.json")) == []
    assert code == 6, (out, err)  # the model at the end does not fit either


@pytest.mark.parametrize(
    ("place", "runner"),
    [
        ("a model below a file", {"model_save_path": "{file}/model"}),
        pytest.param("a model in /proc", {"model_save_path": "/proc/nowhere"}, marks=pytest.mark.slow),
    ],
)
def test_where_nothing_can_be_written_ends_with_6(
    shards: Callable[..., Path], flrun: Any, place: str, runner: dict[str, str]
) -> None:
    """Also for root, whom permissions do not stop."""
    folder = shards(1)
    (folder / "file").write_text("in the way")
    settings = {key: text.format(file=folder / "file") for key, text in runner.items()}
    flrun.write(wide(folder, **settings), folder)
    code, out, err = flrun("--worker_num=1")
    assert code == 6, (out, err)
    assert "cannot save a model in" in out or "cannot write" in out, out
    assert flrun.is_clean()


@pytest.mark.parametrize("flag", ["--log_dir={file}/log", "--log_dir=/proc/nowhere"])
def test_a_log_folder_that_cannot_be_made(shards: Callable[..., Path], flrun: Any, flag: str) -> None:
    folder = shards(1)
    (folder / "file").write_text("in the way")
    flrun.write({}, folder)
    code, _, err = flrun("--worker_num=1", flag.format(file=folder / "file"))
    assert code == 6
    assert "cannot make the run folder" in err


def test_a_clock_that_jumps_by_hours_is_not_felt(
    shards: Callable[..., Path], federate: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each look at the wall clock is hours before or after the one before."""
    folder = shards(2)
    settings = {"runner": {"sync_mode": "sync", "epochs": 1}, "network": {"heartbeat_s": 0.05, "lease_s": 3.0}}
    before = federate(folder, settings).parameters()
    real, hours = time.time, itertools.cycle([0, 5, -7, 100, -1000])
    monkeypatch.setattr(time, "time", lambda: real() + 3600 * next(hours))
    saved = federate(folder, settings)
    after = saved.parameters()
    assert saved.events("lost") == []
    assert all(np.array_equal(before[name], after[name]) for name in before)
