"""The asking end, in place of a DEALER: one peer, dialled again whenever the connection is lost.

Law 1: one thread does all that has to do with the network; callers meet it at two queues.
Law 2: between two attempts lies a pause that doubles; only a peer that has said welcome makes it short again.
Law 3: a peer whose certificate is revoked while the connection stands is hung up on.
Law 4: the same trouble is told once, until another one comes or the peer has answered.
"""

from __future__ import annotations

import logging
import os
import random
import selectors
import socket
import threading
import time
from collections.abc import Sequence
from typing import Any

import zmq

from flps.errors import ConfigError, FlpsError
from flps.frames import Limits
from flps.transport.calm import Calm
from flps.transport.tls.channel import Channel
from flps.transport.tls.complaints import REVOKED, TlsMismatch, TlsTrouble
from flps.transport.tls.identity import Identity
from flps.transport.tls.link import CHUNK_BYTES, Link
from flps.transport.tls.queues import Inbox, Outbox, Part, Wake

log = logging.getLogger(__name__)
_PAUSE_S, _PAUSE_MAX_S = 0.05, 2.0
_CLOSE_S = 2.0
_TICK_S = 0.5  # how often the lists of revoked certificates are looked at


def parse(endpoint: str) -> tuple[str, int]:
    """Host and port of `tls://host:port`, `tls://[::1]:port`. Raises ConfigError."""
    host, colon, port = endpoint.removeprefix("tls://").rpartition(":")
    if not endpoint.startswith("tls://") or not colon or not host or not port.isdecimal() or int(port) > 65535:
        raise ConfigError(f"{endpoint!r} is no endpoint; expected tls://host:port")
    return host.removeprefix("[").removesuffix("]"), int(port)


