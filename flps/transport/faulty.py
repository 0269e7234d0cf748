"""Scripted faults inside the transport (`flps.faults`): messages are lost and late, roles die, on purpose.

Law 1: without `--faults` nothing of this is made; what is left is one look at a None per message.
Law 2: faults strike above zmq, at whole messages, as a bad network or a killed process would.
Law 3: what goes wrong in here is told and costs a message at most: it is no fault that was asked for.
"""

from __future__ import annotations

import heapq
import logging
import math
import os
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import zmq

from flps.config.job import Terms
from flps.errors import ResourceError
from flps.faults import Cut, Faults, Lane, Script, Strike, Wear
from flps.membership import Member
from flps.message import (
    Arrive,
    Beat,
    Body,
    Declare,
    Detach,
    Hello,
    Leave,
    Look,
    Save,
    Start,
    Update,
    Window,
)
from flps.metrics import EventLog
from flps.transport.calm import Calm

log = logging.getLogger(__name__)
_TELL_EVERY_S = 1.0
_IDLE_S = 60.0  # between two looks of a thread that nobody woke
_WAKE = b"."
Spoilt = TypeVar("Spoilt")  # a zmq socket, or one of tls/ that takes its place


class Moments:
    """Which moments of a job a message stands for, as a role sees them pass."""

    def __init__(self, geo_step: int) -> None:
        self._geo_step = geo_step
        self._windows: dict[Member, int] = {}
        self._at = (-1, -1)  # epoch and step
        self._steps = 0
        self._epoch = -1
        self._quiet = ""  # what a sign of life stands for

    def of(self, sender: Member, body: Body) -> Iterator[tuple[str, int]]:
        """(kind, number) pairs; the number of a phase is not looked at."""
        match body:
            case Hello() | Declare() | Start():
                yield "connecting", 0
            case Update():
                yield from self._step(body.epoch, body.step)
                yield "pushing", 0
                self._quiet = "barrier" if body.final else ""
            case Window() if body.deltas:
                self._windows[sender] = self._windows.get(sender, 0) + 1
                yield from self._begin(body.epoch)
                yield "step", max(self._windows.values()) * self._geo_step
                yield "pushing", 0
                self._quiet = "barrier" if body.final else ""
            case Look() | Window():
                self._quiet = "evaluating" if self._quiet else ""
                yield "pulling", 0
            case Arrive():
                yield from self._arrive(body.barrier)
            case Save():
                self._quiet = "evaluating"
                yield "saving", 0
            case Detach() | Leave():
                yield "ending", 0
            case Beat() if self._quiet:
                yield self._quiet, 0

    def _step(self, epoch: int, step: int) -> Iterator[tuple[str, int]]:
        yield from self._begin(epoch)
        if (epoch, step) > self._at:
            self._at = epoch, step
            self._steps += 1
            yield "step", self._steps

    def _begin(self, epoch: int) -> Iterator[tuple[str, int]]:
        if epoch > self._epoch:
            self._epoch = epoch
            yield "epoch", epoch

    def _arrive(self, barrier: str) -> Iterator[tuple[str, int]]:
        what, _, number = barrier.partition(" ")
        self._quiet = "training" if what == "begin" else ""
        if what == "begin" and number.isdecimal():
            yield from self._begin(int(number))
        yield {"saved": "saving", "checkpoint": "saving", "evaluated": "evaluating"}.get(what, "barrier"), 0


class Mishaps:
    """One role's part of the faults: it is told what passes, strikes the role, and makes its sockets bad ones."""

    def __init__(self, terms: Terms, own: Member, incarnation: int) -> None:
        self._own, self._seed = own, terms.seed
        self._script = Script(Faults.parse(terms.faults), own, incarnation, time.monotonic())
        self._moments = Moments(terms.geo_step)
        self._events = EventLog(str(Path(terms.run_dir) / "metrics.jsonl"), own.role, own.rank)
        self._calm = Calm(log)
        self._lock = threading.Lock()
        self._dialled = 0
        self._told: set[Cut] = set()
        self._counts: dict[str, int] = {}
        self._told_at = 0.0
        self._timers = [self._timer(strike) for strike in self._script.strikes if strike.when.kind == "s"]

    def saw(self, sender: Member, body: Body) -> None:
        """A message is about to be sent, or has just arrived and is about to be carried out."""
        for kind, number in self._moments.of(sender, body):
            self.reached(kind, number)

    def reached(self, kind: str, number: int = 0) -> None:
        """A moment of the role's job; a role that says so itself is not judged by its messages."""
        with self._lock:
            struck = self._script.at(kind, number, time.monotonic())
        for item in struck:
            if isinstance(item, Strike):
                self._strike(item)

    def spoil(self, socket: Spoilt, peer: Member | None) -> Spoilt | BadSocket:
        """The socket as it is, or made bad where a fault lies on it. `peer`: who was dialled; None: it listens."""
        wears = self._script.wears(peer)
        if not wears and not self._script.has_cuts(peer):
            return socket
        self._dialled += peer is not None
        link = f"{self._own}-{peer or 'all'}#{self._dialled}"
        lanes = {way: Lane(wears, self._seed, f"{link} {way}") for way in ("out", "in")}
        name = f"{self._own.role}.{self._own.rank}-wire"
        return BadSocket(socket, lanes, lambda now: self._cut(peer, now), self._tell_worn, name)

    def close(self) -> None:
        """No fault strikes any more."""
        for timer in self._timers:
            timer.cancel()
        self._tell_counts()
        self._events.close()

    def _timer(self, strike: Strike) -> threading.Timer:
        timer = threading.Timer(strike.when.number, self._strike, (strike,))
        timer.daemon = True
        timer.start()
        return timer

    def _strike(self, strike: Strike) -> None:
        self._tell(str(strike))
        if strike.kind == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        # Who stands still cannot wake itself.
        waker = subprocess.Popen(["/bin/sh", "-c", f"sleep {strike.for_s}; kill -CONT {os.getpid()}"])
        os.kill(os.getpid(), signal.SIGSTOP)
        waker.wait()

    def _cut(self, peer: Member | None, now: float) -> bool:
        item = self._script.cut(peer, now)
        if item is not None and item not in self._told:
            self._told.add(item)
            self._tell(str(item))
        return item is not None

    def _tell(self, text: str, **fields: Any) -> None:
        log.warning("fault on purpose: %s%s", text, "".join(f", {name} {value}" for name, value in fields.items()))
        try:
            self._events.write("fault", fault=text, **fields)
        except ResourceError as error:  # a full disk: the fault strikes all the same
            self._calm.warn("this fault is not among the events: %s", error)

    def _tell_worn(self, wear: Wear) -> None:
        with self._lock:
            self._counts[str(wear)] = self._counts.get(str(wear), 0) + 1
        if time.monotonic() - self._told_at > _TELL_EVERY_S:
            self._tell_counts()

    def _tell_counts(self) -> None:
        with self._lock:
            self._told_at = time.monotonic()
            counts, self._counts = self._counts, {}
        for text, count in counts.items():
            self._tell(text, messages=count)


