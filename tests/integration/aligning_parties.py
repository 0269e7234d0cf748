"""Parties of a split job that are killed in the middle of aligning their rows."""

from __future__ import annotations

import os
import signal
from typing import Any

from flps.config.split_job import SplitJob
from flps.party import align
from flps.party.role import run_party


def _die(*_: Any, **__: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def each_dies_once(job: SplitJob, role: str, rank: int, incarnation: int = 1) -> None:
    """The follower before it writes what it has found, the leader when it has written all but the last word."""
    if incarnation == 1:
        setattr(align, "_write_card" if role == "leader" else "write_aligned", _die)
    run_party(job, role, rank, incarnation)
