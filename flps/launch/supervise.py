"""The loop around `Watch`: it starts roles, waits for what happens, and stops all that is left.

Law 1: no wait is without a deadline.
Law 2: when `run` returns no role is alive; the order of an end is SIGTERM, a deadline, SIGKILL.
"""

from __future__ import annotations

import shutil
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from flps.config.split_job import SplitJob
from flps.errors import EXIT_DONE, EXIT_WITH_LOSSES, FlpsError
from flps.launch.logs import log_name, write_roles
from flps.launch.plan import AnyJob, Plan, Role
from flps.launch.signals import signal_bell
from flps.launch.watch import Restart, Verdict, Watch
from flps.metrics import EventLog, EventReader

POLL_S = 0.25  # between two looks at metrics.jsonl
GRACE_S = 15.0  # servers and coordinator may take this long to end after the last worker
STOP_S = 5.0  # a role may take this long to obey SIGTERM
LAST_WORDS_S = 2.0  # a party hears from the one that failed why the job ends, and may take this long to say so itself

Event = Mapping[str, Any]


class Crew(Protocol):
    """Roles that have been started, as processes or as threads."""

    def start(self, role: Role, incarnation: int = 1) -> int:
        """Start one role, for the how-manieth time; its pid. Raises FlpsError when that is not possible."""

    def ended(self, timeout_s: float, *others: int) -> dict[Role, int]:
        """Wait up to `timeout_s` for an end or for a descriptor of `others`; the roles that ended, with exit codes."""

    def alive(self) -> tuple[Role, ...]:
        """Roles that have not been reported as ended."""

    def signal(self, role: Role, number: signal.Signals) -> None:
        """Send a signal; a role that has just ended is no error."""

    def kill(self, role: Role) -> None:
        """Make an end of a role at once."""

    def close(self) -> None:
        """Let go of what is left; nothing is reported after that."""


