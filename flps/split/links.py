"""A party's links to the others, and who works the wire that carries them.

Law 1: whoever waits works the wire itself, which saves a hand-over between threads; while nobody does, a thread
looks in from time to time: it answers signs of life, takes in what comes and sends again what was lost.
Law 2: every wait has a deadline, and ends in an error that names who was waited for.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import TypeVar

from flps.compression import NotFinite
from flps.config.types import Network
from flps.errors import ConfigError, FlpsError, NeverCameUp, PartyRestarted, PeerLost, ProtocolError
from flps.membership import Member
from flps.message import REASON_MAX
from flps.split.exchange import Exchange, Rhythm
from flps.split.wires import Wire

log = logging.getLogger(__name__)
Found = TypeVar("Found")
_SLICE_S = 0.01  # longest look at the wire before another thread gets its turn
_TEND_S = 0.02
_YIELD_S = 0.0005
_GOOD_BYE_S = 2.0
# What one party ends with is the end of the job: all end with the same words and exit code.
_OF_ALL = {kind.__name__: kind for kind in (FlpsError, ConfigError, ProtocolError, NotFinite, PeerLost, NeverCameUp)}


class Links:
    """One exchange with each of the other parties, over one wire."""

    def __init__(self, own: str, others: Mapping[Member, str], incarnation: int, window: int, network: Network) -> None:
        """own: this party's name; others: who the others are, and their names."""
        self.own = own
        self.why_anew = ""  # who was started again, as `PartyRestarted` said it
        self.wire: Wire | None = None
        self._network = network
        rhythm, now = Rhythm(network.heartbeat_s, network.retry_s, network.lease_s), time.monotonic()
        self._links = {member: Exchange(own, name, incarnation, window, rhythm, now) for member, name in others.items()}
        self.named = {link.peer: link for link in self._links.values()}
        self._turns = _Turns()
        self._is_over = threading.Event()
        self._is_alone = False
        self._thread: threading.Thread | None = None
        self._failure: FlpsError | None = None

    @property
    def is_open(self) -> bool:
        """Whether there is a wire, and it has not been closed."""
        return self.wire is not None and not self._is_over.is_set()

    def of(self, name: str) -> Exchange:
        """The link to the party of that name. Raises ConfigError when there is none."""
        if name not in self.named:
            raise ConfigError(f"there is no party {name!r}; {self.own} knows {', '.join(self.named)}")
        return self.named[name]

    def open(self, wire: Wire, is_alone: bool = False) -> None:
        """Begin. is_alone: one thread plays all parties, so nothing comes while it waits."""
        self.wire, self._is_alone = wire, is_alone
        if not is_alone:
            self._thread = threading.Thread(target=self._tend, name=f"links-{self.own}", daemon=True)
            self._thread.start()

    def close(self, reason: str, linger_s: float) -> None:
        """Wait until what was sent has come, say good-bye, and hang up. A second call changes nothing."""
        if self._is_over.is_set():
            return
        if self.wire is not None and self._failure is None:
            with suppress(FlpsError):
                self.settle(linger_s)
                for link in self.named.values():
                    link.part(reason[:REASON_MAX])
                self._settle_until(lambda link: link.has_parted, min(linger_s, _GOOD_BYE_S))
        self._is_over.set()
        if self._thread is not None:
            self._thread.join()
        if self.wire is not None:
            self.wire.close()

    def settle(self, linger_s: float) -> None:
        """Wait, at most so long, until the others have got all that was sent."""
        self._settle_until(lambda link: not link.waits, linger_s)

    def begin_anew(self) -> None:
        """Whatever has been agreed on does not hold any more; the others hear of it."""
        with self._turns.mine():
            for link in self.named.values():
                if link.is_agreed:
                    link.renew(self.why_anew or "begins anew")
            self.why_anew = ""

    def until(self, look: Callable[[], Found | None], link: Exchange, what: str, timeout_s: float) -> Found:
        """Work the wire until `look` finds something that `link` brings.

        what: is waited for, as "to send a message". Raises PartyRestarted when any party was started again,
        NeverCameUp and PeerLost.
        """

        def heeding() -> Found | None:
            self._heed_restarts()
            return look()

        return self.meet(heeding, lambda one: one is link, what, timeout_s)

    def meet(
        self, look: Callable[[], Found | None], is_missed: Callable[[Exchange], bool], what: str, timeout_s: float
    ) -> Found:
        """As `until`, whoever restarts; waited for are those that `is_missed`."""
        self._check_open()
        deadline = time.monotonic() + timeout_s
        pause_s = 0.0
        while True:
            with self._turns.mine():
                self._work(pause_s)
                found = look()
                if found is not None:
                    self._transmit()
                    return found
                missed = [link for link in self.named.values() if is_missed(link)]
                self._check_hope(missed, what)
                left_s = deadline - time.monotonic()
                if left_s <= 0:
                    raise PeerLost(f"{self.own} waited {timeout_s:g} s for {_names(missed)} {what}")
                pause_s = min(_SLICE_S, left_s)
            self._turns.give_way()

    def _settle_until(self, is_done: Callable[[Exchange], bool], linger_s: float) -> None:
        deadline = time.monotonic() + linger_s
        with self._turns.mine():
            self._work(0.0)
            while not self._is_alone and time.monotonic() < deadline:
                if all(is_done(link) or not self._may_answer(link) for link in self.named.values()):
                    return
                self._work(_SLICE_S)

    def _work(self, timeout_s: float) -> None:
        """Take in what comes, and transmit what is due."""
        assert self.wire is not None
        if self._failure is not None:
            raise self._failure
        arrival = self.wire.receive(timeout_s)
        while arrival is not None:
            try:
                self._link(arrival.sender).hear(arrival.said, time.monotonic())
            except ProtocolError as error:
                self.wire.refuse(arrival.sender, error)
            arrival = self.wire.receive(0.0)
        self._transmit()

    def _link(self, sender: Member) -> Exchange:
        if sender not in self._links:
            expected = ", ".join(f"{link.peer} as {member}" for member, link in self._links.items())
            raise ProtocolError(
                f"{self.own} does not expect {sender}, but {expected}; `rank` says which one a party is"
            )
        return self._links[sender]

    def _transmit(self) -> None:
        assert self.wire is not None
        now = time.monotonic()
        for member, link in self._links.items():
            for said in link.due(now):
                self.wire.send(member, said)

    def _heed_restarts(self) -> None:
        news = [link for link in self.named.values() if link.restarted is not None]
        if news:
            self.why_anew = "; ".join(str(link.restarted) for link in news)
            for link in news:
                link.restarted = None
            raise PartyRestarted(f"{self.why_anew}: {self.own} must go back to a checkpoint and agree again on a step")

    def _check_hope(self, missed: Sequence[Exchange], what: str) -> None:
        """Raises when waiting for one of them has become pointless."""
        now, network = time.monotonic(), self._network
        for link in missed:
            if link.left is not None:
                raise _end_of_all(link) or PeerLost(
                    f"{link.peer} has ended {_why(link)}, and {self.own} waits for it {what}"
                )
            if link.is_lost(now):
                raise PeerLost(
                    f"{link.peer} gave no sign of life for {network.lease_s:g} s, and {self.own} waits for it {what}"
                    + self._trouble
                )
            if not link.has_met and link.silent_s(now) > network.start_timeout_s:
                raise NeverCameUp(
                    f"{link.peer} did not come up within {network.start_timeout_s:g} s; {self.own} waits for it {what}"
                    + self._trouble
                )
        if self._is_alone:
            raise FlpsError(f"{self.own} would wait for {_names(missed)} {what}, which one thread alone never does")

    @property
    def _trouble(self) -> str:
        """What the transport knows about it, as the end of a message."""
        return f" ({self.wire.trouble})" if self.wire is not None and self.wire.trouble else ""

    def _may_answer(self, link: Exchange) -> bool:
        """Whether it is worth waiting for this party: it is here, or may come and has something to get."""
        return (link.has_met or link.waits) and link.left is None and not link.is_lost(time.monotonic())

    def _check_open(self) -> None:
        if not self.is_open:
            state = "was closed" if self._is_over.is_set() else "has not begun: call launch()"
            raise FlpsError(f"the communicator of {self.own} {state}")

    def _tend(self) -> None:
        """Look in while nobody waits."""
        while not self._is_over.wait(_TEND_S):
            with self._turns.if_free() as is_mine:
                if is_mine and self._failure is None:
                    try:
                        self._work(0.0)
                    except FlpsError as error:
                        self._failure = error  # for whoever calls next


