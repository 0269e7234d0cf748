"""A visitor that speaks TLS at a plain TCP endpoint: it is refused, and zmq does not take it for a peer of old."""

from __future__ import annotations

import contextlib
import random
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from flps.config.job import Terms
from flps.config.types import Network
from flps.membership import Member
from flps.transport.listener import Listener
from flps.transport.sockets import Carrier

ROOT = Path(__file__).resolve().parents[3]
HELLO = bytes.fromhex("1603010200010001fc0303") + random.Random(0).randbytes(500)
TERMS = Terms(run_id="r", security="plain", network=Network(), seats={"leader": 1, "follower": 1})

# zmq ends the whole process, not with an exception, if it is wrong here.
CLOSES_WHILE_THEY_COME = """
import random, socket, sys, time
from test_tls_greeting import HELLO, TERMS, Carrier, Listener, Member
until, cycles = time.monotonic() + 3.0, 0
while time.monotonic() < until:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    listener = Listener(Carrier(TERMS, Member("leader", 0)), f"tcp://127.0.0.1:{port}")
    visitors = [socket.create_connection(("127.0.0.1", port)) for _ in range(5)]
    for visitor in visitors:
        visitor.sendall(HELLO)
    listener.receive(random.choice([0.0, 0.001, 0.003]))
    listener.close()
    for visitor in visitors:
        visitor.close()
    cycles += 1
print(cycles)
"""


def test_it_is_hung_up_on() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    listener = Listener(Carrier(TERMS, Member("leader", 0)), f"tcp://127.0.0.1:{port}")
    with socket.create_connection(("127.0.0.1", port), timeout=10) as visitor:
        visitor.sendall(HELLO)
        with contextlib.suppress(ConnectionResetError):
            while visitor.recv(100):
                pass  # zmq's own greeting
    assert listener.receive(0.05) is None
    assert listener.rejected == 0  # nothing of it was taken for a message
    listener.close()


@pytest.mark.slow
def test_a_listener_closes_while_such_visitors_come() -> None:
    path = f"import sys; sys.path[:0] = [{str(Path(__file__).parent)!r}, {str(ROOT)!r}]\n"
    done = subprocess.run(
        [sys.executable, "-c", path + CLOSES_WHILE_THEY_COME], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 5