class Supervisor:
    """Runs a plan's local roles to the end."""

    def __init__(
        self,
        plan: Plan[AnyJob],
        crew: Crew,
        show: Callable[[Event], None],
        *,
        grace_s: float = GRACE_S,
        stop_s: float = STOP_S,
        clock: Callable[[], float] = time.monotonic,
        max_restarts: int = 0,
    ) -> None:
        """max_restarts: how often each role may be started again. show: gets every event of the run, for the terminal,
        and `{"event": "tick"}` now and then.
        """
        self._plan, self._crew, self._show = plan, crew, show
        self._stop_s, self._clock = stop_s, clock
        self._events = EventReader(str(Path(plan.job.run_dir) / "metrics.jsonl"))
        self._roles = {role.name: role for role in plan.local}
        network = plan.job.config.network
        workers, keeps_state = _stakes(plan.job)
        self.watch = Watch(
            local=plan.local,
            workers=workers,
            min_workers=network.min_workers,
            start_deadline=clock() + network.start_timeout_s,
            grace_s=grace_s,
            max_restarts=max_restarts,
            start_s=network.start_timeout_s,
            keeps_state=keeps_state,
        )
        self._pids: dict[Role, int] = {}
        self._tells_why = False  # a party of a split job has failed, and told the others

    def run(self) -> Verdict:
        """Start the roles and see them to their end; how it went. Signals stop the run in good order."""
        with signal_bell() as (bell, caught):
            try:
                self._start()
                while self.watch.alive and not self.watch.stopping:
                    self._step(bell, caught)
            except FlpsError as error:
                self.watch.failed(error, error.exit_code)
            finally:
                self._stop_all(bell, caught)
        self._read_events()
        verdict = self.watch.result()
        if verdict.exit_code in (EXIT_DONE, EXIT_WITH_LOSSES):  # nobody will take up where the roles were
            shutil.rmtree(Path(self._plan.job.run_dir) / "journal", ignore_errors=True)
        return verdict

    def _start(self) -> None:
        for role in self._plan.local:
            self._pids[role] = self._crew.start(role)
        self._write_roles()

    def _write_roles(self) -> None:
        rows = []
        for role, pid in self._pids.items():
            log = str(Path(self._plan.job.run_dir) / log_name(role.role, role.rank))
            endpoint = role.endpoint
            rows.append({"role": role.role, "rank": role.rank, "pid": pid, "host": role.host, "log": log,
                         "endpoint": endpoint})  # fmt: skip
        write_roles(Path(self._plan.job.run_dir), rows)

    def _restart(self, restart: Restart) -> None:
        """Start a role again; the others hear of it from its first message."""
        role = restart.role
        self._pids[role] = self._crew.start(role, restart.incarnation)
        self._write_roles()
        events = EventLog(str(Path(self._plan.job.run_dir) / "metrics.jsonl"), role.role, role.rank)
        events.write("restarted", incarnation=restart.incarnation, reason=restart.reason, left=restart.left)
        events.close()

    def _step(self, bell: int, caught: list[int]) -> None:
        """One turn: wait, tell the watch what happened, do what it wants done."""
        deadline = self.watch.next_deadline()
        patience = POLL_S if deadline is None else min(POLL_S, max(0.0, deadline - self._clock()))
        gone = self._crew.ended(patience, bell)
        self._read_events()
        now = self._clock()
        for role, code in gone.items():
            self.watch.ended(role, code, now)
            self._tells_why |= code > 0 and isinstance(self._plan.job, SplitJob)
            self._show({"event": "exited", "role": role.role, "rank": role.rank, "code": code})
        for number in caught:
            self.watch.interrupted(number)
        self.watch.tick(now)
        for restart in self.watch.restarts():
            self._restart(restart)
        for role in self.watch.overdue(now):
            self._stop([role])
        self._show({"event": "tick"})

    def _read_events(self) -> None:
        for event in self._events.poll():
            self._show(event)
            if event.get("event") == "ready" and (role := self._roles.get(_name(event, "role", "rank"))):
                self.watch.ready(role)
            elif event.get("event") == "lost":
                name, reason = self._lost(event), str(event.get("reason", "no reason given"))
                self.watch.lost(name, reason, self._clock(), came_up=event.get("came_up") is not False)

    def _lost(self, event: Event) -> str:
        """The name of a lost role; the coordinator knows those with labels as workers, after the others."""
        job, rank = self._plan.job, event.get("lost_rank")
        pairs = 0 if isinstance(job, SplitJob) else len(job.pairs)
        if pairs and event.get("lost_role") == "worker" and isinstance(rank, int) and rank >= pairs:
            return f"heter_worker.{rank - pairs}"
        return _name(event, "lost_role", "lost_rank")

    def _stop_all(self, bell: int, caught: list[int]) -> None:
        """Those that dial first, then those they talk to. A second Ctrl-C kills at once."""
        order = {"worker": 0, "heter_worker": 0, "follower": 0, "server": 1, "leader": 1, "coordinator": 2}
        roles = sorted(self._crew.alive(), key=lambda role: order[role.role])
        already = len(caught)
        if self._tells_why:
            roles = self._wait_for(roles, LAST_WORDS_S, lambda: len(caught) > already)
        self._stop(roles, lambda: len(caught) > already, bell)
        self._crew.close()

    def _stop(self, roles: list[Role], hurried: Callable[[], bool] = lambda: False, *bells: int) -> None:
        for role in roles:
            self._crew.signal(role, signal.SIGTERM)
        for role in self._wait_for(roles, self._stop_s, hurried):
            self._crew.kill(role)

    def _wait_for(self, roles: list[Role], timeout_s: float, hurried: Callable[[], bool]) -> list[Role]:
        """Give roles some time to end; those that have not."""
        deadline = self._clock() + timeout_s
        waits_for = list(roles)
        while waits_for and not hurried() and (left := deadline - self._clock()) > 0:
            for role, code in self._crew.ended(min(left, POLL_S)).items():
                waits_for = [one for one in waits_for if one != role]
                self.watch.ended(role, code, self._clock())
        return waits_for


def _stakes(job: AnyJob) -> tuple[int, bool]:
    """How many workers the job has, of which some may be lost, and whether its other roles can be started again.

    A split job has no worker, and its parties go back together to a common checkpoint, or to the beginning.
    """
    return (0, True) if isinstance(job, SplitJob) else (job.workers, job.config.runner.durability != "off")


def _name(event: Event, role: str, rank: str) -> str:
    return f"{event.get(role)}.{event.get(rank)}"
