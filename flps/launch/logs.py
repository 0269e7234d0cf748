"""The folder of a run: its log files, the links to the newest run, roles.json, and how a role's lines look.

    log/run-<time>/{workerlog.N, serverlog.N, coordinatorlog.N, roles.json, metrics.jsonl, config.yaml, job.json}
    log/run-<time>/heterlog.N of a vertical job
    log/run-<time>/{leaderlog.0, followerlog.N, ...} of a split job
    log/workerlog.N -> run-<time>/workerlog.N

Law 1: an earlier run is never touched; only links move.
Law 2: links are relative, so that a moved or mounted log folder still works.
"""

from __future__ import annotations

import logging
import os
import re
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from flps.errors import ResourceError

LINK = re.compile(r"(server|worker|heter|coordinator|leader|follower)log\.\d+")


def run_name(now: datetime) -> str:
    """The folder name of a run that starts at `now`."""
    return now.strftime("run-%Y%m%d-%H%M%S")


def log_name(role: str, rank: int) -> str:
    """The name of a role's log file, as the original's documentation has it."""
    return f"heterlog.{rank}" if role == "heter_worker" else f"{role}log.{rank}"


def make_run_dir(wanted: Path) -> Path:
    """Make the folder of a run; a second run in the same second gets `-2`, a third `-3`.

    Raises ResourceError when it cannot be made.
    """
    try:
        wanted.parent.mkdir(parents=True, exist_ok=True)
        for number in range(1, 1000):
            folder = wanted if number == 1 else wanted.with_name(f"{wanted.name}-{number}")
            try:
                folder.mkdir()
            except FileExistsError:
                continue
            return folder
    except OSError as error:
        raise ResourceError(f"cannot make the run folder {wanted}: {error.strerror}") from error
    raise ResourceError(f"cannot make the run folder {wanted}: it and 998 others exist")


def link_newest(run_dir: Path, names: Iterable[str], *, whole_job: bool) -> list[str]:
    """Point `log/<name>` at this run's file for each name; returns names that a foreign file keeps from being linked.

    whole_job: this launcher starts every role, so links of an earlier, larger run are removed.
    """
    names = set(names)
    kept = []
    for name in sorted(names):
        link = run_dir.parent / name
        if link.exists() and not link.is_symlink():
            kept.append(name)
            continue
        fresh = link.with_name(f".{name}.{os.getpid()}")
        fresh.symlink_to(Path(run_dir.name) / name)
        fresh.replace(link)
    if whole_job:
        for link in run_dir.parent.iterdir():
            if link.is_symlink() and LINK.fullmatch(link.name) and link.name not in names:
                link.unlink(missing_ok=True)
    return kept


def write_roles(run_dir: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write roles.json: a list of {role, rank, pid, host, log, endpoint}; replaced as a whole."""
    fresh = run_dir / ".roles.json"
    fresh.write_bytes(msgspec.json.format(msgspec.json.encode(list(rows)), indent=2) + b"\n")
    fresh.replace(run_dir / "roles.json")


def last_lines(path: Path, count: int = 15) -> list[str]:
    """The last lines of a log file, at most `count`; none when there is no such file."""
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            return [line.rstrip("\n") for line in deque(file, maxlen=count)]
    except OSError:
        return []


def formatter(role_name: str) -> logging.Formatter:
    """`2026-11-21 10:00:00,123 worker.3 INFO message`."""
    return logging.Formatter(f"%(asctime)s {role_name} %(levelname)s %(message)s")
