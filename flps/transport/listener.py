"""The answering end: one socket that everybody dials.

Law 1: a request is handed out once; a repeat of it gets the answer that was kept.
Law 2: what breaks the protocol is refused with its reason, counted, and changes nothing; the listener goes on.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, Protocol, TypeAlias

import msgspec

from flps.errors import ConfigError, ProtocolError, Refused
from flps.ledger import Ledger
from flps.membership import Member
from flps.message import REASON_MAX, VERSION, Body, Envelope, Refusal, decode, encode
from flps.transport.sockets import Carrier

log = logging.getLogger(__name__)
_TICK_S = 0.1


class Ticket(NamedTuple):
    """Names one request, so that its answer may come later."""

    member: Member
    incarnation: int
    sequence: int


class Request(NamedTuple):
    """Something that a member asks for."""

    ticket: Ticket
    body: Body


Answers: TypeAlias = Iterable[tuple[Ticket, Body]]


class Service(Protocol):
    """What stands behind a listener. Its answers may belong to requests of long ago."""

    finished: bool

    def handles(self, body: Body) -> bool:
        """Whether this service answers such messages."""

    def handle(self, request: Request, now: float) -> Answers:
        """Carry out a request; returns what can be answered now. Raises Refused, and then nothing has changed."""

    def tick(self, now: float) -> Answers:
        """Time has passed."""


class Listener:
    """One ROUTER with the bookkeeping of who asked what."""

    def __init__(self, carrier: Carrier, endpoint: str) -> None:
        self.bytes_in = 0
        self.bytes_out = 0
        self.rejected = 0
        self._carrier = carrier
        self._socket, self._gate = carrier.listen(endpoint)
        self._ledger: Ledger[list[Any]] = Ledger()
        self._addresses: dict[Ticket, Any] = {}

    def receive(self, timeout_s: float) -> Request | None:
        """The next request that has not been seen before, or None when none came in time."""
        if not self._socket.poll(int(timeout_s * 1000)):
            return None
        address, *frames = self._socket.recv_multipart(copy=False)
        self.bytes_in += sum(len(frame) for frame in frames)
        ticket = None
        try:
            envelope = decode([frame.buffer for frame in frames], self._carrier.limits)
            ticket = Ticket(self._sender(envelope, frames[0]), envelope.incarnation, envelope.sequence)
            return self._admit(address, ticket, envelope)
        except ProtocolError as error:
            self.rejected += 1
            log.warning("refused a message of %s: %s", ticket.member if ticket else "a stranger", error)
            if ticket is not None:
                self._transmit(address, self._encode(ticket, _refusal(error)))
            return None

    def answer(self, ticket: Ticket, body: Body) -> None:
        """Answer a request and keep the answer for repeats."""
        frames = self._encode(ticket, body)
        if ticket.sequence:
            self._ledger.settle(str(ticket.member), ticket.incarnation, ticket.sequence, frames)
        address = self._addresses.pop(ticket, None)
        if address is not None:
            self._transmit(address, frames)

    def saw(self, request: Request) -> None:
        """A request is about to be carried out: scripted faults may strike."""
        self._carrier.saw(request.ticket.member, request.body)

    def close(self) -> None:
        """Stop listening."""
        self._socket.close()
        if self._gate is not None:
            self._gate.close()

    def _sender(self, envelope: Envelope, frame: Any) -> Member:
        if envelope.run != self._carrier.run:
            raise ProtocolError(f"a message of run {envelope.run} came to run {self._carrier.run}")
        role, _, rank = envelope.sender.partition(":")
        if not rank.isdecimal() or len(rank) > 6:
            raise ProtocolError(f"{envelope.sender[:40]!r} does not name a member, expected role:rank")
        if self._gate is not None and self._gate.role(frame.get("User-Id")) != role:
            raise ProtocolError(f"{envelope.sender[:40]!r} came with the key of another role")
        return Member(role, int(rank))

    def _admit(self, address: Any, ticket: Ticket, envelope: Envelope) -> Request | None:
        if ticket.sequence == 0:
            self._addresses[ticket] = address
            return Request(ticket, envelope.body)
        verdict = self._ledger.admit(str(ticket.member), ticket.incarnation, ticket.sequence, envelope.settled)
        if isinstance(verdict, list):
            self._transmit(address, verdict)
            return None
        if verdict in ("early", "settled"):
            return None
        self._addresses[ticket] = address  # a repeat may come over a new connection
        return Request(ticket, envelope.body) if verdict == "new" else None

    def _encode(self, ticket: Ticket, body: Body) -> list[Any]:
        carrier = self._carrier
        envelope = Envelope(VERSION, carrier.run, str(carrier.member), carrier.incarnation, ticket.sequence, body)
        try:
            return encode(envelope, carrier.limits)
        except ConfigError as error:  # the answer is too large: who asked gets to know
            return encode(msgspec.structs.replace(envelope, body=_refusal(error)))

    def _transmit(self, address: Any, frames: list[Any]) -> None:
        self.bytes_out += sum(memoryview(frame).nbytes for frame in frames)
        self._socket.send_multipart([address, *frames], copy=False)


def serve(listener: Listener, services: Sequence[Service], give_up: Any) -> None:
    """Receive, answer, let time pass, until every service has finished. `give_up()` raises to end it early."""
    next_tick = 0.0
    while not all(service.finished for service in services):
        request = listener.receive(_TICK_S)
        now = time.monotonic()
        if request is not None:
            _carry_out(listener, services, request, now)
        if now >= next_tick:
            next_tick = now + _TICK_S
            give_up()
            for service in services:
                _answer_all(listener, service.tick(now))


def _carry_out(listener: Listener, services: Sequence[Service], request: Request, now: float) -> None:
    listener.saw(request)
    for service in services:
        if service.handles(request.body):
            try:
                _answer_all(listener, service.handle(request, now))
            except (Refused, ProtocolError) as error:
                listener.rejected += 1
                log.warning("refused a request of %s: %s", request.ticket.member, error)
                listener.answer(request.ticket, _refusal(error))
            return
    listener.answer(request.ticket, Refusal(f"{type(request.body).__name__} is not for this role"))


def _answer_all(listener: Listener, answers: Answers) -> None:
    for ticket, body in answers:
        listener.answer(ticket, body)


def _refusal(error: Exception) -> Refusal:
    return Refusal(str(error)[:REASON_MAX])
