"""Roles that are killed and started again: the job ends as if nothing had happened."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

EPOCHS = 6


def job(folder: Path, mode: str, durability: str = "log", **runner: Any) -> dict[str, Any]:
    """Steps are small, so that a kill meets the middle of them."""
    settings = {"sync_mode": mode, "epochs": EPOCHS, "train_batch_size": 8, "durability": durability, **runner}
    return {
        "runner": {"print_interval": 1000, **settings},
        "network": {"heartbeat_s": 0.2, "lease_s": 10.0, "retry_s": 0.3},
        "evaluation": {"interval": 0},
    }


def assert_same(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert one.keys() == other.keys()
    assert not [name for name in one if not np.array_equal(one[name], other[name])]


class Runs:
    """The same job without and with kills."""

    def __init__(self, flrun: Any, folder: Path, workers: int, *flags: str) -> None:
        self.flrun, self.folder, self.workers = flrun, folder, workers
        self.flags = (f"--worker_num={workers}", *flags)

    def undisturbed(self, settings: dict[str, Any]) -> dict[str, Any]:
        self.flrun.write(settings, self.folder)
        code, _, err = self.flrun(*self.flags)
        assert (code, err) == (0, "")
        parameters: dict[str, Any] = self.flrun.saved.parameters()
        return parameters

    def killed(self, settings: dict[str, Any], *kills: tuple[str, int, int], restarts: int = 1) -> dict[str, Any]:
        """`kills`: (role, rank, epoch that all workers have begun)."""
        self.flrun.write(settings, self.folder)
        started = self.flrun.start(*self.flags, f"--max_restarts={restarts}")
        for role, rank, epoch in kills:
            self.flrun.wait_until(lambda epoch=epoch: self.flrun.is_training(self.workers, epoch))
            os.kill(self.flrun.pid_of(role, rank), signal.SIGKILL)
        code, out, err = self.flrun.finish(started)
        assert (code, err) == (0, ""), (out, err, self.flrun.logs())
        restarted = [(e["role"], e["rank"]) for e in self.flrun.saved.events("restarted")]
        assert sorted(restarted) == sorted((role, rank) for role, rank, _ in kills)
        assert self.flrun.is_clean()
        parameters: dict[str, Any] = self.flrun.saved.parameters()
        return parameters


def test_a_killed_server_has_lost_nothing(shards: Callable[..., Path], flrun: Any) -> None:
    folder = shards(3)
    runs = Runs(flrun, folder, 3, "--coordinator_num=1")
    settings = job(folder, "sync")
    assert_same(runs.killed(settings, ("server", 0, 1)), runs.undisturbed(settings))


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["async", "geo"])
def test_one_worker_alone_is_equal_in_every_mode(shards: Callable[..., Path], flrun: Any, mode: str) -> None:
    runs = Runs(flrun, shards(1), 1, "--coordinator_num=1")
    settings = job(runs.folder, mode)
    assert_same(runs.killed(settings, ("server", 0, 2)), runs.undisturbed(settings))


@pytest.mark.slow
def test_several_servers_coordinator_and_two_kills_of_one(shards: Callable[..., Path], flrun: Any) -> None:
    runs = Runs(flrun, shards(2), 2, "--coordinator_num=1", "--server_num=2")
    settings = job(runs.folder, "sync", "log+fsync")
    kills = [("server", 1, 1), ("coordinator", 0, 2), ("server", 1, 3)]
    killed = runs.killed(settings, *kills, restarts=2)
    epochs = [event["epoch"] for event in flrun.saved.events("epoch")]
    assert epochs == list(range(EPOCHS))  # each is told once
    assert_same(killed, runs.undisturbed(settings))


@pytest.mark.slow
def test_a_server_that_hosts_the_membership(shards: Callable[..., Path], flrun: Any) -> None:
    runs = Runs(flrun, shards(2), 2, "--server_num=2")
    settings = job(runs.folder, "sync")
    killed = runs.killed(settings, ("server", 0, 1), ("server", 1, 2), ("server", 0, 3), restarts=2)
    assert [event["epoch"] for event in flrun.saved.events("epoch")] == list(range(EPOCHS))
    assert_same(killed, runs.undisturbed(settings))


@pytest.mark.parametrize("mode", ["sync", pytest.param("async", marks=pytest.mark.slow), pytest.param("geo", marks=pytest.mark.slow)])  # fmt: skip  # noqa: E501
def test_a_worker_joins_again_when_an_epoch_begins(shards: Callable[..., Path], flrun: Any, mode: str) -> None:
    runs = Runs(flrun, shards(3), 3, "--coordinator_num=1")
    runs.killed(job(runs.folder, mode, "off", epochs=12), ("worker", 1, 2))
    present = [set(event["client_auc"]) for event in flrun.saved.events("epoch")]
    assert len(present) == 12
    assert present[0] == present[-1] == {"0", "1", "2"}
    missed = [n for n, ranks in enumerate(present) if ranks == {"0", "2"}]
    assert missed == list(range(missed[0], missed[0] + len(missed)))
    assert len(missed) <= 2
    assert "was started again; it goes on with epoch" in flrun.logs()["workerlog.1"]


@pytest.mark.slow
def test_all_workers_at_once(shards: Callable[..., Path], flrun: Any) -> None:
    """The epoch that was under way begins once more."""
    runs = Runs(flrun, shards(2), 2, "--coordinator_num=1")
    runs.killed(job(runs.folder, "sync", epochs=4), ("worker", 0, 1), ("worker", 1, 1))
    assert [event["epoch"] for event in flrun.saved.events("epoch")] == list(range(4))


@pytest.mark.slow  # every day: unit/server/test_crashes.py, test_a_journal_stays_short
def test_checkpoints_keep_the_journal_short(shards: Callable[..., Path], flrun: Any) -> None:
    """A killed server goes on from its part of the last checkpoint and what it was told since."""
    runs = Runs(flrun, shards(2), 2, "--coordinator_num=1")
    flrun.write(job(runs.folder, "sync", epochs=8, save_checkpoint_interval=6), runs.folder)
    started = flrun.start(*runs.flags, "--max_restarts=1")
    flrun.wait_until(lambda: flrun.is_training(2, 4))
    journal = flrun.saved.run_dir / "journal" / "server-0"
    flrun.wait_until(lambda: any(journal.glob("base-*.msgpack")))
    assert min(int(path.stem.split("-")[1]) for path in journal.glob("segment-*.log")) > 2
    flrun.wait_until(lambda: 3 * _bytes_of(journal) < _bytes_in(flrun, "server"))
    os.kill(flrun.pid_of("server", 0), signal.SIGKILL)
    code, out, err = flrun.finish(started)
    assert (code, err) == (0, ""), (out, err, flrun.logs())
    assert "took up" in flrun.logs()["serverlog.0"]
    assert "base-" in flrun.logs()["serverlog.0"]
    assert not journal.parent.exists()  # the run has ended well
    assert_same(flrun.saved.parameters(), runs.undisturbed(job(runs.folder, "sync", epochs=8)))


def test_a_budget_that_is_used_up_ends_the_job(shards: Callable[..., Path], flrun: Any) -> None:
    runs = Runs(flrun, shards(2), 2, "--coordinator_num=1")
    flrun.write(job(runs.folder, "sync", epochs=100000), runs.folder)
    started = flrun.start(*runs.flags, "--max_restarts=1")
    flrun.wait_until(lambda: flrun.is_training(2))
    for life in (1, 2):
        flrun.wait_until(lambda life=life: len(flrun.saved.events("restarted")) == life - 1)
        flrun.wait_until(lambda life=life: _times_ready(flrun, "server") == life)
        os.kill(flrun.pid_of("server", 0), signal.SIGKILL)
    code, out, err = flrun.finish(started)
    assert code == 4, (out, err)
    assert "server.0 was killed by SIGKILL after 1 restarts (--max_restarts), so the job was stopped" in err
    assert "server.0 was killed by SIGKILL and was started again; 0 restarts are left" in out
    assert flrun.is_clean()


def test_without_a_journal_a_server_is_not_started_again(shards: Callable[..., Path], flrun: Any) -> None:
    runs = Runs(flrun, shards(2), 2, "--coordinator_num=1")
    flrun.write(job(runs.folder, "sync", "off", epochs=100000), runs.folder)
    started = flrun.start(*runs.flags, "--max_restarts=3")
    flrun.wait_until(lambda: flrun.is_training(2))
    os.kill(flrun.pid_of("server", 0), signal.SIGKILL)
    code, _, err = flrun.finish(started)
    assert code == 4
    assert "with runner.durability off its state died with it" in err


def _bytes_of(journal: Path) -> int:
    """Length of all segments; some may go while it is being counted."""
    total = 0
    for path in journal.glob("segment-*.log"):
        with contextlib.suppress(FileNotFoundError):
            total += path.stat().st_size
    return total


def _bytes_in(flrun: Any, role: str) -> int:
    """What that role has received so far."""
    return max((event["bytes_in"] for event in flrun.saved.events("progress") if event["role"] == role), default=0)


def _times_ready(flrun: Any, role: str) -> int:
    return sum(event["role"] == role for event in flrun.saved.events("ready"))
