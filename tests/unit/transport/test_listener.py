"""Whatever is thrown at a listener, it refuses it, says so, and goes on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
import pytest
import zmq

from flps.frames import decode, encode
from flps.membership import Member
from flps.message import VERSION, Envelope, Look, Refusal

Wire = Any  # see conftest.py


@contextmanager
def raw(wire: Wire) -> Iterator[Any]:
    """A socket that says what it likes."""
    with zmq.Context.instance().socket(zmq.DEALER) as socket:
        socket.setsockopt(zmq.LINGER, 0)
        socket.connect(wire.endpoint)
        yield socket


def header(wire: Wire, **changes: Any) -> bytes:
    envelope = Envelope(VERSION, wire.job.run_id, "worker:5", 1, 1, Look(()))
    return bytes(encode(msgspec.structs.replace(envelope, **changes))[0])  # type: ignore[arg-type]


GARBAGE: dict[str, Callable[[Wire], list[bytes]]] = {
    "nothing": lambda wire: [b""],
    "noise": lambda wire: [b"\x00\xff" * 50, b"x"],
    "many frames": lambda wire: [header(wire)] * 1025,
    "too large a frame": lambda wire: [header(wire), bytes(wire.network.frame_bytes_max + 1)],
    "too large a header": lambda wire: [bytes(1 << 20)],
    "frames that nobody named": lambda wire: [header(wire), b"more"],
    "cut": lambda wire: [header(wire)[:-1]],
    "another version": lambda wire: [header(wire, version=2)],
    "another run": lambda wire: [header(wire, run="another")],
    "no member": lambda wire: [header(wire, sender="somebody")],
    "no rank": lambda wire: [header(wire, sender="worker:")],
    "a negative rank": lambda wire: [header(wire, sender="worker:-1")],
    "a large rank": lambda wire: [header(wire, sender="worker:1234567")],
}


@pytest.mark.parametrize("what", GARBAGE)
@pytest.mark.parametrize("security", ["unix", "plain"])
def test_garbage_gets_no_answer_and_the_listener_goes_on(security: str, what: str, make_wire: Any) -> None:
    wire = make_wire(security).listen()
    with raw(wire) as socket:
        for _ in range(3):
            socket.send_multipart(GARBAGE[what](wire))
        assert wire.has_rejected(3)
        assert wire.is_well()
        assert not socket.poll(20)
    assert [member for member, _ in wire.notebook.carried_out] == [Member("worker", 77)]


def test_a_frame_over_the_limit_ends_that_peers_connection_alone(make_wire: Any) -> None:
    wire = make_wire("unix").listen()
    with raw(wire) as socket:
        socket.send_multipart([header(wire), bytes(2 * wire.network.frame_bytes_max)])
        assert wire.is_well()
        assert wire.notebook.carried_out[0][0] == Member("worker", 77)


@pytest.mark.parametrize("sequence", [6, 2**53])
def test_a_gap_is_refused_with_its_numbers(sequence: int, make_wire: Any) -> None:
    wire = make_wire().listen()
    with raw(wire) as socket:
        socket.send_multipart([header(wire, sequence=sequence)])
        assert socket.poll(5000)
        answer = decode(socket.recv_multipart(), wire.dial()._carrier.limits)
    assert answer.body == Refusal(f"worker:5 sent request {sequence}, expected 1")
    assert answer.sequence == sequence
    assert wire.notebook.carried_out == []


def test_early_requests_are_silently_dropped_until_their_turn(make_wire: Any) -> None:
    wire = make_wire().listen()
    with raw(wire) as socket:
        for sequence in (2, 2, 1, 2, 1):
            socket.send_multipart([header(wire, sequence=sequence)])
        came = []
        while socket.poll(200):
            came.append(decode(socket.recv_multipart(), wire.dial()._carrier.limits).sequence)
    assert came == [1, 2, 1]
    assert len(wire.notebook.carried_out) == 2


def test_names_of_one_member_are_one_member(make_wire: Any) -> None:
    """`worker:05` is worker 5: no second numbering of requests by another spelling."""
    wire = make_wire().listen()
    with raw(wire) as socket:
        for sender in ("worker:5", "worker:05", "worker:\u0665"):
            socket.send_multipart([header(wire, sender=sender)])
            assert socket.poll(5000)
            socket.recv_multipart()
        assert wire.is_well()
    assert [member.rank for member, _ in wire.notebook.carried_out] == [5, 77]


def test_messages_of_zeros_are_counted_as_refused_without_a_word_more(make_wire: Any, caplog: Any) -> None:
    wire = make_wire().listen()
    with raw(wire) as socket:
        socket.send_multipart([b"\0" * 10_000])
        assert wire.has_rejected(1)
    (line,) = [record.message for record in caplog.records if "refused a message" in record.message]
    assert line.startswith("refused a message of a stranger: unreadable header")
    assert len(line) < 500
