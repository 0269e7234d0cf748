"""A link to the peer over the transport of split training: sockets, keys, reconnecting and repeats are its affair.

Law 1: nothing here waits for room: what the peer has no room for yet stays in a line, so that two parties which both
send never wait for each other.
Law 2: a peer that was started again cannot go on: its secret number is gone, and both begin anew.
Law 3: not for use from two threads.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from types import TracebackType

import numpy as np

from flps.config.types import Network
from flps.errors import FlpsError, NeverCameUp, PeerLost, ProtocolError
from flps.message import REASON_MAX, Piece
from flps.psi import wire
from flps.psi.message import Message
from flps.split.exchange import Exchange, Rhythm
from flps.split.parties import LEADER, Seats
from flps.split.wires import Dialling, Listening, Wire
from flps.transport.sockets import Carrier

log = logging.getLogger(__name__)
WINDOW = 32  # chunks under way each way
LINGER_S = 10.0
_SLICE_S = 0.02
_TICK_S = 0.001  # sockets count in these: to wait for less is to spin
_NAME = "psi"


class PartyLink:
    """One party's link to the other; a context manager that waits, when it ends well, until all has come."""

    def __init__(self, carrier_wire: Wire, seats: Seats, network: Network, incarnation: int) -> None:
        """carrier_wire: carries parcels; seats: who this party is, and the one other."""
        ((self._peer, peer_name),) = seats.others.items()
        rhythm = Rhythm(network.heartbeat_s, network.retry_s, network.lease_s)
        self._wire, self._network = carrier_wire, network
        self._exchange = Exchange(name_of(seats), peer_name, incarnation, WINDOW, rhythm, time.monotonic())
        self._line: deque[Piece] = deque()

    def send(self, message: Message) -> None:
        """Put a message at the end of the line."""
        said = wire.encode(message)
        self._line.append(Piece("", _NAME, "u1", said.shape, (said,)))
        self._work(0.0)

    def receive(self, timeout_s: float) -> Message | None:
        """The next message; None when none came in time.

        Raises ProtocolError for what cannot be read, PeerLost and NeverCameUp for a peer that is not there.
        """
        deadline = time.monotonic() + timeout_s
        item = self._exchange.take()
        while item is None:
            left_s = deadline - time.monotonic()
            self._work(max(0.0, min(_SLICE_S, left_s)))
            item = self._exchange.take()
            if item is None:
                self._check_hope()
                if left_s <= _TICK_S:
                    return None
        if item.note or len(item.pieces) != 1 or item.pieces[0].name != _NAME or len(item.pieces[0].arrays) != 1:
            raise ProtocolError(f"{self._exchange.peer} does not align ids, but sends something else")
        return wire.decode(np.asarray(item.pieces[0].arrays[0], np.uint8).reshape(-1))

    def close(self, reason: str = "", linger_s: float = LINGER_S) -> None:
        """Wait, at most so long, until the peer has all that was sent, say good-bye and hang up."""
        deadline = time.monotonic() + linger_s
        try:
            while (self._line or self._exchange.waits) and self._is_there() and time.monotonic() < deadline:
                self._work(_SLICE_S)
            self._exchange.part(reason[:REASON_MAX])
            while not self._exchange.has_parted and self._is_there() and time.monotonic() < deadline:
                self._work(_SLICE_S)
        except FlpsError as error:
            log.debug("hung up early: %s", error)
        finally:
            self._wire.close()

    def __enter__(self) -> PartyLink:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close("" if error is None else f"{type(error).__name__}: {error}", LINGER_S if error is None else 1.0)

    def _work(self, timeout_s: float) -> None:
        arrival = self._wire.receive(timeout_s)
        while arrival is not None:
            if arrival.sender != self._peer:
                raise ProtocolError(f"{arrival.sender} came, but {self._peer} is expected here")
            self._exchange.hear(arrival.said, time.monotonic())
            arrival = self._wire.receive(0.0)
        if self._exchange.restarted is not None:
            raise PeerLost(f"{self._exchange.restarted}, so the ids must be aligned anew: start both parties again")
        while self._line and self._exchange.has_room:
            self._exchange.put((self._line.popleft(),))
        for said in self._exchange.due(time.monotonic()):
            self._wire.send(self._peer, said)

    def _is_there(self) -> bool:
        exchange = self._exchange
        return exchange.has_met and exchange.left is None and not exchange.is_lost(time.monotonic())

    def _check_hope(self) -> None:
        exchange, now = self._exchange, time.monotonic()
        if exchange.left is not None:
            why = f" because of {exchange.left}" if exchange.left else ""
            raise PeerLost(f"{exchange.peer} has ended{why} before the ids were aligned")
        if exchange.is_lost(now):
            raise PeerLost(f"{exchange.peer} gave no sign of life for {self._network.lease_s:g} s{self._trouble}")
        if not exchange.has_met and exchange.silent_s(now) > self._network.start_timeout_s:
            raise NeverCameUp(
                f"{exchange.peer} did not come up within {self._network.start_timeout_s:g} s{self._trouble}"
            )

    @property
    def _trouble(self) -> str:
        return f" ({self._wire.trouble})" if self._wire.trouble else ""


def name_of(seats: Seats) -> str:
    """What this party is called at the other one."""
    return seats.own.role


def open_link(carrier: Carrier, seats: Seats, network: Network) -> PartyLink:
    """Listen (the leader), or dial (the follower). Raises ResourceError when nothing can listen there."""
    is_leader = seats.own == LEADER
    made = Listening(carrier, seats.endpoint) if is_leader else Dialling(carrier, seats.endpoint, LEADER)
    return PartyLink(made, seats, network, carrier.incarnation)
