"""Stand-ins for the real roles: each function becomes a server, worker or coordinator of a job that trains nothing."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from flps.config.job import Job
from flps.errors import ConfigError, PeerLost, ResourceError
from flps.metrics import EventLog

log = logging.getLogger("dummy")


def _events(job: Job, role: str, rank: int) -> EventLog:
    return EventLog(f"{job.run_dir}/metrics.jsonl", role, rank)


def _wait_for(*paths: Path) -> None:
    deadline = time.monotonic() + 30
    while not all(path.exists() for path in paths) and time.monotonic() < deadline:
        time.sleep(0.01)


def _worker_marks(job: Job) -> list[Path]:
    return [Path(job.run_dir) / f"worker-{rank}.done" for rank in range(job.workers)]


def good(job: Job, role: str, rank: int, incarnation: int = 1) -> None:
    """Report, say what a role says, end well. Servers and coordinator end when all workers have."""
    events = _events(job, role, rank)
    events.write("ready")
    log.info("hello from %s %d of run %s", role, rank, job.run_id)
    print(f"printed by {role} {rank}")
    if role == "worker":
        events.write("progress", state="training", epoch=0, epochs=2, step=5, steps=10, samples=50,
                     samples_per_s=100.0, loss=0.5, auc=0.6, bytes_in=2000, bytes_out=1000)  # fmt: skip
        _worker_marks(job)[rank].touch()
    else:
        _wait_for(*_worker_marks(job))
        if role == "coordinator" or (job.coordinators == 0 and rank == 0):
            events.write("epoch", epoch=0, loss=0.4, auc=0.7, client_auc={}, samples_per_s=1000.0)
            events.write("eval", epoch=2, hr=0.66, ndcg=0.39, hr_full=0.2, ndcg_full=0.1, auc=0.9, warm=6040,
                         users=6040)  # fmt: skip
    events.write("end", result="done")
    events.close()


def worker_crashes(job: Job, role: str, rank: int, incarnation: int = 1) -> None:
    """Worker 1 dies of a bug; the others end well."""
    if (role, rank) == ("worker", 1):
        _events(job, role, rank).write("ready")
        _worker_marks(job)[rank].touch()
        raise ZeroDivisionError("a bug in worker 1")
    good(job, role, rank)


def all_workers_crash(job: Job, role: str, rank: int, incarnation: int = 1) -> None:
    """Every worker dies of a bug; servers wait for ever."""
    _events(job, role, rank).write("ready")
    if role == "worker":
        raise PeerLost("server.0 was silent for 10 s")
    time.sleep(600)


def server_crashes(job: Job, role: str, rank: int, incarnation: int = 1) -> None:
    """The server dies of a bug while the others work."""
    _events(job, role, rank).write("ready")
    if role == "server":
        raise RuntimeError("a bug in the server")
    time.sleep(600)


def worker_killed(job: Job, role: str, rank: int, incarnation: int = 1) -> None:
    """Worker 0 is killed as by kill -9."""
    if (role, rank) == ("worker", 0):
        _events(job, role, rank).write("ready")
        _worker_marks(job)[rank].touch()
        os.kill(os.getpid(), signal.SIGKILL)
    good(job, role, rank)


def never_ready(job: Job, role: str, rank: int, incarnation: int = 1) -> None:
    """Worker 0 does not report itself."""
    if (role, rank) != ("worker", 0):
        _events(job, role, rank).write("ready")
    time.sleep(600)


def bad_config(job: Job, role: str, rank: int, incarnation: int = 1) -> None:
    """The server finds the config wrong."""
    if role == "server":
        raise ConfigError("runner.train_data_dir: no such folder")
    time.sleep(600)


def no_port(job: Job, role: str, rank: int, incarnation: int = 1) -> None:
    """The server cannot bind."""
    if role == "server":
        raise ResourceError("port 9000 is taken")
    time.sleep(600)


def works_on(job: Job, role: str, rank: int, incarnation: int = 1) -> None:
    """Report and go on for ever, with a process of its own beside; a socket-like file stands in the private folder."""
    if role == "server" and job.servers[rank].startswith("ipc://"):
        Path(job.servers[rank].removeprefix("ipc://")).touch()
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    _events(job, role, rank).write("ready")
    while True:
        time.sleep(0.05)


def deaf(job: Job, role: str, rank: int, incarnation: int = 1) -> None:
    """Report, and ignore SIGTERM."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    _events(job, role, rank).write("ready")
    if role == "worker" and rank == 1:
        raise ConfigError("so that all is stopped")
    while True:
        time.sleep(0.05)


def server_stays(job: Job, role: str, rank: int, incarnation: int = 1) -> None:
    """Workers end well; the server does not."""
    if role == "server":
        _events(job, role, rank).write("ready")
        while True:
            time.sleep(0.05)
    good(job, role, rank)


def leaves_a_thread(job: Job, role: str, rank: int, incarnation: int = 1) -> None:
    """End well, but with a thread that does not end."""
    import threading

    if role == "worker":
        threading.Thread(target=time.sleep, args=(600,)).start()
    good(job, role, rank)


def hosts(job: Job, role: str, rank: int, incarnation: int = 1) -> None:
    """Report and end; nobody waits for another host."""
    _events(job, role, rank).write("ready")


def alone(job: Job, role: str, rank: int, incarnation: int = 1) -> None:
    """Report and tell what this role was told."""
    _events(job, role, rank).write("ready")
    log.info("%s %d of %d, servers %s", role, rank, job.workers, job.servers)


def has_keys(job: Job, role: str, rank: int, incarnation: int = 1) -> None:
    """Look whether the run's keys are there, for the owner only."""
    from flps.transport.security import secret_key

    assert job.security == "curve"
    assert len(secret_key(Path(job.key_dir), role)) == 40
    assert Path(job.key_dir).parent.stat().st_mode & 0o777 == 0o700
    good(job, role, rank)
