"""Who is not let in, and what is said about it at the side that notices: one line, with what to do."""

from __future__ import annotations

import logging
import os
import random
import re
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from typing import Any

import psutil
import pytest
import zmq

from flps.frames import Limits
from flps.membership import Member
from flps.transport.tls.channel import HANDSHAKE_BYTES, Channel
from flps.transport.tls.complaints import TlsTrouble
from flps.transport.tls.door import TlsDoor, TlsGate
from flps.transport.tls.queues import Outbox
from flps.transport.tls.speakers import Speakers

Authority = Any  # see conftest.py
Ends = Any


def until(condition: Callable[[], bool]) -> bool:
    """Whether it holds before long."""
    deadline = time.monotonic() + 10
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.002)
    return condition()


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Iterator[Callable[[], str]]:
    """What was logged."""
    caplog.set_level(logging.INFO)
    yield lambda: "\n".join(record.getMessage() for record in caplog.records)
    assert all("\n" not in record.getMessage() for record in caplog.records)


def meet(ends: Ends, door_identity: Any, own_identity: Any, host: str = "127.0.0.1") -> tuple[TlsDoor, Any]:
    """A door and a dialler that do not come together; waits until both have noticed what they can."""
    door = ends.door(door_identity)
    dialler = ends.dialler(own_identity, door.port, host)
    dialler.send_multipart([b"secret"])
    assert until(lambda: dialler.trouble != "" and door.refused > 0), (dialler.trouble, door.refused)
    assert not door.poll(0)
    return door, dialler


