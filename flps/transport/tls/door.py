"""The answering end, in place of a ROUTER, and who may speak there.

Law 1: one thread does all that has to do with the network; the listener meets it at queues, one a visitor and way.
Law 2: who has not said who it is within the deadline is cut; so is the oldest of them when there are too many. Visitors
that are known are not cut for strangers.
Law 3: an answer to a visitor that has gone, or that does not read what it asked for, is dropped: it asks again.
Law 4: a certificate that is revoked while the role runs may nothing from the next look on; its connection is cut.
"""

from __future__ import annotations

import errno
import hashlib
import itertools
import logging
import selectors
import socket
import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import Any

import zmq

from flps.errors import ConfigError, FlpsError, ResourceError
from flps.frames import Limits
from flps.membership import Member
from flps.transport.calm import Calm
from flps.transport.tls.channel import Channel
from flps.transport.tls.complaints import TlsTrouble
from flps.transport.tls.dialler import parse
from flps.transport.tls.identity import Identity
from flps.transport.tls.link import CHUNK_BYTES, Link
from flps.transport.tls.queues import Inbox, Outbox, Part, Wake
from flps.transport.tls.speakers import Speakers

log = logging.getLogger(__name__)
VISITORS_MAX = 1024
_BACKLOG = 1024
_TICK_S = 0.5  # how often deadlines and the lists are looked at
_CLOSE_S = 2.0


class Visitor:
    """One connection."""

    def __init__(self, address: bytes, host: str, link: Link, deadline: float) -> None:
        self.address, self.host, self.link = address, host, link
        self.deadline = deadline  # to have said who it is
        self.watched = 0  # events that the selector looks at

    @property
    def fingerprint(self) -> str:
        """Of its certificate."""
        return hashlib.sha256(self.link.channel.certificate).hexdigest()


