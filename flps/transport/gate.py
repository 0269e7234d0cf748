"""The door of a TCP endpoint: lets known keys in, keeps connections within bounds, knows what a key may speak as.

Law 1: an unknown or revoked key gets no answer. A change of the key folder holds within a second, for connections that
stand, too: what they send is not looked at any more.
Law 2: what a connection has sent and nobody has received yet is bounded: zmq collects a message of many parts before
anybody sees its first one. A connection over the bound is cut (where the kernel counts bytes: Linux).
Law 3: of connections that have said nothing the oldest are cut when there are too many, so that files are left for
those who have something to say.
Law 4: zmq tells its news without giving up, and all sockets of a process wait meanwhile. So whoever reads the news goes
only after zmq has stopped telling them: `look_away`, then the listening socket is closed, then `close`.
"""

from __future__ import annotations

import logging
import os
import resource
import secrets
import socket
import struct
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Any

import zmq
from zmq.utils import z85
from zmq.utils.monitor import recv_monitor_message

from flps.errors import FlpsError
from flps.membership import Member
from flps.transport.access import Access
from flps.transport.calm import Calm
from flps.transport.security import fingerprint

log = logging.getLogger(__name__)

DOMAIN = b"flps"
RELOAD_S = 0.5  # how often the key folder is looked at
_TICK_MS = 100
_AT_ONCE = 500  # connections looked at in one tick
_ZAP = "inproc://zeromq.zap.01"  # where zmq asks about keys
_RECEIVED = struct.Struct("=Q")
_RECEIVED_AT = 128  # of tcpi_bytes_received in struct tcp_info
_SLACK_BYTES = 4096  # greeting and handshake, which are no message
_SEAL_BYTES = 33  # what CURVE adds to a frame: the command's name, nonce, tag, flags


@dataclass
class _Visitor:
    """A connection: where it comes from, and how many bytes of it have come out of zmq."""

    peer: Any
    received: int = 0


class Gate:
    """Works in a thread of its own, so that it answers and watches while its listener is busy."""

    def __init__(
        self, context: zmq.Context[Any], listening: zmq.Socket[Any], access: Access | None, bytes_max: int
    ) -> None:
        """To be made before `listening` is bound.

        `access`: what each key may do; None where there are no keys. `bytes_max`: what a connection may have sent
        without its having been received.
        """
        self.refused_keys = 0
        self.cut = 0
        self._access = access
        self._listening = listening
        self._seal = 0 if access is None else _SEAL_BYTES
        self._bytes_max = bytes_max
        self._shut_out: set[str] = set()  # keys whose holders broke a limit grossly; for as long as this role runs
        self._visitors: dict[int, _Visitor] = {}  # by file descriptor, oldest first
        self._visitors_max = _files_max() // 2
        self._queue: list[int] = []  # of those still to be looked at in this round
        self._calm = Calm(log)
        self._is_over = threading.Event()
        with ExitStack() as opened:
            self._zap = None if access is None else opened.enter_context(_bound_to_zap(context))
            self._news = opened.enter_context(_monitor(context, listening))
            opened.pop_all()
        self._sockets = [one for one in (self._zap, self._news) if one is not None]
        self._thread = threading.Thread(target=self._watch, name="gate", daemon=True)
        self._thread.start()

    def may_speak(self, frame: Any, member: Member) -> bool:
        """Whether the key that this frame came with may speak as that member, now."""
        if self._access is None:
            return True
        if not self._thread.is_alive():
            raise FlpsError("the thread that checks keys has ended: nobody is let in any more")
        user = _user_of(frame)
        if user not in self._shut_out and self._access.may_speak(user, member):
            return True
        self.refused_keys += 1
        return False

    def shut_out(self, frame: Any) -> None:
        """Who sent this frame has cost the others time: its connection is cut, and its key may speak no more."""
        user = _user_of(frame)
        if user:
            self._shut_out.add(user)
            log.warning("key %s is shut out as long as this role runs", fingerprint(user.encode()))
        with suppress(zmq.ZMQError):
            self._cut(frame.get(zmq.SRCFD), "its message has too many parts by far")

    def received(self, frame: Any, sizes: Sequence[int]) -> None:
        """A message of frames of these sizes, of which `frame` is one, has come out of zmq."""
        with suppress(zmq.ZMQError):
            visitor = self._visitors.get(frame.get(zmq.SRCFD))
            if visitor is not None:
                visitor.received += sum(self._on_the_wire(size) for size in sizes)

    def look_away(self) -> None:
        """Watch no more. To be called before the listening socket is closed: closing makes news, too."""
        self._is_over.set()
        if not self._listening.closed:
            self._listening.disable_monitor()  # news in itself, which wakes the thread

    def close(self) -> None:
        """Stop the thread, and answer no more questions about keys."""
        self.look_away()
        self._thread.join()
        if self._zap is not None and not self._zap.closed:
            self._zap.unbind(_ZAP)  # at once: the next gate of this process answers there
        for one in self._sockets:
            one.close()

    def _on_the_wire(self, size: int) -> int:
        body = size + self._seal
        return body + (2 if body < 256 else 9)

    def _watch(self) -> None:
        poller = zmq.Poller()
        for one in self._sockets:
            poller.register(one, zmq.POLLIN)
        look_at = reload_at = 0.0
        while not self._is_over.is_set():
            ready = dict(poller.poll(_TICK_MS))
            now = time.monotonic()
            if self._zap in ready:
                self._answer(self._zap)
            if self._news in ready:
                self._hear()
            if self._access is not None and now >= reload_at:
                reload_at = now + RELOAD_S
                self._access.refresh()
            if now >= look_at:
                look_at = now + _TICK_MS / 1000
                self._look_around()

    def _answer(self, zap: Any) -> None:
        """Tell zmq whether it may talk to a key (ZeroMQ RFC 27)."""
        version, request, _, address, _, mechanism, *credentials = zap.recv_multipart()
        key = z85.encode(credentials[0]) if mechanism == b"CURVE" and len(credentials) == 1 else b""
        assert self._access is not None
        if self._access.knows(key.decode()) and key.decode() not in self._shut_out:
            zap.send_multipart([version, request, b"200", b"OK", key, b""])
            return
        self.refused_keys += 1
        shown = fingerprint(key) if key else "none"
        self._calm.warn("key %s from %s is not known here, or revoked: no answer", shown, address.decode()[:64])
        # 300 says nothing, and who is allowed later gets in with its next attempt; 400 would be an answer.
        zap.send_multipart([version, request, b"300", b"", b"", b""])

    def _hear(self) -> None:
        """Connections that have come and gone."""
        assert self._news is not None
        while self._news.poll(0):
            news = recv_monitor_message(self._news)
            event, descriptor = news["event"], int(news["value"])
            if event == zmq.EVENT_ACCEPTED:
                self._visitors.pop(descriptor, None)
                self._visitors[descriptor] = _Visitor(_peer(descriptor))
            elif event in (zmq.EVENT_DISCONNECTED, zmq.EVENT_CLOSED):
                self._visitors.pop(descriptor, None)

    def _look_around(self) -> None:
        """Cut the oldest silent connections that are too many, and who has sent too much without an end."""
        excess = len(self._visitors) - self._visitors_max
        if excess > 0:
            # A copy: the listener's thread may shut somebody out meanwhile.
            silent = [descriptor for descriptor, visitor in list(self._visitors.items()) if not visitor.received]
            for descriptor in silent[:excess]:
                self._cut(descriptor, "it said nothing, and too many others wait")
        self._queue = self._queue or list(self._visitors)
        for descriptor in self._queue[:_AT_ONCE]:
            visitor = self._visitors.get(descriptor)
            came = None if visitor is None else _bytes_of(descriptor, visitor.peer)
            if visitor is not None and came is not None and came - visitor.received > self._bytes_max + _SLACK_BYTES:
                waiting = (came - visitor.received) >> 20
                self._cut(descriptor, f"{waiting} MiB of it wait, more than network.message_bytes_max")
        del self._queue[:_AT_ONCE]

    def _cut(self, descriptor: int, why: str) -> None:
        visitor = self._visitors.pop(descriptor, None)
        if visitor is None:  # the other thread was quicker
            return
        with suppress(OSError), _same_connection(descriptor, visitor.peer) as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # what waits is lost
            connection.shutdown(socket.SHUT_RDWR)  # zmq finds it broken and lets go of what it has collected
            self.cut += 1
            self._calm.warn("cut the connection of %s: %s", visitor.peer[0] if visitor.peer else "a stranger", why)