class BadSocket:
    """A socket behind a thread that loses, doubles and holds its messages, in both directions."""

    def __init__(
        self,
        socket: Any,
        lanes: Mapping[str, Lane],
        is_cut: Callable[[float], bool],
        tell: Callable[[Wear], None],
        name: str,
    ) -> None:
        """`lanes`: "out" and "in". `is_cut(now)`: nothing passes. `tell(wear)`: a message had this happen to it."""
        self._socket, self._lanes, self._is_cut, self._tell = socket, lanes, is_cut, tell
        self._to_send: deque[list[Any]] = deque()
        self._held: list[tuple[float, int, str, list[Any]]] = []
        self._number = 0
        self._arrived: deque[list[Any]] = deque()
        self._news = threading.Condition()
        self._wake_r, self._wake_w = os.pipe()
        self._is_over = False
        self._calm = Calm(log)
        self._thread = threading.Thread(target=self._pass_on, name=name, daemon=True)
        self._thread.start()

    def send_multipart(self, frames: list[Any], flags: int = 0, copy: bool = True) -> None:
        """Hand a message over; it is never waited for."""
        if self._is_over:
            raise zmq.ZMQError(zmq.ENOTSOCK)
        self._to_send.append(list(frames))
        os.write(self._wake_w, _WAKE)

    def poll(self, timeout_ms: int) -> int:
        """Wait for a message; 0 when none came in time."""
        with self._news:
            self._news.wait_for(lambda: bool(self._arrived), timeout_ms / 1000)
            return len(self._arrived)

    def recv_multipart(self, copy: bool = True) -> list[Any]:
        """A message that has arrived; `poll` has said that there is one."""
        return self._arrived.popleft()

    def close(self) -> None:
        """Hang up; what is held is lost."""
        if self._is_over:
            return
        self._is_over = True
        os.write(self._wake_w, _WAKE)
        self._thread.join()
        os.close(self._wake_r)
        os.close(self._wake_w)

    def _pass_on(self) -> None:
        poller = zmq.Poller()
        poller.register(self._socket, zmq.POLLIN)
        poller.register(self._wake_r, zmq.POLLIN)
        while not self._is_over and not self._socket.closed:
            try:
                self._pass_round(poller)
            except Exception as error:
                # Without this thread nothing passes any more, and nobody would know why.
                self._calm.warn("a bad link goes on after an error, a message may be lost: %r", error)
        self._socket.close()

    def _pass_round(self, poller: zmq.Poller) -> None:
        """Wait until there is something to do, and do all of it."""
        wait_s = max(0.0, self._held[0][0] - time.monotonic()) if self._held else _IDLE_S
        ready = dict(poller.poll(math.ceil(wait_s * 1000)))
        if self._wake_r in ready:
            os.read(self._wake_r, 4096)
        while self._to_send:
            self._hold("out", self._to_send.popleft())
        while self._socket.poll(0):
            self._hold("in", self._socket.recv_multipart(copy=False))
        self._let_go()

    def _hold(self, way: str, frames: list[Any]) -> None:
        now = time.monotonic()
        if self._is_cut(now):
            return
        fate = self._lanes[way].fate(sum(memoryview(getattr(frame, "buffer", frame)).nbytes for frame in frames), now)
        for due in fate.at:
            self._number += 1
            heapq.heappush(self._held, (due, self._number, way, frames))
        for wear in fate.causes:
            self._tell(wear)

    def _let_go(self) -> None:
        now = time.monotonic()
        while self._held and self._held[0][0] <= now:
            _, _, way, frames = heapq.heappop(self._held)
            if way == "in":
                with self._news:
                    self._arrived.append(frames)
                    self._news.notify_all()
            else:
                with suppress(zmq.Again):  # the queue to an absent peer is full
                    self._socket.send_multipart(frames, flags=zmq.DONTWAIT, copy=False)