class TlsDoor:
    """What a listener needs of a socket; messages begin with the visitor's address."""

    def __init__(
        self,
        identity: Identity,
        endpoint: str,
        limits: Limits,
        handshake_s: float = 10.0,
        visitors_max: int = VISITORS_MAX,
    ) -> None:
        """Raises ResourceError when the port is taken or the address is not this machine's."""
        self.refused = 0  # visitors that were turned away before they were known
        self.cut = 0
        self.trouble = ""  # who was turned away or cut last, and why
        self.shut_out: set[str] = set()  # fingerprints of certificates, for as long as this role runs
        self._identity, self._limits = identity, limits
        self._generation = identity.generation
        self._handshake_s, self._visitors_max = handshake_s, visitors_max
        self._visitors: dict[bytes, Visitor] = {}  # oldest first
        self._numbers = itertools.count(1)
        self._inbox: Inbox[Visitor] = Inbox(limits.message_bytes)
        self._attention: deque[Visitor] = deque()  # those for whom there is something to do
        self._calm = Calm(log)
        self._chunk = memoryview(bytearray(CHUNK_BYTES))
        self._listening = _listen(endpoint)
        self.port = int(self._listening.getsockname()[1])
        self._wake = Wake()
        self._is_over = threading.Event()
        self._linger_s = 0.0
        self._is_deaf = False  # no file is left for further visitors
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._wake, selectors.EVENT_READ)
        self._selector.register(self._listening, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._work, name=f"tls at {self.port}", daemon=True)
        self._thread.start()

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._is_over.is_set()

    def send_multipart(self, frames: Sequence[Any], flags: int = 0, copy: bool = True) -> None:
        """Queue a message for the visitor whose address comes first; never waits."""
        if self.closed:
            raise zmq.ZMQError(zmq.ENOTSOCK)
        address, *rest = frames
        visitor = self._visitors.get(bytes(address.buffer if hasattr(address, "buffer") else address))
        if visitor is None:
            return
        if not visitor.link.outbox.put([bytes(frame) for frame in rest] if copy else rest, 0.0):
            self._calm.warn("%s does not read its answers: one is dropped", visitor.host)
            return
        self._call_for(visitor)

    def poll(self, timeout_ms: int) -> int:
        """Wait for a message; 0 when none came in time."""
        if not self.closed and not self._thread.is_alive():
            raise FlpsError("the thread of the tls:// endpoint has ended: nobody is let in any more")
        return self._inbox.poll(timeout_ms / 1000)

    def fileno(self) -> int:
        """Readable while messages wait."""
        return self._inbox.fileno()

    def recv_multipart(self, copy: bool = True) -> list[Any]:
        """The address of a visitor and its message; `poll` has said that there is one."""
        visitor, message, made_room = self._inbox.take()
        if made_room:
            self._call_for(visitor)
        frames = [memoryview(visitor.address), *message]
        return [bytes(frame) if copy else Part(frame, visitor) for frame in frames]

    def hang_up(self, visitor: Visitor) -> None:
        """Cut a visitor. For any thread."""
        visitor.deadline = -1.0
        self._call_for(visitor)

    def close(self, linger_s: float = 0.0) -> None:
        """Stop listening and hang up. `linger_s`: how long what is queued may take to leave."""
        if self.closed:
            return
        self._linger_s = linger_s
        self._is_over.set()
        self._wake.set()
        self._thread.join(linger_s + _CLOSE_S)
        self._wake.close()
        self._inbox.close()

    def _call_for(self, visitor: Visitor) -> None:
        self._attention.append(visitor)
        self._wake.set()

    def _work(self) -> None:
        try:
            look_at = 0.0
            while not self._is_over.is_set():
                self._turn(_TICK_S)
                if time.monotonic() >= look_at:
                    look_at = time.monotonic() + _TICK_S
                    self._look_around()
            self._say_last_words()
        finally:
            for visitor in list(self._visitors.values()):
                self._forget(visitor, is_polite=True)
            self._selector.close()
            self._listening.close()

    def _turn(self, timeout_s: float) -> None:
        """Wait until there is something to do, and do it."""
        for key, events in self._selector.select(timeout_s):
            if key.fileobj is self._wake:
                self._wake.clear()
            elif key.fileobj is self._listening:
                self._let_in()
            else:
                self._serve(key.data, bool(events & selectors.EVENT_READ))
        for _ in range(len(self._attention)):
            self._serve(self._attention.popleft(), False)

    def _let_in(self) -> None:
        try:
            connection, address = self._listening.accept()
        except OSError as error:  # gone again, or no file is left
            if error.errno not in (errno.EAGAIN, errno.ECONNABORTED, errno.EINTR):
                self._calm.warn("cannot let a visitor in: %s", error.strerror)
                if not self._cut_a_stranger():
                    self._selector.unregister(self._listening)  # until the next look; it would only be told again
                    self._is_deaf = True
            return
        if len(self._visitors) >= self._visitors_max and not self._cut_a_stranger():
            self._calm.warn("%s is turned away: all %d places are taken", address[0], self._visitors_max)
            connection.close()
            return
        link = Link(
            connection,
            Channel(self._identity.server, self._limits, None),
            Outbox(self._limits.message_bytes),
            self._inbox,
        )
        number = next(self._numbers).to_bytes(8, "little")
        visitor = Visitor(number, f"{address[0]}:{address[1]}", link, time.monotonic() + self._handshake_s)
        self._visitors[number] = visitor
        self._watch(visitor)

    def _serve(self, visitor: Visitor, is_readable: bool) -> None:
        """Do what there is to do for a visitor; one that makes trouble is forgotten."""
        if visitor.address not in self._visitors:
            return
        try:
            if visitor.deadline < 0:
                raise TlsTrouble("its certificate may speak here no more")
            was_open = visitor.link.channel.is_open
            if is_readable:
                visitor.link.read(self._chunk)
            visitor.link.pump(visitor)
            if visitor.link.channel.is_open and not was_open:
                self._check_welcome(visitor)
            self._watch(visitor)
        except (TlsTrouble, OSError, ValueError) as error:
            self._part(visitor, error)

    def _check_welcome(self, visitor: Visitor) -> None:
        if visitor.fingerprint in self.shut_out:
            raise TlsTrouble("its certificate was shut out for what it sent before")

    def _part(self, visitor: Visitor, error: Exception) -> None:
        why = error.strerror or str(error) if isinstance(error, OSError) else str(error)
        if not visitor.link.channel.is_open:
            self.refused += 1
            self.trouble = f"{visitor.host} was turned away: {why}"
            self._calm.warn("turned away %s: %s", visitor.host, why)
        elif why != "the other side hung up":
            self.cut += 1
            self.trouble = f"{visitor.host} ({_shown(visitor)}) was cut: {why}"
            self._calm.warn("cut the connection of %s (%s): %s", visitor.host, _shown(visitor), why)
        else:
            log.debug("%s (%s) hung up", visitor.host, _shown(visitor))
        self._forget(visitor)

    def _forget(self, visitor: Visitor, is_polite: bool = False) -> None:
        if self._visitors.pop(visitor.address, None) is None:
            return
        if visitor.watched:
            self._selector.unregister(visitor.link)
        visitor.link.close(is_polite)

    def _watch(self, visitor: Visitor) -> None:
        """Let the selector look at what the link waits for; at nothing, where it waits for its reader."""
        events = visitor.link.events
        if events == visitor.watched:
            return
        if not visitor.watched:
            self._selector.register(visitor.link, events, visitor)
        elif events:
            self._selector.modify(visitor.link, events, visitor)
        else:
            self._selector.unregister(visitor.link)
        visitor.watched = events

    def _cut_a_stranger(self) -> bool:
        """Cut the oldest of those that have not said who they are; returns whether there was one."""
        for visitor in self._visitors.values():
            if not visitor.link.channel.is_open:
                self._part(visitor, TlsTrouble("it has not said who it is, and others wait"))
                return True
        return False

    def _look_around(self) -> None:
        """Cut who is late, and whose certificate was revoked meanwhile."""
        if self._is_deaf:
            self._selector.register(self._listening, selectors.EVENT_READ)
            self._is_deaf = False
        now = time.monotonic()
        for visitor in list(self._visitors.values()):
            if not visitor.link.channel.is_open and now > visitor.deadline:
                why = f"it has not said who it is within {self._handshake_s:g} s"
                self._part(visitor, TlsTrouble(why))
        try:
            self._identity.refresh()
            if self._generation == self._identity.generation:
                return
            self._generation = self._identity.generation
            for visitor in list(self._visitors.values()):
                if visitor.link.channel.is_open and self._identity.is_revoked(visitor.link.channel.certificate):
                    self._part(visitor, TlsTrouble("its certificate is revoked now"))
        except ConfigError as error:
            self._calm.warn("what held before goes on to hold: %s", error)

    def _say_last_words(self) -> None:
        deadline = time.monotonic() + self._linger_s
        self._turn(0.0)
        if not self._is_deaf:
            self._selector.unregister(self._listening)
        while self._has_words() and time.monotonic() < deadline:
            self._turn(max(0.0, deadline - time.monotonic()))

    def _has_words(self) -> bool:
        links = [visitor.link for visitor in self._visitors.values() if visitor.link.channel.is_open]
        return any(len(link.outbox) or link.events & selectors.EVENT_WRITE for link in links)