def raise_file_limit() -> None:
    """Allow this process as many open files as its user may have: each connection is one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with suppress(ValueError, OSError):  # some systems name a hard limit that they do not grant
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _user_of(frame: Any) -> str:
    """The key (Z85) that a frame came with; "" when nobody was asked for one."""
    try:
        return str(frame.get("User-Id"))
    except zmq.ZMQError:
        return ""


def _files_max() -> int:
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return 1 << 20 if soft == resource.RLIM_INFINITY else soft


def _bound_to_zap(context: zmq.Context[Any]) -> zmq.Socket[Any]:
    zap: zmq.Socket[Any] = context.socket(zmq.REP)
    zap.setsockopt(zmq.LINGER, 0)
    zap.bind(_ZAP)
    return zap


def _monitor(context: zmq.Context[Any], listening: zmq.Socket[Any]) -> zmq.Socket[Any]:
    address = f"inproc://flps-gate-{secrets.token_hex(8)}"
    gone = zmq.EVENT_DISCONNECTED | zmq.EVENT_CLOSED
    listening.monitor(address, zmq.EVENT_ACCEPTED | gone | zmq.EVENT_MONITOR_STOPPED)
    news: zmq.Socket[Any] = context.socket(zmq.PAIR)
    news.setsockopt(zmq.LINGER, 0)
    news.setsockopt(zmq.RCVHWM, 0)
    news.connect(address)
    return news


def _peer(descriptor: int) -> Any:
    """Address and port at the other end of a connection; None when it has gone."""
    with suppress(OSError), _handle(descriptor) as connection:
        return connection.getpeername()
    return None


def _handle(descriptor: int) -> socket.socket:
    """A handle of our own. Raises OSError when the number means no socket any more."""
    own = os.dup(descriptor)
    try:
        return socket.socket(fileno=own)
    except OSError:
        os.close(own)
        raise


def _same_connection(descriptor: int, peer: Any) -> socket.socket:
    """A handle of our own on a connection of zmq's. Raises OSError when it is not the one with that peer any more."""
    connection = _handle(descriptor)
    try:
        if peer is None or connection.getpeername() != peer:
            raise OSError("another connection")
    except OSError:
        connection.close()
        raise
    return connection


def _bytes_of(descriptor: int, peer: Any) -> int | None:
    """Bytes that the kernel has received on a connection; None when it has gone, or where the kernel does not say."""
    option = getattr(socket, "TCP_INFO", None)
    if option is None:
        return None
    with suppress(OSError, struct.error), _same_connection(descriptor, peer) as connection:
        (count,) = _RECEIVED.unpack_from(connection.getsockopt(socket.IPPROTO_TCP, option, 256), _RECEIVED_AT)
        return int(count)
    return None
