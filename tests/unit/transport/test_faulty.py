"""Bad links on purpose: what is lost, doubled or late is still answered, once; and what strikes is told."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from flps.errors import ResourceError
from flps.faults import Faults
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
    Pull,
    Push,
    Report,
    Save,
    Update,
    Window,
)
from flps.metrics import EventReader
from flps.transport.faulty import Mishaps, Moments
from flps.transport.sockets import Carrier

Wire = Any  # see conftest.py
WORKER, SERVER = Member("worker", 1), Member("server", 0)


@pytest.fixture
def carriers(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Carrier]]:
    """Every carrier that a test makes; their faults end with it."""
    made: list[Carrier] = []
    init = Carrier.__init__

    def remembered(self: Carrier, *arguments: Any, **named: Any) -> None:
        init(self, *arguments, **named)
        made.append(self)

    monkeypatch.setattr(Carrier, "__init__", remembered)
    yield made
    for carrier in made:
        if carrier._mishaps is not None:
            carrier._mishaps.close()


def events(wire: Wire) -> list[str]:
    told = EventReader(str(wire.folder / "metrics.jsonl")).poll()
    return [event["fault"] for event in told if event["event"] == "fault"]


@pytest.mark.parametrize(("security", "end"), [("unix", ""), ("loopback", "@worker"), ("curve", "@server")])
def test_a_bad_link_answers_every_question_once(security: str, end: str, make_wire: Any, carriers: Any) -> None:
    wire = make_wire(security, retry_s=0.03)
    faults = Faults().drop(20, end[1:]).duplicate(20, end[1:]).reorder(10, end[1:]).delay(0, up_to_ms=4, on=end[1:])
    wire.job = _with(wire.job, faults)
    wire.listen()
    connections = [wire.dial(rank) for rank in range(2)]
    for n in range(0, 30, 3):
        asked = [(c, c.send(wire.look(n + k)), n + k) for k in range(3) for c in connections]
        assert all(wire.numbers(c.wait(number)) == [n] for c, number, n in asked)
    carried = [(m.rank, int(body.pulls[0].keys[0])) for m, body in wire.notebook.carried_out]
    assert [n for rank, n in carried if rank == 0] == list(range(30))
    assert [n for rank, n in carried if rank == 1] == list(range(30))
    for connection in connections:
        connection.close()
    for carrier in carriers:
        carrier._mishaps.close()
    assert {text.split("=")[0] for text in events(wire)} == {"drop", "duplicate", "reorder"}


def test_a_delay_is_there_and_back(make_wire: Any, carriers: Any) -> None:
    wire = make_wire()
    wire.job = _with(wire.job, Faults().delay(30))
    wire.listen()
    connection = wire.dial()
    began = time.monotonic()
    assert wire.echo(connection) == [1, 2]
    assert time.monotonic() - began >= 0.06
    connection.close()


def test_what_is_late_comes_even_when_nobody_waits_for_it(make_wire: Any, carriers: Any) -> None:
    """The wire goes on while a worker computes."""
    wire = make_wire()
    wire.job = _with(wire.job, Faults().delay(10))
    wire.listen()
    connection = wire.dial()
    number = connection.send(wire.look(5))
    deadline = time.monotonic() + 5
    while not wire.notebook.carried_out and time.monotonic() < deadline:
        time.sleep(0.005)
    assert len(wire.notebook.carried_out) == 1
    assert wire.numbers(connection.wait(number)) == [5]
    connection.close()


def test_a_rate_takes_its_time(make_wire: Any, carriers: Any) -> None:
    wire = make_wire()
    wire.job = _with(wire.job, Faults().rate(8))  # 1 MB/s
    wire.listen()
    connection = wire.dial()
    began = time.monotonic()
    connection.ask(Look((Pull(0, np.arange(5000, dtype=np.uint64) << np.uint64(33)),)))  # 40 kB there, 40 kB back
    assert time.monotonic() - began >= 0.08
    connection.close()


def test_a_cut_link_carries_nothing_until_it_is_whole_again(make_wire: Any, carriers: Any) -> None:
    wire = make_wire(retry_s=0.05)
    wire.job = _with(wire.job, Faults().partition("worker", 1, at="pushing", for_s=0.3))
    wire.listen()
    cut, other = wire.dial(1), wire.dial(2)
    assert wire.echo(cut) == [1, 2]
    began = time.monotonic()
    number = cut.send(Update(0, 0, 1, False, (), ()))
    assert wire.echo(other) == [1, 2]
    assert len(wire.notebook.carried_out) == 2
    cut.wait(number)
    assert time.monotonic() - began >= 0.3
    assert events(wire) == ["partition=worker:1@pushing+300ms"]
    cut.close()


def test_a_cut_at_the_listening_end(make_wire: Any, carriers: Any) -> None:
    wire = make_wire(retry_s=0.05)
    wire.job = _with(wire.job, Faults().partition("server", 0, at="pulling2", for_s=0.3))
    wire.listen()
    connection = wire.dial(1)
    assert wire.echo(connection) == [1, 2]
    began = time.monotonic()
    assert wire.echo(connection) == [1, 2]  # carried out; the answer waits for the link
    assert time.monotonic() - began >= 0.3
    assert len(wire.notebook.carried_out) == 2
    connection.close()


def test_without_faults_sockets_are_zmqs_own(make_wire: Any, carriers: Any) -> None:
    wire = make_wire().listen()
    plain = wire.dial()
    assert type(plain._socket).__module__.startswith("zmq.")
    wire.job = _with(wire.job, Faults().drop(5, "worker:9").kill("worker", 1, at_step=10**6))
    assert type(wire.dial(1)._socket).__module__.startswith("zmq.")
    assert plain._carrier._mishaps is None


def _with(job: Any, faults: Faults) -> Any:
    import msgspec

    return msgspec.structs.replace(job, faults=str(faults))


def test_a_full_disk_costs_a_bad_link_no_message(
    make_wire: Any, carriers: Any, monkeypatch: Any, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise ResourceError("cannot write events: No space left on device")

    monkeypatch.setattr("flps.transport.faulty.EventLog.write", full)
    wire = make_wire(retry_s=0.05)
    wire.job = _with(wire.job, Faults().duplicate(50).partition("worker", 1, at="pulling2", for_s=0.1))
    wire.listen()
    connection = wire.dial(1)
    for _ in range(10):
        assert wire.echo(connection) == [1, 2]
    connection.close()
    assert "this fault is not among the events: cannot write events" in caplog.text
    assert "goes on after an error" not in caplog.text


def test_an_error_in_a_bad_link_is_told_and_the_link_goes_on(
    make_wire: Any, carriers: Any, caplog: pytest.LogCaptureFixture
) -> None:
    wire = make_wire(retry_s=0.05)
    wire.job = _with(wire.job, Faults().delay(1))
    wire.listen()
    connection = wire.dial()
    link, errors = connection._socket, [ZeroDivisionError("once"), ZeroDivisionError("twice")]
    is_cut = link._is_cut

    def broken(now: float) -> bool:
        if errors:
            raise errors.pop()
        return bool(is_cut(now))

    link._is_cut = broken
    assert wire.echo(connection) == [1, 2]
    assert link._thread.is_alive()
    assert caplog.text.count("goes on after an error") == 2
    connection.close()


# --- strikes ---------------------------------------------------------------------------------------------------------


class Struck:
    """Writes signals down instead of sending them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.signals: list[int] = []
        self.wakers: list[list[str]] = []
        self.came = threading.Event()
        monkeypatch.setattr("flps.transport.faulty.os.kill", self._kill)
        monkeypatch.setattr("flps.transport.faulty.subprocess.Popen", self._popen)

    def _kill(self, pid: int, number: int) -> None:
        self.signals.append(number)
        self.came.set()

    def _popen(self, command: list[str]) -> Any:
        self.wakers.append(command)
        return type("Waker", (), {"wait": lambda self: 0})()


