"""What a crowd, a dawdler or an endless message does to a listener: nothing to the others, and little to its memory.

The peers here speak ZMTP (ZeroMQ RFC 23) by hand: zmq itself does not send a message before its last part is there.
"""

from __future__ import annotations

import os
import resource
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import psutil
import pytest
import zmq

from flps.errors import FlpsError, PeerLost
from flps.frames import encode
from flps.membership import Member
from flps.message import VERSION, Beat, Envelope, Look
from flps.transport.gate import Gate, _bytes_of, _peer

GREETING = b"\xff" + bytes(8) + b"\x7f" + b"\x03\x00" + b"NULL".ljust(20, b"\0") + b"\0" + bytes(31)
READY = b"\x05READY" + b"\x0bSocket-Type" + struct.pack(">I", 6) + b"DEALER"
MIB = 1 << 20
needs_counts = pytest.mark.skipif(not hasattr(socket, "TCP_INFO"), reason="the kernel does not count bytes")


def port_of(wire: Any) -> int:
    return int(wire.endpoint.rpartition(":")[2])


def caller(wire: Any) -> socket.socket:
    """A connection that has said nothing."""
    return socket.create_connection(("127.0.0.1", port_of(wire)), timeout=5)


@contextmanager
def shaken(wire: Any) -> Iterator[socket.socket]:
    """A connection after its handshake, without keys."""
    with caller(wire) as connection:
        connection.sendall(GREETING + bytes([4, len(READY)]) + READY)
        came = 0
        while came < 64 + 2 + len(READY) - 6 + 6:
            came += len(connection.recv(4096))
        yield connection


def part(body: bytes, more: bool) -> bytes:
    size = bytes([len(body)]) if len(body) < 256 else struct.pack(">Q", len(body))
    return bytes([more | (2 if len(body) > 255 else 0)]) + size + body


def header(wire: Any) -> bytes:
    return bytes(encode(Envelope(VERSION, wire.job.run_id, "worker:5", 1, 1, Look(())))[0])  # type: ignore[arg-type]


def is_cut(connection: socket.socket) -> bool:
    """Whether the other end has hung up."""
    connection.settimeout(5)
    with suppress(ConnectionError):
        while connection.recv(4096):
            pass
    return True


def pour(connection: socket.socket, block: bytes, times: int) -> int:
    """Send a block again and again; how often that went."""
    for count in range(times):
        try:
            connection.sendall(block)
        except OSError:
            return count
    return times


