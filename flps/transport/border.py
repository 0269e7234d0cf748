"""The border of a listener: who is speaking, and may that role say such a thing here?

Law 1: what is not in the table may not be said; an answer is never a request.
Law 2: a member that the job does not have is refused before anything is kept for it.
Law 3: over CURVE the key proves the sender, frame by frame; over TLS the certificate of its
connection does. On a unix socket, whose folder only one user can enter, the sender is who it says it is.
"""

from __future__ import annotations

from typing import Any

from flps import message as m
from flps.config.job import Terms
from flps.errors import ProtocolError
from flps.membership import Member
from flps.transport.sockets import Door

_WORKER_TO_SERVER = frozenset({("worker", "server")})
# Server 0 hosts membership where there is no coordinator.
_WORKER_TO_HOST = frozenset({("worker", "coordinator"), ("worker", "server")})
_ROLE_TO_HOST = _WORKER_TO_HOST | {("server", "coordinator"), ("server", "server")}
_FOLLOWER_TO_LEADER = frozenset({("follower", "leader")})
_NOBODY: frozenset[tuple[str, str]] = frozenset()

PERMITS: dict[type[m.Body], frozenset[tuple[str, str]]] = {  # kind -> (role that asks, role that is asked)
    m.Declare: _WORKER_TO_SERVER,
    m.Start: _WORKER_TO_SERVER,
    m.Look: _WORKER_TO_SERVER,
    m.Update: _WORKER_TO_SERVER,
    m.Window: _WORKER_TO_SERVER,
    m.Save: _WORKER_TO_SERVER,
    m.Settle: _WORKER_TO_SERVER,
    m.Shrink: _WORKER_TO_SERVER,
    m.Cut: _WORKER_TO_SERVER,
    m.Detach: _WORKER_TO_SERVER,
    m.Hello: _ROLE_TO_HOST,
    m.Beat: _ROLE_TO_HOST,
    m.Arrive: _WORKER_TO_HOST,
    m.Leave: _ROLE_TO_HOST,
    m.Sign: _FOLLOWER_TO_LEADER,
    m.Parcel: _FOLLOWER_TO_LEADER,
    # Answers. Nobody may open with one.
    m.Declared: _NOBODY,
    m.Rows: _NOBODY,
    m.Changes: _NOBODY,
    m.Saved: _NOBODY,
    m.Pulse: _NOBODY,
    m.Release: _NOBODY,
    m.Done: _NOBODY,
    m.Refusal: _NOBODY,
}
# Losing or repeating one does no harm; everything else has a number. Parcels are numbered in themselves.
UNNUMBERED = (m.Hello, m.Beat, m.Sign, m.Parcel)


class Border:
    """Checks at one listener of one run."""

    def __init__(self, terms: Terms, receiver: Member, gate: Door | None) -> None:
        """`gate`: knows the keys; None where there are none."""
        self._run = terms.run_id
        self._counts = terms.seats
        self._receiver = receiver
        self._gate = gate

    def sender(self, envelope: m.Envelope, frame: Any) -> Member:
        """Who sent this envelope; `frame` is the one it came in. Raises ProtocolError unless the run, the name and
        the key go together; it is told to nobody, since nobody is known to have said it.
        """
        if envelope.run != self._run:
            raise ProtocolError(f"a message of run {envelope.run[:40]!r} came to run {self._run}")
        role, _, rank = envelope.sender.partition(":")
        if role not in self._counts or not rank.isdecimal() or len(rank) > 6:
            raise ProtocolError(f"{envelope.sender[:40]!r} does not name a member, expected role:rank")
        member = Member(role, int(rank))
        if self._gate is not None and not self._gate.may_speak(frame, member):
            raise ProtocolError(f"{member} came with a key that may not speak for it")
        return member

    def check_rank(self, member: Member) -> None:
        """Raises ProtocolError for a member that the job does not have."""
        count = self._counts[member.role]
        if member.rank >= count:
            raise ProtocolError(f"{member} is not of this job: it has {count} of the role {member.role}, from 0 on")

    def check_kind(self, member: Member, sequence: int, body: m.Body) -> None:
        """Raises ProtocolError when this member may not say such a thing here, or not without a number."""
        if (member.role, self._receiver.role) not in PERMITS.get(type(body), _NOBODY):
            raise ProtocolError(f"a {member.role} may not send {type(body).__name__} to a {self._receiver.role}")
        if not sequence and not isinstance(body, UNNUMBERED):
            raise ProtocolError(f"{type(body).__name__} must be a numbered request")
