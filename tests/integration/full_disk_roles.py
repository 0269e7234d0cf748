"""Roles of which one finds the disk full: the files of its process may not grow beyond a limit.

FLPS_TEST_FULL is `role:rank what`; what: `log`, `metrics` (that file is full already) or `files` (none over 60 kB).
"""

from __future__ import annotations

import os
import resource
import sys
from pathlib import Path

from flps.config.job import Job
from flps.launch.logs import log_name
from flps.launch.role import run_role

FULL_BYTES = 300_000
LIMIT_BYTES = 60_000


def limited(job: Job, role: str, rank: int, incarnation: int = 1) -> None:
    """Play the role, after its limit has been set."""
    who, what = os.environ["FLPS_TEST_FULL"].split()
    if who == f"{role}:{rank}":
        limit = LIMIT_BYTES
        if what == "log":
            print("x" * FULL_BYTES, file=sys.stderr, flush=True)
            limit = (Path(job.run_dir) / log_name(role, rank)).stat().st_size
        elif what == "metrics":
            path = Path(job.run_dir) / "metrics.jsonl"
            with path.open("a") as file:
                file.write('{"event": "padding", "text": "' + "x" * FULL_BYTES + '"}\n')
            limit = path.stat().st_size
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
    run_role(job, role, rank, incarnation)
