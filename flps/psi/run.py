"""Who carries out what a `Side` asks for: messages go over a link, multiplications to every core.

Law 1: a party works on its own ids and on the peer's at the same time, and says each chunk as soon as it is there.
Law 2: only so many chunks are with the workers at once: what waits is a view of the points, not a copy.
Law 3: silence has a deadline. A party that has work of its own left does not yet count the peer's silence.
"""

from __future__ import annotations

import multiprocessing
import os
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor
from contextlib import contextmanager, suppress
from typing import ParamSpec, Protocol, TypeVar

import numpy as np

from flps.errors import ConfigError, FlpsError, PeerLost, ProtocolError, ResourceError
from flps.message import REASON_MAX
from flps.psi import curve
from flps.psi.message import Message, Stop
from flps.psi.protocol import Alignment, Multiply, Send, Side, Step

_P = ParamSpec("_P")
_T = TypeVar("_T")
TIMEOUT_S = 120.0
_SLICE_S = 0.005  # how long a look at the link may keep a finished chunk from being sent
_CHUNKS_PER_CORE = 3  # with the workers: one that is worked on, others so that none waits for the next


class Link(Protocol):
    """A way to the peer: messages come whole, once and in order, or the link raises."""

    def send(self, message: Message) -> None:
        """Send a message; waits while the peer is behind. Raises PeerLost when it stays so."""

    def receive(self, timeout_s: float) -> Message | None:
        """The next message; None when none came in time. Raises ProtocolError for one that cannot be read."""


def run(
    side: Side,
    link: Link,
    executor: Executor,
    cores: int,
    timeout_s: float = TIMEOUT_S,
    start_timeout_s: float | None = None,
) -> Alignment:
    """Carry a party's side through to the end; what came out.

    `executor`: runs `curve.multiply`, `cores` at once; `timeout_s`: how long the peer may be silent, and
    `start_timeout_s` before its first word, where that is another time.
    Raises PeerLost after that, ProtocolError when the peer breaks the protocol.
    """
    try:
        return _play(side, link, _Work(side.key, executor, cores), timeout_s, start_timeout_s or timeout_s)
    except ProtocolError as error:
        with suppress(FlpsError):  # so that both parties say the same; it changes nothing if the peer is gone
            link.send(Stop(str(error)[:REASON_MAX]))
        raise


def _play(side: Side, link: Link, work: _Work, timeout_s: float, patience_s: float) -> Alignment:
    heard_at = time.monotonic()
    _carry_out(side.start(), link, work)
    while not side.is_done:
        message = link.receive(_SLICE_S)
        if message is not None:
            heard_at, patience_s = time.monotonic(), timeout_s
            _carry_out(side.received(message), link, work)
        while work.is_ready:
            heard_at = time.monotonic()
            _carry_out(side.multiplied(*work.take()), link, work)
        if time.monotonic() - heard_at > patience_s:
            raise PeerLost(f"the peer said nothing for {patience_s:g} s while ids were aligned: {side.stage}")
    return side.alignment


def cores_here() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def workers(cores: int) -> Iterator[Executor]:
    """Processes that multiply: threads would wait for each other, since `cryptography` holds the interpreter's lock."""
    if cores < 1:
        raise ConfigError(f"cores must be at least 1, not {cores}")
    curve.check_installed()
    with ProcessPoolExecutor(cores, multiprocessing.get_context("spawn")) as executor:
        try:
            yield executor
        finally:
            executor.shutdown(wait=True, cancel_futures=True)


class Here(Executor):
    """Multiplies in the calling thread, at once."""

    def submit(self, call: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs) -> Future[_T]:
        """What `call` gives or raises, as a future that is done."""
        future: Future[_T] = Future()
        try:
            future.set_result(call(*args, **kwargs))
        except Exception as error:  # it is the future's to tell
            future.set_exception(error)
        return future


class Pipe:
    """A link between two threads of this process."""

    def __init__(self, inbox: queue.Queue[Message], outbox: queue.Queue[Message]) -> None:
        self._inbox, self._outbox = inbox, outbox

    def send(self, message: Message) -> None:
        """Put it into the other's box."""
        self._outbox.put(message)

    def receive(self, timeout_s: float) -> Message | None:
        """Take the next one from the own box."""
        try:
            return self._inbox.get(timeout=timeout_s)
        except queue.Empty:
            return None


def pipes() -> tuple[Pipe, Pipe]:
    """The two ends of a link within this process."""
    there: queue.Queue[Message] = queue.Queue()
    back: queue.Queue[Message] = queue.Queue()
    return Pipe(there, back), Pipe(back, there)


def together(
    leader: Side,
    follower: Side,
    executor: Executor,
    cores: int = 1,
    timeout_s: float = TIMEOUT_S,
    links: Callable[[], tuple[Link, Link]] = pipes,
) -> tuple[Alignment, Alignment]:
    """Both parties in this process, a thread each: for demonstrations and tests."""
    ends = links()
    outcome: list[Alignment | BaseException | None] = [None, None]

    def play(number: int, side: Side) -> None:
        try:
            outcome[number] = run(side, ends[number], executor, cores, timeout_s)
        except BaseException as error:
            outcome[number] = error

    thread = threading.Thread(target=play, args=(1, follower), name="psi-follower")
    thread.start()
    play(0, leader)
    thread.join()
    first, second = outcome
    for one in sorted((first, second), key=_is_consequence):
        if isinstance(one, BaseException):
            raise one
    assert isinstance(first, Alignment)
    assert isinstance(second, Alignment)
    return first, second


def _is_consequence(outcome: object) -> bool:
    """Whether this party failed because the other had."""
    return isinstance(outcome, PeerLost) or "the peer stopped" in str(outcome)


class _Work:
    """Multiplications in the order in which they were asked for."""

    def __init__(self, key: bytes, executor: Executor, cores: int) -> None:
        self._key, self._executor = key, executor
        self._at_once = cores * _CHUNKS_PER_CORE
        self._waiting: deque[Multiply] = deque()
        self._given: deque[tuple[Multiply, Future[bytes]]] = deque()

    @property
    def is_ready(self) -> bool:
        """Whether the oldest one is done."""
        return bool(self._given) and self._given[0][1].done()

    def ask(self, asked: Multiply) -> None:
        """Put it at the end."""
        self._waiting.append(asked)
        self._give()

    def take(self) -> tuple[Multiply, curve.Points]:
        """The oldest one, which is done, with its products."""
        asked, future = self._given.popleft()
        try:
            products = future.result()
        except BrokenExecutor as error:
            raise ResourceError("a process that multiplies points died; is there enough memory?") from error
        self._give()
        return asked, np.frombuffer(products, np.uint8).reshape(-1, curve.POINT_BYTES)

    def _give(self) -> None:
        while self._waiting and len(self._given) < self._at_once:
            asked = self._waiting.popleft()
            self._given.append((asked, self._executor.submit(curve.multiply, self._key, asked.points.tobytes())))


def _carry_out(steps: list[Step], link: Link, work: _Work) -> None:
    for step in steps:
        if isinstance(step, Send):
            link.send(step.message)
        else:
            work.ask(step)
