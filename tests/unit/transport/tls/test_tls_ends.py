"""A door and its diallers over real sockets: messages, order, back-pressure, lost connections."""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import zmq
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flps.errors import ConfigError, ResourceError
from flps.frames import Limits
from flps.transport.tls.dialler import TlsDialler, parse
from flps.transport.tls.door import TlsDoor

Authority = Any  # see conftest.py
Ends = Any
WAIT_MS = 10_000


def received(end: TlsDoor | TlsDialler) -> list[bytes]:
    """The next message; fails when none comes."""
    assert end.poll(WAIT_MS), getattr(end, "trouble", "")
    return [bytes(part.buffer) for part in end.recv_multipart(copy=False)]


def until(condition: Callable[[], bool]) -> bool:
    """Whether it holds before long."""
    deadline = time.monotonic() + 10
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.002)
    return condition()


@pytest.fixture
def pair(authority: Authority, ends: Ends) -> tuple[TlsDoor, TlsDialler]:
    door = ends.door(authority.identity())
    return door, ends.dialler(authority.identity(), door.port)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.lists(st.binary(max_size=300), min_size=1, max_size=20), min_size=1, max_size=5))
def test_messages_go_both_ways_in_order(pair: tuple[TlsDoor, TlsDialler], messages: list[list[bytes]]) -> None:
    door, dialler = pair
    for message in messages:
        dialler.send_multipart(message, copy=False)
    for message in messages:
        address, *frames = received(door)
        assert frames == message
        door.send_multipart([address, *frames], copy=True)
    assert [received(dialler) for _ in messages] == messages


def test_parts_are_what_a_listener_needs(pair: tuple[TlsDoor, TlsDialler]) -> None:
    door, dialler = pair
    dialler.send_multipart([b"abc"])
    assert door.poll(WAIT_MS)
    address, part = door.recv_multipart(copy=False)
    assert (len(part), part.bytes) == (3, b"abc")
    assert part.source.link.channel.names == {"localhost", "follower-1"}
    door.send_multipart([address, memoryview(b"d"), np.arange(2.0)], copy=False)
    assert received(dialler) == [b"d", np.arange(2.0).tobytes()]
    assert not dialler.poll(0)
    assert not door.poll(1)


def test_copy_means_copy(authority: Authority, ends: Ends) -> None:
    probe = socket.create_server(("127.0.0.1", 0))
    port = probe.getsockname()[1]
    probe.close()
    dialler = ends.dialler(authority.identity(), port)  # nobody answers yet
    content = bytearray(b"before")
    dialler.send_multipart([content], copy=True)
    content[:] = b"after!"
    door = ends.door(authority.identity(), port)
    assert received(door)[1:] == [b"before"]


def test_large_messages(authority: Authority, ends: Ends) -> None:
    limits = Limits(frames=4, frame_bytes=100 << 20, message_bytes=100 << 20)
    door = ends.door(authority.identity(), limits=limits)
    dialler = ends.dialler(authority.identity(), door.port, limits=limits)
    values = np.arange(100 << 17, dtype=np.uint64)
    dialler.send_multipart([values], copy=False)
    assert door.poll(60_000)
    assert np.array_equal(np.frombuffer(door.recv_multipart(copy=False)[1].buffer, np.uint64), values)


def test_many_visitors_each_get_their_own_answers(authority: Authority, ends: Ends) -> None:
    door, identity = ends.door(authority.identity()), authority.identity()
    diallers = [ends.dialler(identity, door.port) for _ in range(8)]
    for number, dialler in enumerate(diallers):
        dialler.send_multipart([b"%d" % number])
    for _ in diallers:
        address, frame = received(door)
        door.send_multipart([address, b"to " + frame])
    assert [received(dialler) for dialler in diallers] == [[b"to %d" % n] for n in range(8)]