class TlsDialler:
    """What a connection needs of a socket."""

    def __init__(self, identity: Identity, endpoint: str, peer: str, limits: Limits, handshake_s: float = 10.0) -> None:
        """`peer`: who is dialled, for messages. `handshake_s`: an attempt takes no longer."""
        self.trouble = ""  # why there is no connection; "" while there is one
        self._mismatch_at: float | None = None  # since when each attempt has failed because the ends do not fit
        self._address = parse(endpoint)
        self._identity, self._endpoint, self._peer, self._limits = identity, endpoint, peer, limits
        self._handshake_s = handshake_s
        self._generation = identity.generation
        self._calm = Calm(log)
        self._outbox = Outbox(limits.message_bytes)
        self._inbox: Inbox[int] = Inbox(limits.message_bytes)
        self._wake = Wake()
        self._is_over = threading.Event()
        self._linger_s = 0.0
        self._chunk = memoryview(bytearray(CHUNK_BYTES))
        self._thread = threading.Thread(target=self._work, name=f"tls to {peer}", daemon=True)
        self._thread.start()

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._is_over.is_set()

    @property
    def mismatch_s(self) -> float:
        """For how long each attempt has shown that the two ends do not fit; 0 when the last one has not."""
        begin = self._mismatch_at
        return 0.0 if begin is None else time.monotonic() - begin

    def send_multipart(self, frames: Sequence[Any], flags: int = 0, copy: bool = True) -> None:
        """Queue a message. Raises zmq.Again with zmq.DONTWAIT when the queue is full; else it waits for room."""
        if self.closed:
            raise zmq.ZMQError(zmq.ENOTSOCK)
        if not self._outbox.put([bytes(f) for f in frames] if copy else frames, 0.0 if flags & zmq.DONTWAIT else None):
            raise zmq.Again
        self._wake.set()

    def poll(self, timeout_ms: int) -> int:
        """Wait for a message; 0 when none came in time."""
        if not self.closed and not self._thread.is_alive():
            raise FlpsError(f"the thread that speaks to {self._peer} has ended")
        return self._inbox.poll(timeout_ms / 1000)

    def fileno(self) -> int:
        """Readable while messages wait."""
        return self._inbox.fileno()

    def recv_multipart(self, copy: bool = True) -> list[Any]:
        """A message that has arrived; `poll` has said that there is one. Bytes, or without `copy` parts."""
        _, message, made_room = self._inbox.take()
        if made_room:
            self._wake.set()
        return [bytes(frame) if copy else Part(frame) for frame in message]

    def close(self, linger_s: float = 0.0) -> None:
        """Hang up. `linger_s`: how long what is queued may take to leave, where there is a connection."""
        if self.closed:
            return
        self._linger_s = linger_s
        self._is_over.set()
        self._wake.set()
        self._thread.join(linger_s + _CLOSE_S)
        if self._thread.is_alive():
            log.warning("a name server keeps the thread that dials %s; it goes with this process", self._peer)
            return
        self._wake.close()
        self._inbox.close()

    def _work(self) -> None:
        pause_s = _PAUSE_S
        while not self._is_over.is_set():
            link: Link | None = None
            try:
                link = self._connect()
                self._shake_hands(link)
                pause_s = _PAUSE_S
                self._tell_connected()
                self._talk(link)
            except (TlsTrouble, ConfigError, OSError, ValueError) as error:  # ValueError: a host that is no name
                self._complain(error)
            finally:
                self._outbox.rewind()
                if link is not None:
                    link.close(is_polite=self._is_over.is_set())
            self._is_over.wait(pause_s * random.uniform(0.7, 1.0))
            pause_s = min(2 * pause_s, _PAUSE_MAX_S)

    def _connect(self) -> Link:
        """A connection on which nothing is said yet. Raises OSError, TlsTrouble; ConfigError for the lists."""
        host, port = self._address
        self._identity.refresh()
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        connection = socket.socket(family, kind, protocol)
        try:
            connection.setblocking(False)
            connection.connect_ex(address)
            self._wait_connected(connection)
            name = self._identity.files.peer_name or host
            channel = Channel(self._identity.client, self._limits, name)
            return Link(connection, channel, self._outbox, self._inbox)
        except BaseException:
            connection.close()
            raise

    def _wait_connected(self, connection: socket.socket) -> None:
        deadline = time.monotonic() + self._handshake_s
        with self._selector(connection, selectors.EVENT_WRITE) as selector:
            while not self._is_over.is_set():
                if any(key.fileobj is connection for key, _ in selector.select(self._left(deadline))):
                    break
                self._wake.clear()
        error = connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if error:
            raise OSError(error, os.strerror(error))

    def _shake_hands(self, link: Link) -> None:
        """Raises TlsTrouble when it did not come about in time, or not at all."""
        deadline = time.monotonic() + self._handshake_s
        with self._selector(link, selectors.EVENT_READ) as selector:
            link.pump(0)
            while not link.channel.is_open and not self._is_over.is_set():
                self._turn(selector, link, self._left(deadline))

    def _talk(self, link: Link) -> None:
        with self._selector(link, link.events or selectors.EVENT_READ) as selector:
            link.pump(0)  # what was queued meanwhile
            look_at = 0.0
            while not self._is_over.is_set():
                self._turn(selector, link, _TICK_S)
                if time.monotonic() >= look_at:
                    look_at = time.monotonic() + _TICK_S
                    self._check_still_valid(link)
            deadline = time.monotonic() + self._linger_s
            link.pump(0)
            while (len(self._outbox) or link.events & selectors.EVENT_WRITE) and time.monotonic() < deadline:
                self._turn(selector, link, max(0.0, deadline - time.monotonic()))

    def _check_still_valid(self, link: Link) -> None:
        """Raises TlsMismatch when the peer's certificate was revoked meanwhile."""
        try:
            self._identity.refresh()
            if self._generation == self._identity.generation:
                return
            self._generation = self._identity.generation
            is_revoked = self._identity.is_revoked(link.channel.certificate)
        except ConfigError as error:
            self._calm.warn("what held before goes on to hold: %s", error)
            return
        if is_revoked:
            raise TlsMismatch(REVOKED)

    def _turn(self, selector: selectors.BaseSelector, link: Link, timeout_s: float | None) -> None:
        """Wait until there is something to do, and do it."""
        _watch(selector, link)
        for key, events in selector.select(timeout_s):
            if key.fileobj is self._wake:
                self._wake.clear()
            elif events & selectors.EVENT_READ:
                link.read(self._chunk)
        link.pump(0)

    def _selector(self, link: Link | socket.socket, events: int) -> selectors.BaseSelector:
        selector = selectors.DefaultSelector()
        selector.register(self._wake, selectors.EVENT_READ)
        selector.register(link, events)
        return selector

    def _left(self, deadline: float) -> float:
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            raise TlsTrouble(f"no answer within {self._handshake_s:g} s; is it a tls:// endpoint of flps?")
        return left_s

    def _tell_connected(self) -> None:
        if self.trouble:
            log.info("connected to %s at %s", self._peer, self._endpoint)
        self.trouble = ""
        self._mismatch_at = None

    def _complain(self, error: Exception) -> None:
        trouble = error.strerror or str(error) if isinstance(error, OSError) else str(error)
        if trouble != self.trouble and not self._is_over.is_set():
            log.warning("no connection to %s at %s: %s", self._peer, self._endpoint, trouble)
        self.trouble = trouble
        if not isinstance(error, TlsMismatch):
            self._mismatch_at = None
        elif self._mismatch_at is None:
            self._mismatch_at = time.monotonic()


def _watch(selector: selectors.BaseSelector, link: Link) -> None:
    """Let the selector look at what the link waits for; at nothing, where it waits for its reader."""
    key = selector.get_map().get(link.fileno())
    if key is None:
        if link.events:
            selector.register(link, link.events)
    elif not link.events:
        selector.unregister(link)
    elif key.events != link.events:
        selector.modify(link, link.events)
