"""Roles as threads: the same codes as processes, a log file each, and nothing waits for ever."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from flps.config.job import Job
from flps.config.split import SplitConfig, SplitRunner
from flps.config.split_job import SplitJob
from flps.config.types import Config, Runner
from flps.errors import PeerLost
from flps.launch.plan import Role
from flps.launch.threads import Threads

WORKER, SERVER = Role("worker", 3, "h"), Role("server", 0, "h")
TARGET = f"{__file__}:"
log = logging.getLogger("test")


def quiet(job: Job | SplitJob, role: str, rank: int, incarnation: int = 1) -> None:
    log.info("I am %s %d", role, rank)


def fails(job: Job, role: str, rank: int, incarnation: int = 1) -> None:
    raise PeerLost("server.0 was silent")


def stays(job: Job, role: str, rank: int, incarnation: int = 1) -> None:
    while not (Path(job.run_dir) / "stop").exists():
        time.sleep(0.005)


@pytest.fixture
def job(tmp_path: Path) -> Job:
    return Job(run_id="r", run_dir=str(tmp_path), config_dir=".", config=Config(runner=Runner(train_data_dir="d")),
               workers=1, servers=("loopback://server-0",), coordinator="loopback://server-0", coordinators=0,
               security="loopback")  # fmt: skip


@pytest.fixture(autouse=True)
def info_level() -> Iterator[None]:
    root = logging.getLogger()
    before = root.level
    root.setLevel(logging.INFO)
    yield
    root.setLevel(before)


def all_ended(threads: Threads) -> dict[Role, int]:
    codes: dict[Role, int] = {}
    while threads.alive():
        codes |= threads.ended(5.0)
    return codes


def test_each_thread_is_its_role_and_has_its_log(job: Job, tmp_path: Path) -> None:
    threads = Threads(job, TARGET + "quiet")
    assert threads.start(WORKER) == os.getpid()
    threads.start(SERVER)
    assert all_ended(threads) == {WORKER: 0, SERVER: 0}
    threads.close()
    text = (tmp_path / "workerlog.3").read_text()
    assert "worker.3 INFO I am worker 3" in text
    assert "server" not in text
    assert "I am server 0" in (tmp_path / "serverlog.0").read_text()


def test_an_error_is_an_exit_code_and_a_traceback(job: Job, tmp_path: Path) -> None:
    threads = Threads(job, TARGET + "fails")
    threads.start(WORKER)
    assert all_ended(threads) == {WORKER: 4}
    threads.close()
    assert "PeerLost: server.0 was silent" in (tmp_path / "workerlog.3").read_text()


def test_a_thread_that_does_not_end_is_let_go(job: Job, tmp_path: Path) -> None:
    threads = Threads(job, TARGET + "stays")
    threads.start(WORKER)
    assert threads.ended(0.0) == {}
    threads.signal(WORKER, signal.SIGTERM)
    threads.kill(WORKER)
    threads.kill(WORKER)
    assert all_ended(threads) == {WORKER: -9}
    threads.close()
    (tmp_path / "stop").touch()
    for thread in threading.enumerate():
        if thread.name == WORKER.name:
            thread.join(5)


def test_a_wait_ends_when_another_descriptor_rings(job: Job, tmp_path: Path) -> None:
    bell_r, bell_w = os.pipe()
    threads = Threads(job, TARGET + "stays")
    threads.start(WORKER)
    os.write(bell_w, b".")
    assert threads.ended(30.0, bell_r) == {}
    (tmp_path / "stop").touch()
    assert all_ended(threads) == {WORKER: 0}
    threads.close()
    os.close(bell_r)
    os.close(bell_w)


@pytest.mark.parametrize(("device", "name"), [("GPU", "log_local_gpu.txt"), ("CPU", "log_local_cpu.txt")])
def test_the_leader_also_writes_the_originals_log(
    device: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).write_text("of an earlier run")
    (tmp_path / "run").mkdir()
    config = SplitConfig(hyper_parameters={"device_target": device})
    job = SplitJob(run_id="r", run_dir=str(tmp_path / "run"), config_dir=".", config=config,
                   leader="loopback://leader-0", security="loopback")  # fmt: skip
    threads = Threads(job, TARGET + "quiet")
    threads.start(Role("follower", 0, "h"))
    threads.start(Role("leader", 0, "h"))
    all_ended(threads)
    threads.close()
    assert (tmp_path / name).read_text() == "INFO:root:I am leader 0\n"
    again = Threads(msgspec.structs.replace(job, resume_from="/before"), TARGET + "quiet")
    again.start(Role("leader", 0, "h"))
    all_ended(again)
    again.close()
    assert (tmp_path / name).read_text() == "INFO:root:I am leader 0\n" * 2
    assert "leader.0 INFO I am leader 0" in (tmp_path / "run" / "leaderlog.0").read_text()


def test_who_only_looks_at_trained_nets_leaves_that_log_alone() -> None:
    looking = SplitConfig(runner=SplitRunner(task="evaluate", trained_models="m"))
    job = SplitJob(run_id="r", run_dir="/r", config_dir=".", config=looking, leader="x", security="loopback")
    assert job.local_log == ""