@pytest.fixture(params=["1.2", "1.3"])
def version(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each version in turn, the way errors come differs."""
    if request.param == "1.2":
        real = ssl.SSLContext.wrap_bio

        def older(context: ssl.SSLContext, *arguments: Any) -> ssl.SSLObject:
            context.maximum_version = ssl.TLSVersion.TLSv1_2
            return real(context, *arguments)

        monkeypatch.setattr(ssl.SSLContext, "wrap_bio", older)
    return str(request.param)


def test_the_doors_authority_is_unknown(
    authority: Authority, own_authority: Any, ends: Ends, lines: Any, version: str
) -> None:
    meet(ends, own_authority().identity(), authority.identity())
    assert re.search(r"no connection to leader:0 at tls://.*refused: its authority is not in `ca`; compare", lines())
    assert re.search(r"turned away 127\.0\.0\.1:\d+: the other side does not know the authority of our cert", lines())


def test_the_diallers_authority_is_unknown(
    authority: Authority, own_authority: Any, ends: Ends, lines: Any, version: str
) -> None:
    other = own_authority()
    meet(ends, authority.identity(), other.identity(ca=str(authority.ca)))
    assert re.search(r"turned away .*certificate is refused: its authority is not in `ca`", lines())
    assert "no connection to leader:0" in lines()
    assert "the other side does not know the authority of our certificate" in lines()


@pytest.mark.parametrize(
    ("days", "why"), [((-3, -1), "it has expired; its owner needs a new one"), ((1, 3), "it is not valid yet; look at")]
)
@pytest.mark.parametrize("is_doors", [False, True])
def test_out_of_time(
    authority: Authority,
    ends: Ends,
    lines: Any,
    monkeypatch: pytest.MonkeyPatch,
    days: tuple[int, int],
    why: str,
    is_doors: bool,
    version: str,
) -> None:
    monkeypatch.setattr("flps.transport.tls.identity._check_time", lambda *_: None)  # the owner does not look
    late, well = authority.identity(authority.issue("127.0.0.1", days=days)), authority.identity()
    meet(ends, *((late, well) if is_doors else (well, late)))
    assert why in lines()
    assert re.search(r"our certificate( is expired or not valid yet; renew it|: another name)", lines())


def test_another_name(authority: Authority, ends: Ends, lines: Any, version: str) -> None:
    door = authority.identity(authority.issue("other.example", "10.0.0.9"))
    meet(ends, door, authority.identity())
    assert "certificate is refused: it does not name this address; set `peer_name`" in lines()
    meet(ends, door, authority.identity(peer_name="leader.example"))
    assert "certificate is refused: it has another name; set `peer_name`" in lines()
    assert "the other side refuses our certificate: another name than it expects" in lines()


def test_the_expected_name_in_place_of_the_hosts(authority: Authority, ends: Ends) -> None:
    door = ends.door(authority.identity(authority.issue("leader")))
    dialler = ends.dialler(authority.identity(peer_name="leader"), door.port)
    dialler.send_multipart([b"x"])
    assert door.poll(10_000), dialler.trouble


def test_revoked(own_authority: Any, ends: Ends, lines: Any, version: str) -> None:
    authority = own_authority()
    gone = authority.issue("127.0.0.1")
    authority.revoke(gone)
    meet(ends, authority.identity(crl=str(authority.crl)), authority.identity(gone))
    assert "certificate is refused: it is revoked; its owner needs a new one" in lines()
    assert "the other side says that our certificate is revoked" in lines()
    meet(ends, authority.identity(gone), authority.identity(crl=str(authority.crl)))
    assert len(re.findall("it is revoked; its owner", lines())) >= 2


def test_a_list_that_has_expired_or_is_of_another_authority(own_authority: Any, ends: Ends, lines: Any) -> None:
    authority, other = own_authority(), own_authority("third")
    other.revoke()
    foreign = authority.folder / "foreign.crl"
    foreign.write_bytes(other.crl.read_bytes())
    meet(ends, authority.identity(), authority.identity(crl=str(foreign)))
    assert "there is no revocation list of the authority that signed it; add that list to `crl`" in lines()
    authority.revoke(days=-1)
    meet(ends, authority.identity(), authority.identity(crl=str(authority.crl)))
    assert "the revocation list has expired; fetch a new one into `crl`" in lines()


def test_revoked_while_the_connection_stands(own_authority: Any, ends: Ends, lines: Any) -> None:
    authority = own_authority()
    own = authority.issue("127.0.0.1")
    shared = authority.identity(crl=str(authority.crl))
    door = ends.door(shared)
    dialler = ends.dialler(authority.identity(own), door.port)
    dialler.send_multipart([b"x"])
    assert door.poll(10_000)
    authority.revoke(own)
    shared.refresh()  # as another end of the same role may have done before
    assert until(lambda: "revoked" in dialler.trouble), dialler.trouble
    assert "its certificate is revoked now" in lines()


def test_the_dialled_one_is_revoked_while_the_connection_stands(own_authority: Any, ends: Ends, lines: Any) -> None:
    authority = own_authority()
    own = authority.issue("127.0.0.1")
    door = ends.door(authority.identity(own))
    dialler = ends.dialler(authority.identity(crl=str(authority.crl)), door.port)
    dialler.send_multipart([b"x"])
    assert door.poll(10_000)
    authority.crl.write_bytes(b"no list")  # what held before holds
    assert until(lambda: "what held before goes on to hold" in lines())
    assert dialler.trouble == ""
    authority.revoke(own)
    assert until(lambda: dialler.mismatch_s > 0), dialler.trouble
    assert dialler.trouble == "the other side's certificate is refused: it is revoked; its owner needs a new one"


def test_no_certificate(authority: Authority, ends: Ends, lines: Any, version: str) -> None:
    identity = authority.identity()
    bare = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    bare.load_verify_locations(authority.ca)
    bare.set_alpn_protocols(["flps/1"])
    identity.client = bare
    meet(ends, authority.identity(), identity)
    assert "the other side showed no certificate; it must have one (`certificate`)" in lines()
    assert re.search("demands a certificate and we have shown none|refused .no certificate shown", lines())


def test_another_version_and_another_protocol(authority: Authority, ends: Ends, lines: Any) -> None:
    old = authority.identity()
    old.client.maximum_version = ssl.TLSVersion.TLSv1_2
    meet(ends, authority.identity(minimum_version="1.3"), old)
    assert "speaks an older TLS than `minimum_version` allows" in lines()
    assert "the other side wants another version of TLS; compare `minimum_version`" in lines()
    foreign = authority.identity()
    foreign.client.set_alpn_protocols(["h2"])
    meet(ends, authority.identity(), foreign)
    assert "speaks TLS, but is no tls:// endpoint of this version of flps" in lines()


def test_plain_text_to_a_tls_port(authority: Authority, ends: Ends, lines: Any) -> None:
    door = ends.door(authority.identity())
    with socket.create_connection(("127.0.0.1", door.port)) as visitor:
        visitor.sendall(b"GET / HTTP/1.1\r\n\r\n")
        visitor.settimeout(10)
        assert visitor.recv(100) == b""
    with zmq.Context.instance().socket(zmq.DEALER) as dealer:
        dealer.setsockopt(zmq.LINGER, 0)
        dealer.connect(f"tcp://127.0.0.1:{door.port}")
        assert until(lambda: door.refused >= 2)
    assert "the other side does not speak TLS; use a tls:// endpoint at both ends" in lines()


def test_tls_to_a_plain_port(authority: Authority, ends: Ends, lines: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as plain:
        dialler = ends.dialler(authority.identity(), plain.getsockname()[1])
        with plain.accept()[0] as connection:
            connection.sendall(b"\xff\0\0\0\0\0\0\0\1\x7f")  # what zmq says first
            assert until(lambda: "does not speak TLS" in dialler.trouble), dialler.trouble
        dialler.close()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        dialler = ends.dialler(authority.identity(), silent.getsockname()[1], handshake_s=0.1)
        assert until(lambda: "no answer within 0.1 s" in dialler.trouble)
    assert lines().count("does not speak TLS") == 1  # the same trouble is told once


def test_silent_and_slow_visitors_are_cut(authority: Authority, ends: Ends, lines: Any) -> None:
    door = ends.door(authority.identity(), handshake_s=0.4)
    opening = hello(authority)
    with socket.create_connection(("127.0.0.1", door.port)) as silent:
        slow = socket.create_connection(("127.0.0.1", door.port))
        with slow, pytest.raises((BrokenPipeError, ConnectionResetError)):
            drip(slow, opening * 1000)
        silent.settimeout(10)
        assert silent.recv(1) == b""
    assert door.refused == 2
    assert "it has not said who it is within 0.4 s" in lines()


def test_strangers_make_room_for_others_and_the_known_stay(authority: Authority, ends: Ends) -> None:
    door = ends.door(authority.identity(), visitors_max=4)
    known = ends.dialler(authority.identity(), door.port)
    known.send_multipart([b"x"])
    assert door.poll(10_000)
    door.recv_multipart()
    strangers = [socket.create_connection(("127.0.0.1", door.port)) for _ in range(12)]
    assert until(lambda: door.refused == 9)
    assert len(door._visitors) == 4
    known.send_multipart([b"y"])
    assert door.poll(10_000)
    for stranger in strangers:
        stranger.close()


def test_who_may_speak(authority: Authority, ends: Ends) -> None:
    door = ends.door(authority.identity())
    gate = TlsGate(door, Speakers({}))
    dialler = ends.dialler(authority.identity(), door.port)  # its certificate names follower-1
    dialler.send_multipart([b"x"])
    assert door.poll(10_000)
    _, part = door.recv_multipart(copy=False)
    assert gate.may_speak(part, Member("follower", 1))
    assert not gate.may_speak(part, Member("follower", 0))
    assert not gate.may_speak(part, Member("leader", 0))
    assert gate.refused_keys == 2
    gate.shut_out(part)
    assert not gate.may_speak(part, Member("follower", 1))
    assert until(lambda: dialler.trouble != "")
    assert until(lambda: "shut out" in dialler.trouble or door.cut + door.refused >= 2)


def drip(connection: socket.socket, content: bytes) -> None:
    """Send it byte by byte."""
    for byte in content:
        connection.send(bytes([byte]))
        time.sleep(0.01)


# --- without sockets -------------------------------------------------------------------------------------------------


def hello(authority: Authority) -> bytes:
    """What a dialler says first."""
    channel = Channel(authority.identity().client, Limits(), "localhost")
    assert channel.receive() is None
    return channel.take_output()


def test_ten_thousand_random_beginnings(authority: Authority) -> None:
    """No crash, only TlsTrouble, and nothing that grows."""
    chance, context, opening = random.Random(5), authority.identity().server, hello(authority)
    before = 0
    for number in range(10_000):
        if number == 2_000:
            before = psutil.Process().memory_info().rss
        channel = Channel(context, Limits(), None)
        begin = [b"", b"\x16", b"\x16\x03\x01", opening[: chance.randrange(len(opening))]][number % 4]
        try:
            channel.feed(begin + chance.randbytes(chance.randrange(1, 300)))
            channel.receive()
            channel.feed(b"")
            channel.receive()
        except TlsTrouble as error:
            assert "\n" not in str(error)  # noqa: PT017
        assert not channel.is_open
    assert psutil.Process().memory_info().rss - before < 8 << 20


def test_a_damaged_opening_is_no_crash(authority: Authority) -> None:
    chance, context, opening = random.Random(6), authority.identity().server, hello(authority)
    for _ in range(500):
        damaged = bytearray(opening)
        damaged[chance.randrange(len(damaged))] ^= 1 << chance.randrange(8)
        channel = Channel(context, Limits(), None)
        try:
            channel.feed(bytes(damaged))
            channel.receive()
        except TlsTrouble as error:
            assert str(error)  # noqa: PT017
        assert not channel.is_open


def feed_for_ever(channel: Channel) -> None:
    """A certificate that does not end, in records as large as may be; returns only when nobody stops it."""
    record = b"\x16\x03\x01\x40\x00" + b"\x01\x00\xff\xff" + os.urandom((1 << 14) - 4)
    for _ in range(2 * HANDSHAKE_BYTES // len(record)):
        channel.feed(record)
        channel.receive()


def test_an_endless_handshake_is_cut(authority: Authority) -> None:
    channel = Channel(authority.identity().server, Limits(), None)
    with pytest.raises(TlsTrouble):
        feed_for_ever(channel)


def test_a_conversation_byte_by_byte(authority: Authority) -> None:
    """Whatever way the bytes come, the message is the same, and none passes before both are known."""
    server = Channel(authority.identity().server, Limits(), None)
    client = Channel(authority.identity().client, Limits(), "localhost")
    outbox = Outbox(1 << 20)
    outbox.put([b"hello", bytes(20_000)], 0.0)
    message = None
    for _ in range(20):
        client.receive()
        assert client.is_open <= server.is_open
        client.transmit(outbox)
        for byte in client.take_output():
            server.feed(bytes([byte]))
            message = server.receive() or message
        for byte in server.take_output():
            client.feed(bytes([byte]))
            assert client.receive() is None
    assert message is not None
    assert [frame.nbytes for frame in message] == [5, 20_000]
    assert server.names == {"localhost", "follower-1"}
