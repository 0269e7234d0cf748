"""Questions and answers over real sockets; what is lost comes again and is carried out once."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Container
from typing import Any

import numpy as np
import pytest
import zmq

from flps.errors import ConfigError, FlpsError, PeerLost, Refused, ResourceError
from flps.membership import Member
from flps.message import Arrive, Beat, Done, Hello, Look, Pull, Release, Report, Rows, Save, Saved

Wire = Any  # see conftest.py
MakeWire = Callable[..., Any]


# --- over every kind of endpoint -------------------------------------------------------------------------------------


def test_a_question_is_answered(wire: Wire) -> None:
    connection = wire.dial(1)
    assert wire.numbers(connection.ask(wire.look(3, 2**64 - 1))) == [3, 2**64 - 1]
    assert wire.notebook.carried_out[0][0] == Member("worker", 1)


def test_answers_find_their_questions(wire: Wire) -> None:
    first, second = wire.dial(0), wire.dial(1)
    asked = [(c, c.send(wire.look(n))) for n, c in enumerate([first, second, first, first, second])]
    for n, (connection, number) in reversed(list(enumerate(asked))):
        assert wire.numbers(connection.wait(number)) == [n]


def test_an_answer_may_come_long_after_its_question(wire: Wire) -> None:
    """Two retries pass before the second worker arrives; each arrival is carried out once."""
    first, second = wire.dial(0), wire.dial(1)
    number = first.send(Arrive("a", Report()))
    with pytest.raises(PeerLost):
        first.wait(first.send(wire.look(1)), 0.0)  # a wait that ends takes nothing from the others
    threading.Timer(0.25, lambda: second.send(Arrive("a", Report()))).start()
    assert isinstance(first.wait(number), Release)
    assert isinstance(second.wait(1), Release)
    assert sum(isinstance(body, Arrive) for _, body in wire.notebook.carried_out) == 2


def test_refusals_are_told_with_their_reason_and_the_connection_goes_on(wire: Wire) -> None:
    connection = wire.dial()
    with pytest.raises(Refused, match=r"server:0: epoch 3 is refused"):
        connection.ask(Save(3))
    with pytest.raises(Refused, match=r"server:0: a worker may not send Saved to a server"):
        connection.ask(Saved({}))
    with pytest.raises(Refused, match=r"xxx$"):
        connection.ask(Save(9_999))  # a reason longer than a message may hold is cut
    assert wire.echo(connection) == [1, 2]
    assert wire.has_rejected(3)


def test_large_tensors_pass_and_bytes_are_counted_alike_at_both_ends(wire: Wire) -> None:
    connection = wire.dial()
    keys = np.arange(2**17, dtype=np.uint64) + np.uint64(2**40)  # too large to travel in four bytes
    answer = connection.ask(Look((Pull(0, keys),)))
    assert isinstance(answer, Rows)
    assert np.array_equal(answer.values[0], keys)
    assert connection.bytes_out == wire.listener.bytes_in > keys.nbytes
    assert connection.bytes_in == wire.listener.bytes_out > keys.nbytes


def test_what_is_not_numbered_is_heard(wire: Wire) -> None:
    connection = wire.dial()
    connection.call(Beat())
    assert connection.hear(5.0) == Done()
    assert connection.hear(0.0) is None


@pytest.mark.parametrize("security", ["unix", "plain", "curve"])  # loopback endpoints are a run's own
def test_a_foreign_run_gets_no_answer(security: str, make_wire: MakeWire) -> None:
    wire = make_wire(security).listen()
    stranger = wire.dial(run_id="another")
    with pytest.raises(PeerLost):
        stranger.ask(wire.look(1), 0.15)
    assert wire.notebook.carried_out == []
    assert wire.is_well()
    assert wire.rejected >= 1


@pytest.mark.parametrize("security", ["loopback", "plain"])  # unix sockets are taken over: their folder is the run's
def test_a_second_listener_at_one_endpoint_is_refused(security: str, make_wire: MakeWire) -> None:
    wire = make_wire(security).listen()
    second = make_wire()
    second.job, second.endpoint = wire.job, wire.endpoint
    with pytest.raises(ResourceError, match="server:0 cannot listen at"):
        second.listen()
    assert wire.is_well()


# --- what is lost ----------------------------------------------------------------------------------------------------


class Lossy:
    """Passes messages of one client on and loses those whose places are named."""

    def __init__(self, wire: Wire, requests: set[int], replies: set[int], doubled: Container[int] = ()) -> None:
        self.endpoint = f"ipc://{wire.folder}/lossy"
        self._lost = {"request": requests, "reply": replies}
        self._doubled = doubled
        self._seen = {"request": 0, "reply": 0}
        context = zmq.Context.instance()
        self._front, self._back = context.socket(zmq.ROUTER), context.socket(zmq.DEALER)
        for one in (self._front, self._back):
            one.setsockopt(zmq.LINGER, 0)
        self._front.bind(self.endpoint)
        self._back.connect(wire.endpoint)
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._pass_on)
        self._thread.start()
        wire.at_end(self.close)

    def close(self) -> None:
        self._is_over.set()
        self._thread.join()

    def _pass_on(self) -> None:
        client = b""
        while not self._is_over.is_set():
            if self._front.poll(5):
                client, *frames = self._front.recv_multipart()
                for _ in range(self._copies("request")):
                    self._back.send_multipart(frames)
            while self._back.poll(0):
                frames = self._back.recv_multipart()
                for _ in range(self._copies("reply")):
                    self._front.send_multipart([client, *frames])
        self._front.close()
        self._back.close()

    def _copies(self, what: str) -> int:
        place = self._seen[what]
        self._seen[what] += 1
        return 0 if place in self._lost[what] else 2 if place in self._doubled else 1


LOSSES: dict[str, tuple[set[int], set[int]]] = {
    "nothing": (set(), set()),
    "the request": ({0}, set()),
    "the request, twice": ({0, 1}, set()),
    "the reply": (set(), {0}),
    "the reply, twice": (set(), {0, 1}),
    "request and reply": ({0}, {0}),
}


@pytest.mark.parametrize("loss", LOSSES)
def test_what_is_lost_is_sent_again_and_carried_out_once(loss: str, make_wire: MakeWire) -> None:
    wire = make_wire().listen()
    connection = wire.dial(endpoint=Lossy(wire, *LOSSES[loss]).endpoint)
    for n in range(3):
        assert wire.numbers(connection.ask(wire.look(n))) == [n]
    assert [int(body.pulls[0].keys[0]) for _, body in wire.notebook.carried_out] == [0, 1, 2]
    assert wire.rejected == 0


def test_a_request_that_overtook_a_lost_one_waits_for_it(make_wire: MakeWire) -> None:
    wire = make_wire().listen()
    connection = wire.dial(endpoint=Lossy(wire, {0}, set()).endpoint)
    numbers = [connection.send(wire.look(n)) for n in range(3)]
    assert [wire.numbers(connection.wait(number)) for number in reversed(numbers)] == [[2], [1], [0]]
    assert [int(body.pulls[0].keys[0]) for _, body in wire.notebook.carried_out] == [0, 1, 2]
    assert wire.rejected == 0


def test_doubled_messages_are_carried_out_once(make_wire: MakeWire) -> None:
    wire = make_wire().listen()
    connection = wire.dial(endpoint=Lossy(wire, set(), set(), doubled=set(range(99))).endpoint)
    for n in range(5):
        assert wire.numbers(connection.ask(wire.look(n))) == [n]
    assert len(wire.notebook.carried_out) == 5


def test_a_refusal_whose_reply_was_lost_is_told_again_and_not_decided_again(make_wire: MakeWire) -> None:
    wire = make_wire().listen()
    connection = wire.dial(endpoint=Lossy(wire, set(), {0}).endpoint)
    with pytest.raises(Refused, match="epoch 1 is refused"):
        connection.ask(Save(1))
    assert len(wire.notebook.carried_out) == 1


def test_a_new_life_of_a_client_is_numbered_anew_and_the_old_one_is_refused(make_wire: MakeWire) -> None:
    wire = make_wire().listen()
    old = wire.dial(incarnation=1)
    assert wire.echo(old) == [1, 2]
    assert wire.echo(wire.dial(incarnation=2)) == [1, 2]
    with pytest.raises(Refused, match="worker:0 speaks as incarnation 1, but 2 is known"):
        wire.echo(old)


# --- deadlines -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("security", ["unix", "loopback", "plain", "curve"])
def test_silence_ends_in_an_error_that_names_the_peer(security: str, make_wire: MakeWire) -> None:
    connection = make_wire(security).dial(1, peer=Member("server", 0))
    began = time.monotonic()
    with pytest.raises(PeerLost, match=r"server:0 did not answer worker:1 within 0\.2 s"):
        connection.ask(Hello(), 0.2)
    assert time.monotonic() - began < 2


def test_without_a_number_the_configured_deadline_holds(make_wire: MakeWire) -> None:
    connection = make_wire(request_timeout_s=0.1).dial()
    with pytest.raises(PeerLost, match=r"within 0\.1 s"):
        connection.ask(Hello())


def test_who_comes_late_still_gets_the_question(make_wire: MakeWire) -> None:
    wire = make_wire()
    connection = wire.dial()
    number = connection.send(wire.look(5))
    wire.listen()
    assert wire.numbers(connection.wait(number)) == [5]
    assert len(wire.notebook.carried_out) == 1


def test_an_alarm_ends_a_wait_early(make_wire: MakeWire) -> None:
    def alarm() -> None:
        raise FlpsError("waiting has become pointless")

    connection = make_wire().dial(alarm=alarm)
    with pytest.raises(FlpsError, match="pointless"):
        connection.ask(Hello(), 60.0)


# --- too large -------------------------------------------------------------------------------------------------------


def test_a_question_that_peers_would_not_take_is_not_sent(wire: Wire) -> None:
    connection = wire.dial()
    too_much = np.full(2**17 + 1, 2**40, np.uint64)
    with pytest.raises(ConfigError, match=r"a tensor of 1048584 bytes is over network\.frame_bytes_max, 1048576"):
        connection.ask(Look((Pull(0, too_much),)))
    assert wire.echo(connection) == [1, 2]


def test_an_answer_that_would_be_too_large_is_refused(make_wire: MakeWire) -> None:
    wire = make_wire().listen(lambda _: Rows((np.zeros(2**18),)))
    with pytest.raises(Refused, match=r"is over network\.frame_bytes_max"):
        wire.dial().ask(wire.look(1))
