"""Who takes part, who is lost, and who waits for whom.

Law: pure code; time is an argument. The role that hosts it reads the clock and sends the answers.

    state of a member:  absent -> alive -> left       a member that left or is lost does not come back
                           |     |   ^ `-> lost
                           |     v   |
                           |   joining ---> lost      a worker in a later life, until an epoch begins
                           `--------------> lost
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Generic, Literal, NamedTuple, TypeVar

State = Literal["absent", "alive", "joining", "left", "lost"]


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
        self._lives: dict[Member, int] = {}

    def image(self) -> dict[str, tuple[State, int]]:
        """Member, as `role:rank` -> its state and life."""
        return {str(member): (state, self.life(member)) for member, state in self._states.items()}

    def take_up(self, image: Mapping[str, tuple[State, int]]) -> None:
        """Be what an earlier life of this role knew."""
        for member in self._states:
            if str(member) in image:
                self._states[member], self._lives[member] = image[str(member)]

    def state(self, member: Member) -> State | None:
        """The member's state; None for one that nobody expects."""
        return self._states.get(member)

    def life(self, member: Member) -> int:
        """The incarnation in which the member was heard of last; 0 before its first hello."""
        return self._lives.get(member, 0)

    def hello(self, member: Member, now: float, incarnation: int = 1) -> bool:
        """A member came up. Returns False for a stranger, an older life, and one that has left or is lost."""
        state = self._states.get(member)
        if state not in ("absent", "alive", "joining") or incarnation < self.life(member):
            return False
        if state == "absent":
            self._states[member] = "alive"
        elif incarnation > self.life(member) and member.role == "worker":
            self._states[member] = "joining"
        self._lives[member] = incarnation
        self._deadlines[member] = now + self.lease_s
        return True

    def join(self, member: Member) -> None:
        """A worker that began anew takes part again."""
        if self._states.get(member) == "joining":
            self._states[member] = "alive"

    def beat(self, member: Member, now: float, incarnation: int = 1) -> None:
        """A sign of life."""
        if self._states.get(member) in ("alive", "joining") and incarnation >= self.life(member):
            self._deadlines[member] = now + self.lease_s

    def renew(self, now: float) -> None:
        """Whoever counts the leases was away: everybody has a whole one from now on."""
        for member, state in self._states.items():
            self._deadlines[member] = now + (self.start_s if state == "absent" else self.lease_s)

    def leave(self, member: Member) -> None:
        """A member ended in good order."""
        if self._states.get(member) in ("absent", "alive", "joining"):
            self._states[member] = "left"

    def expired(self, now: float) -> list[Loss]:
        """Members whose deadline has passed, until `lose` is told of them."""
        losses = []
        for member, state in self._states.items():
            if state in ("absent", "alive", "joining") and now > self._deadlines[member]:
                was_silent = f"no sign of life for {self.lease_s:g} s"
                never_came = f"did not come up within {self.start_s:g} s"
                came_up = state != "absent"
                losses.append(Loss(member, was_silent if came_up else never_came, came_up))
        return losses

    def lose(self, member: Member) -> None:
        """Go on without a member."""
        self._states[member] = "lost"

    def members(self, role: str, *states: State) -> list[Member]:
        """Members of a role that are in one of these states, by rank."""
        return sorted(m for m, state in self._states.items() if m.role == role and state in states)

    def present(self, role: str) -> list[Member]:
        """Members of a role that take part, or may still come."""
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

    @property
    def name(self) -> str:
        """Which barrier is being held; empty when nobody waits."""
        held = self._call or self._waiting
        return held.name if held is not None else ""

    def drop(self, member: Member) -> None:
        """A member waits no more: it has begun anew."""
        for held in (self._waiting, self._call):
            if held is not None:
                held.tokens.pop(member, None)
        self._waiting = self._waiting if self._waiting and self._waiting.tokens else None
        self._call = self._call if self._call and self._call.tokens else None

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
