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


def flip(path: Path) -> None:
    """Change one bit of a file."""
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


@pytest.mark.slow  # every day: unit/launch/test_resume_from.py
def test_what_is_refused_and_what_is_done(shards: Callable[..., Path], flrun: Any) -> None:
    folder = shards(2)
    flrun.write({"runner": {**OFTEN, "epochs": 1, "local_sparse": ["user_embedding"]}}, folder)
    code, out, err = flrun(*FLAGS, "--in_process")
    assert code == 0, (out, err)
    run_dir = flrun.saved.run_dir
    newest = run_dir / "checkpoint" / "1-0"

    code, out, err = flrun(*FLAGS, "--resume")
    assert (code, err) == (0, "")
    assert f"this run is done: {newest}, after 1 epochs and 0 steps; to go on, raise its epochs" in out
    assert flrun.saved.run_dir == run_dir

    more = ("-o", "runner.epochs=2", f"--resume={run_dir}")
    for flags, reason in (
        ((*more, "--worker_num=3"), "there were 2 workers, now there are 3"),
        ((*more, *FLAGS, "-o", "runner.train_batch_size=7"), "runner.train_batch_size was 24, is 7"),
        ((*more, *FLAGS, "-o", "table_parameters.item_embedding.rule=sgd"), "table_parameters was {}, is {'item_emb"),
        ((*FLAGS, "--resume=nowhere"), "nowhere: there is no such folder"),
    ):
        code, out, err = flrun(*flags)
        assert code == 2, (out, err)
        assert reason in err

    code, out, err = flrun(*FLAGS, *more, "--in_process")
    assert code == 0, (out, err)
    assert [event["epoch"] for event in flrun.saved.events("epoch")] == [1]

    flip(newest / "private-1-of-2.safetensors")
    code, out, err = flrun(*FLAGS, *more)
    assert code == 2, (out, err)
    assert "private-1-of-2.safetensors is not what was saved" in out
    flip(newest / "private-1-of-2.safetensors")
    flip(newest / "shared-0-of-1.safetensors")
    code, out, err = flrun(*FLAGS, *more)
    assert code == 2, (out, err)
    assert "shared-0-of-1.safetensors is not what was saved" in out
    (newest / "manifest.json").unlink()
    code, out, err = flrun(*FLAGS, "-o", "runner.epochs=2", f"--resume={newest}")
    assert code == 2, (out, err)
    assert "is no complete checkpoint: it has no manifest.json" in err
