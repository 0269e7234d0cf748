"""Signs of life, from a thread of their own, so that long computing is not taken for death."""

from __future__ import annotations

import logging
import threading
import time
from contextlib import closing

from flps.errors import FlpsError, NeverCameUp, PeerLost, ProtocolError, RoleFailed
from flps.membership import Member
from flps.message import Beat, Done, Hello, Leave, Pulse, Refusal, Wrote
from flps.transport.connection import Connection
from flps.transport.sockets import Carrier

log = logging.getLogger(__name__)
_HURRY_S = 0.02  # between two looks of somebody who waits for a checkpoint
STOP_S = 5.0  # how much longer than a heartbeat the thread may take to end


class Heartbeat:
    """Tells the coordinator that this role is alive, and learns from it who is lost."""

    def __init__(self, carrier: Carrier, endpoint: str, coordinator: Member) -> None:
        self._carrier = carrier
        self._endpoint = endpoint
        self._coordinator = coordinator
        self._stop = threading.Event()
        self._says_good_bye = False
        self._news = threading.Event()  # something to tell, or to ask, before the next beat is due
        self._wrote: Wrote | None = None
        self._checkpoint = ""
        self._joined = threading.Event()
        self._failure: FlpsError | None = None
        self._lost: frozenset[Member] = frozenset()
        self._thread = threading.Thread(target=self._beat, name=f"beat-{carrier.member}", daemon=True)

    @property
    def lost(self) -> frozenset[Member]:
        """Members that the coordinator holds for lost."""
        return self._lost

    def start(self) -> None:
        """Say hello, then beat."""
        self._thread.start()

    def wait_joined(self) -> None:
        """Returns when the coordinator knows this role.

        Raises NeverCameUp when it does not answer, RoleFailed when it does not want this role or told it to stop.
        """
        while not self._joined.wait(0.05):
            is_over = not self._thread.is_alive()  # asked first: what the thread left behind is complete then
            self.check()
            if is_over and not self._joined.is_set():
                raise RoleFailed(f"{self._carrier.member} stopped before {self._coordinator} had answered its hello")

    def check(self) -> None:
        """Raises PeerLost when the coordinator is silent, RoleFailed when it told everyone to stop."""
        if self._failure is not None:
            raise self._failure

    def tell(self, wrote: Wrote) -> None:
        """The next beats bring this news of a checkpoint's part. For any thread."""
        self._wrote = wrote
        self._news.set()

    def wait_checkpoint(self, checkpoint: str, timeout_s: float) -> bool:
        """Wait until this checkpoint is complete or given up; False when neither was heard within `timeout_s`.

        Raises as `check`.
        """
        deadline = time.monotonic() + timeout_s
        while self._checkpoint != checkpoint and time.monotonic() < deadline and self._thread.is_alive():
            self.check()
            self._news.set()
            time.sleep(_HURRY_S)
        self.check()
        return self._checkpoint == checkpoint

    def leave(self) -> None:
        """Beat no more, and say so: this role ends in good order."""
        self._says_good_bye = True
        self.stop()

    def stop(self) -> None:
        """Beat no more."""
        self._stop.set()
        self._news.set()
        if self._thread.is_alive():
            self._thread.join(self._carrier.network.heartbeat_s + STOP_S)
        if self._thread.is_alive():
            log.warning("the heartbeat of %s did not end; its thread goes with this process", self._carrier.member)

    def _beat(self) -> None:
        try:
            with closing(Connection(self._carrier, self._endpoint, self._coordinator)) as connection:
                self._say_hello(connection)
                self._exchange_beats(connection)
                if self._says_good_bye:
                    self._say_good_bye(connection)
        except FlpsError as error:
            self._failure = error

    def _exchange_beats(self, connection: Connection) -> None:
        network = self._carrier.network
        heard_at = time.monotonic()
        while not self._stop.is_set() and self._failure is None:
            connection.call(Beat(self._wrote))
            answer = connection.hear(network.heartbeat_s)
            while answer is not None:  # after a pause several come at once: the last one knows most
                if isinstance(answer, Pulse):
                    heard_at = time.monotonic()
                    self._take(answer)
                answer = connection.hear(0.0)
            if time.monotonic() - heard_at > max(network.lease_s, 2 * network.heartbeat_s):
                raise PeerLost(f"{self._coordinator} gave no sign of life for {network.lease_s:g} s")
            self._news.wait(max(0.0, heard_at + network.heartbeat_s - time.monotonic()))
            self._news.clear()  # before the loop looks whether to stop, and what to tell

    def _say_hello(self, connection: Connection) -> None:
        network = self._carrier.network
        deadline = time.monotonic() + network.start_timeout_s
        while not self._stop.is_set():
            connection.call(Hello(self._carrier.checkpoint))
            answer = connection.hear(network.heartbeat_s)
            if isinstance(answer, Refusal):
                raise RoleFailed(f"{self._coordinator} refused {self._carrier.member}: {answer.reason}")
            if isinstance(answer, Done):
                self._joined.set()
                return
            if time.monotonic() > deadline:
                raise NeverCameUp(
                    f"{self._coordinator} did not answer within {network.start_timeout_s:g} s of the start"
                )

    def _say_good_bye(self, connection: Connection) -> None:
        patience_s = 2 * self._carrier.network.heartbeat_s  # the coordinator may be gone, and then nobody misses it
        try:
            connection.ask(Leave(), patience_s)
        except PeerLost as error:
            log.info("good-bye without an answer: %s", error)

    def _take(self, pulse: Pulse) -> None:
        names = [name.partition(":") for name in pulse.lost]
        if not all(rank.isdecimal() for _, _, rank in names):
            raise ProtocolError(f"{self._coordinator} names lost members {pulse.lost}, expected role:rank")
        self._lost = frozenset(Member(role, int(rank)) for role, _, rank in names)
        self._checkpoint = pulse.checkpoint
        if pulse.stop:
            self._failure = RoleFailed(pulse.stop)
