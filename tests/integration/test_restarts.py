"""Roles that are killed and started again: the job ends as if nothing had happened."""

from __future__ import annotations

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