class TlsGate:
    """What a listener asks about its visitors: may this certificate speak as that member?"""

    def __init__(self, door: TlsDoor, speakers: Speakers) -> None:
        self._door, self._speakers = door, speakers
        self._refused = 0

    @property
    def refused_keys(self) -> int:
        """How often a certificate was refused: at the door, or in a message that it may not speak."""
        return self._refused + self._door.refused

    def may_speak(self, frame: Any, member: Member) -> bool:
        """Whether the certificate that this frame came with may speak as that member."""
        visitor: Visitor = frame.source
        is_known = visitor.fingerprint not in self._door.shut_out and visitor.deadline >= 0
        if is_known and self._speakers.may_speak(visitor.link.channel.names, member):
            return True
        self._refused += 1
        self._door.trouble = f"{visitor.host} ({_shown(visitor)}) may not speak as {member}"
        return False

    def shut_out(self, frame: Any) -> None:
        """Who sent this frame has cost the others time: it is cut, and its certificate gets in no more."""
        self._door.shut_out.add(frame.source.fingerprint)
        self._door.hang_up(frame.source)

    def received(self, frame: Any, sizes: Sequence[int]) -> None:
        """A message has come out; the queues count for themselves."""

    def look_away(self) -> None:
        """The listening socket is about to be closed."""

    def close(self) -> None:
        """Nothing is left to be closed."""


def _shown(visitor: Visitor) -> str:
    return ", ".join(sorted(visitor.link.channel.names))[:100] or "no name"


def _listen(endpoint: str) -> socket.socket:
    host, port = parse(endpoint)
    host = "" if host == "*" else host
    try:
        family = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0][0]
        listening = socket.create_server((host, port), family=family if host else socket.AF_INET, backlog=_BACKLOG)
    except OSError as error:
        raise ResourceError(f"cannot listen at {endpoint}: {error.strerror}") from error
    listening.setblocking(False)
    return listening
