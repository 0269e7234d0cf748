"""How a communicator reaches the other parties: the leader listens, followers dial, or all are in one process.

A wire carries `Parcel` and `Sign` and nothing else, any number of times; what becomes of them is the exchange's affair.
Law: not for use from two threads at once.
"""

from __future__ import annotations

import logging
import queue
from collections.abc import Mapping
from typing import NamedTuple, Protocol

from flps.errors import ConfigError, ProtocolError
from flps.frames import Limits
from flps.membership import Member
from flps.message import REASON_MAX, Parcel, Refusal, Sign
from flps.transport.calm import Calm
from flps.transport.connection import Connection
from flps.transport.listener import Listener, Ticket
from flps.transport.sockets import Carrier

log = logging.getLogger(__name__)


class Arrival(NamedTuple):
    """Something that came."""

    sender: Member
    said: Parcel | Sign


class Wire(Protocol):
    """What a communicator sends with and receives from."""

    limits: Limits

    def receive(self, timeout_s: float) -> Arrival | None:
        """The next thing that comes within that time, or None."""

    def send(self, receiver: Member, said: Parcel | Sign) -> None:
        """Hand something over; it may be lost. Whoever has never been heard may be out of reach."""

    def refuse(self, sender: Member, error: ProtocolError) -> None:
        """What this member said breaks the protocol: tell it, or, where nothing is right without it, raise."""

    def close(self) -> None:
        """Hang up."""

    @property
    def trouble(self) -> str:
        """What may be why nobody is heard, where the transport knows it; else ""."""

    @property
    def bytes(self) -> tuple[int, int]:
        """Bytes that came and that went."""


class Listening:
    """The leader's wire: one listener that every follower dials."""

    def __init__(self, carrier: Carrier, endpoint: str) -> None:
        """Raises ResourceError when nothing can listen there."""
        self.limits = carrier.limits
        self._carrier = carrier
        self._listener = Listener(carrier, endpoint)
        self._tickets: dict[Member, Ticket] = {}
        self._calm = Calm(log)

    def receive(self, timeout_s: float) -> Arrival | None:
        request = self._listener.receive(timeout_s)
        self._listener.flush()  # refusals
        if request is None or not isinstance(request.body, Parcel | Sign):
            return None
        ticket = request.ticket
        known = self._tickets.get(ticket.member)
        if known is None or known.incarnation <= ticket.incarnation:
            if known is not None and known.incarnation < ticket.incarnation:
                self._listener.forget(known)
            self._tickets[ticket.member] = ticket
        self._listener.saw(request)
        return Arrival(ticket.member, request.body)

    def send(self, receiver: Member, said: Parcel | Sign) -> None:
        if receiver in self._tickets:
            self._listener.tell(self._tickets[receiver], said)
            self._listener.flush()

    def refuse(self, sender: Member, error: ProtocolError) -> None:
        self._calm.warn("refused what %s said: %s", sender, error)
        self._listener.tell(self._tickets[sender], Refusal(str(error)[:REASON_MAX]))
        self._listener.flush()

    def close(self) -> None:
        self._listener.close()
        self._carrier.let_go()

    @property
    def trouble(self) -> str:
        return self._listener.trouble

    @property
    def bytes(self) -> tuple[int, int]:
        return self._listener.bytes_in, self._listener.bytes_out


class Dialling:
    """A follower's wire: one connection to the leader."""

    def __init__(self, carrier: Carrier, endpoint: str, leader: Member) -> None:
        self.limits = carrier.limits
        self._carrier, self._leader = carrier, leader
        self._connection = Connection(carrier, endpoint, leader)
        self._endpoint = endpoint

    def receive(self, timeout_s: float) -> Arrival | None:
        said = self._connection.hear(timeout_s)
        if self._connection.mismatch_s > self._carrier.network.lease_s:
            raise ConfigError(f"no connection to {self._leader} at {self._endpoint}: {self._connection.trouble}")
        if isinstance(said, Refusal):
            raise ConfigError(f"{self._leader} refuses this party: {said.reason}")
        if said is not None and not isinstance(said, Parcel | Sign):
            raise ProtocolError(f"{self._leader} sent a {type(said).__name__}, which is not for a follower")
        return None if said is None else Arrival(self._leader, said)

    def send(self, receiver: Member, said: Parcel | Sign) -> None:
        self._connection.call(said)

    def refuse(self, sender: Member, error: ProtocolError) -> None:
        raise error

    def close(self) -> None:
        self._connection.close()
        self._carrier.let_go()

    @property
    def trouble(self) -> str:
        connection, is_network = self._connection, self._endpoint.startswith(("tls://", "tcp://"))
        if connection.bytes_in or connection.mismatch_s or not is_network:
            return connection.trouble
        seen = f"{connection.trouble}; " * bool(connection.trouble)
        return (
            f"{seen}nothing has answered at {self._endpoint}: is that the address, is it refused in the log there, and "
            "do both ends guard the link alike, by TLS or by keys?"
        )

    @property
    def bytes(self) -> tuple[int, int]:
        return self._connection.bytes_in, self._connection.bytes_out


class Memory:
    """A wire between parties in one process, without sockets."""

    def __init__(self, own: Member, boxes: Mapping[Member, queue.SimpleQueue[Arrival]], limits: Limits) -> None:
        """boxes: where what is said to each party waits."""
        self.limits = limits
        self._own, self._boxes = own, boxes
        self._in = self._out = 0

    def receive(self, timeout_s: float) -> Arrival | None:
        try:
            arrival = self._boxes[self._own].get(timeout_s > 0, timeout_s or None)
        except queue.Empty:
            return None
        self._in += _bytes_of(arrival.said)
        return arrival

    def send(self, receiver: Member, said: Parcel | Sign) -> None:
        self._out += _bytes_of(said)
        self._boxes[receiver].put(Arrival(self._own, said))

    def refuse(self, sender: Member, error: ProtocolError) -> None:
        raise error

    def close(self) -> None:
        """Nothing to hang up."""

    @property
    def trouble(self) -> str:
        return ""

    @property
    def bytes(self) -> tuple[int, int]:
        return self._in, self._out


def _bytes_of(said: Parcel | Sign) -> int:
    pieces = said.pieces if isinstance(said, Parcel) else ()
    return sum(array.nbytes for piece in pieces for array in piece.arrays)
