"""Signs of life: joining, news of losses, and every way in which it ends."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from flps.errors import NeverCameUp, PeerLost, ProtocolError, Refused, RoleFailed
from flps.membership import Member
from flps.message import Beat, Body, Done, Hello, Leave, Pulse
from flps.transport.beat import Heartbeat
from flps.transport.sockets import Carrier

WORKER = Member("worker", 1)
COORDINATOR = Member("coordinator", 0)


class Scripted:
    """A coordinator that says what a test wants; `None` in place of a pulse: it is silent."""

    def __init__(self) -> None:
        self.welcome = True
        self.parts = True
        self.pulse: Pulse | None = Pulse((), "")
        self.heard: list[Body] = []

    def answer(self, body: Body) -> Body | None:
        self.heard.append(body)
        if isinstance(body, Leave):
            return Done() if self.parts else None
        if isinstance(body, Hello):
            if not self.welcome:
                raise Refused("worker:1 is lost in this run")
            return Done()
        assert isinstance(body, Beat)
        return self.pulse


@contextmanager
def heartbeat(wire: Any) -> Iterator[Heartbeat]:
    beating = Heartbeat(Carrier(wire.job.terms, WORKER), wire.endpoint, COORDINATOR)
    beating.start()
    try:
        yield beating
    finally:
        beating.stop()


def until(seen: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 5
    while not seen():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def watch(beating: Heartbeat) -> None:
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        beating.check()
        time.sleep(0.005)


def ends_with(beating: Heartbeat, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        watch(beating)


@pytest.fixture
def scripted() -> Scripted:
    return Scripted()


def test_who_ends_in_good_order_says_so(scripted: Scripted, make_wire: Any) -> None:
    wire = make_wire().listen(scripted.answer, COORDINATOR)
    with heartbeat(wire) as beating:
        beating.wait_joined()
        beating.leave()
        assert scripted.heard[-1] == Leave()
        beating.check()


def test_who_ends_waits_two_beats_for_a_coordinator_that_is_gone(scripted: Scripted, make_wire: Any) -> None:
    scripted.parts = False
    with heartbeat(make_wire().listen(scripted.answer, COORDINATOR)) as beating:
        beating.wait_joined()
        began = time.monotonic()
        beating.leave()
        assert time.monotonic() - began < 2
        beating.check()


def test_joins_beats_and_stops(scripted: Scripted, make_wire: Any) -> None:
    wire = make_wire().listen(scripted.answer, COORDINATOR)
    with heartbeat(wire) as beating:
        beating.wait_joined()
        until(lambda: scripted.heard.count(Beat()) >= 3)
        beating.check()
        assert scripted.heard[0] == Hello()
        assert beating.lost == frozenset()
    count = len(scripted.heard)
    time.sleep(2 * wire.network.heartbeat_s)
    assert len(scripted.heard) <= count + 1  # one may have been on its way


def test_stopping_before_anybody_answers_is_quick(make_wire: Any) -> None:
    with heartbeat(make_wire()):
        began = time.monotonic()
    assert time.monotonic() - began < 0.5


def test_news_of_losses(scripted: Scripted, make_wire: Any) -> None:
    wire = make_wire().listen(scripted.answer, COORDINATOR)
    with heartbeat(wire) as beating:
        beating.wait_joined()
        scripted.pulse = Pulse(("worker:0", "server:12"), "")
        until(lambda: bool(beating.lost))
        assert beating.lost == {Member("worker", 0), Member("server", 12)}
        beating.check()


def test_told_to_stop(scripted: Scripted, make_wire: Any) -> None:
    wire = make_wire().listen(scripted.answer, COORDINATOR)
    with heartbeat(wire) as beating:
        beating.wait_joined()
        scripted.pulse = Pulse(("server:0",), "server:0 is lost (silent); its share of the tables is gone")
        ends_with(beating, RoleFailed, r"server:0 is lost \(silent\); its share of the tables is gone")
        assert beating.lost == {Member("server", 0)}


def test_not_wanted(scripted: Scripted, make_wire: Any) -> None:
    scripted.welcome = False
    wire = make_wire().listen(scripted.answer, COORDINATOR)
    with (
        heartbeat(wire) as beating,
        pytest.raises(RoleFailed, match="coordinator:0 refused worker:1: worker:1 is lost"),
    ):
        beating.wait_joined()


def test_nobody_there(make_wire: Any) -> None:
    with (
        heartbeat(make_wire(start_timeout_s=0.2)) as beating,
        pytest.raises(NeverCameUp, match=r"coordinator:0 did not answer within 0\.2 s of the start"),
    ):
        beating.wait_joined()


def test_a_thread_that_has_ended_is_not_waited_for(make_wire: Any) -> None:
    with heartbeat(make_wire(start_timeout_s=60)) as beating:
        beating.stop()
        with pytest.raises(RoleFailed, match="worker:1 stopped before coordinator:0 had answered"):
            beating.wait_joined()


def test_silent_coordinator(scripted: Scripted, make_wire: Any) -> None:
    wire = make_wire(lease_s=0.4).listen(scripted.answer, COORDINATOR)
    with heartbeat(wire) as beating:
        beating.wait_joined()
        scripted.pulse = None
        ends_with(beating, PeerLost, r"coordinator:0 gave no sign of life for 0\.4 s")


def test_a_coordinator_that_talks_nonsense(scripted: Scripted, make_wire: Any) -> None:
    scripted.pulse = Pulse(("nobody",), "")
    wire = make_wire().listen(scripted.answer, COORDINATOR)
    with heartbeat(wire) as beating:
        ends_with(beating, ProtocolError, "names lost members .*expected role:rank")


def test_a_key_that_cannot_be_read_ends_it_too(make_wire: Any) -> None:
    wire = make_wire("curve")
    (wire.folder / "keys" / "worker.secret").unlink()
    with heartbeat(wire) as beating, pytest.raises(Exception, match="cannot read key"):
        beating.wait_joined()
