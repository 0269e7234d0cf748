"""The answering end: one socket that everybody dials.

Law 1: a request is handed out once; a repeat of it gets the answer that was kept.
Law 2: what breaks the protocol is refused with its reason, counted, and changes nothing; the listener goes on.
Law 3: with a journal, what changes a service is written there before the service hears of it, and answers leave when
the journal holds what they follow from. `recovery.py` reads it after a restart.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol, TypeAlias

import msgspec

from flps.errors import ConfigError, ProtocolError, Refused
from flps.frames import decode, encode
from flps.ledger import Ledger
from flps.membership import Loss, Member
from flps.message import REASON_MAX, VERSION, Body, Envelope, Refusal
from flps.transport.border import Border
from flps.transport.calm import Calm
from flps.transport.journal import Journal
from flps.transport.sockets import Carrier, receive_parts

log = logging.getLogger(__name__)
_TICK_S = 0.1
REQUEST, LOSS = 1, 2  # kinds of records
_GROSS = 64  # times more frames than are allowed: no mistake
_GATHERED = 64  # most requests that are brought to the disk at once


class Ticket(NamedTuple):
    """Names one request, so that its answer may come later."""

    member: Member
    incarnation: int
    sequence: int


class Request(NamedTuple):
    """Something that a member asks for."""

    ticket: Ticket
    body: Body
    frames: Sequence[Any] = ()  # as they came, for the journal


Answers: TypeAlias = Iterable[tuple[Ticket, Body]]


class Service(Protocol):
    """What stands behind a listener. Its answers may belong to requests of long ago.

    Its state follows from the recorded requests and the losses it is told of, in their order, and from nothing else.
    """

    finished: bool

    def handles(self, body: Body) -> bool:
        """Whether this service answers such messages."""

    def records(self, request: Request) -> bool:
        """Whether this request may change the state, so that it must be in the journal first. Asked once more when it
        has been carried out: a question whose answer has changed something must be there before that answer leaves.
        """

    def handle(self, request: Request, now: float) -> Answers:
        """Carry out a request; returns what can be answered now. Raises Refused, and then nothing has changed."""

    def losses(self, now: float) -> Sequence[Loss]:
        """Members that this service finds lost by now; they stay here until `lose`."""

    def lose(self, loss: Loss, now: float) -> Answers:
        """Go on without a member."""

    def tick(self, now: float) -> Answers:
        """Time has passed."""


class Listener:
    """One ROUTER with the bookkeeping of who asked what."""

    def __init__(self, carrier: Carrier, endpoint: str, journal: Journal | None = None) -> None:
        self.bytes_in = 0
        self.bytes_out = 0
        self.rejected = 0
        self._carrier = carrier
        self._socket, self._gate = carrier.listen(endpoint)
        self._border = Border(carrier.terms, carrier.member, self._gate)
        self._calm = Calm(log)
        self.journal = journal
        self.ledger: Ledger[list[Any]] = Ledger()
        self._addresses: dict[Member, dict[Ticket, Any]] = {}
        self._outbox: list[tuple[Any, list[Any]]] = []

    def arrivals(self, timeout_s: float) -> Iterator[Request]:
        """The next request, if one comes in time; more of those that wait when all are brought to the disk at once."""
        request = self.receive(timeout_s)
        if request is not None:
            yield request
        if self.journal is not None and self.journal.syncs:
            for _ in range(_GATHERED):
                request = self.receive(0.0)
                if request is None:
                    return
                yield request

    def receive(self, timeout_s: float) -> Request | None:
        """The next request that has not been seen before, or None when none came in time."""
        if not self._socket.poll(int(timeout_s * 1000)):
            return None
        (address, *frames), parts = receive_parts(self._socket, self._carrier.limits.frames + 2)
        return self.take(address, frames, parts - 1)

    def take(self, address: Any, frames: Sequence[Any], count: int) -> Request | None:
        """A message that has come from `address`: the request in it, when it is one to carry out.

        `frames`: as zmq gives them; `count`: how many there were, of which those over the limit are not here.
        """
        sizes = [len(frame) for frame in frames]
        self.bytes_in += sum(sizes)
        if self._gate is not None and frames:
            self._gate.received(frames[0], sizes)
        ticket = None
        buffers = [frame.buffer for frame in frames]
        try:
            if count > len(frames):
                if self._gate is not None and count > _GROSS * self._carrier.limits.frames:
                    self._gate.shut_out(frames[0])
                raise ProtocolError(f"a message has at most {self._carrier.limits.frames} frames, got {count}")
            envelope = decode(buffers, self._carrier.limits)
            member = self._border.sender(envelope, frames[0])
            ticket = Ticket(member, envelope.incarnation, envelope.sequence)
            self._border.check_rank(member)
            return self._admit(address, ticket, envelope, buffers)
        except ProtocolError as error:
            self.rejected += 1
            self._calm.warn("refused a message of %s: %s", ticket.member if ticket else "a stranger", error)
            if ticket is not None:
                self._transmit(address, self._encode(ticket, _refusal(error)))
            return None

    @property
    def refused_keys(self) -> int:
        """How often a key was refused: at the door, or in a message that it may not speak."""
        return self._gate.refused_keys if self._gate is not None else 0

    @property
    def trouble(self) -> str:
        """Who was turned away last and why, where the socket knows it, as that of tls:// does; else ""."""
        return str(getattr(self._socket, "trouble", ""))

    def answer(self, ticket: Ticket, body: Body) -> None:
        """Answer a request and keep the answer for repeats."""
        frames = self._encode(ticket, body)
        if ticket.sequence:
            self.ledger.settle(str(ticket.member), ticket.incarnation, ticket.sequence, frames)
        address = self._addresses.get(ticket.member, {}).pop(ticket, None)
        if address is not None:
            self._transmit(address, frames)

    def tell(self, ticket: Ticket, body: Body) -> None:
        """Say something that is not numbered to who sent something like it, as often as need be. Goes with `flush`."""
        address = self._addresses.get(ticket.member, {}).get(ticket)
        if address is not None:
            self._transmit(address, self._encode(ticket, body))

    def forget(self, ticket: Ticket) -> None:
        """Nothing more is said to who sent this."""
        self._addresses.get(ticket.member, {}).pop(ticket, None)

    def refuse(self, ticket: Ticket, error: Exception) -> None:
        """Answer a request with the reason why it is not carried out, and count it."""
        self.rejected += 1
        self._calm.warn("refused a request of %s: %s", ticket.member, error)
        self.answer(ticket, _refusal(error))

    def record(self, kind: int, frames: Sequence[Any]) -> None:
        """Write something down before it is carried out. Raises ResourceError when the disk is full."""
        if self.journal is not None:
            self.journal.append(kind, frames)

    def flush(self) -> None:
        """Send what has been answered, once the journal holds it for good."""
        if not self._outbox:
            return
        if self.journal is not None:
            self.journal.sync()
        for address, frames in self._outbox:
            self.bytes_out += sum(memoryview(frame).nbytes for frame in frames)
            self._socket.send_multipart([address, *frames], copy=False)
        self._outbox.clear()

    def saw(self, request: Request) -> None:
        """A request is about to be carried out: scripted faults may strike."""
        self._carrier.saw(request.ticket.member, request.body)

    def close(self) -> None:
        """Stop listening."""
        if self._gate is not None:
            self._gate.look_away()
        self._socket.close()
        if self._gate is not None:
            self._gate.close()
        if self.journal is not None:
            self.journal.close()

    def _admit(self, address: Any, ticket: Ticket, envelope: Envelope, frames: Sequence[Any]) -> Request | None:
        if ticket.sequence == 0:
            self._border.check_kind(ticket.member, 0, envelope.body)
            self._addresses.setdefault(ticket.member, {})[ticket] = address
            return Request(ticket, envelope.body, frames)
        verdict = self.ledger.admit(str(ticket.member), ticket.incarnation, ticket.sequence, envelope.settled)
        if isinstance(verdict, list):
            self._transmit(address, verdict)
            return None
        if verdict in ("early", "settled"):
            return None
        known = self._addresses.setdefault(ticket.member, {})
        for old in list(known):
            if old.incarnation < ticket.incarnation or 0 < old.sequence <= envelope.settled:
                del known[old]
        known[ticket] = address  # a repeat may come over a new connection
        if verdict != "new":
            return None
        try:
            self._border.check_kind(ticket.member, ticket.sequence, envelope.body)
        except ProtocolError as error:  # numbered: the refusal is kept as its answer
            self.refuse(ticket, error)
            return None
        return Request(ticket, envelope.body, frames)

    def _encode(self, ticket: Ticket, body: Body) -> list[Any]:
        carrier = self._carrier
        envelope = Envelope(VERSION, carrier.run, str(carrier.member), carrier.incarnation, ticket.sequence, body)
        try:
            return encode(envelope, carrier.limits)
        except ConfigError as error:  # the answer is too large: who asked gets to know
            return encode(msgspec.structs.replace(envelope, body=_refusal(error)))

    def _transmit(self, address: Any, frames: list[Any]) -> None:
        self._outbox.append((address, frames))


