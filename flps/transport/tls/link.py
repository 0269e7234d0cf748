"""One conversation and its socket. For the thread that owns it only.

Law 1: nothing here waits: what the socket does not take or give now comes when the selector says so.
Law 2: who does not receive its messages is not read from; the kernel holds the other side back then.
"""

from __future__ import annotations

import selectors
import socket
from contextlib import suppress
from typing import Any

from flps.transport.tls.channel import Channel
from flps.transport.tls.complaints import TlsTrouble
from flps.transport.tls.queues import Inbox, Outbox

CHUNK_BYTES = 1 << 18
_ROUNDS = 16  # of sealing and sending before others get their turn
_KEEPALIVE = {"TCP_KEEPIDLE": 15, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 6, "TCP_USER_TIMEOUT": 60_000}  # where they exist


class Link:
    """Moves bytes between a socket and a channel, messages between the channel and the queues."""

    def __init__(self, connection: socket.socket, channel: Channel, outbox: Outbox, inbox: Inbox[Any]) -> None:
        self.channel = channel
        self.outbox = outbox
        self._connection = connection
        self._inbox = inbox
        self._unsent = memoryview(b"")
        self._is_held = False  # reading waits for room
        self._is_busy = False  # more could have been sent at once
        connection.setblocking(False)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in _KEEPALIVE.items():
            if hasattr(socket, name):
                connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)

    def fileno(self) -> int:
        """Of the socket."""
        return self._connection.fileno()

    @property
    def events(self) -> int:
        """What the selector is to look at."""
        is_writing = self._unsent.nbytes or self._is_busy
        return (0 if self._is_held else selectors.EVENT_READ) | (selectors.EVENT_WRITE if is_writing else 0)

    def read(self, chunk: memoryview) -> None:
        """Take what the socket has, by way of `chunk`. Raises TlsTrouble, OSError."""
        if self._is_held:
            return
        with suppress(BlockingIOError, InterruptedError):
            self.channel.feed(chunk[: self._connection.recv_into(chunk)])

    def pump(self, source: Any) -> None:
        """Hand out whole messages as coming from `source`, send what waits. Raises TlsTrouble, OSError."""
        try:
            while not self._fill_inbox(source):
                pass
            self._send()
        except TlsTrouble:
            with suppress(OSError):  # the alert that tells the other side why
                self._push_out()
            raise

    def close(self, is_polite: bool = True) -> None:
        """Hang up; nothing is waited for."""
        if is_polite:
            self.channel.say_good_bye()
            with suppress(OSError):
                self._push_out()
        self._connection.close()

    def _fill_inbox(self, source: Any) -> bool:
        """One message more; returns whether there is none, or no room for it."""
        self._is_held = not self._inbox.has_room(source)
        if self._is_held:
            return True
        message = self.channel.receive()
        if message is not None:
            self._inbox.put(source, message)
        return message is None

    def _send(self) -> None:
        for _ in range(_ROUNDS):
            self._is_busy = False
            if not self._unsent:
                self.channel.transmit(self.outbox)
            if not self._push_out() or not self.channel.is_open or not len(self.outbox):
                return
        self._is_busy = True

    def _push_out(self) -> bool:
        """Give the socket what is sealed; returns whether it took all."""
        if not self._unsent:
            self._unsent = memoryview(self.channel.take_output())
        while self._unsent:
            try:
                self._unsent = self._unsent[self._connection.send(self._unsent) :]
            except (BlockingIOError, InterruptedError):
                return False
        return True