class _Turns:
    """Who works the wire; whoever waits for its turn gets it after the next look."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._count = threading.Lock()
        self._waiting = 0

    @contextmanager
    def mine(self) -> Iterator[None]:
        """My turn, as soon as the others have had theirs."""
        if not self._lock.acquire(blocking=False):
            with self._count:
                self._waiting += 1
            try:
                self._lock.acquire()
            finally:
                with self._count:
                    self._waiting -= 1
        try:
            yield
        finally:
            self._lock.release()

    @contextmanager
    def if_free(self) -> Iterator[bool]:
        """My turn, if it is nobody's."""
        is_mine = self._lock.acquire(blocking=False)
        try:
            yield is_mine
        finally:
            if is_mine:
                self._lock.release()

    def give_way(self) -> None:
        """Let those who wait have their turns."""
        if self._waiting:
            time.sleep(_YIELD_S)


def _end_of_all(link: Exchange) -> FlpsError | None:
    """The error with which the other side ended, where it is this side's, too."""
    kind, _, words = (link.left or "").partition(": ")
    return _OF_ALL[kind](words) if kind in _OF_ALL and words else None


def _why(link: Exchange) -> str:
    return f"because of {link.left}" if link.left else "in good order"


def _names(links: Iterable[Exchange]) -> str:
    return ", ".join(link.peer for link in links)
