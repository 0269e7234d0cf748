"""Where a process becomes its role: log file, signals, the parent's death, and the one place that catches everything.

Law 1: whatever ends a role ends here, with its traceback in the role's log and the exit code of the error tree.
Law 2: a role does not outlive its launcher, even one that was killed by SIGKILL.
Law 3: Ctrl-C is the launcher's to decide; a role ignores SIGINT and obeys SIGTERM.
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import logging
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable
from multiprocessing.connection import wait
from pathlib import Path
from types import FrameType
from typing import Any, TextIO, cast

import msgspec

from flps.config.split_job import read_job
from flps.errors import ConfigError, FlpsError, ResourceError
from flps.launch.logs import formatter, log_name
from flps.launch.prepare import remove_private_dir
from flps.metrics import EventLog
from flps.scripts import load_script

EXIT_STOPPED = 128 + signal.SIGTERM  # obeyed SIGTERM
LEAVE_S = 3.0  # threads and sockets of a role that has ended may take this long to close
# What a system says that has no room, or may not write; EFBIG is a limit of the process (`ulimit -f`).
DISK_REFUSES = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO}
HELD_BACK = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}

log = logging.getLogger("flps.launch")

RoleTarget = Callable[[Any, str, int, int], None]  # job of its kind, role, rank, incarnation


class Stopped(BaseException):
    """The launcher asked this role to stop; no Exception, so that no `except Exception` on the way keeps it."""


def become(target: str, job_json: bytes, role: str, rank: int, private_dir: str, incarnation: int) -> None:
    """Main function of a child process: run the role and leave with the exit code that tells how it went.

    incarnation: 1 for the first process of that role, one more each time that it is started again.
    """
    os.setpgid(0, 0)
    _redirect(Path(msgspec.json.decode(job_json)["run_dir"]) / log_name(role, rank))
    _set_signals()
    threading.Thread(target=_die_with_parent, args=(private_dir,), name="parent-watch", daemon=True).start()
    _start_logging(f"{role}.{rank}", sys.stderr)
    code = outcome(lambda: _obeying_signals(target, job_json, role, rank, incarnation))
    _leave_soon(code)
    complaint = _last_lines()
    if complaint:
        _tell_end(msgspec.json.decode(job_json)["run_dir"], role, rank, complaint)
        os._exit(code or ResourceError.exit_code)  # what still waits to be written would fail again, with another code
    sys.exit(code)


def _obeying_signals(target: str, job_json: bytes, role: str, rank: int, incarnation: int) -> None:
    """The launcher held signals back until here; they are held back again when the role has ended."""
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, HELD_BACK)
        resolve(target)(read_job(job_json), role, rank, incarnation)
    finally:
        signal.pthread_sigmask(signal.SIG_BLOCK, HELD_BACK)


def outcome(act: Callable[[], None]) -> int:
    """Run a role to its end; its exit code. The traceback of what went wrong goes to the log."""
    try:
        act()
    except Stopped:
        log.info("stopped by the launcher")
        return EXIT_STOPPED
    except SystemExit as error:
        return _code_of(error)
    except (ConfigError, ResourceError) as error:  # the message alone says it: nothing in the code is wrong
        log.error("%s", error)
        return error.exit_code
    except FlpsError as error:
        log.exception("%s", error)
        return error.exit_code
    except Exception as error:
        if isinstance(error, OSError) and error.errno in DISK_REFUSES:
            log.error("the disk refuses: %s", error)
            return ResourceError.exit_code
        log.exception("%s: %s", type(error).__name__, error)
        return 1
    return 0


def _code_of(error: SystemExit) -> int:
    """A role's script may call sys.exit(); its meaning is Python's own."""
    if error.code is None:
        return 0
    if isinstance(error.code, int):
        return error.code & 0xFF
    log.error("%s", error.code)
    return 1


def resolve(target: str) -> RoleTarget:
    """The function that `package.module:name` or `path/to/file.py:name` means.

    Raises ConfigError when there is none.
    """
    place, _, name = target.rpartition(":")
    try:
        module = load_script(Path(place)) if place.endswith(".py") else importlib.import_module(place)
        return cast(RoleTarget, getattr(module, name))
    except AttributeError as error:
        raise ConfigError(f"{target}: {error}") from error


def _redirect(log_file: Path) -> None:
    """Everything that this process prints, from C too, goes to its log file from here on."""
    descriptor = os.open(log_file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)
    # A test runner may have put objects of its own in the place of these two.
    sys.stdout = open(1, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115


def _start_logging(role_name: str, stream: TextIO) -> None:
    handler = LogStream(stream)
    handler.setFormatter(formatter(role_name))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(os.environ.get("FLPS_LOG_LEVEL", "INFO").upper())
    logging.captureWarnings(True)


class LogStream(logging.StreamHandler):  # type: ignore[type-arg]  # it takes none before Python 3.11
    """Writes a role's log. A line that does not fit on the disk ends the role; what is said after that is not kept."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self._is_broken = False

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  the name is its base's
        """Called within the handling of what went wrong. Raises ResourceError, once."""
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)
        elif not self._is_broken:
            self._is_broken = True
            raise ResourceError(f"cannot write the log: {error.strerror}") from error


def _last_lines() -> str:
    """Write out what was printed; a complaint when that is not possible."""
    try:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
    except OSError as error:
        return f"its log could not be written: {error.strerror}"
    return ""


def _tell_end(run_dir: str, role: str, rank: int, complaint: str) -> None:
    """What the log cannot hold any more is told by an event, if the disk has room for that."""
    with contextlib.suppress(ResourceError):
        events = EventLog(str(Path(run_dir) / "metrics.jsonl"), role, rank)
        events.write("end", result=complaint)
        events.close()


def _set_signals() -> None:
    """SIGTERM raises Stopped in the main thread; the launcher alone answers to the terminal."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _raise_stopped)


def _raise_stopped(number: int, frame: FrameType | None) -> None:
    raise Stopped


def _die_with_parent(private_dir: str) -> None:
    """Wait for the launcher's end. Then there is no one left to stop or to tidy, so this process does both."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    if private_dir:
        remove_private_dir(private_dir)
    os.killpg(0, signal.SIGKILL)


def _leave_soon(code: int) -> None:
    """A thread or socket that will not close must not keep an ended role alive."""
    timer = threading.Timer(LEAVE_S, os._exit, args=(code,))
    timer.daemon = True
    timer.start()