@needs_counts
@pytest.mark.parametrize("size", [20, 5000])
def test_an_endless_message_is_cut_and_memory_stays_flat(size: int, make_wire: Any) -> None:
    """Twice: what the first one cost is used again by the second."""
    wire = make_wire("plain", message_bytes_max=8 * MIB).listen()
    block = part(b"x" * size, more=True) * (MIB // size)
    after = []
    for _ in range(3):
        with shaken(wire) as connection:
            connection.settimeout(1)
            assert pour(connection, block, 4000) < 4000  # some gigabytes, were there no end
        assert wire.is_well()
        after.append(psutil.Process().memory_info().rss)
    assert wire.listener._gate.cut >= 3
    assert after[2] - after[0] < 200 * MIB
    assert wire.notebook.carried_out[-1][0].rank == 77


def test_a_message_of_too_many_parts_is_refused_and_the_connection_goes_on(make_wire: Any) -> None:
    """It ends, so zmq hands it over: what is over the limit goes part by part."""
    wire = make_wire("plain").listen()
    with shaken(wire) as connection:
        connection.sendall(part(b"", True) * 5000 + part(b"", False))
        assert wire.has_rejected(1)
        connection.sendall(part(header(wire), False))
        connection.settimeout(5)
        assert connection.recv(1)
    assert wire.is_well()


def test_a_message_of_very_many_parts_is_the_last_of_its_connection(make_wire: Any) -> None:
    wire = make_wire("plain").listen()
    with shaken(wire) as connection:
        connection.sendall(part(b"", True) * 300_000 + part(b"", False))
        assert wire.has_rejected(1)
        assert is_cut(connection)
    assert wire.is_well()


def test_a_key_that_sends_very_many_parts_is_shut_out(make_wire: Any) -> None:
    wire = make_wire("curve").listen()
    connection = wire.dial(1)
    assert wire.echo(connection) == [1, 2]
    connection._socket.send_multipart([b""] * 100_000)
    assert wire.has_rejected(1)
    for again in (connection, wire.dial(1)):
        with pytest.raises(PeerLost):
            again.ask(wire.look(1), 0.2)
    assert wire.listener.refused_keys >= 1
    server = wire.dial(member=Member("server", 0))  # another key
    server.call(Beat())
    assert server.hear(5.0) is not None


@needs_counts
@pytest.mark.parametrize("security", ["plain", "curve"])
def test_a_good_peer_is_never_cut_however_much_it_says(security: str, make_wire: Any) -> None:
    """The bytes counted by the kernel and by the listener are the same: the difference does not grow."""
    wire = make_wire(security, message_bytes_max=64 * 1024).listen()
    worker = wire.dial()
    for size in (1, 200, 222, 223, 224, 255, 256, 5000):
        for _ in range(40):
            assert len(wire.numbers(worker.ask(wire.look(*range(size))))) == size
    gate: Gate = wire.listener._gate
    assert gate.cut == 0
    (visitor,) = gate._visitors.values()
    assert visitor.received > 100_000  # more than the limit
    (descriptor,) = gate._visitors
    kernel = _bytes_of(descriptor, visitor.peer)
    assert kernel is not None
    assert 0 < kernel - visitor.received < 2000  # greeting and handshake


@contextmanager
def crowd(wire: Any, count: int) -> Iterator[list[socket.socket]]:
    """So many connections that say nothing."""
    with ExitStack() as open_:
        yield [open_.enter_context(caller(wire)) for _ in range(count)]


@pytest.mark.parametrize("security", ["plain", "curve"])
def test_a_crowd_that_says_nothing_disturbs_nobody(security: str, make_wire: Any) -> None:
    wire = make_wire(security).listen()
    worker = wire.dial()
    assert wire.echo(worker) == [1, 2]
    with crowd(wire, 300):
        began = time.monotonic()
        for _ in range(20):
            assert wire.echo(worker) == [1, 2]
        assert wire.is_well()  # a new one gets in, too
        assert time.monotonic() - began < 5
    assert wire.rejected == 0


def test_too_many_silent_ones_are_cut_oldest_first_and_who_speaks_stays(make_wire: Any) -> None:
    wire = make_wire("plain").listen()
    worker = wire.dial()
    assert wire.echo(worker) == [1, 2]
    wire.listener._gate._visitors_max = 50
    with crowd(wire, 80) as silent:
        assert all(is_cut(connection) for connection in silent[:31])
        silent[-1].settimeout(0.2)
        silent[-1].recv(64)  # zmq's greeting
        with pytest.raises(TimeoutError):
            silent[-1].recv(64)
        assert wire.echo(worker) == [1, 2]


@pytest.mark.parametrize("security", ["plain", "curve"])
def test_dawdlers_are_cut_when_their_time_is_over(security: str, make_wire: Any, monkeypatch: Any) -> None:
    """Half a greeting, byte by byte, for ever."""
    monkeypatch.setattr("flps.transport.sockets._HANDSHAKE_MS", 300)
    wire = make_wire(security).listen()
    worker = wire.dial()
    with crowd(wire, 20) as dawdlers:
        for byte in GREETING[:10]:
            for connection in dawdlers:
                with suppress(OSError):
                    connection.sendall(bytes([byte]))
            assert wire.echo(worker) == [1, 2]
        assert all(is_cut(connection) for connection in dawdlers)
    assert wire.is_well()


def test_garbage_instead_of_a_handshake(make_wire: Any) -> None:
    wire = make_wire("curve").listen()
    for noise in (b"GET / HTTP/1.1\r\n\r\n", os.urandom(10_000), GREETING + os.urandom(1000), GREETING * 100):
        with caller(wire) as connection, suppress(ConnectionError):
            connection.sendall(noise)
            connection.settimeout(0.1)
            with suppress(TimeoutError):
                connection.recv(100_000)
        assert wire.is_well()
    assert wire.rejected == 0


def test_without_the_gates_thread_nobody_is_let_in(make_wire: Any) -> None:
    """The role ends with the reason: keys that nobody checks are no keys."""
    wire = make_wire("curve").listen()
    gate = wire.listener._gate
    gate._is_over.set()
    gate._thread.join()
    with pytest.raises(PeerLost):
        wire.dial(3).ask(wire.look(1), 0.3)
    with pytest.raises(FlpsError, match="nobody is let in any more"):
        gate.may_speak(zmq.Frame(b""), Member("worker", 0))


@pytest.mark.parametrize("visitors", [0, 20])
def test_a_gate_that_closes_first_leaves_nobody_waiting(visitors: int) -> None:
    """zmq waits for whoever reads its news, and all its sockets with it; here the reader goes before the last news."""
    context = zmq.Context()
    try:
        for _ in range(3):
            with context.socket(zmq.ROUTER) as listening:
                gate = Gate(context, listening, None, MIB)
                port = listening.bind_to_random_port("tcp://127.0.0.1")
                with ExitStack() as open_:
                    for _ in range(visitors):
                        open_.enter_context(socket.create_connection(("127.0.0.1", port), timeout=5))
                    gate.close()
        with context.socket(zmq.ROUTER) as listening, context.socket(zmq.DEALER) as worker:
            port = listening.bind_to_random_port("tcp://127.0.0.1")
            worker.connect(f"tcp://127.0.0.1:{port}")
            worker.send(b"hello")
            assert listening.poll(5000)
    finally:
        ended = threading.Thread(target=context.destroy, args=(0,), daemon=True)
        ended.start()
        ended.join(5)
        assert not ended.is_alive()


def test_a_number_that_is_no_socket_any_more_costs_no_file() -> None:
    with open(os.devnull) as file:
        before = psutil.Process().num_fds()
        assert _bytes_of(file.fileno(), ("127.0.0.1", 1)) is None
        assert _peer(file.fileno()) is None
        assert psutil.Process().num_fds() == before


def test_as_many_files_as_the_user_may_have(make_wire: Any) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 1000), hard))
    try:
        make_wire("plain").listen()
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.slow
@pytest.mark.parametrize("security", ["plain", "curve"])
def test_ten_thousand_connections_that_say_nothing(security: str, make_wire: Any) -> None:
    """In children of their own, so that each process has files enough. A worker is served all the while."""
    wire = make_wire(security).listen()
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    wanted = min(10_000, files - 500)
    if wanted < 10_000:
        pytest.skip(f"this machine allows {files} open files")
    worker = wire.dial()
    pids = []
    stop_r, stop_w = os.pipe()
    for _ in range(4):
        pid = os.fork()
        if pid == 0:  # nothing but sockets from here on
            held = []
            with suppress(OSError):
                for _ in range(2500):
                    held.append(socket.create_connection(("127.0.0.1", port_of(wire)), timeout=20))
            os.write(2, f"{len(held)} held\n".encode())
            os.close(stop_w)
            os.read(stop_r, 1)
            os._exit(0)
        pids.append(pid)
    os.close(stop_r)
    before = psutil.Process().memory_info().rss
    slowest = 0.0
    most = 0
    try:
        for _ in range(150):
            began = time.monotonic()
            assert wire.echo(worker) == [1, 2]
            slowest = max(slowest, time.monotonic() - began)
            most = max(most, psutil.Process().num_fds())
            time.sleep(0.05)
        assert wire.is_well()
    finally:
        os.close(stop_w)
        for pid in pids:
            os.waitpid(pid, 0)
        deadline = time.monotonic() + 30
        while psutil.Process().num_fds() > 1000 and time.monotonic() < deadline:
            time.sleep(0.1)
    print(f"at most {most} files open, slowest answer {slowest * 1000:.0f} ms")
    assert most > 5000
    assert slowest < 2.0
    assert psutil.Process().memory_info().rss - before < 500 * MIB
    assert wire.rejected == 0


def test_zmq_can_do_what_the_gate_asks_of_it() -> None:
    assert zmq.has("curve")