def serve(
    listener: Listener, services: Sequence[Service], give_up: Any, work: Callable[[], bool] = lambda: False
) -> None:
    """Receive, answer, let time pass, until every service has finished. `give_up()` raises to end it early.

    `work()` does a little of what can wait, between requests; it returns whether there is more to do at once.
    """
    next_tick = 0.0
    is_busy = False
    while not all(service.finished for service in services):
        for request in listener.arrivals(0.0 if is_busy else _TICK_S):
            listener.saw(request)
            carry_out(listener, services, request, time.monotonic())
        listener.flush()
        is_busy = work()
        now = time.monotonic()
        if now >= next_tick:
            next_tick = now + _TICK_S
            give_up()
            _pass_time(listener, services, now)
            listener.flush()


def carry_out(listener: Listener, services: Sequence[Service], request: Request, now: float) -> None:
    """Let the service that handles it carry out a request, written down first."""
    for service in services:
        if service.handles(request.body):
            is_kept = listener.journal is not None and bool(request.frames)
            is_first = is_kept and service.records(request)
            if is_first:
                listener.record(REQUEST, request.frames)
            try:
                answer_all(listener, service.handle(request, now))
            except (Refused, ProtocolError) as error:
                listener.refuse(request.ticket, error)
            if is_kept and not is_first and service.records(request):
                listener.record(REQUEST, request.frames)
            return
    listener.answer(request.ticket, Refusal(f"{type(request.body).__name__} is not for this role"))


def _pass_time(listener: Listener, services: Sequence[Service], now: float) -> None:
    for number, service in enumerate(services):
        for loss in service.losses(now):
            listener.record(LOSS, [msgspec.msgpack.encode((number, *loss))])
            answer_all(listener, service.lose(loss, now))
        answer_all(listener, service.tick(now))


def answer_all(listener: Listener, answers: Answers) -> None:
    for ticket, body in answers:
        listener.answer(ticket, body)


def _refusal(error: Exception) -> Refusal:
    return Refusal(str(error)[:REASON_MAX])
