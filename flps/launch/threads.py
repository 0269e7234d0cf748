"""Roles as threads of this process, so that a breakpoint in any of them works.

Law 1: to the launcher this looks like `Processes`: roles start, end with an exit code, and are listed.
Law 2: a thread cannot be killed; one that does not end is left behind as a daemon and goes with this process.
Law 3: what the leader of a split job says also goes where the original's single-process script writes it.
"""

from __future__ import annotations

import logging
import os
import queue
import signal
import threading
import time
from multiprocessing.connection import wait
from pathlib import Path

from flps.config.split_job import SplitJob
from flps.launch.child import outcome, resolve
from flps.launch.logs import formatter, log_name
from flps.launch.plan import AnyJob, Role
from flps.launch.spawn import ROLE_TARGET

log = logging.getLogger("flps.launch")
ORIGINALS_FORM = logging.Formatter("%(levelname)s:root:%(message)s")
REPORTED_S = (
    1.0  # a thread that has reported its end has nothing left to do; it is a daemon, should it hang all the same
)


class Threads:
    """The threads of this launcher's roles; each is named after its role, `worker.3`."""

    def __init__(self, job: AnyJob, target: str = ROLE_TARGET) -> None:
        """target: what a thread runs, as `package.module:function` or `file.py:function`."""
        self._job, self._run = job, resolve(target)
        self._alive: dict[Role, threading.Thread] = {}
        self._given_up: set[Role] = set()
        self._ended: queue.SimpleQueue[tuple[Role, int]] = queue.SimpleQueue()
        self._bell_r, self._bell_w = os.pipe()

    def start(self, role: Role, incarnation: int = 1) -> int:
        """Start one role, for the how-manieth time; the pid, which is this process's own."""
        thread = threading.Thread(target=self._become, args=(role, incarnation), name=role.name, daemon=True)
        self._alive[role] = thread
        thread.start()
        return os.getpid()

    def _become(self, role: Role, incarnation: int) -> None:
        handlers = self._log_files(role, incarnation)
        for handler in handlers:
            logging.getLogger().addHandler(handler)
        try:
            code = outcome(lambda: self._run(self._job, role.role, role.rank, incarnation))
        finally:
            for handler in handlers:
                logging.getLogger().removeHandler(handler)
                handler.close()
        if role not in self._given_up:
            self._report(role, code)

    def _log_files(self, role: Role, incarnation: int) -> list[logging.Handler]:
        files = [_log_file(Path(self._job.run_dir) / log_name(role.role, role.rank), role, formatter(role.name))]
        if isinstance(self._job, SplitJob) and role.role == "leader" and self._job.local_log:
            mode = "a" if incarnation > 1 or self._job.resume_from else "w"
            files.append(_log_file(Path(self._job.local_log), role, ORIGINALS_FORM, mode))
        return files

    def _report(self, role: Role, code: int) -> None:
        self._ended.put((role, code))
        os.write(self._bell_w, b".")

    def ended(self, timeout_s: float, *others: int) -> dict[Role, int]:
        """Wait until a role ends or one of the descriptors `others` is readable; the roles that ended, with codes."""
        if self._bell_r in wait([self._bell_r, *others], timeout_s):
            os.read(self._bell_r, 4096)
        gone = {}
        while not self._ended.empty():
            role, code = self._ended.get()
            if role not in self._given_up:
                self._alive[role].join(REPORTED_S)
            self._alive.pop(role, None)
            gone[role] = code
        return gone

    def alive(self) -> tuple[Role, ...]:
        """Roles that have not been reported as ended."""
        return tuple(self._alive)

    def signal(self, role: Role, number: signal.Signals) -> None:
        """Threads take no signals; this process ends without them."""

    def kill(self, role: Role) -> None:
        """Stop counting a thread that does not end."""
        if role in self._alive and role not in self._given_up:
            log.warning("%s did not end; it goes with this process", role.name)
            self._given_up.add(role)
            self._report(role, -signal.SIGKILL)

    def close(self, patience_s: float = 1.0) -> None:
        """Give threads that are ending a moment, then let go of them."""
        deadline = time.monotonic() + patience_s
        for thread in self._alive.values():
            thread.join(max(0.0, deadline - time.monotonic()))
        if not self._given_up and not any(thread.is_alive() for thread in self._alive.values()):
            os.close(self._bell_r)
            os.close(self._bell_w)
        self._alive.clear()


def log_to_terminal() -> None:
    """All roles' lines in the terminal too, each with its thread's name."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(threadName)s %(levelname)s %(message)s"))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(os.environ.get("FLPS_LOG_LEVEL", "INFO").upper())


def _log_file(path: Path, role: Role, form: logging.Formatter, mode: str = "a") -> logging.Handler:
    """A log file of the role; it takes what the role's thread says, and threads that are named after it."""
    handler = logging.FileHandler(path, mode, encoding="utf-8")
    handler.setFormatter(form)

    def is_of_role(record: logging.LogRecord) -> bool:
        name = record.threadName or ""
        return name == role.name or name.startswith((f"{role.name}/", f"{role.name}-"))

    handler.addFilter(is_of_role)
    return handler