@pytest.fixture
def struck(monkeypatch: pytest.MonkeyPatch) -> Struck:
    return Struck(monkeypatch)


@pytest.fixture
def mishaps(make_wire: Any) -> Iterator[Callable[..., Mishaps]]:
    made: list[Mishaps] = []

    def make(faults: Faults, own: Member = WORKER, incarnation: int = 1) -> Mishaps:
        made.append(Mishaps(_with(make_wire().job, faults).terms, own, incarnation))
        return made[-1]

    yield make
    for one in made:
        one.close()


def test_a_kill_strikes_at_its_step(struck: Struck, mishaps: Any) -> None:
    faulty = mishaps(Faults().kill("worker", 1, at_step=3))
    for step in range(3):
        assert struck.signals == []
        faulty.saw(WORKER, Update(0, step, 1, False, (), ()))
    assert struck.signals[0] == 9


def test_a_stop_sees_to_its_end_first(struck: Struck, mishaps: Any) -> None:
    mishaps(Faults().stop("worker", 1, for_s=2.5, at="connecting")).saw(WORKER, Hello())
    assert "sleep 2.5; kill -CONT" in struck.wakers[0][2]
    assert struck.signals == [19]


def test_a_kill_by_the_clock(struck: Struck, mishaps: Any) -> None:
    mishaps(Faults().kill("worker", 1, after_s=0.01))
    assert struck.came.wait(5)
    assert struck.signals[0] == 9


