"""Requests and answers over a tls:// endpoint: a listener and its connections need not know that it is one."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest

from flps.errors import ConfigError, PeerLost, Refused
from flps.membership import Member
from flps.message import Look, Pull, Rows, Save
from flps.transport.listener import Listener
from flps.transport.sockets import Carrier

Authority = Any  # see conftest.py
Wire = Any  # see ../conftest.py
MakeWire = Callable[..., Any]
MEMBER = Member("worker", 1)


@pytest.fixture
def make_tls(make_wire: MakeWire, authority: Authority) -> MakeWire:
    """Makes wires over TLS; `speakers` says what their one certificate, of localhost, may speak as."""

    def make(speakers: dict[str, str], **changes: Any) -> Wire:
        wire = make_wire("tls", **changes)
        wire.job = msgspec.structs.replace(wire.job, tls=authority.files(speakers=speakers))
        return wire

    return make


@pytest.fixture
def wire(make_tls: MakeWire) -> Wire:
    """A listener that believes every worker."""
    return make_tls({"localhost": "worker:*"}).listen()


def test_questions_answers_and_refusals(wire: Wire) -> None:
    first, second = wire.dial(0), wire.dial(1)
    asked = [(c, c.send(wire.look(n))) for n, c in enumerate([first, second, first, first, second])]
    for n, (connection, number) in reversed(list(enumerate(asked))):
        assert wire.numbers(connection.wait(number)) == [n]
    with pytest.raises(Refused, match="server:0: epoch 3 is refused"):
        first.ask(Save(3))
    assert wire.rejected == 1


def test_large_tensors_and_their_bytes(wire: Wire) -> None:
    connection = wire.dial()
    keys = np.arange(2**17, dtype=np.uint64) + np.uint64(2**40)
    answer = connection.ask(Look((Pull(0, keys),)))
    assert isinstance(answer, Rows)
    assert np.array_equal(answer.values[0], keys)
    assert connection.bytes_out == wire.listener.bytes_in > keys.nbytes
    assert connection.bytes_in == wire.listener.bytes_out > keys.nbytes


def test_a_certificate_speaks_only_as_what_it_may(make_tls: MakeWire) -> None:
    wire = make_tls({"localhost": "worker:1"}).listen()
    with pytest.raises(PeerLost):
        wire.dial(0).ask(wire.look(1), 0.3)
    assert wire.listener.refused_keys > 0
    assert wire.notebook.carried_out == []
    assert wire.echo(wire.dial(1)) == [1, 2]


def test_without_a_table_the_certificates_name_counts(make_tls: MakeWire) -> None:
    wire = make_tls({}).listen()  # it names follower-1, and no worker
    with pytest.raises(PeerLost):
        wire.dial(1).ask(wire.look(1), 0.3)
    assert wire.notebook.carried_out == []


def test_why_nobody_answers_is_said(make_tls: MakeWire, authority: Authority) -> None:
    wire = make_tls({}).listen()
    connection = wire.dial(1, tls=authority.files(peer_name="other"))
    with pytest.raises(PeerLost, match=r"server:0 did not answer worker:1 within 0\.5 s: .*it has another name; set"):
        connection.ask(wire.look(1), 0.5)


def test_lost_messages_come_again_and_are_carried_out_once(make_tls: MakeWire) -> None:
    wire = make_tls({"localhost": "worker:*"}).listen()
    connection = wire.dial(1, faults="drop=20%")
    for number in range(20):
        assert wire.numbers(connection.ask(wire.look(number), 20.0)) == [number]
    assert len(wire.notebook.carried_out) == 20


def test_without_certificates(make_wire: MakeWire) -> None:
    wire = make_wire("tls")
    with pytest.raises(ConfigError, match="needs certificates: set `ca` and `certificate`"):
        wire.dial()
    with pytest.raises(ConfigError, match="needs certificates"):
        Listener(Carrier(wire.job.terms, MEMBER), wire.endpoint)


def test_without_cryptography(make_tls: MakeWire, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("dialler", "door", "identity"):
        monkeypatch.delitem(sys.modules, f"flps.transport.tls.{name}", raising=False)
    monkeypatch.setitem(sys.modules, "cryptography", None)
    with pytest.raises(ConfigError, match=r"need cryptography: pip install 'flps\[split\]'"):
        make_tls({}).dial()


def test_silence_costs_no_thread(wire: Wire, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    wire.dial()
    assert wire.is_well()
    assert caplog.text == ""
