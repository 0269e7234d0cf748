"""Roles as processes: one parent imports torch once and forks them.

Law 1: the parent of the roles and the roles are deaf to Ctrl-C and to signals for the terminal's whole group: only the
launcher decides.
Law 2: when `close` returns, no process that was started here is alive, but for one that the kernel cannot kill.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import signal
from collections.abc import Iterator
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import wait
from multiprocessing.context import ForkServerProcess
from typing import Any

import msgspec

from flps.errors import FlpsError
from flps.launch.child import HELD_BACK, become
from flps.launch.plan import AnyJob, Role
from flps.models.catalog import BUILT_IN

log = logging.getLogger("flps.launch")

ROLE_TARGET = "flps.launch.role:run_role"
PARTY_TARGET = "flps.party.role:run_party"
PRELOAD = ("flps.launch.child",)
PRELOAD_OF = {
    ROLE_TARGET: ("torch", "flps.launch.role", *(model.module for model in BUILT_IN.values())),
    PARTY_TARGET: ("torch", "flps.party.role", "flps.models.wide_deep.model"),
}  # what roles import, which is then imported once
KILLED_S = 10.0  # what is killed is gone in no time, unless it hangs in the kernel (a disk of the network)
UNKNOWN_CODE = 255  # what multiprocessing says when the parent of the roles died before the role did


@contextlib.contextmanager
def preloaded_parent(target: str = ROLE_TARGET) -> Iterator[None]:
    """Start the process that imports what roles need, once, and forks them; it works while the caller goes on.

    target: what the roles will run; torch is imported for flps's own.

    When the block is left the parent is gone; no role may be alive by then.
    """
    forkserver.set_forkserver_preload([*PRELOAD, *PRELOAD_OF.get(target, ())])
    # The tracker lifts the mask when it starts, so it must be there first.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, HELD_BACK)
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    try:
        yield
    finally:
        _stop_parent()


def _stop_parent() -> None:
    """Without this the parent ends a moment after the launcher, not before."""
    server: Any = forkserver._forkserver
    pid = getattr(server, "_forkserver_pid", None)
    if pid is None:
        return
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    with contextlib.suppress(OSError):
        server._stop()


class Processes:
    """The processes of this launcher's roles."""

    def __init__(self, job: AnyJob, private_dir: str, target: str = ROLE_TARGET) -> None:
        """target: what a child runs, as `package.module:function` or `file.py:function`."""
        self._job_json = msgspec.json.encode(job)
        self._private_dir, self._target = private_dir, target
        self._context = multiprocessing.get_context("forkserver")
        self._children: dict[Role, ForkServerProcess] = {}

    def start(self, role: Role, incarnation: int = 1) -> int:
        """Start one role; its pid. incarnation: for the how-manieth time.

        Raises FlpsError when the parent of the roles cannot fork it.
        """
        arguments = (self._target, self._job_json, role.role, role.rank, self._private_dir, incarnation)
        child = self._context.Process(target=become, args=arguments, name=role.name)
        try:
            child.start()
        except (OSError, EOFError) as error:
            raise FlpsError(f"could not start {role.name}: the parent of the roles has ended ({error!r})") from error
        self._children[role] = child
        assert child.pid is not None
        return child.pid

    def ended(self, timeout_s: float, *others: int) -> dict[Role, int]:
        """Wait until a role ends or one of the descriptors `others` is readable; the roles that ended, with codes.

        A role killed by signal n has the code -n, as everywhere in Python.
        """
        sentinels = [child.sentinel for child in self._children.values()]
        wait([*sentinels, *others], timeout_s)
        gone = {role: child for role, child in self._children.items() if child.exitcode is not None}
        for role, child in gone.items():
            del self._children[role]
            _kill_group(child.pid, also_leader=child.exitcode == UNKNOWN_CODE)
        return {role: int(child.exitcode or 0) for role, child in gone.items()}

    def alive(self) -> tuple[Role, ...]:
        """Roles that have not been reported as ended."""
        return tuple(self._children)

    def signal(self, role: Role, number: signal.Signals) -> None:
        """Send a signal; a role that has just ended is no error."""
        if role in self._children:
            _send(self._children[role].pid, number)

    def kill(self, role: Role) -> None:
        """SIGKILL for a role and whatever it has started itself: a role leads its own process group."""
        if role in self._children:
            _kill_group(self._children[role].pid, also_leader=True)

    def close(self) -> None:
        """Kill what is still alive and wait for it."""
        for role in self.alive():
            self.kill(role)
        for child in self._children.values():
            child.join(KILLED_S)
            if child.exitcode is None:
                log.warning(
                    "%s (process %s) does not go, even after SIGKILL: it hangs in the kernel", child.name, child.pid
                )
        self._children.clear()


def _send(pid: int | None, number: signal.Signals) -> None:
    assert pid is not None
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def _kill_group(pid: int | None, *, also_leader: bool) -> None:
    """Kill what a role has started itself (its reader's pipes); the role leads a process group of its own."""
    assert pid is not None
    if also_leader:  # it may not have come as far as making its group
        _send(pid, signal.SIGKILL)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