def test_others_and_later_lives_are_spared(struck: Struck, mishaps: Any) -> None:
    faults = Faults().kill("worker", 1, at_step=1)
    mishaps(faults, Member("worker", 0)).saw(Member("worker", 0), Update(0, 0, 1, False, (), ()))
    mishaps(faults, incarnation=2).saw(WORKER, Update(0, 0, 1, False, (), ()))
    assert struck.signals == []


# --- moments ---------------------------------------------------------------------------------------------------------

DELTA = (Push(0, None, np.zeros(1, np.float32)),)


def seen(*said: Body | tuple[int, Body], geo_step: int = 10) -> list[list[tuple[str, int]]]:
    moments = Moments(geo_step)
    pairs = [one if isinstance(one, tuple) else (0, one) for one in said]
    return [list(moments.of(Member("worker", rank), body)) for rank, body in pairs]


def test_a_server_counts_the_steps_of_the_furthest_worker() -> None:
    steps = seen(*[(rank, Update(e, s, 1, False, (), ())) for e in (0, 1) for s in (0, 1) for rank in (0, 1)])
    assert [dict(one).get("step", 0) for one in steps] == [1, 0, 2, 0, 3, 0, 4, 0]
    assert [dict(one).get("epoch") for one in steps] == [0, None, None, None, 1, None, None, None]
    windows = seen(*[(rank, Window(0, 1, False, DELTA, {})) for rank in (0, 0, 1, 0)])
    assert [dict(one)["step"] for one in windows] == [10, 20, 20, 30]


@pytest.mark.parametrize(
    ("body", "phase"),
    [
        (Hello(), "connecting"),
        (Declare(()), "connecting"),
        (Look(()), "pulling"),
        (Window(0, 0, False, (), {}), "pulling"),
        (Window(0, 1, False, DELTA, {}), "pushing"),
        (Arrive("begin 0", Report()), "barrier"),
        (Arrive("trained 0", Report()), "barrier"),
        (Arrive("saved private 1", Report()), "saving"),
        (Arrive("evaluated 1", Report()), "evaluating"),
        (Save(1), "saving"),
        (Detach(), "ending"),
        (Leave(), "ending"),
    ],
)
def test_phases(body: Body, phase: str) -> None:
    ((*_, last),) = seen(body)
    assert last[0] == phase


def test_what_a_sign_of_life_stands_for() -> None:
    final = Update(0, 0, 1, True, (), ())
    at_server = seen(Beat(), final, Beat(), Look(()), Beat(), Save(1), Beat(), Update(1, 0, 1, False, (), ()), Beat())
    assert [one[0][0] if one else "" for one in at_server[::2]] == ["", "barrier", "evaluating", "evaluating", ""]
    at_coordinator = seen(Beat(), Arrive("begin 0", Report()), Beat(), Arrive("trained 0", Report()), Beat())
    assert [one[0][0] if one else "" for one in at_coordinator[::2]] == ["", "training", ""]
