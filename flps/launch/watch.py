"""What a run's events mean: who may be lost, when all must stop, and which exit code says how it went.

A pure state machine: it is told what happened and what time it is, and answers what is to be done.

    running --(all ended)--------------------------------------------> over
    running --(a verdict: failure, signal, deadline)--> stopping ----> over

Law 1: no clock, process, file or signal is touched here.
Law 2: the first verdict stands; what ends while all are being stopped changes nothing.
Law 3: a role that died is started again while it may be; not one that says what the user must mend, nor one that the
coordinator has given up, nor one whose state died with it.
"""

from __future__ import annotations

import signal
from collections.abc import Sequence
from dataclasses import dataclass, field

from flps.errors import (
    EXIT_DONE,
    EXIT_INTERRUPTED,
    EXIT_WITH_LOSSES,
    ConfigError,
    NeverCameUp,
    ResourceError,
    RoleFailed,
)
from flps.launch.plan import WORKERS, Role

# Exit codes of a role that say what the user must mend; they become flrun's own.
PASSED_THROUGH = (ConfigError.exit_code, NeverCameUp.exit_code, ResourceError.exit_code)


@dataclass(frozen=True)
class Verdict:
    """How the run ends: flrun's exit code, why, and the role whose log tells more."""

    exit_code: int
    reason: str
    culprit: Role | None = None


@dataclass(frozen=True)
class Restart:
    """A role that is to be started again: as which of its lives, why, and how often more it may be."""

    role: Role
    incarnation: int
    reason: str
    left: int


