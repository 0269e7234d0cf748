"""How hosts and ports are written, and who holds a port."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flps.errors import ConfigError, ResourceError
from flps.launch.hosts import Endpoint, check_ports, holder, is_loopback, is_mine, parse_endpoint


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        yield taken


@given(st.sampled_from(["10.0.0.1", "host-1.example", "::1", "fe80::2"]), st.integers(1, 65535))
def test_an_endpoint_is_read_as_it_is_written(host: str, port: int) -> None:
    endpoint = Endpoint(host, port)
    assert parse_endpoint(str(endpoint), flag="--servers", port_needed=True) == endpoint


def test_workers_need_no_port() -> None:
    for text, host in (("a", "a"), ("a:0", "a"), ("[::1]", "::1"), ("::1", "::1")):
        assert parse_endpoint(text, flag="--workers", port_needed=False) == Endpoint(host, 0)


@pytest.mark.parametrize("text", ["", ":1", "a:x", "a:-1", "a:65536", "a:", "[::1]:y"])
def test_what_is_no_endpoint_is_refused_by_name(text: str) -> None:
    with pytest.raises(ConfigError, match="--servers"):
        parse_endpoint(text, flag="--servers", port_needed=True)


@pytest.mark.parametrize(
    ("host", "expected"),
    [("localhost", True), ("127.0.0.9", True), ("::1", True), ("10.0.0.1", False), ("example.com", False)],
)
def test_loopback(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected


def test_this_machine_is_known_by_what_it_can_bind() -> None:
    assert is_mine("127.0.0.1")
    assert is_mine("localhost")
    assert not is_mine("203.0.113.7")  # an address of documentation, nobody's
    assert not is_mine("no-such-host.invalid")


def test_a_taken_port_is_named_with_its_holder(listener: socket.socket) -> None:
    port = listener.getsockname()[1]
    with pytest.raises(ResourceError, match=f"port 127.0.0.1:{port} is taken") as caught:
        check_ports([Endpoint("127.0.0.1", port)])
    if os.path.exists("/proc/net/tcp"):
        assert f"by process {os.getpid()}" in str(caught.value)
        assert holder(port) == os.getpid()


def test_free_ports_are_left_free(listener: socket.socket) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        port = other.getsockname()[1]
    check_ports([Endpoint("127.0.0.1", port), Endpoint("127.0.0.1", port)])
    assert holder(port) is None


def test_every_complaint_is_made_at_once(listener: socket.socket) -> None:
    port = listener.getsockname()[1]
    endpoints = [Endpoint("127.0.0.1", port), Endpoint("203.0.113.7", 80), Endpoint("no-such-host.invalid", 1)]
    with pytest.raises(ResourceError) as caught:
        check_ports(endpoints)
    for text in ("is taken", "203.0.113.7 is no address of this machine", "no-such-host.invalid cannot be resolved"):
        assert text in str(caught.value)
