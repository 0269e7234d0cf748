"""Who takes part, who is lost, and who waits for whom.

Law: pure code; time is an argument. The role that hosts it reads the clock and sends the answers.

    state of a member:  absent -> alive -> left
                           |        `---> lost        a member that left or is lost does not come back
                           `------------> lost
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Generic, Literal, NamedTuple, TypeVar

State = Literal["absent", "alive", "left", "lost"]


class Member(NamedTuple):
    """A role and its rank."""

    role: str
    rank: int

    def __str__(self) -> str:
        return f"{self.role}:{self.rank}"


class Loss(NamedTuple):
    """A member that is lost, why, and whether it had been here at all."""

    member: Member
    reason: str
    came_up: bool


class Membership:
    """Leases of all members: silence for longer than a lease is a loss."""

    def __init__(self, members: Iterable[Member], lease_s: float, start_s: float, now: float) -> None:
        """Everyone expected; who does not say hello within `start_s` of `now` is lost, too."""
        self.lease_s = lease_s
        self.start_s = start_s
        self._states: dict[Member, State] = dict.fromkeys(members, "absent")
        self._deadlines = dict.fromkeys(self._states, now + start_s)

    def state(self, member: Member) -> State | None:
        """The member's state; None for one that nobody expects."""
        return self._states.get(member)

    def hello(self, member: Member, now: float) -> bool:
        """A member came up. Returns False for a stranger and for one that has left or is lost."""
        if self._states.get(member) not in ("absent", "alive"):
            return False
        self._states[member] = "alive"
        self._deadlines[member] = now + self.lease_s
        return True

    def beat(self, member: Member, now: float) -> None:
        """A sign of life."""
        if self._states.get(member) == "alive":
            self._deadlines[member] = now + self.lease_s

    def leave(self, member: Member) -> None:
        """A member ended in good order."""
        if self._states.get(member) in ("absent", "alive"):
            self._states[member] = "left"

    def expire(self, now: float) -> list[Loss]:
        """Members whose deadline has passed; each is named once."""
        losses = []
        for member, state in self._states.items():
            if state in ("absent", "alive") and now > self._deadlines[member]:
                was_silent = f"no sign of life for {self.lease_s:g} s"
                never_came = f"did not come up within {self.start_s:g} s"
                came_up = state == "alive"
                losses.append(Loss(member, was_silent if came_up else never_came, came_up))
        for loss in losses:
            self._states[loss.member] = "lost"
        return losses

    def members(self, role: str, *states: State) -> list[Member]:
        """Members of a role that are in one of these states, by rank."""
        return sorted(m for m, state in self._states.items() if m.role == role and state in states)

    def present(self, role: str) -> list[Member]:
        """Members of a role that are here or may still come."""
        return self.members(role, "absent", "alive")

    def lost(self) -> list[Member]:
        """Every member that is lost."""
        return sorted(m for m, state in self._states.items() if state == "lost")


Token = TypeVar("Token")


@dataclass
class _Waiting(Generic[Token]):
    name: str
    along: str = ""  # the barrier whose holders come along when this one opens
    tokens: dict[Member, Token] = field(default_factory=dict)


class Barrier(Generic[Token]):
    """Holds everybody's token until all who are present have handed one in.

    A call is a barrier of some, at which those who already wait at a named other one count as well: it opens for all
    of them, and those of the other one hand in their tokens there once more.
    """

    def __init__(self) -> None:
        self._waiting: _Waiting[Token] | None = None
        self._call: _Waiting[Token] | None = None

    def arrive(self, member: Member, name: str, token: Token, along: str = "") -> str | None:
        """Hand in a token at the barrier of this name; `along`: it is a call, for those at that barrier too.

        Returns a complaint when another barrier is being held.
        """
        held, other = (self._call, self._waiting) if along else (self._waiting, self._call)
        complaint = f"{member} waits at barrier {name!r}, the others at"
        if held is not None and held.name != name:
            return f"{complaint} {held.name!r}"
        if other is not None and other.name != (along or name) and other.along != name:
            return f"{complaint} {other.name!r}"
        if held is None:
            held = _Waiting(name, along)
            if along:
                self._call = held
            else:
                self._waiting = held
        held.tokens[member] = token
        return None

    def open(self, present: Iterable[Member]) -> tuple[str, dict[Member, Token]] | None:
        """(name, tokens by member) when everybody present has arrived, else None. Opening empties the barrier."""
        held = self._call or self._waiting
        if held is None:
            return None
        tokens = dict(self._waiting.tokens if self._waiting else {}) | held.tokens
        if not tokens or not set(present) <= set(tokens):
            return None
        self._waiting = self._call = None
        return held.name, dict(sorted(tokens.items()))