@dataclass
class Watch:
    """The state of a run as the launcher sees it.

    local: roles started here. workers: how many the whole job has; 0: it has no role that may be lost, and none that
    ends only because the others have. min_workers: with fewer alive all is stopped.
    start_deadline: every local role must be ready by then. grace_s: how long servers and coordinator may take to end
    after the last worker, and a worker that the coordinator has given up. max_restarts: how often each role may be
    started again, and has start_s to be ready; servers and coordinator only when a journal keeps their state.
    """

    local: Sequence[Role]
    workers: int
    min_workers: int
    start_deadline: float
    grace_s: float
    max_restarts: int = 0
    start_s: float = 60.0
    keeps_state: bool = False
    alive: set[Role] = field(init=False)
    not_ready: set[Role] = field(init=False)
    losses: dict[str, str] = field(init=False, default_factory=dict)  # worker's name -> why
    loss_logs: list[Role] = field(init=False, default_factory=list)  # lost roles whose log is here
    verdict: Verdict | None = field(init=False, default=None)
    notes: list[str] = field(init=False, default_factory=list)
    _lives: dict[Role, int] = field(init=False, default_factory=dict)  # of those started again
    _restarts: list[Restart] = field(init=False, default_factory=list)
    _start_deadlines: dict[Role, float] = field(init=False, default_factory=dict)
    _ended_well: set[str] = field(init=False, default_factory=set)  # names
    _given_up: set[Role] = field(init=False, default_factory=set)
    _deadlines: dict[Role, float] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.alive = set(self.local)
        self.not_ready = set(self.local)
        self._start_deadlines = dict.fromkeys(self.local, self.start_deadline)

    @property
    def stopping(self) -> bool:
        """Whether everything that is alive is to be stopped."""
        return self.verdict is not None and bool(self.alive)

    def ready(self, role: Role) -> None:
        """A role reported itself."""
        self.not_ready.discard(role)

    def ended(self, role: Role, code: int, now: float) -> None:
        """A process ended. code: its exit code, -n for signal n."""
        if self._may_start_again(role, code):
            self._start_again(role, code, now)
            return
        self.alive.discard(role)
        self.not_ready.discard(role)
        self._deadlines.pop(role, None)
        if self.verdict is None:
            self._judge(role, code)
        if self.verdict is None and not self._any_worker():
            self._workers_are_gone(now)

    def lost(self, name: str, reason: str, now: float, *, came_up: bool = True) -> None:
        """The coordinator has given up a role, which may run on another host. name: `worker.3`."""
        if self.verdict is not None or name in self.losses or name in self._ended_well:
            return
        if not came_up:
            culprit = next((role for role in self.local if role.name == name), None)
            self.verdict = Verdict(NeverCameUp.exit_code, f"{name} {reason}, so the job was stopped", culprit)
            return
        if name.partition(".")[0] not in WORKERS:
            self.verdict = Verdict(RoleFailed.exit_code, f"{name} was given up: {reason}, so the job was stopped")
            return
        here = next((role for role in self.alive if role.name == name), None)
        if here is not None:
            self._deadlines.setdefault(here, now + self.grace_s)
        self._lose(name, f"the coordinator gave it up: {reason}", here)

    def interrupted(self, number: int) -> None:
        """A signal reached the launcher."""
        if self.verdict is None:
            self.verdict = Verdict(EXIT_INTERRUPTED, f"interrupted by {signal.Signals(number).name}")

    def failed(self, error: Exception, exit_code: int) -> None:
        """The launcher itself could not go on."""
        if self.verdict is None:
            self.verdict = Verdict(exit_code, str(error))

    def tick(self, now: float) -> None:
        """Time has passed: roles that did not come up in time end the run."""
        late = [role for role in self.not_ready if now >= self._start_deadlines[role]]
        if self.verdict is None and late:
            late.sort(key=lambda role: (role.role, role.rank))
            names = ", ".join(role.name for role in late)
            self.verdict = Verdict(NeverCameUp.exit_code, f"{names} did not come up in time", late[0])

    def overdue(self, now: float) -> list[Role]:
        """Roles that had to be gone by now and are not; each is named once."""
        late = [role for role, deadline in self._deadlines.items() if now >= deadline]
        for role in late:
            del self._deadlines[role]
            self._given_up.add(role)
            self.notes.append(f"{role.name} did not end by itself within {self.grace_s:g} s and was stopped")
        return late

    def next_deadline(self) -> float | None:
        """When `tick` or `overdue` will have something to say at the earliest."""
        deadlines = [*self._deadlines.values(), *(self._start_deadlines[role] for role in self.not_ready)]
        return min(deadlines, default=None)

    def restarts(self) -> list[Restart]:
        """Roles that are to be started again; each is named once for each of its deaths."""
        due, self._restarts = self._restarts, []
        return due if self.verdict is None else []

    def result(self) -> Verdict:
        """How it went, once nothing is alive."""
        if self.verdict is not None:
            return self.verdict
        if not self.losses:
            return Verdict(EXIT_DONE, "done")
        what = "; ".join(f"{name} was lost: {why}" for name, why in self.losses.items())
        culprit = self.loss_logs[0] if self.loss_logs else None
        workers = [role.name for role in self.local if role.is_worker]
        if workers and self._ended_well.isdisjoint(workers):
            return Verdict(RoleFailed.exit_code, f"no worker ended well; {what}", culprit)
        return Verdict(EXIT_WITH_LOSSES, f"finished with losses: {what}", culprit)

    def _judge(self, role: Role, code: int) -> None:
        if role in self._given_up:
            return
        if code == 0:
            self._ended_well.add(role.name)
        elif code in PASSED_THROUGH or not role.is_worker:
            exit_code = code if code in PASSED_THROUGH else RoleFailed.exit_code
            self.verdict = Verdict(exit_code, f"{role.name} {self._how(role, code)}, so the job was stopped", role)
        else:
            self._lose(role.name, self._how(role, code), role)

    def _may_start_again(self, role: Role, code: int) -> bool:
        is_wanted = self.verdict is None and role not in self._given_up and role.name not in self.losses
        is_over = code == 0 or code in PASSED_THROUGH
        has_state = role.is_worker or self.keeps_state
        return is_wanted and not is_over and has_state and self._lives.get(role, 1) <= self.max_restarts

    def _start_again(self, role: Role, code: int, now: float) -> None:
        self._lives[role] = life = self._lives.get(role, 1) + 1
        self.not_ready.add(role)
        self._start_deadlines[role] = now + self.start_s
        self._restarts.append(Restart(role, life, how_it_ended(code), self.max_restarts + 1 - life))

    def _how(self, role: Role, code: int) -> str:
        """How it ended, and why it is not started again."""
        how = how_it_ended(code)
        if not self.max_restarts or code in PASSED_THROUGH:
            return how
        if not role.is_worker and not self.keeps_state:
            return f"{how}, and with runner.durability off its state died with it"
        return f"{how} after {self.max_restarts} restarts (--max_restarts)"

    def _lose(self, name: str, why: str, here: Role | None) -> None:
        if name in self.losses:
            return
        self.losses[name] = why
        if here is not None:
            self.loss_logs.append(here)
        left = self.workers - len(self.losses)
        if left < self.min_workers:
            self.verdict = Verdict(
                RoleFailed.exit_code,
                f"{name} {why}; {left} of {self.workers} workers are left, network.min_workers is {self.min_workers}, "
                "so the job was stopped",
                here,
            )

    def _any_worker(self) -> bool:
        return any(role.is_worker for role in self.alive)

    def _workers_are_gone(self, now: float) -> None:
        """Give servers and coordinator a deadline, unless workers of other hosts may still need them."""
        if self.workers and sum(role.is_worker for role in self.local) == self.workers:
            for role in self.alive:
                self._deadlines.setdefault(role, now + self.grace_s)


def how_it_ended(code: int) -> str:
    """An exit code in words."""
    if code < 0:
        try:
            return f"was killed by {signal.Signals(-code).name}"
        except ValueError:
            return f"was killed by signal {-code}"
    return f"ended with exit code {code}"
