"""The asking end: numbered requests, sent again until answered.

Law 1: a request has a number and is sent again until its answer comes; the listener carries it out once. Only what is
settled by then is said anew: a listener that was started again may not know of it yet.
Law 2: every wait has a deadline and ends in an error that names who was waited for.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import zmq

from flps.errors import PeerLost, ProtocolError, Refused
from flps.frames import decode, encode
from flps.membership import Member
from flps.message import VERSION, Body, Envelope, Refusal
from flps.transport.sockets import Carrier

_SLICE_S = 0.2  # how often a wait looks at the alarm, and at what must be sent again


def _no_alarm() -> None:
    """Nothing that would end a wait early."""


@dataclass
class _Request:
    body: Body
    sent_at: float
    answer: Body | None = None


class Connection:
    """One DEALER to one peer. Not for use from two threads."""

    def __init__(self, carrier: Carrier, endpoint: str, peer: Member, alarm: Callable[[], None] = _no_alarm) -> None:
        """`alarm` is called during waits and raises when waiting has become pointless."""
        self.peer = peer
        self.bytes_in = 0
        self.bytes_out = 0
        self._carrier = carrier
        self._alarm = alarm
        self._socket = carrier.dial(endpoint, peer)
        self._sequence = 0
        self._open: dict[int, _Request] = {}

    def send(self, body: Body) -> int:
        """Send a request; returns its number, for `wait`."""
        self._carrier.saw(self._carrier.member, body)
        frames = self._encode(self._sequence + 1, body)
        self._sequence += 1
        self._open[self._sequence] = _Request(body, time.monotonic())
        self._transmit(frames)
        return self._sequence

    def wait(self, number: int, timeout_s: float | None = None) -> Body:
        """The answer to request `number`.

        Raises PeerLost after `timeout_s` (default: the configured request time-out), Refused when the peer refused
        the request, and whatever the alarm raises.
        """
        timeout_s = self._carrier.network.request_timeout_s if timeout_s is None else timeout_s
        deadline = time.monotonic() + timeout_s
        slice_s = min(_SLICE_S, self._carrier.network.retry_s, timeout_s)
        request = self._open[number]
        while request.answer is None:
            self._alarm()
            if time.monotonic() > deadline:
                del self._open[number]
                why = f": {self.trouble}" if self.trouble else ""
                raise PeerLost(f"{self.peer} did not answer {self._carrier.member} within {timeout_s:g} s{why}")
            self._receive(slice_s)
            self._send_again()
        del self._open[number]
        if isinstance(request.answer, Refusal):
            raise Refused(f"{self.peer}: {request.answer.reason}")
        return request.answer

    def ask(self, body: Body, timeout_s: float | None = None) -> Body:
        """Send a request and wait for its answer."""
        return self.wait(self.send(body), timeout_s)

    def call(self, body: Body) -> None:
        """Send something that is not numbered; its answer comes from `hear`."""
        self._carrier.saw(self._carrier.member, body)
        self._transmit(self._encode(0, body))

    def hear(self, timeout_s: float) -> Body | None:
        """The answer to something not numbered, or None when none came in time."""
        answer = self._receive(timeout_s)
        return answer.body if answer is not None and answer.sequence == 0 else None

    @property
    def trouble(self) -> str:
        """Why nobody can answer, where the socket knows it, as that of tls:// does; else ""."""
        return str(getattr(self._socket, "trouble", ""))

    @property
    def mismatch_s(self) -> float:
        """For how long the ends have been seen not to fit, where the socket knows it; else 0."""
        return float(getattr(self._socket, "mismatch_s", 0.0))

    def close(self) -> None:
        """Hang up; nothing is waited for."""
        self._socket.close()

    def _encode(self, sequence: int, body: Body) -> list[Any]:
        carrier = self._carrier
        member, settled = str(carrier.member), self._settled if sequence else 0
        envelope = Envelope(VERSION, carrier.run, member, carrier.incarnation, sequence, body, settled)
        return encode(envelope, carrier.limits)

    @property
    def _settled(self) -> int:
        """No answer up to this number is waited for."""
        return min((n for n, request in self._open.items() if request.answer is None), default=self._sequence + 1) - 1

    def _transmit(self, frames: list[Any]) -> None:
        self.bytes_out += sum(memoryview(frame).nbytes for frame in frames)
        with suppress(zmq.Again):  # the queue to an absent peer is full: the request is sent again later
            self._socket.send_multipart(frames, flags=zmq.DONTWAIT, copy=False)

    def _send_again(self) -> None:
        now = time.monotonic()
        for number, request in sorted(self._open.items()):
            if request.answer is None and now - request.sent_at > self._carrier.network.retry_s:
                request.sent_at = now
                self._transmit(self._encode(number, request.body))

    def _receive(self, timeout_s: float) -> Envelope | None:
        if not self._socket.poll(int(timeout_s * 1000)):
            return None
        frames = [frame.buffer for frame in self._socket.recv_multipart(copy=False)]
        self.bytes_in += sum(frame.nbytes for frame in frames)
        envelope = decode(frames, self._carrier.limits)
        if envelope.run != self._carrier.run:
            raise ProtocolError(f"{self.peer} belongs to run {envelope.run}, not to {self._carrier.run}")
        request = self._open.get(envelope.sequence)
        if request is not None:
            request.answer = envelope.body
        return envelope
