"""What waits to be sent, and what waits to be received: both bounded, both between two threads.

Law 1: a queue holds at most MESSAGES messages and, but for a single one, at most as many bytes as one message may have.
Law 2: a message leaves the outbox when its last byte is sealed. One that was cut in the middle begins anew on the next
connection: nobody can have received it whole.
"""

from __future__ import annotations

import os
import select
import threading
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Generic, TypeVar

from flps.transport.tls.framing import pieces

MESSAGES = 1000
Source = TypeVar("Source")


class Part:
    """A received frame, as zmq would hand it out; `source`: over which connection it came."""

    __slots__ = ("buffer", "source")

    def __init__(self, buffer: memoryview, source: Any = None) -> None:
        self.buffer, self.source = buffer, source

    def __len__(self) -> int:
        return self.buffer.nbytes

    @property
    def bytes(self) -> bytes:
        """A copy."""
        return bytes(self.buffer)


class Wake:
    """A pipe that wakes a thread, and that can be waited for."""

    def __init__(self) -> None:
        self._reading, self._writing = os.pipe()
        os.set_blocking(self._reading, False)
        os.set_blocking(self._writing, False)

    def fileno(self) -> int:
        """Readable while it is set."""
        return self._reading

    def set(self) -> None:
        """Wake whoever waits."""
        with suppress(OSError):  # full: it is set already
            os.write(self._writing, b".")

    def clear(self) -> None:
        """Heard."""
        with suppress(OSError):
            while len(os.read(self._reading, 4096)) == 4096:
                pass

    def close(self) -> None:
        """Let go of the pipe; twice does no harm."""
        for end in {self._reading, self._writing} - {-1}:
            os.close(end)
        self._reading = self._writing = -1


class Outbox:
    """Messages for one connection, or for one and its successors. `put` from any thread, the rest from one."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._messages: deque[tuple[int, list[memoryview]]] = deque()
        self._bytes = 0
        self._piece, self._offset = 0, 0
        self._changed = threading.Condition()

    def put(self, frames: Sequence[Any], timeout_s: float | None) -> bool:
        """Queue a message; False when there was no room for it within the time (None: wait for ever)."""
        message = pieces(frames)
        size = sum(piece.nbytes for piece in message)
        with self._changed:
            if not self._changed.wait_for(lambda: self._has_room(size), timeout_s):
                return False
            self._messages.append((size, message))
            self._bytes += size
        return True

    def piece(self) -> memoryview | None:
        """What comes next; None when all is sealed."""
        if not self._messages:
            return None
        return self._messages[0][1][self._piece][self._offset :]

    def advance(self, count: int) -> None:
        """So many bytes of `piece` are sealed."""
        size, message = self._messages[0]
        self._offset += count
        if self._offset == message[self._piece].nbytes:
            self._piece, self._offset = self._piece + 1, 0
        if self._piece == len(message):
            self._piece = 0
            with self._changed:
                self._messages.popleft()
                self._bytes -= size
                self._changed.notify_all()

    def rewind(self) -> None:
        """The message under way begins anew."""
        self._piece, self._offset = 0, 0

    def __len__(self) -> int:
        return len(self._messages)

    def _has_room(self, size: int) -> bool:
        return not self._messages or (len(self._messages) < MESSAGES and self._bytes + size <= self._bytes_max)


class Inbox(Generic[Source]):
    """Messages from many connections; each gets its turn, and each has a bound of its own."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._waiting: dict[Source, deque[list[memoryview]]] = {}
        self._bytes: dict[Source, int] = {}
        self._turns: deque[Source] = deque()
        self._lock = threading.Lock()
        self._news = Wake()

    def fileno(self) -> int:
        """Readable while messages wait."""
        return self._news.fileno()

    def has_room(self, source: Source) -> bool:
        """Whether more may be read from that connection."""
        with self._lock:
            return self._has_room(source)

    def put(self, source: Source, message: list[memoryview]) -> None:
        """A message has come."""
        with self._lock:
            waiting = self._waiting.get(source)
            if waiting is None:
                waiting = self._waiting[source] = deque()
                self._turns.append(source)
            waiting.append(message)
            self._bytes[source] = self._bytes.get(source, 0) + sum(frame.nbytes for frame in message)
            if len(self._turns) == 1 and len(waiting) == 1:
                self._news.set()

    def poll(self, timeout_s: float) -> int:
        """Wait for a message; how many connections have one, 0 when none came in time."""
        deadline = time.monotonic() + timeout_s
        while not self._turns:
            left_s = deadline - time.monotonic()
            if left_s <= 0 or not _wait_readable(self._news.fileno(), left_s):
                break
        return len(self._turns)

    def take(self) -> tuple[Source, list[memoryview], bool]:
        """The next message, from whom, and whether room was made where there had been none. Raises IndexError."""
        with self._lock:
            source = self._turns.popleft()
            waiting = self._waiting[source]
            had_room = self._has_room(source)
            message = waiting.popleft()
            self._bytes[source] -= sum(frame.nbytes for frame in message)
            if waiting:
                self._turns.append(source)
            else:
                del self._waiting[source], self._bytes[source]
            if not self._turns:
                self._news.clear()
            return source, message, not had_room

    def close(self) -> None:
        """Let go of the pipe."""
        self._news.close()

    def _has_room(self, source: Source) -> bool:
        waiting = self._waiting.get(source)
        return not waiting or (len(waiting) < MESSAGES and self._bytes[source] < self._bytes_max)


def _wait_readable(descriptor: int, timeout_s: float) -> bool:
    poller = select.poll()
    poller.register(descriptor, select.POLLIN)
    return bool(poller.poll(max(1, int(timeout_s * 1000))))
