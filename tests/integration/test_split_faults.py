"""Parties of a split job that die, stand still or lose each other: the job ends as one that nothing happened to, bit
for bit, or with the documented exit code.

The faults are flrun's own (`--faults`), so they strike at a moment of the job and not of the clock. The n-th kill of a
party is for its n-th life: one run tries many moments.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import yaml
from safetensors.torch import load_file

from flps.data.criteo_like import Shape, ensure
from flps.metrics import EventReader

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "wide_deep"
EPOCHS, LAST = 2, 40  # of 20 steps each
KILLS = {
    "leader": (
        *("connecting", "connecting2", "step3", "pulling2", "pushing3", "saving2"),
        *("barrier", "evaluating2", "ending", "ending2", "ending3"),
    ),
    "follower": (
        *("connecting", "connecting2", "step3", "pulling2", "pushing3", "saving"),
        *("barrier", "evaluating2", "ending", "ending2", "ending3"),
    ),
}


class Ended(NamedTuple):
    """What is the same whatever happens on the way."""

    weights: dict[str, torch.Tensor]  # with optimizers and random numbers, of every net
    exported: dict[str, torch.Tensor]
    losses: dict[tuple[int, int], float]  # by epoch and step
    measured: dict[int, tuple[float, float]]  # by epoch: AUC and log loss


def write_job(folder: Path, rows: Path, **network: float) -> None:
    """A small job with dropout, whose random numbers must go on where they were, too."""
    shutil.copytree(CONFIGS, folder, dirs_exist_ok=True)
    job = yaml.safe_load((CONFIGS / "job.yaml").read_text())
    job |= {"preset": "small", "data": str(rows), "network": {"heartbeat_s": 0.2, "retry_s": 0.5, **network}}
    job["runner"] |= {"print_interval": 5, "save_checkpoint_interval": 7, "keep_checkpoint_max": 2}
    small = {"batch_size": 128, "emb_dim": 4, "deep_layer_dim": [8, 4], "keep_prob": 0.9, "dropout_flag": True}
    job["hyper_parameters"] |= small | {"data_path": str(rows), "epochs": EPOCHS}
    (folder / "job.yaml").write_text(yaml.safe_dump(job))


def ended(run_dir: Path) -> Ended:
    weights, exported = (
        {
            f"{path.parent.name}/{path.name}/{name}": held
            for path in sorted((run_dir / kind).glob(f"*/*_step_{LAST}.safetensors"))
            for name, held in load_file(path).items()
        }
        for kind in ("checkpoint", "output_model")
    )
    told = EventReader(str(run_dir / "metrics.jsonl")).poll()
    losses = {(e["epoch"], e["step"]): e["loss"] for e in told if e["event"] == "progress" and "loss" in e}
    measured = {e["epoch"]: (e["auc"], e["log_loss"]) for e in told if e["event"] == "eval"}
    for held in (weights, exported):
        assert len({tuple(name.split("/")[:2]) for name in held}) == 3, sorted(held)  # a net each
    assert any("random" in name for name in weights)
    return Ended(weights, exported, losses, measured)


def expect_equal(one: Ended, other: Ended) -> None:
    for got, wanted in ((one.weights, other.weights), (one.exported, other.exported)):
        assert got.keys() == wanted.keys()
        assert [name for name, held in wanted.items() if not torch.equal(got[name], held)] == []
    assert one.losses == other.losses
    assert one.measured == other.measured


@pytest.fixture(scope="session")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ensure(tmp_path_factory.mktemp("rows"), Shape(rows=3000))


@pytest.fixture
def run(flrun: Any, rows: Path) -> Callable[..., tuple[int, str, str]]:
    """A run of the small job to its end."""
    write_job(flrun.folder, rows, lease_s=20.0)
    return lambda *flags: flrun.finish(flrun.start(*flags, yaml_file="job.yaml"), 110)


@pytest.fixture(scope="session")
def undisturbed(rows: Path, tmp_path_factory: pytest.TempPathFactory) -> Ended:
    """The truth. A process of its own, as the runs that are compared with it."""
    folder = tmp_path_factory.mktemp("undisturbed")
    write_job(folder, rows)
    command = [sys.executable, "-m", "flps.cli.flrun", "-m", "job.yaml", "-o", "runner.keep_checkpoint_max=1"]
    environment = {"XDG_RUNTIME_DIR": str(folder), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, cwd=folder, env=os.environ | environment, capture_output=True, text=True, timeout=110
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (run_dir,) = (folder / "log").glob("run-*")
    whole = ended(run_dir)
    assert len(whole.losses) == EPOCHS * 4
    assert list(whole.measured) == list(range(EPOCHS))
    return whole


@pytest.mark.slow
@pytest.mark.parametrize("party", ["leader", "follower"])
def test_killed_at_every_moment_and_started_again(party: str, run: Any, flrun: Any, undisturbed: Ended) -> None:
    moments = KILLS[party]
    faults = ";".join(f"kill={party}:0@{moment}" for moment in moments)
    code, out, err = run(f"--faults={faults}", f"--max_restarts={len(moments)}")
    assert code == 0, out + err + str(flrun.logs())
    assert [e["fault"] for e in flrun.saved.events("fault")] == faults.split(";")
    assert len(flrun.saved.events("restarted")) == len(moments)
    expect_equal(ended(flrun.saved.run_dir), undisturbed)
    assert flrun.is_clean()


@pytest.mark.slow
@pytest.mark.parametrize(("party", "other"), [("leader", "follower"), ("follower", "leader")])
def test_killed_and_not_started_again(party: str, other: str, run: Any, flrun: Any) -> None:
    code, _, err = run(f"--faults=kill={party}:0@pushing3")
    assert code == 4
    assert f"{party}.0 was killed by SIGKILL, so the job was stopped" in err
    assert "stopped by the launcher" in flrun.logs()[f"{other}log.0"]
    assert flrun.is_clean()


@pytest.mark.slow
def test_the_whole_job_is_killed_and_goes_on(run: Any, flrun: Any, undisturbed: Ended) -> None:
    """flrun itself dies, too, and with it everything; then `--resume`, twice: at the end nothing is left to do."""
    process = flrun.start("--faults=delay=40ms", yaml_file="job.yaml")

    def is_half_way() -> bool:
        has_run = bool(list(flrun.folder.glob("log/run-*/metrics.jsonl")))
        return has_run and any(e["epoch"] for e in flrun.saved.events("progress"))

    flrun.wait_until(is_half_way, 100)
    process.send_signal(signal.SIGKILL)
    flrun.finish(process)
    flrun.wait_until(lambda: not flrun.processes())
    first = flrun.saved.run_dir
    code, out, err = run("--resume")
    assert code == 0, out + err
    assert f"goes on from {first}/checkpoint" in out
    assert re.search(r"goes on from step (20|27|34)$", flrun.logs()["followerlog.0"], re.MULTILINE)
    assert flrun.saved.run_dir != first
    half = ended(flrun.saved.run_dir)
    assert EPOCHS - 1 in half.measured
    whole = undisturbed._replace(
        losses={at: loss for at, loss in undisturbed.losses.items() if at in half.losses},
        measured={epoch: held for epoch, held in undisturbed.measured.items() if epoch in half.measured},
    )
    expect_equal(half, whole)
    code, out, err = run("--resume")
    assert code == 0, out + err
    assert f"nothing is left to train: {EPOCHS} epochs end with step {LAST}" in flrun.logs()["leaderlog.0"]
    assert not flrun.saved.events("progress")
    assert flrun.is_clean()


@pytest.mark.slow
def test_a_bad_link_and_a_party_that_stands_still(run: Any, flrun: Any, undisturbed: Ended) -> None:
    faults = "delay=50ms; rate=100mbit; drop=3%; duplicate=5%; reorder=3%; stop=follower:0@step9+3s; "
    faults += "stop=leader:0@evaluating+3s; partition=follower:0@step15+3s"
    code, out, err = run(f"--faults={faults}")
    assert code == 0, out + err
    struck = {e["fault"].partition("=")[0] for e in flrun.saved.events("fault")}
    assert struck == {"drop", "duplicate", "reorder", "stop", "partition"}
    expect_equal(ended(flrun.saved.run_dir), undisturbed)


@pytest.mark.slow
def test_a_link_that_is_cut_for_half_a_minute(flrun: Any, rows: Path, undisturbed: Ended) -> None:
    write_job(flrun.folder, rows, lease_s=60.0)
    process = flrun.start("--faults=partition=follower:0-leader:0@step12+30s", yaml_file="job.yaml")
    code, out, err = flrun.finish(process, 110)
    assert code == 0, out + err
    expect_equal(ended(flrun.saved.run_dir), undisturbed)


@pytest.mark.slow
def test_a_link_that_is_cut_for_longer_than_the_lease(flrun: Any, rows: Path) -> None:
    write_job(flrun.folder, rows, lease_s=2.0)
    code, _, err = flrun.finish(flrun.start("--faults=partition=follower:0@step12+60s", yaml_file="job.yaml"))
    assert code == 4, err
    logs = "".join(flrun.logs().values())
    assert "follower gave no sign of life for 2 s, and leader waits for it" in logs
    assert "leader gave no sign of life for 2 s, and follower waits for it" in logs


@pytest.mark.slow
def test_a_party_that_its_owner_starts_again(flrun: Any, rows: Path, undisturbed: Ended) -> None:
    """Each party has its own launcher; one ends with its party and is started again by hand while the other waits."""
    write_job(flrun.folder, rows, lease_s=60.0)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        at = f"--leader=127.0.0.1:{probe.getsockname()[1]}"
    leader = flrun.start("--role=leader", at, "--log_dir=l", yaml_file="job.yaml")
    own = ("--role=follower", at, "--log_dir=f")
    code, _, err = flrun.finish(flrun.start(*own, "--faults=kill=follower:0@step25", yaml_file="job.yaml"), 110)
    assert code == 4
    assert "follower.0 was killed by SIGKILL, so the job was stopped" in err
    for process in (flrun.start(*own, "--resume", yaml_file="job.yaml"), leader):
        code, out, err = flrun.finish(process, 110)
        assert code == 0, out + err
    ends: dict[str, torch.Tensor] = {}
    for log_dir in ("l", "f"):
        run_dir = (flrun.folder / log_dir / "metrics.jsonl").resolve().parent
        for path in sorted(run_dir.glob(f"checkpoint/*/*_step_{LAST}.safetensors")):
            ends |= {f"{path.parent.name}/{path.name}/{n}": held for n, held in load_file(path).items()}
    assert ends.keys() == undisturbed.weights.keys()
    assert [name for name, held in undisturbed.weights.items() if not torch.equal(ends[name], held)] == []
    shutil.rmtree(next(flrun.runtime.iterdir()))  # keys that both launchers shared
