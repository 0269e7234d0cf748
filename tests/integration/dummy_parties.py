"""Stand-ins for the real parties: each function becomes a leader or follower of a split job that trains nothing."""

from __future__ import annotations

import logging
import os
import signal
import time
from pathlib import Path

from flps.config.split_job import SplitJob
from flps.errors import ConfigError, PeerLost
from flps.metrics import EventLog

log = logging.getLogger("dummy")


def _events(job: SplitJob, role: str, rank: int) -> EventLog:
    events = EventLog(f"{job.run_dir}/metrics.jsonl", role, rank)
    events.write("ready")
    return events


def good(job: SplitJob, role: str, rank: int, incarnation: int = 1) -> None:
    """Report, say what a party says, leave a checkpoint, end well."""
    events = _events(job, role, rank)
    party = job.party(role, rank)
    log.info("hello from %s of %s", job.config.name(role, rank), ", ".join(job.names))
    log.info(
        "nets %s, rows %s, batch %s",
        party.nets,
        party.data or job.config.data,
        job.config.hyper_parameters.get("batch_size"),
    )
    log.info(
        "the leader listens at %s (%s); life %d; from %s",
        job.leader,
        job.security,
        incarnation,
        job.earlier_checkpoints(role, rank),
    )
    events.write("progress", state="training", epoch=0, epochs=2, step=5, steps=10, samples=50,
                 samples_per_s=100.0, loss=0.5, auc=0.6, bytes_in=2000, bytes_out=1000)  # fmt: skip
    folder = job.checkpoints(role, rank)
    folder.mkdir(parents=True)
    (folder / f"{role}-net-x_step_5.json").write_text("{}")
    if role == "leader":
        events.write("epoch", epoch=0, loss=0.4, auc=0.7, samples_per_s=1000.0)
        events.write("eval", epoch=1, auc=0.75, log_loss=0.5)
    events.write("end", result="done")
    events.close()


def follower_dies_once(job: SplitJob, role: str, rank: int, incarnation: int = 1) -> None:
    """Follower 0 is killed in its first life; the others wait for its second."""
    mark = Path(job.run_dir) / "second-life"
    if (role, rank) == ("follower", 0):
        if incarnation == 1:
            _events(job, role, rank)
            os.kill(os.getpid(), signal.SIGKILL)
        mark.touch()
    deadline = time.monotonic() + 20
    while not mark.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    good(job, role, rank, incarnation)


def leader_crashes(job: SplitJob, role: str, rank: int, incarnation: int = 1) -> None:
    """The leader loses a follower; followers go on for ever."""
    _events(job, role, rank)
    if role == "leader":
        raise PeerLost("follower was silent for 10 s")
    time.sleep(600)


def bad_rows(job: SplitJob, role: str, rank: int, incarnation: int = 1) -> None:
    """A follower finds its rows wrong."""
    _events(job, role, rank)
    if role == "follower":
        raise ConfigError("the parties have different rows")
    time.sleep(600)


def never_ready(job: SplitJob, role: str, rank: int, incarnation: int = 1) -> None:
    """The leader does not report itself."""
    if role == "follower":
        _events(job, role, rank)
    time.sleep(600)


def has_keys(job: SplitJob, role: str, rank: int, incarnation: int = 1) -> None:
    """Look whether the run's keys are there, for the owner only."""
    from flps.transport.security import secret_key

    assert len(secret_key(Path(job.key_dir), role)) == 40
    assert Path(job.key_dir).parent.stat().st_mode & 0o777 == 0o700
    good(job, role, rank)