def test_an_answer_to_somebody_who_has_gone_is_dropped(pair: tuple[TlsDoor, TlsDialler]) -> None:
    door, dialler = pair
    dialler.send_multipart([b"q"])
    address, _ = received(door)
    dialler.close()
    assert until(lambda: not door._visitors)
    door.send_multipart([address, b"a"])
    door.send_multipart([b"never was", b"a"])


def test_the_dialler_comes_back_after_the_door_was_opened_again(
    authority: Authority, ends: Ends, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    door = ends.door(authority.identity())
    dialler = ends.dialler(authority.identity(), door.port)
    for number in range(3):
        dialler.send_multipart([b"%d" % number])
        assert received(door)[1:] == [b"%d" % number]
        door.close()
        assert until(lambda: dialler.trouble != "")
        door = ends.door(authority.identity(), door.port)
    dialler.send_multipart([b"end"])
    assert received(door)[1:] == [b"end"]
    assert not door.poll(50)  # nothing is doubled
    assert dialler.trouble == ""
    assert "connected to leader:0" in caplog.text


def test_a_message_cut_in_the_middle_comes_whole_later_and_once(authority: Authority, ends: Ends) -> None:
    limits = Limits(frames=4, frame_bytes=64 << 20, message_bytes=128 << 20)
    door = ends.door(authority.identity(), limits=limits)
    dialler = ends.dialler(authority.identity(), door.port, limits=limits)
    dialler.send_multipart([b"first"])
    received(door)
    relayed = os.urandom(1 << 20) * 64
    dialler.send_multipart([relayed], copy=False)
    assert until(lambda: dialler._outbox._piece + dialler._outbox._offset > 0)
    door.close()
    door = ends.door(authority.identity(), door.port, limits=limits)
    assert received(door)[1:] == [relayed]
    assert not door.poll(50)


def test_a_full_queue_waits_or_says_so(authority: Authority, ends: Ends) -> None:
    probe = socket.create_server(("127.0.0.1", 0))
    port = probe.getsockname()[1]
    probe.close()
    dialler = ends.dialler(authority.identity(), port)  # nobody there
    for _ in range(1000):
        dialler.send_multipart([b"x"], flags=zmq.DONTWAIT)
    with pytest.raises(zmq.Again):
        dialler.send_multipart([b"x"], flags=zmq.DONTWAIT)
    assert len(dialler._outbox) == 1000
    waiting = threading.Thread(target=lambda: dialler.send_multipart([b"late"]))
    waiting.start()
    assert waiting.is_alive()
    door = ends.door(authority.identity(), port)
    assert [received(door)[1] for _ in range(1001)] == [b"x"] * 1000 + [b"late"]
    waiting.join()


def test_who_is_not_received_from_is_held_back_and_nothing_is_lost(pair: tuple[TlsDoor, TlsDialler]) -> None:
    door, dialler = pair
    count, frame = 60, os.urandom(1 << 20)
    for number in range(count):  # blocks when all queues are full, so from a thread
        if number == 0:
            sender = threading.Thread(
                target=lambda: [dialler.send_multipart([b"%d" % n, frame], copy=False) for n in range(count)]
            )
            sender.start()
            sender.join(0.5)
            assert sender.is_alive()
            held = sum(door._inbox._bytes.values())
            assert held <= (2 << 20) + (1 << 20) + 10
        assert received(door)[1:] == [b"%d" % number, frame]
    sender.join()


def test_one_visitor_that_does_not_read_holds_up_nobody(authority: Authority, ends: Ends) -> None:
    door = ends.door(authority.identity())
    deaf, other = (ends.dialler(authority.identity(), door.port) for _ in range(2))
    deaf.send_multipart([b"deaf"])
    address, _ = received(door)
    for _ in range(40):
        door.send_multipart([address, bytes(1 << 20)], copy=False)  # most are dropped
    other.send_multipart([b"other"])
    mine, _ = received(door)
    door.send_multipart([mine, b"answer"])
    assert received(other) == [b"answer"]
    assert sum(deaf._inbox._bytes.values()) <= 3 << 20


def test_a_message_over_the_limits_ends_the_connection_not_the_door(authority: Authority, ends: Ends) -> None:
    door = ends.door(authority.identity())
    wide = Limits(frames=1000, frame_bytes=1 << 24, message_bytes=1 << 24)
    dialler = ends.dialler(authority.identity(), door.port, limits=wide)
    dialler.send_multipart([bytes(2 << 20)])
    assert until(lambda: door.cut == 1)
    ends.dialler(authority.identity(), door.port).send_multipart([b"well"])
    assert received(door)[1:] == [b"well"]


def test_closing_with_a_moment_for_last_words(pair: tuple[TlsDoor, TlsDialler]) -> None:
    door, dialler = pair
    dialler.send_multipart([b"q"])
    address, _ = received(door)
    for number in range(20):
        door.send_multipart([address, b"%d" % number, bytes(50_000)])
    door.close(linger_s=5.0)
    assert [received(dialler)[0] for _ in range(20)] == [b"%d" % n for n in range(20)]
    for end in pair:
        end.close()
        end.close()
        assert end.closed
        with pytest.raises(zmq.ZMQError):
            end.send_multipart([b"x"])


def test_nothing_is_left_over_and_nobody_is_busy(authority: Authority, ends: Ends) -> None:
    files, threads = len(os.listdir("/proc/self/fd")), threading.active_count()
    identity = authority.identity()
    for _ in range(5):
        door = ends.door(identity)
        dialler = ends.dialler(identity, door.port)
        dialler.send_multipart([b"x"])
        received(door)
        dialler.close()
        door.close()
    assert len(os.listdir("/proc/self/fd")) == files
    assert threading.active_count() == threads
    door = ends.door(identity)
    dialler = ends.dialler(identity, door.port)
    absent = ends.dialler(identity, 1)
    dialler.send_multipart([b"x"])
    received(door)
    assert until(lambda: absent.trouble != "")
    before = time.process_time()
    assert not door.poll(500)
    assert time.process_time() - before < 0.1


def test_when_no_file_is_left_the_door_waits_and_is_not_busy(
    authority: Authority, ends: Ends, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    door = ends.door(authority.identity())
    real, calls = door._listening, []

    class Exhausted:
        def accept(self) -> None:
            calls.append(1)
            raise OSError(24, "Too many open files")

        def __getattr__(self, name: str) -> Any:
            return getattr(real, name)

    door._selector.unregister(real)
    exhausted: Any = Exhausted()
    door._listening = exhausted
    door._selector.register(exhausted, 1)
    door._wake.set()
    dialler = ends.dialler(authority.identity(), door.port)
    assert until(lambda: len(calls) >= 2)
    assert len(calls) < 10
    assert "cannot let a visitor in: Too many open files" in caplog.text
    dialler.close()
    door.close()


def test_a_host_that_is_no_name(authority: Authority, ends: Ends) -> None:
    dialler = ends.dialler(authority.identity(), 1, host="a" * 70 + ".example")
    assert until(lambda: dialler.trouble != "")
    assert not dialler.poll(1)


@pytest.mark.parametrize("text", ["tls://host", "tls://:1", "tls://host:x", "tls://host:70000", "tcp://host:1"])
def test_what_is_no_endpoint(text: str) -> None:
    with pytest.raises(ConfigError, match="expected tls://host:port"):
        parse(text)


def test_endpoints() -> None:
    assert parse("tls://a.example:9") == ("a.example", 9)
    assert parse("tls://[::1]:9") == ("::1", 9)


def test_a_port_that_is_taken(authority: Authority, ends: Ends) -> None:
    door = ends.door(authority.identity())
    with pytest.raises(ResourceError, match=r"cannot listen at tls://127\.0\.0\.1:\d+: Address already in use"):
        ends.door(authority.identity(), door.port)
