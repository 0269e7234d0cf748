"""flrun --resume with real processes: killed in the middle of an epoch, gone on, and what it refuses."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

OFTEN = {"save_checkpoint_interval": 4, "keep_checkpoint_max": 2, "epochs": 3, "sync_mode": "sync"}
FLAGS = ("--worker_num=2", "--server_num=1")


def test_a_run_that_is_killed_goes_on_as_if_nothing_had_been(shards: Callable[..., Path], flrun: Any) -> None:
    folder = shards(2)
    private = {"local_sparse": ["user_embedding"], "private": ["prediction.*"], "negatives": "fresh"}
    data = {"test_data_dir": str(folder / "fl_test_data")}
    flrun.write({"runner": {**OFTEN, **private, **data}}, folder)
    code, out, err = flrun(*FLAGS)
    assert code == 0, (out, err, flrun.logs())
    whole = flrun.saved
    assert [*whole.checkpoints()][1:] == ["3-0"]

    process = flrun.start(*FLAGS)
    flrun.wait_until(lambda: flrun.saved.run_dir != whole.run_dir and len(flrun.saved.checkpoints()) > 1)
    os.killpg(process.pid, signal.SIGKILL)
    flrun.finish(process)
    flrun.wait_until(lambda: not flrun.processes())
    killed = flrun.saved
    assert killed.epochs() != [3]

    code, out, err = flrun(*FLAGS, "--resume")
    assert code == 0, (out, err, flrun.logs())
    assert f"note: goes on from {killed.run_dir}" in out
    mine, its = whole.parameters(), flrun.saved.parameters()
    assert [name for name in mine if not np.array_equal(mine[name], its[name])] == []
    assert whole.events("eval")[-1]["hr"] == flrun.saved.events("eval")[-1]["hr"]
    assert whole.events("epoch")[-1]["loss"] == flrun.saved.events("epoch")[-1]["loss"]
